"""What must hold before the first trial, each failure with its remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from etastar.errors import ModelError
from etastar.problem import own_loss
from etastar.problem.batches import LoaderBatches
from etastar.problem.nested import (
    copied,
    only_label,
    pair,
    rebuilt,
    samples_in,
    shape_of,
    tensors,
    to_device,
)
from etastar.problem.problem import Problem
from etastar.problem.streams import Stream
from etastar.problem.trial import Start
from etastar.problem.user_code import told

PERCENT = 100
MOST_NAMED = 5
"""Tensors that a message names."""
SUMS = 1.8
"""Times the loss of a batch that twice the batch has, from where on it is taken for a sum."""


def with_loss(problem: Problem, start: Start) -> Problem:
    """Return the problem with the loss that the model itself returns, if it does.

    Args:
        problem: As asked for.
        start: A start.
    """
    batch = first_batch(problem, start)
    model = problem.origin.copy(start.initialisation)
    with Stream("training", start.order).active(), _first_batch(batch):
        own = problem.objective.returns_loss(model, batch)
    return replace(problem, objective=replace(problem.objective, own_loss=own))


def with_metric(problem: Problem, start: Start) -> Problem:
    """Return the problem with what `"accuracy"` counts, or how the loss is evaluated, decided.

    Args:
        problem: Its loss is decided.
        start: A start.

    Raises:
        ModelError: The metric has no meaning here, or the validation data cannot be evaluated.
    """
    model = problem.origin.copy(start.initialisation)
    own_loss.set_training(model, False)
    with Stream("metric", 0).active(), _metric(problem):
        objective = problem.objective.settled(model, problem.val.once, problem.origin.device)
    return replace(problem, objective=objective)


def first_batch(problem: Problem, start: Start) -> Any:
    """Return the first training batch of a start, on the device.

    Args:
        problem: What is trained.
        start: A start.
    """
    return to_device(next(problem.train.stream(start.order)), problem.origin.device)


def _loss(problem: Problem, start: Start, batch: Any) -> float:
    """Return the loss of a batch at the initial weights of a start."""
    model = problem.origin.copy(start.initialisation)
    with Stream("training", start.order).active(), torch.enable_grad():
        loss = problem.objective.loss(model, to_device(batch, problem.origin.device))
    return float(loss.detach())


def _first_batch(batch: Any) -> AbstractContextManager[None]:
    """Tell what the user's code raises on the first batch."""
    return told(
        lambda: (
            "the first training batch does not go through model and loss: it is "
            f"{shape_of(batch)}, expected (inputs, targets) with "
            "loss_fn(model(inputs), targets), and it"
        ),
        "Check shapes, types and device, or pass step_fn.",
    )


def _metric(problem: Problem) -> AbstractContextManager[None]:
    """Tell what the user's code raises at the first evaluation."""
    first = next(iter(problem.val.once()), None)
    if first is None:
        raise ModelError("val_data is empty: there is nothing to evaluate.")
    return told(
        lambda: (
            f"the metric {problem.objective.name!r} cannot be evaluated on the validation data, "
            f"whose first batch is {shape_of(first)}: it"
        ),
        "A callable is called (outputs, targets), on all of them at once; with step_fn it is "
        "called (model, batch).",
    )


def check_first_step(problem: Problem, start: Start) -> None:
    """Take the first gradient of a start, on a copy.

    Raises:
        ModelError: Batch, model and loss do not fit each other; the loss is not finite; or it does
            not depend on the parameters, or on some that would not train.
    """
    if problem.objective.whole_step:
        return  # it is taken in the rehearsal
    seed = start.initialisation
    model = problem.origin.copy(seed)
    batch = first_batch(problem, start)
    with Stream("training", start.order).active(), torch.enable_grad():
        with _first_batch(batch):
            loss = problem.objective.loss(model, copied(batch))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise not_finite(value, seed, batch)
        ignored = "the loss does not depend on the model's trainable parameters"
        remedy = (
            "Look for detach(), no_grad(), .item() or NumPy between them, or a model that returns "
            "something else."
        )
        if not loss.requires_grad:
            raise ModelError(f"{ignored}: it has no gradient. {remedy}")
        if any(p.grad is not None for p in model.parameters()):
            raise ModelError(
                "step_fn(model, batch) called backward() itself: let it return the loss only, or "
                "take (model, batch, optimizer) and do the whole step."
            )
        _check_all_train(problem, model, loss, copied(batch))
        loss.backward()  # type: ignore[no-untyped-call]
    if all(p.grad is None for _, p in own_loss.named_parameters(model) if p.requires_grad):
        raise ModelError(f"{ignored}: none of them has a gradient. {remedy}")
    _check_smallest_batch(problem, start, samples_in(batch))


