"""Bounds on λ1 at initialisation and its prediction from the data alone. Start here.

`docs/theory.md` states and proves what the labels `proved` and `asymptotic` claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etastar.checking import check_choice
from etastar.curvature.graphs import KINDS
from etastar.machine import use_threads
from etastar.problem.networks import Network
from etastar.theory.fluctuations import fewer, fluctuations_of
from etastar.theory.kernel import checked_inputs, checked_mlp
from etastar.theory.mse_law import mse_law
from etastar.theory.softmax_law import softmax_law
from etastar.theory.theorem import Entry, Label, check_classes, theorem_entries

SAMPLES = 250
"""Samples, evenly spaced among all, on which fluctuations are computed: they cost m³ per layer."""


@dataclass(frozen=True)
class SharpnessBounds:
    """What theory says of the λ1 of `D^½ H D^½` at initialisation, without drawing a network.

    A bound labelled `proved` holds for the expectation over initialisations at the width and depth
    asked for. One labelled `asymptotic` holds, for the same expectation and up to the error of
    seeded draws (about 4 %), as the width grows.
    """

    lower: float
    """The constant test vector (MSE), or a contrast of outputs (cross-entropy), at large width."""
    lower_label: Label
    lower_proved: float | None
    """A lower bound at this very width; None where we have no proof."""
    upper: float
    """The least of the proved bound and the predicted mean of a norm that is above λ1.

    The Schatten 3-norm for MSE, `(λ1·‖G‖_F²)^⅓` for cross-entropy.
    """
    upper_label: Label
    upper_proved: float | None
    """The tightest upper bound that is proved; None where we have no proof."""
    upper_trace: float | None
    """The proved bound through the trace, above `upper_proved`."""
    kernel_prediction: float
    """Predicted median λ1 over initialisations, with the correction for finite width."""
    kernel_infinite_width: float
    """The same without the correction. For MSE, λ1(K/m)."""
    theorem: tuple[Entry, ...]
    """Every bound on the mean of λ1 of the preconditioned G, whatever `kind` is."""


@use_threads(1)
def sharpness_bounds(
    network: Network, x: Any, classes: int, *, loss: str, kind: str, seed: int = 0
) -> SharpnessBounds:
    """Bounds on λ1 at initialisation, and its prediction from the inputs alone.

    Everything is of the preconditioned λ1 (the input layer at `network.input_lr_ratio`) of the loss
    as `etastar.problem.losses` normalises it. All statements are about the Gauss-Newton matrix G;
    for `kind="hessian"` they are the same numbers, none of them proved: the rest term H − G was
    measured at 4–42 % of G in norm, raising λ1 by 0–29 % (`docs/theory.md`, §6).

    Args:
        network: A plain `MLP`.
        x: Training inputs `[m, d]`, numpy or torch, at most
            `kernel.MAX_SAMPLES` of them; λ1 does not depend on labels.
        classes: Number of outputs C.
        loss: `"mse"` or `"cross-entropy"`.
        kind: `"hessian"` or `"gauss-newton"`.
        seed: Of the draws of single units, C × C matrices and logits.

    Returns:
        Bounds with their labels, and predictions.

    Raises:
        ConfigError: An argument is out of range.
        CurvatureError: The network is not a plain `MLP`.

    Example:
        >>> from etastar.problem.networks import MLP
        >>> x = np.random.default_rng(0).normal(size=(50, 20))
        >>> b = sharpness_bounds(MLP(width=64, depth=2), x, 10, loss="mse", kind="gauss-newton")
        >>> b.lower < b.kernel_infinite_width < b.kernel_prediction < b.upper_proved
        True
    """
    net, x = checked_mlp(network), checked_inputs(x)
    check_classes(classes, loss)
    check_choice("kind of curvature", kind, KINDS)
    entries = theorem_entries(net, x, classes, loss)
    fluctuations = fluctuations_of(net, x[_evenly(len(x), net.depth)], classes, seed)
    named = {(e.name, e.side): e.value for e in entries}
    if loss == "mse":
        top, lower = named["kernel", "upper"], named["constant vector", "lower"]
        limit, median, above = mse_law(fluctuations, seed)
    else:
        top, lower = 2 * named["kernel", "upper"], named["contrast", "lower"]
        limit, median, above = softmax_law(net, x, fluctuations, top, seed)
    below = max(e.value for e in entries if (e.side, e.label) == ("lower", "proved"))
    block = min(e.value for e in entries if (e.side, e.label) == ("upper", "proved"))
    exact, estimate = kind == "gauss-newton", top * above
    return SharpnessBounds(
        lower=lower,
        lower_label="proved" if exact and loss == "mse" and net.depth == 1 else "asymptotic",
        lower_proved=below if exact else None,
        upper=min(estimate, block),
        upper_label="proved" if exact and block <= estimate else "asymptotic",
        upper_proved=block if exact else None,
        upper_trace=named["trace", "upper"] if exact else None,
        kernel_prediction=top * median,
        kernel_infinite_width=top * limit,
        theorem=tuple(entries),
    )


def _evenly(samples: int, depth: int) -> NDArray[np.int_]:
    """At most `SAMPLES` of the indices below `samples`, evenly spaced; fewer for deep networks."""
    most = min(samples, fewer(SAMPLES, depth, 50))
    return np.unique(np.linspace(0, samples - 1, most).round().astype(int))
