"""What `"accuracy"` means for a model: decided from outputs, targets and loss, before any trial.

Classes are an axis of the outputs where the targets are class indices, one-hot, or probabilities of
classes. Where outputs and targets have one shape and the targets are 0 and 1 (or −1 and 1), every
entry is a yes or no: one logit per sample or pixel, or one per label. What the shapes leave open is
asked of the loss, whose gradient in the outputs tells which labels it ignores, along which axis its
classes lie, whether it compares an output with the next target, and where yes begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from etastar.errors import ModelError
from etastar.problem.nested import ANSWERS, logits_of, shape_of

Gradient: TypeAlias = Callable[[Tensor | None, Tensor], Tensor]
"""Maps outputs (None for the model's own) and targets to the loss's gradient in the outputs."""

IGNORED = -100
"""The label that PyTorch's losses, and those of most libraries, leave out."""
MOST_PLACES = 10_000_000
"""Entries of the targets up to which the best constant answer is looked for place by place."""
UNSEEN = (
    "`metric='accuracy'` cannot see {}: the loss inside step_fn does not depend on the outputs of "
    "model(inputs) alone. Pass `metric=lambda model, batch: ...`, or the loss as `loss_fn`."
)
MOST_WRONG = 0.5
"""Share of targets whose output a loss must raise most, if outputs are scores of classes."""
MOST_TRIED = 64
"""Places at which a target is changed until the loss feels it."""


@dataclass(frozen=True)
class Accuracy:
    """The share of answers that are right.

    Attributes:
        axis: Along which the classes of the outputs lie; None where every entry is a yes or no.
        cut: The output above which an entry is a yes.
        ignored: Labels that are left out.
        dense: Whether the targets are one-hot vectors or probabilities along the same axis.
        shifted: Whether an output is compared with the next target of its sequence.
        of: What is counted, in words.
        classes: How many there are along the axis; None where that is not asked.
    """

    axis: int | None = 1
    cut: float = 0.0
    ignored: tuple[int, ...] = ()
    dense: bool = False
    shifted: bool = False
    of: str = ""
    classes: int | None = None

    @property
    def name(self) -> str:
        """Return `accuracy`, and what it means where that is not the plain one."""
        return f"accuracy ({self.of})" if self.of else "accuracy"

    def answers(self, outputs: Any) -> Tensor:
        """Return the classes, or the yeses, that outputs stand for, shaped like the targets."""
        logits = logits_of(outputs)
        return (logits > self.cut).long() if self.axis is None else logits.argmax(self.axis)

    def truths(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the right answers and which of them count, shaped like the targets."""
        kept = torch.ones_like(targets, dtype=torch.bool)
        for label in self.ignored:
            kept &= targets != label
        if self.axis is None:
            return (targets > 0).long(), kept
        if self.dense:
            return targets.argmax(self.axis), kept.select(self.axis, 0)
        return targets.long(), kept

    def count(self, outputs: Any, targets: Tensor) -> tuple[float, float]:
        """Count the answers that are right, and all; a non-finite output is a mistake."""
        logits = logits_of(outputs)
        finite = logits.isfinite() if self.axis is None else logits.isfinite().all(self.axis)
        found, (truth, kept) = self.answers(logits), self.truths(targets)
        if self.shifted:
            found, finite, truth, kept = found[:, :-1], finite[:, :-1], truth[:, 1:], kept[:, 1:]
        truth, kept = truth.reshape(found.shape), kept.reshape(found.shape)
        return float(((found == truth) & finite & kept).sum()), float(kept.sum())

    def constant(self, targets: Iterable[Tensor], *, by_place: bool = False) -> float | None:
        """Return the accuracy of one answer for all samples; of yes or no, one for every label.

        Args:
            targets: All of them, by batches.
            by_place: Whether the answer may differ from place to place in a sequence or image.
        """
        truths, kept = zip(*map(self.truths, targets), strict=True)
        pairs = zip(truths, kept, strict=True)
        rows = [t.masked_fill(~k, -1).reshape(len(t), -1) for t, k in pairs]
        labels = self.axis is None and truths[0].ndim == 2
        even = len({row.shape[1] for row in rows}) == 1
        if not even or not (by_place or labels) or sum(r.numel() for r in rows) > MOST_PLACES:
            rows = [row.reshape(-1, 1) for row in rows]
        whole = torch.cat(rows)
        counted = int((whole >= 0).sum())
        best = sum(
            int(torch.bincount(column[column >= 0], minlength=1).max()) for column in whole.T
        )
        return best / counted if counted else None


PLAIN = Accuracy()
"""Of class indices along the second axis of the outputs."""


@dataclass
class _Seen:
    """What all batches of outputs and targets have in common.

    Attributes:
        axes: Of the outputs that may hold the classes of class indices.
        alike: Whether outputs and targets have one shape.
        whole: Whether targets are whole numbers.
        shares: Whether targets are one-hot vectors or probabilities of classes.
        unit: Whether outputs lie from 0 to 1.
        values: The smallest values of the targets, up to three of a batch.
        labels: All values of targets that are whole numbers.
        classes: Length of the outputs by axis.
    """

    axes: set[int] = field(default_factory=lambda: {1, -1})
    alike: bool = True
    whole: bool = True
    shares: bool = True
    unit: bool = True
    values: set[float] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    classes: dict[int, int] = field(default_factory=dict)

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Look at one batch."""
        out, wanted = tuple(outputs.shape), tuple(targets.shape)
        self.whole &= not targets.is_floating_point()
        axes = [axis for axis in (1, -1)[: max(0, len(out) - 1)] if out[axis] > 1]
        fitting = {axis: out[axis] for axis in axes if _without(out, axis) == wanted}
        self.classes |= fitting
        self.axes &= fitting.keys() if self.whole else set()
        self.alike &= _squeezed(out) == _squeezed(wanted)
        values = torch.unique(targets)
        if self.whole:
            self.labels |= set(map(int, values.tolist()))
        self.values |= set(values[:3].tolist())
        self.shares &= self.alike and len(wanted) in (2, 4) and wanted[1] > 1
        self.shares = self.shares and bool((targets >= 0).all())
        self.shares = self.shares and bool(((targets.sum(1) - 1).abs() < 1e-4).all())
        self.unit &= bool(((outputs >= 0) & (outputs <= 1)).all())


def _squeezed(shape: tuple[int, ...]) -> list[int]:
    """Return a shape without axes of length one, but for that of the samples."""
    return [*shape[:1], *(length for length in shape[1:] if length != 1)]


def _without(place: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return a shape of the outputs, or a place in them, as one of the targets."""
    return place[:1] + place[2:] if axis == 1 else place[:-1]


def decide(
    batches: Iterable[tuple[Any, Any]],
    gradient: Callable[[], Gradient | None],
) -> Accuracy:
    """Return what accuracy means.

    Args:
        batches: Outputs and targets of every validation batch, in order; read once.
        gradient: Returns the gradient of the loss of the batch just read; None if there is none.

    Raises:
        ModelError: Nothing that is known fits, or several things do; it says what to do.
    """
    seen, asked, ignored = _Seen(), set[int](), set[int]()
    layout: tuple[int | None, bool] | None = None
    first: tuple[Tensor, Tensor, Gradient | None] | None = None
    last: tuple[Any, Any] = (None, None)
    for last in batches:
        if not isinstance(last[1], Tensor):
            raise _unknown(*last)
        outputs, targets = logits_of(last[0]), last[1]
        seen.add(outputs, targets)
        if first is not None and not (seen.axes and seen.labels - asked):
            continue
        slope = gradient()
        first = first or (outputs, targets, slope)
        if seen.axes:
            layout = layout or _layout(outputs, targets, slope, seen)
            ignored |= _ignored(outputs, targets, slope, seen.labels - asked, layout)
            asked |= seen.labels
    assert first is not None
    if seen.axes:
        if first[2] is None and first[1].ndim > 1:
            raise ModelError(UNSEEN.format("which output belongs to which target"))
        assert layout is not None
        found = _of_classes(seen, ignored, layout, *first[:2])
        _check_scores(found, *first)
        return found
    if seen.shares:
        return Accuracy(dense=True, of="targets one per class, the largest is right")
    if seen.alike and (seen.values <= {0, 1} or seen.values <= {-1, 1}):
        return _of_entries(seen, *first)
    raise _unknown(*last)


def _unknown(outputs: Any, targets: Any) -> ModelError:
    return ModelError(
        "`metric='accuracy'` needs outputs [B, classes, ...] and integer targets [B, ...], or "
        f"outputs and 0/1 targets of one shape, got {shape_of(outputs)} and {shape_of(targets)}. "
        "Pass `metric='loss'` with a threshold for the loss, or a callable, e.g. `metric=lambda "
        "outputs, targets: (outputs - targets).abs().mean()` with `higher_is_better=False`."
    )


def _layout(
    outputs: Tensor, targets: Tensor, gradient: Gradient | None, seen: _Seen
) -> tuple[int | None, bool]:
    """Return the axis of the classes, None if it stays open, and whether targets are shifted.

    Raises:
        ModelError: The loss compares a target with an output at another place.
    """
    only = next(iter(seen.axes)) if len(seen.axes) == 1 else None
    places = _places(outputs, targets, gradient, seen) if targets.ndim > 1 else None
    if places is None:
        return only, False
    changed, felt = places
    if fitting := [axis for axis in seen.axes if _without(felt, axis) == changed]:
        return (fitting[0] if len(fitting) == 1 else only), False
    if targets.ndim == 2 and -1 in seen.axes and felt[:-1] == (changed[0], changed[1] - 1):
        return -1, True
    raise ModelError(
        "`metric='accuracy'` does not fit the loss: it compares a target with an output at "
        f"another place. Pass a callable, e.g. {ANSWERS}."
    )


def _places(
    outputs: Tensor, targets: Tensor, gradient: Gradient | None, seen: _Seen
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Change one target; return its place, and that where the gradient changes most."""
    classes = min(seen.classes.values())
    usable = [label for label in sorted(seen.labels) if 0 <= label < classes]
    if gradient is None or len(usable) < 2:
        return None
    good = torch.isin(targets, torch.tensor(usable, device=targets.device))
    good[..., :1] &= targets.shape[-1] < 2  # what precedes the first one is not to be seen
    for place in good.nonzero().tolist()[:MOST_TRIED]:
        old = int(targets[tuple(place)])
        new = next((u for u in usable if u != old and place[-1] not in (old, u)), None)
        if new is None:
            continue  # the change would fit both axes
        other = targets.clone()
        other[tuple(place)] = new
        try:
            change = (gradient(None, other) - gradient(None, targets)).abs()
        except Exception:  # the loss may have reasons
            return None
        if change.shape == outputs.shape and bool(change.any()):
            felt = torch.unravel_index(change.argmax(), change.shape)
            return tuple(place), tuple(map(int, felt))
    return None


def _ignored(
    outputs: Tensor,
    targets: Tensor,
    gradient: Gradient | None,
    labels: set[int],
    layout: tuple[int | None, bool],
) -> set[int]:
    """Return the labels at whose places the loss has no gradient, at two outputs."""
    axis, shifted = layout
    if gradient is None or axis is None:
        return labels & {IGNORED}
    other = torch.linspace(-1, 1, outputs.numel(), device=outputs.device).reshape(outputs.shape)
    with suppress(Exception):  # a loss may refuse other outputs
        slopes = [gradient(None, targets), gradient(other.to(outputs.dtype), targets)]
        felt = (slopes[0].abs() + slopes[1].abs()).sum(axis)
        if shifted:
            felt, targets = felt[:, :-1], targets[:, 1:]
        if bool(felt.any()) and felt.shape == targets.shape:
            there = [label for label in labels if bool((targets == label).any())]
            return {label for label in there if not bool(felt[targets == label].any())}
    return labels & {IGNORED}


def _of_classes(
    seen: _Seen,
    ignored: set[int],
    layout: tuple[int | None, bool],
    outputs: Tensor,
    targets: Tensor,
) -> Accuracy:
    """Return the accuracy of class indices."""
    axis, shifted = layout
    if len(seen.axes) == 1:
        axis = next(iter(seen.axes))
    if axis is None:
        raise ModelError(
            f"`metric='accuracy'` cannot tell which axis of the outputs {shape_of(outputs)} holds "
            f"the classes: both fit the targets {shape_of(targets)}. Pass a callable, e.g. "
            "`metric=lambda outputs, targets: (outputs.argmax(-1) == targets).float().mean()`."
        )
    usable, count = sorted(seen.labels - ignored), seen.classes[axis]
    if usable and not 0 <= usable[0] <= usable[-1] < count:
        raise ModelError(
            f"the labels of the validation data run from {usable[0]} to {usable[-1]}, and the "
            f"model has {count} classes, 0 to {count - 1}. Count the labels from 0, or give a "
            "label that is left out to the loss as ignore_index."
        )
    left_out = f"labels {', '.join(map(str, sorted(ignored)))} left out" if ignored else ""
    parts = [left_out, "each output against the next target" if shifted else ""]
    of = "; ".join(part for part in parts if part)
    return Accuracy(axis, 0.0, tuple(sorted(ignored)), shifted=shifted, of=of, classes=count)


def _check_scores(
    found: Accuracy, outputs: Tensor, targets: Tensor, gradient: Gradient | None
) -> None:
    """Raise if the loss does not raise the output of a target above the others.

    Raises:
        ModelError: It does not, so that outputs are no scores of classes.
    """
    assert found.axis is not None
    if gradient is None:
        return
    for at in (torch.zeros_like(outputs), None):
        try:
            slope = gradient(at, targets)
        except Exception:  # a loss may refuse other outputs
            return
        raised, felt = slope.argmin(found.axis), slope.abs().sum(found.axis) > 0
        truth, kept = found.truths(targets)
        if found.shifted:
            raised, felt, truth, kept = raised[:, :-1], felt[:, :-1], truth[:, 1:], kept[:, 1:]
        kept = kept & felt.reshape(kept.shape)
        right = raised.reshape(truth.shape) == truth
        if not bool(slope.isfinite().all()) or not bool(kept.any()):
            continue
        if float(right[kept].double().mean()) < MOST_WRONG:
            raise ModelError(
                f"`metric='accuracy'` takes the largest of the outputs {shape_of(outputs)} for the "
                "answer, and the loss does not raise the output of a sample's target above the "
                "others: they are no scores of these classes (embeddings?). Pass `metric='loss'`, "
                "or a callable of your own."
            )
        return


def _of_entries(
    seen: _Seen, outputs: Tensor, targets: Tensor, gradient: Gradient | None
) -> Accuracy:
    """Return the accuracy of yes and no, entry by entry."""
    cut, binary = 0.0, seen.values <= {0, 1}
    if binary and gradient is not None:
        cut = 0.0 if _takes_logits(outputs, targets, gradient) else 0.5
    elif binary and seen.unit:
        raise ModelError(UNSEEN.format("whether an output above 0 or above 0.5 is a yes"))
    per = "sample" if outputs[0].numel() == 1 else "label" if outputs.ndim == 2 else "entry"
    return Accuracy(None, cut, of=f"0/1 per {per}, yes above an output of {cut:g}")


def _takes_logits(outputs: Tensor, targets: Tensor, gradient: Gradient) -> bool:
    """Tell whether a loss of yes and no pulls outputs apart beyond 0 and 1, as one of logits does.

    One of probabilities, or a squared difference, refuses what lies beyond, or pulls it back.
    """
    for level, answer, sign in ((-10.0, 1, -1), (-0.2, 0, 1), (1.2, 1, -1), (10.0, 0, 1)):
        there = targets == answer
        try:
            slope = gradient(torch.full_like(outputs, level), targets).reshape(targets.shape)
        except Exception:  # a loss of probabilities only
            return False
        if not bool(there.any()):
            continue
        pull = sign * float(slope[there].double().sum())
        if not (pull > 0 if abs(level) > 2 else pull >= 0):  # NaN, too
            return False
    return True