def _check_all_train(problem: Problem, model: nn.Module, loss: Tensor, batch: Any) -> None:
    """Raise if the loss depends on tensors that would not train, and whose gradients would change.

    Those that are the same in a second evaluation outlive a step; the others are made in it.
    """
    known = {id(p) for _, p in own_loss.named_parameters(model)}
    known |= {id(leaf) for leaf in tensors(batch)}
    again = problem.objective.loss(model, batch)
    one, other = _leaves(loss), _leaves(again)
    if foreign := [leaf for key, leaf in one.items() if key in other and key not in known]:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in foreign[:MOST_NAMED])
        raise ModelError(
            f"the loss depends on {len(foreign)} trainable tensors (of shape {shapes}) that belong "
            "neither to the model nor to loss_fn: they would not train. Pass the module that holds "
            "them as loss_fn, or make it a part of the model, and use that part in step_fn."
        )


def _leaves(loss: Tensor) -> dict[int, Tensor]:
    """Return the tensors whose gradients `loss.backward()` would change, by identity."""
    found, seen, waiting = {}, set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
        waiting += [before for before, _ in node.next_functions]
    return found


def first_epoch(problem: Problem, start: Start) -> Iterator[Any]:
    """Yield the batches of the first epoch that a trial uses, if they are in memory."""
    train = problem.train
    if isinstance(train, LoaderBatches) and not train.streaming:
        most = min(problem.max_steps, train.steps_per_epoch)
        yield from islice(train.stream(start.order), most)


def _check_smallest_batch(problem: Problem, start: Start, usual: int) -> None:
    """Raise if the smallest batch of an epoch does not go through model and loss.

    Raises:
        ModelError: It does not; it names the batch.
    """
    epoch = enumerate(first_epoch(problem, start))
    place, odd = min(epoch, key=lambda batch: samples_in(batch[1]), default=(0, None))
    smallest = usual if odd is None else samples_in(odd)
    if smallest >= usual:
        return
    try:
        _loss(problem, start, odd)
    except Exception as error:
        plural = "s" * (smallest > 1)
        raise ModelError(
            f"batch {place} of an epoch has {smallest} sample{plural}, the others {usual}, and "
            f"does not go through model and loss: {type(error).__name__}: {error}. Leave the last "
            "batch out (drop_last=True of the DataLoader), or mend the step. It is "
            f"{shape_of(odd)}."
        ) from error


def check_samples(problem: Problem, start: Start) -> None:
    """Look for samples with NaN, and whether the loss of such a sample is NaN, too.

    Raises:
        ModelError: Its is; names the first.
    """
    if problem.objective.whole_step:
        return  # what becomes of such a sample is known to that step only
    data = {problem.train: "train_data"}
    data.setdefault(problem.val, "val_data")
    for batches, what in data.items():
        seen = 0
        kept = batches is problem.train and isinstance(batches, LoaderBatches)
        for batch in first_epoch(problem, start) if kept else batches.once():
            parts = [t for t in tensors(batch) if t.is_floating_point() and t.ndim]
            strided = [t for t in parts if t.layout == torch.strided and t.numel()]
            bad = [~t.isfinite().reshape(len(t), -1).all(1) for t in strided]
            rows = [int(row.nonzero()[0]) for row in bad if bool(row.any())]
            loss = 0.0
            if rows:
                with suppress(Exception):  # of a batch without a loss nothing can be told
                    loss = _loss(problem, start, batch)
            if not math.isfinite(loss):
                raise ModelError(
                    f"{what}: sample {seen + min(rows)} holds NaN or infinity, and the loss of its "
                    "batch is nan at initialisation. Leave it out, or fill the gap."
                )
            seen += samples_in(batch)


