"""What a network is to the rest of the package: `init`, `apply`, and its per-layer ratios.

A network here is an *architecture with its hyperparameters*, not a set of weights. Weights live
outside it, as a list of tensors whose first axis is the replica: `R` replicas of one architecture
are `R` rows of every tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from etastar.checking import plain
from etastar.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import torch

Params: TypeAlias = "list[torch.Tensor]"


class Network(BaseModel, ABC):
    """An architecture: how to draw its weights and how to apply them.

    Subclasses are frozen pydantic models: hashable, comparable, and written to JSON as they are.

    Raises:
        ConfigError: A hyperparameter is unknown or out of range; one line that names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    architecture: str
    """The name of the architecture in `etastar.problem.networks.ARCHITECTURES`; every subclass
    gives its own as the default, and takes no other."""

    input_lr_ratio: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    """κ: the input layer trains at κ·η, every other layer at η. 1 is plain, 0 is frozen."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**{name: plain(value) for name, value in fields.items()})
        except ValidationError as error:
            raise _refused(type(self), error) from None

    @field_validator("architecture")
    @classmethod
    def _own_name(cls, name: str) -> str:
        own = cls.model_fields["architecture"].default
        if name != own:
            raise ValueError(f"must be {own!r}")
        return name

    @abstractmethod
    def parameter_names(self) -> tuple[str, ...]:
        """Return the names of the tensors of `init`, in order, as `torch.nn` would give them."""

    @abstractmethod
    def lr_ratios(self) -> tuple[float, ...]:
        """Return the learning-rate ratio of each tensor of `init`: κ for the input layer."""

    def ratios(self, inputs: int) -> tuple[float, ...]:
        """Return the learning-rate ratio of each tensor of `init` on data of this dimension.

        Args:
            inputs: Input dimension d, on which the ratios of some parametrisations depend.
        """
        return self.lr_ratios()

    def parametrization_record(self, inputs: int, outputs: int) -> dict[str, Any]:
        """Return initial variances and rate ratios, as JSON types; nothing if they are standard.

        Args:
            inputs: Input dimension d.
            outputs: Number of outputs C.
        """
        return {}

    @abstractmethod
    def init(
        self,
        seeds: Sequence[int],
        inputs: int,
        outputs: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Params:
        """Draw the weights of one replica per seed.

        A replica depends on its seed alone. Weights are drawn on the CPU in the target dtype's
        float64 parent and then cast, so that every device and dtype starts from the same network.

        Args:
            seeds: R seeds, one per replica.
            inputs: Input dimension d.
            outputs: Number of outputs C.
            dtype: Of the parameters; float32 if None.
            device: Where the parameters are put.

        Returns:
            One tensor per parameter, each `[R, ...]`.
        """

    def parameter_count(self, inputs: int, outputs: int) -> int:
        """Return the trainable scalars of one replica.

        Args:
            inputs: Input dimension d.
            outputs: Number of outputs C.
        """
        return sum(p.numel() for p in self.init([0], inputs, outputs))

    @abstractmethod
    def apply(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs; differentiable by autograd and composable with `torch.func`.

        Args:
            params: As `init` returns them, each `[R, ...]`.
            x: Inputs, `[B, d]` shared by all replicas or `[R, B, d]`.

        Returns:
            Outputs `[R, B, C]` (logits, for cross-entropy).
        """


def _refused(network: type[Network], error: ValidationError) -> ConfigError:
    """Return pydantic's first complaint about an architecture, as one line."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return unknown_name(f"argument of {network.__name__}", name, network.model_fields)
    expected = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return ConfigError(f"{network.__name__}: {name} {expected}; got {first['input']!r}.")
