"""A data set, as the rest of the package sees it: four tensors, their shape, their provenance."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etastar.errors import DataError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and validation data of one classification task.

    Built by `etastar.data.load`, or by `Dataset.from_tensors` from tensors of one's own.
    """

    name: str
    """The key in `DATASETS`, or the name given to `from_tensors`."""
    x_train: torch.Tensor = field(repr=False)
    """Training inputs, float32 `[N, d]`: flattened, and standardised if provenance says so."""
    y_train: torch.Tensor = field(repr=False)
    """Training labels, int64 `[N]`, in `0 .. classes - 1`."""
    x_val: torch.Tensor = field(repr=False)
    """Validation inputs, float32 `[M, d]`, standardised by the training set's numbers."""
    y_val: torch.Tensor = field(repr=False)
    """Validation labels, int64 `[M]`."""
    classes: int
    """Number of classes C."""
    input_shape: tuple[int, ...]
    """Shape of one input before flattening, channels first: `x.unflatten(1, input_shape)`."""
    provenance: dict[str, Any] = field(repr=False)
    """Where the data came from and what was done to it; can be written as JSON as it is."""

    @property
    def inputs(self) -> int:
        """Input dimension d."""
        return self.x_train.shape[1]

    @property
    def commonest_share(self) -> float:
        """Share of the commonest class in the validation data: what one class for all reaches."""
        return int(self.y_val.bincount().max()) / len(self.y_val)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Dataset:
        """The same dataset with its tensors on `device`, its inputs in `dtype`.

        Args:
            device: Where to put all four tensors; where they are if None.
            dtype: Type of the inputs; unchanged if None. Labels stay int64.

        Returns:
            A new dataset; tensors that need no change are shared with this one.
        """
        return dataclasses.replace(
            self,
            x_train=self.x_train.to(device=device, dtype=dtype),
            y_train=self.y_train.to(device=device),
            x_val=self.x_val.to(device=device, dtype=dtype),
            y_val=self.y_val.to(device=device),
        )

    @classmethod
    def from_tensors(
        cls,
        x_train: torch.Tensor | NDArray[Any],
        y_train: torch.Tensor | NDArray[Any],
        x_val: torch.Tensor | NDArray[Any],
        y_val: torch.Tensor | NDArray[Any],
        *,
        name: str = "custom",
        classes: int | None = None,
        standardise: bool = False,
    ) -> Dataset:
        """A dataset from tensors (or numpy arrays) of one's own; they are checked, never written.

        Args:
            x_train: Training inputs `[N, ...]`, real or integer; cast to float32 and flattened to
                `[N, d]`. Shared with the result where no cast or copy is needed.
            y_train: Class indices `[N]`, integers in `0 .. classes - 1`.
            x_val: Validation inputs `[M, ...]`, of the same shape per sample.
            y_val: Class indices `[M]`.
            name: How to call the dataset in results.
            classes: Number of classes; the largest label plus one if None.
            standardise: Subtract one mean and divide by one standard deviation, both over all
                entries of `x_train`.

        Returns:
            The dataset, everything on the device of `x_train`. Its provenance holds the SHA-256 of
            the four tensors' bytes (after the cast, before standardising), so that results can be
            traced to the data.

        Raises:
            DataError: Something is empty, not finite, of the wrong shape or type, or out of range.

        Example:
            >>> import torch
            >>> x, y = torch.eye(4).reshape(4, 2, 2), torch.tensor([0, 1, 2, 0])
            >>> Dataset.from_tensors(x, y, x, y)
            Dataset(name='custom', classes=3, input_shape=(2, 2))
        """
        inputs = {"x_train": _inputs(x_train, "x_train"), "x_val": _inputs(x_val, "x_val")}
        device = inputs["x_train"].device
        inputs["x_val"] = inputs["x_val"].to(device)
        shape, other = inputs["x_train"].shape[1:], inputs["x_val"].shape[1:]
        if shape != other:
            raise DataError(
                f"x_train holds samples of shape {tuple(shape)} but x_val of {tuple(other)}; "
                "expected the same shape."
            )
        labels = {}
        for part, values in (("train", y_train), ("val", y_val)):
            labels[f"y_{part}"] = _labels(values, f"y_{part}", len(inputs[f"x_{part}"])).to(device)
        classes = _class_count(labels, classes)
        flat = {key: values.flatten(1).contiguous() for key, values in inputs.items()}
        files = {key: _sha256(values) for key, values in (flat | labels).items()}
        scale = None
        if standardise:
            mean, std = scale = _statistics(flat["x_train"])
            flat = {key: (values - mean) / std for key, values in flat.items()}
        sizes = (len(flat["x_train"]), len(flat["x_val"]))
        about = {
            "name": name,
            "source": "tensors given by the caller",
            "read_from": "memory",
            "files": files,
            "checksums_match": None,
            "licence": None,
            "split": "as given by the caller",
        }
        record = provenance(about, scale, available=sizes, used=sizes)
        return cls(
            name=name, classes=classes, input_shape=tuple(shape), provenance=record,
            **flat, **labels,
        )  # fmt: skip


