"""What code is the user's, and what it raised, in one line: where, what, and what would help."""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

from etastar.errors import EtaStarError, ModelError

NOT_THE_USERS = (str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib")))
"""Folders whose frames say nothing to the user: this package, Python and what is installed."""
INSTALLED = {"site-packages", "dist-packages"}
"""What such folders are called elsewhere."""

REMEDIES = {
    r"more than 1 value per channel": "A batch of one sample has no statistics for batch "
    "normalisation: set drop_last=True in the loader, or another batch_size.",
    r"backward through the graph a second time": "Something keeps a tensor of an earlier step, or "
    "step_fn(model, batch) calls backward() itself: detach() what is kept; to do the whole step, "
    "take (model, batch, optimizer).",
    r"modified by an inplace operation": "A tensor that the gradient needs was changed in place: "
    "replace x += y by x = x + y, or clone() it first.",
    r"create_graph|does not have grad_fn": "Do the whole step in "
    "step_fn(model, batch, optimizer), with loss.backward(create_graph=True).",
    r"does not require grad": "Look for detach(), no_grad() or .item() between parameters and "
    "loss; evaluation records no gradients: pass eval_grad=True if it needs derivatives.",
    r"out of memory|can't allocate memory": "Lower batch_size, or train elsewhere (device).",
    r"[Ii]nference tensor": "A tensor was made in torch.inference_mode: clone() it outside.",
    r"same device|on device .* but": "Say where to train (device), and make new tensors in the "
    "model on the device of its inputs.",
    r"channels|[34]D .*input to conv": "PyTorch's images are [N, channels, height, width]: "
    "permute(0, 3, 1, 2) those whose channels come last, unsqueeze(1) grey ones.",
    r"scalar type (Long|Int)|'target' in call|floating point type for target|not implemented for "
    r"'(Int|Short|Char|Byte)'|Long but found|to be Long|for tensor argument #. 'indices'": "Class "
    "indices are int64: y.long(). Targets of a regression are floats, and need another loss_fn.",
    r"same dtype|scalar type|type .* should be the same|[Bb]yte[Tt]ensor|Double and Float": ""
    "Inputs and model need one type: x.float() for float64 or integer inputs, or model.double().",
    r"[Tt]arget .* out of bounds|label|class_index|index out of range": "Class "
    "indices count from 0 and are below the number of outputs.",
    r"sys\.exit": "Return the loss instead: one that is not finite counts as a diverged run.",
}
"""What helps against what PyTorch says; the first that fits is told."""


def is_users_file(file: str) -> bool:
    """Tell whether a file or folder is of the user, rather than of Python or of what is installed.

    Args:
        file: Its path.
    """
    return not file.startswith(NOT_THE_USERS) and INSTALLED.isdisjoint(Path(file).parts)


def is_users(code: Any) -> bool:
    """Tell whether the user has written a function or a class.

    Args:
        code: Either.
    """
    if isinstance(code, FunctionType):
        return is_users_file(code.__code__.co_filename)
    module = sys.modules.get(code.__module__)
    if module is None or module.__name__ in sys.builtin_module_names:
        return False
    return is_users_file(getattr(module, "__file__", None) or "")


def cause(error: BaseException) -> str:
    """Return `raised KIND: message (in FILE, line N)`, the place in the user's own code."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if is_users_file(f.filename) and not f.filename.startswith("<")
    ]
    where = f" (in {Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else repr(error.code)}){where}"
    lines = str(error).strip().splitlines()
    lines = lines if len(lines) < 4 else [lines[0], "...", lines[-1]]  # as of a worker's traceback
    text = " ".join(" ".join(lines).split()).rstrip(".")
    return f"raised {type(error).__name__}: {text}".removesuffix(": ") + where


@contextmanager
def told(doing: Callable[[], str], otherwise: str = "") -> Iterator[None]:
    """Raise what the user's code raises inside as an error that says what was going on.

    Args:
        doing: Says what was going on, and is asked only if it went wrong.
        otherwise: Remedy where none is known.

    Raises:
        ModelError: Instead of any other error, `sys.exit` included; Ctrl-C stays what it is.
    """
    try:
        yield
    except EtaStarError:
        raise
    except (Exception, SystemExit) as error:
        text = cause(error)
        known = (remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, text))
        raise ModelError(f"{doing()} {text}. {next(known, otherwise)}".rstrip()) from error
