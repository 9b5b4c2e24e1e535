"""The theorem on λ1 in depth × width: every bound on E λ1(G), with its side and its label.

`docs/theory.md` begins with it. The network and the inputs are those at hand; no network is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from etastar.checking import check_choice
from etastar.errors import ConfigError
from etastar.problem.losses import LOSSES
from etastar.problem.networks import MLP, Network
from etastar.theory.dense import Array, largest
from etastar.theory.kernel import checked_inputs, checked_mlp, expected_gradient_norm, kernel
from etastar.theory.lower import layers_bound, softmax_output_bound, softmax_sample_bound
from etastar.theory.moments import block_bound, softmax_trace_bound, trace_bound
from etastar.theory.mse_law import contrast_bound

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
    size, total = net.width * net.depth, kernel(net, x)
    if loss == "mse":
        lowers, uppers = _lower(net, x, total), _upper(net, x, classes, total)
    else:
        lowers, uppers = _lower_softmax(net, x, classes, total), _upper(net, x, classes, total)
        uppers = [(name, label, value / 2) for name, label, value in uppers]  # S ⪯ ½
        uppers.insert(0, ("softmax trace", "proved", softmax_trace_bound(net, x, classes)))
    found = [Entry(name, "lower", label, v, v / size) for name, label, v in lowers]
    above = [(name, label, v if math.isfinite(v) else math.inf) for name, label, v in uppers]
    return found + [Entry(name, "upper", label, v, v / size) for name, label, v in above]


def check_classes(classes: int, loss: str) -> None:
    """Check that the loss is known and has outputs enough.

    Args:
        classes: The network's outputs.
        loss: `cross-entropy` or `mse`.

    Raises:
        ConfigError: It is not so.
    """
    check_choice("loss", loss, LOSSES)
    least = 1 if loss == "mse" else 2
    if classes < least:
        raise ConfigError(
            f"classes must be at least {least} for {loss}; got {classes}. It is the number of the "
            "network's outputs."
        )


_Row = tuple[str, Label, float]


def _lower(net: MLP, x: Array, total: Array) -> list[_Row]:
    q, norms = (x**2).mean(1), expected_gradient_norm(net, x)
    size = net.width * net.depth
    return [
        ("product", "proved", float(q.max()) * min(1, net.output_variance / 2) * size / len(x)),
        ("gradient", "proved", float(norms.max()) / len(x)),
        ("layers", "proved", layers_bound(net, x)),
        ("depth", "asymptotic", depth_bound(net, x)),
        ("constant vector", "asymptotic", float(total.mean())),
        ("kernel", "asymptotic", largest(total) / len(x)),
    ]


def _lower_softmax(net: MLP, x: Array, classes: int, total: Array) -> list[_Row]:
    return [
        ("sample", "proved", softmax_sample_bound(net, x, classes)),
        ("output layer", "proved", softmax_output_bound(net, x, classes)),
        ("depth", "asymptotic", depth_bound(net, x, classes)),
        ("contrast", "asymptotic", contrast_bound(net, x, total, classes, 0)),
    ]


def _upper(net: MLP, x: Array, classes: int, total: Array) -> list[_Row]:
    """For MSE; half of each holds for cross-entropy."""
    half, kappa = net.output_variance / 2, net.input_lr_ratio
    product = max(1, half) * net.width * net.depth + half * kappa * x.shape[1]
    product = product * float((x**2).mean()) + net.biases * (1 + half * (net.depth - 1 + kappa))
    return [
        ("kernel", "asymptotic", largest(total) / len(x)),
        ("gradient", "asymptotic", float(np.trace(total)) / len(x)),
        ("blocks", "proved", block_bound(net, x, classes)),
        ("trace", "proved", trace_bound(net, x, classes)),
        ("product", "proved", classes * product),
    ]


def depth_bound(net: MLP, x: Array, classes: int | None = None) -> float:
    """Below lim λ1/n · n, in n·L: `n (mean √q)² max(0, vL'/8 + min(0, 1 − v/2))` (Theorem D (b)).

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
