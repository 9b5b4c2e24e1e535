"""Check that a loss gives the same value twice; if not, find where the randomness comes from."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from etastar.curvature.products import LossCurvature
from etastar.errors import CurvatureError
from etastar.problem.nested import only_label, shape_of

MOST_NAMED = 5
"""Places that a message names."""


def check_deterministic(operator: LossCurvature, model: nn.Module) -> tuple[float, torch.Tensor]:
    """Return the loss and its gradient `[P]`, if two evaluations of them are finite and agree.

    They agree to the root of the machine epsilon, as sums on a GPU may come in any order.

    Raises:
        CurvatureError: They are not finite, or differ; the message names the cause.
    """
    (loss, gradient), (again, gradient_again) = (operator.loss_and_gradient() for _ in range(2))
    if not math.isfinite(loss) or not bool(gradient.isfinite().all()):
        bad = next((i for i, each in enumerate(operator.losses) if not math.isfinite(each)), None)
        where, remedy = "", "Check the inputs and the initialisation."
        if bad is not None:
            where = f" in batch {bad}, {shape_of(operator.batches[bad])}"
            if (label := only_label(operator.batches[bad][1])) is not None:
                remedy = f"All of its targets are {label}: leave it out if the loss ignores that."
        raise CurvatureError(
            f"the loss must be finite, with a finite gradient, to have a λ1; got a loss of {loss}"
            f"{where} and a gradient of norm {float(gradient.norm())}. {remedy}"
        )
    allowed = math.sqrt(operator.epsilon)
    moved = float((gradient_again - gradient).norm())
    if abs(again - loss) > allowed * abs(loss) or moved > allowed * float(gradient.norm()):
        training = any(module.training for module in model.modules())
        remedy = "call model.eval(), or " if training else ""
        raise CurvatureError(
            f"λ1 is not defined: two evaluations on the same batches gave losses {loss:.9g} and "
            f"{again:.9g}, and gradients that differ by {moved:.3g}. Cause: "
            f"{_cause(operator, model)}. Expected a deterministic loss: {remedy}take the random "
            "numbers out of the model (F.dropout obeys eval() only with training=self.training)."
        )
    return loss, gradient


def _cause(operator: LossCurvature, model: nn.Module) -> str:
    """Say what makes evaluations differ, as far as a third one shows it."""
    drawn = random_operations(operator, model)
    if drawn:
        more = f" and {len(drawn) - MOST_NAMED} more" if len(drawn) > MOST_NAMED else ""
        return f"random numbers drawn by {', '.join(drawn[:MOST_NAMED])}{more}"
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    operator.loss_and_gradient()
    changed = [n for n, b in model.named_buffers() if n in before and not b.equal(before[n])]
    if changed:
        return f"buffers that every evaluation changes ({', '.join(changed[:MOST_NAMED])})"
    return "unknown: PyTorch drew no random numbers, and no buffer of the model changed"


def random_operations(operator: LossCurvature, model: nn.Module) -> list[str]:
    """List the places where one evaluation of the loss draws PyTorch's random numbers.

    Operations are watched below autograd, so that dropout is found in `F.dropout`, in a recurrent
    network and in attention too.

    Returns:
        E.g. `encoder.lstm (LSTM)`, or `net (Net, net.py:31)` for code outside torch.
    """
    names = {id(module): name or "the model" for name, module in model.named_modules()}
    places: dict[str, None] = {}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if torch.Tag.nondeterministic_seeded in func.tags:
                places[_place(sys._getframe(1), names, str(func.__name__))] = None
            return func(*args, **(kwargs or {}))

    with Watch():  # type: ignore[no-untyped-call]
        operator.loss_and_gradient()
    return list(places)


def _place(frame: FrameType | None, names: dict[int, str], operation: str) -> str:
    """Name the innermost module of the model on the call stack; add the line if not torch's."""
    torch_folder, own_folder = Path(torch.__file__).parent, Path(__file__).parent
    line = ""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if not line and not {torch_folder, own_folder} & set(file.parents):
            line = f"{file.name}:{frame.f_lineno}"
        module = frame.f_locals.get("self")
        if id(module) in names and frame.f_code.co_name == "forward":
            where = f", {line}" if line else ""
            return f"{names[id(module)]} ({type(module).__name__}{where})"
        frame = frame.f_back
    return f"{operation} at {line}" if line else operation