def sum_notes(problem: Problem, start: Start) -> list[str]:
    """Say so if the loss of twice a batch is twice the loss.

    Args:
        problem: What is trained.
        start: One of its starts.
    """
    if problem.objective.whole_step:
        return []
    batch = first_batch(problem, start)
    with suppress(Exception):  # not every batch can be put together with itself
        once = abs(_loss(problem, start, copied(batch)))
        twice = abs(_loss(problem, start, rebuilt(lambda part: torch.cat([part, part]), batch)))
        if twice > SUMS * once:
            return [
                "the loss is a sum over the samples, not a mean: with plain SGD, η* falls as "
                f"`batch_size` grows, and is {samples_in(batch)} times higher for the mean."
            ]
    return []


def not_finite(value: float, seed: int, batch: Any = None) -> ModelError:
    """Return the error for the loss of the first batch.

    Args:
        value: What it is.
        seed: Of the initialisation.
        batch: The batch.
    """
    remedy = (
        "Look for NaN in the data, inputs of a wrong scale, or a log or a division in the model or "
        "the loss."
    )
    with suppress(ModelError):  # it may be no pair
        if (label := only_label(pair(batch)[1])) is not None:
            remedy = f"All of its targets are {label}: leave it out if the loss ignores that."
    return ModelError(
        f"the loss of the first batch is {value} at initialisation (seed {seed}), before any step. "
        f"{remedy}"
    )


def check_first_metric(problem: Problem, start: Start) -> float:
    """Evaluate a start before any step.

    Returns:
        The metric.

    Raises:
        ModelError: It cannot be evaluated, or is not a number.
    """
    seed = start.initialisation
    model = problem.origin.copy(seed)
    objective = problem.objective
    with _metric(problem):
        value = problem.evaluate(model)
    if math.isnan(value):
        raise ModelError(
            f"the metric {objective.name!r} is NaN at initialisation (seed {seed}). Check "
            "the validation data for NaN, and the metric for a division by zero, e.g. by a class "
            "that is never predicted."
        )
    return value


def percent_notes(problem: Problem, values: list[float]) -> list[str]:
    """Say so if the threshold of a metric of one's own is in percent and the metric is a fraction.

    Args:
        problem: Its threshold is known.
        values: The metric before any step.
    """
    objective, threshold = problem.objective, problem.objective.threshold
    fraction = all(0 <= value <= 1 for value in values)
    if not callable(objective.metric) or not fraction or not 1 < threshold <= PERCENT:
        return []
    return [
        f"the metric {objective.name!r} is {values[0]:.4g} at initialisation and the `threshold` "
        f"{threshold:g}: if the metric is a fraction, write {threshold / PERCENT:g} for "
        f"{threshold:g} %."
    ]


def check_not_met(problem: Problem, start: Start, value: float, share: float | None = None) -> None:
    """Check that a threshold is not met before the first step.

    Args:
        problem: Whose threshold.
        start: Where the metric was evaluated.
        value: The metric there.
        share: What one answer for all samples reaches, if that is known.

    Raises:
        ModelError: It is met, so that every rate would count as trained.
    """
    objective, seed = problem.objective, start.initialisation
    if objective.met(value):
        side = "Raise" if objective.higher_is_better else "Lower"
        constant = f", which one answer for all samples takes to {share:.4g}," if share else ","
        raise ModelError(
            f"the threshold is met before the first step: {objective.name} is {value:g} at "
            f"initialisation (seed {seed}), the threshold {objective.threshold:g}. Every "
            f"rate would count as trained. {side} threshold{constant} or set higher_is_better if "
            "the metric points the other way; a model that is trained already needs a factory, or "
            "fresh weights."
        )