def provenance(
    about: dict[str, Any],
    scale: tuple[float, float] | None,
    available: tuple[int, int],
    used: tuple[int, int],
) -> dict[str, Any]:
    """The record of where data came from: the same keys for every data set.

    Args:
        about: `name`, `source`, `read_from`, `files`, `checksums_match`, `licence` and `split`, as
            the fields of `etastar.data.raw.RawData`.
        scale: Mean and standard deviation that inputs were standardised by; None if they were not.
        available: Training and validation samples that there are.
        used: How many of each are used.

    Returns:
        What can be written as JSON as it is.
    """
    mean, std = scale or (None, None)
    return about | {
        "standardised": scale is not None,
        "mean": mean,
        "std": std,
        "train_available": available[0],
        "val_available": available[1],
        "train_size": used[0],
        "val_size": used[1],
    }


def _tensor(values: Any, name: str) -> torch.Tensor:
    """`values` as a dense, real tensor without gradient history."""
    import torch

    if not isinstance(values, torch.Tensor):
        try:
            array = np.asarray(values)
            # torch warns that it could write to a read-only array; a copy is simpler than a promise
            values = torch.from_numpy(array if array.flags.writeable else array.copy())
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{name} is not an array of numbers ({error}); expected a tensor or numpy array."
            ) from error
    if values.layout is not torch.strided or values.is_complex() or values.is_quantized:
        raise DataError(
            f"{name} is a {values.layout} tensor of {values.dtype}; expected a dense tensor of "
            "real or integer numbers."
        )
    tensor: torch.Tensor = values.detach()
    return tensor


def _inputs(values: Any, name: str) -> torch.Tensor:
    """Inputs `[N, ...]` in float32, not empty and finite."""
    import torch

    tensor = _tensor(values, name)
    if tensor.ndim < 2 or tensor.numel() == 0:
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)}; expected [samples, ...] with at least one "
            "sample of at least one number (a single feature is [samples, 1])."
        )
    tensor = tensor.to(torch.float32)
    finite = tensor.flatten(1).isfinite().all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise DataError(
            f"{name} holds a number that is not finite in float32, first in sample {row} "
            f"({int((~finite).sum())} of {len(tensor)} samples); expected finite numbers: remove "
            "or repair those samples."
        )
    return tensor


def _labels(values: Any, name: str, samples: int) -> torch.Tensor:
    """Return labels `[N]` in int64, one per sample."""
    import torch

    tensor = _tensor(values, name)
    if tensor.ndim != 1:
        remedy = "argmax(1)" if tensor.ndim == 2 and tensor.shape[1] > 1 else "flatten()"
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)}; expected one class index per sample, "
            f"[{samples}]: try {name}.{remedy}."
        )
    if tensor.is_floating_point():
        raise DataError(
            f"{name} is of {tensor.dtype}; expected integer class indices: try {name}.long()."
        )
    if len(tensor) != samples:
        raise DataError(
            f"{name} holds {len(tensor)} labels for {samples} samples; expected one per sample."
        )
    return tensor.to(torch.int64)


def _class_count(labels: dict[str, torch.Tensor], classes: int | None) -> int:
    """Return the number of classes, at least two and above every label."""
    if classes is None:
        classes = 1 + max(int(values.max()) for values in labels.values())
    if classes < 2:
        raise DataError(
            f"the labels name {classes} class; expected at least 2, since there is nothing to "
            "learn otherwise."
        )
    for name, values in labels.items():
        check_labels(values.cpu().numpy(), classes, name)
    return classes


def check_labels(labels: NDArray[Any], classes: int, name: object) -> None:
    """Raise if a label is not in `0 .. classes - 1`.

    Raises:
        DataError: Names the first of them, and its file.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{name} holds the label {labels[wrong[0]]} at position {wrong[0]} ({len(wrong)} of "
            f"{len(labels)} labels are out of range); expected labels in 0..{classes - 1}, "
            "counted from 0."
        )


def _statistics(x: torch.Tensor) -> tuple[float, float]:
    """Mean and (population) standard deviation over all entries, in float64."""
    import torch

    x = x.to(torch.float64)
    mean, std = float(x.mean()), math.sqrt(float(x.var(correction=0)))
    if std == 0:
        raise DataError(
            f"every number of x_train is {mean}: there is no spread to standardise by; expected "
            "inputs that differ."
        )
    return mean, std


def _sha256(values: torch.Tensor) -> str:
    """SHA-256 of a contiguous tensor's bytes."""
    return hashlib.sha256(values.cpu().contiguous().numpy().data).hexdigest()
