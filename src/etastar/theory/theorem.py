"""The theorem on λ1 in depth × width: every bound on E λ1(G), with its side and its label.

`docs/theory.md` begins with it. The network and the inputs are those at hand; no network is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from etastar.errors import ConfigError, unknown_name
from etastar.problem.losses import LOSSES
from etastar.theory.dense import Array, largest
from etastar.theory.kernel import checked_inputs, checked_mlp, expected_gradient_norm, kernel
from etastar.theory.lower import layers_bound, softmax_output_bound, softmax_sample_bound
from etastar.theory.moments import block_bound, softmax_trace_bound, trace_bound
from etastar.theory.mse_law import contrast_bound

if TYPE_CHECKING:
    from etastar.problem.networks import MLP, Network

Side = Literal["lower", "upper"]
Label = Literal["proved", "asymptotic"]


@dataclass(frozen=True)
class Entry:
    """One bound on the mean over initialisations of λ1 of the preconditioned G."""

    name: str
    """What the bound looks at; a word of the theorem in `docs/theory.md`."""
    side: Side
    label: Label
    """`proved` at this width and depth, or `asymptotic`: proved of the limit n → ∞ of λ1/n."""
    value: float
    """The bound; infinite where its fourth moments overflow."""
    per_nl: float
    """The same as a multiple of depth × width, n·L."""


def theorem_entries(network: Network, x: Any, classes: int, loss: str) -> list[Entry]:
    """All bounds on E λ1(G), sharp forms and forms in n·L, for this network and these inputs.

    Args:
        network: A plain `MLP`.
        x: Training inputs `[m, d]`, numpy or torch.
        classes: Number of outputs C.
        loss: `"mse"` or `"cross-entropy"`.

    Returns:
        Lower bounds, then upper bounds. A vacuous bound is there with its value.

    Raises:
        ConfigError: An argument is out of range.
        CurvatureError: The network is not a plain `MLP`.

    Example:
        >>> from etastar.problem.networks import MLP
        >>> x = np.random.default_rng(0).normal(size=(50, 20))
        >>> found = {e.name: e.value for e in theorem_entries(MLP(width=64, depth=4), x, 3, "mse")}
        >>> found["product"] < found["gradient"] < found["layers"] < found["blocks"]
        True
    """
    net, x = checked_mlp(network), checked_inputs(x)
    check_classes(classes, loss)
    size = net.width * net.depth
    found = _mse(net, x, classes) if loss == "mse" else _cross_entropy(net, x, classes)
    return [Entry(name, side, label, v, v / size) for name, side, label, v in found]


def check_classes(classes: int, loss: str) -> None:
    """Check that the loss is known and has outputs enough.

    Args:
        classes: The network's outputs.
        loss: `cross-entropy` or `mse`.

    Raises:
        ConfigError: It is not so.
    """
    if loss not in LOSSES:
        raise unknown_name("loss", str(loss), LOSSES)
    least = 1 if loss == "mse" else 2
    if classes < least:
        raise ConfigError(
            f"classes must be at least {least} for {loss}; got {classes}. It is the number of the "
            "network's outputs."
        )


def _finite(bound: Callable[[], float]) -> float:
    """The bound, or infinity where its fourth moments, of order (1 + 5/n)^L, overflow."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            value = bound()
    except OverflowError:
        return math.inf
    return value if math.isfinite(value) else math.inf


_Row = tuple[str, Side, Label, float]


def _mse(net: MLP, x: Array, classes: int) -> list[_Row]:
    q, half = (x**2).mean(1), net.output_variance / 2
    size = net.width * net.depth
    input_layer = half * net.input_lr_ratio * x.shape[1]
    biases = net.biases * (1 + half * (net.depth - 1 + net.input_lr_ratio))
    product = float(q.mean()) * (max(1, half) * size + input_layer) + biases
    total, norms = kernel(net, x), expected_gradient_norm(net, x)
    return [
        ("product", "lower", "proved", float(q.max()) * min(1, half) * size / len(x)),
        ("gradient", "lower", "proved", float(norms.max()) / len(x)),
        ("layers", "lower", "proved", layers_bound(net, x)),
        ("depth", "lower", "asymptotic", depth_bound(net, x)),
        ("constant vector", "lower", "asymptotic", float(total.mean())),
        ("kernel", "lower", "asymptotic", largest(total) / len(x)),
        ("kernel", "upper", "asymptotic", largest(total) / len(x)),
        ("gradient", "upper", "asymptotic", float(norms.mean())),
        ("blocks", "upper", "proved", _finite(lambda: block_bound(net, x, classes))),
        ("trace", "upper", "proved", trace_bound(net, x, classes)),
        ("product", "upper", "proved", classes * product),
    ]


def _cross_entropy(net: MLP, x: Array, classes: int) -> list[_Row]:
    total = kernel(net, x)
    softmax = _finite(lambda: softmax_trace_bound(net, x, classes))
    uppers = [row for row in _mse(net, x, classes) if row[1] == "upper"]
    return [
        ("sample", "lower", "proved", softmax_sample_bound(net, x, classes)),
        ("output layer", "lower", "proved", softmax_output_bound(net, x, classes)),
        ("depth", "lower", "asymptotic", depth_bound(net, x, classes)),
        ("contrast", "lower", "asymptotic", contrast_bound(net, x, total, classes, 0)),
        ("softmax trace", "upper", "proved", softmax),
        *((name, side, label, value / 2) for name, side, label, value in uppers),
    ]


def depth_bound(net: MLP, x: Array, classes: int | None = None) -> float:
    """Below lim λ1/n · n, in n·L: `n (mean √q)² max(0, vL'/8 + min(0, 1 − v/2))` (Theorem D).

    L' = L where no two inputs have a negative product, else L − 1. With `classes`, for
    cross-entropy: divided by `C · mean e^(vq)`.
    """
    v, q = net.output_variance, (x**2).mean(1)
    layers = net.depth - (len(x) > 1 and float((x @ x.T).min()) < 0)
    bound = net.width * float(np.sqrt(q).mean()) ** 2
    bound *= max(0.0, v * layers / 8 + min(0.0, 1 - v / 2))
    if classes is None:
        return bound
    mean = float(np.logaddexp.reduce(v * q)) - math.log(len(q))  # log of the mean of e^(vq)
    return bound / classes * math.exp(-min(700.0, mean))
