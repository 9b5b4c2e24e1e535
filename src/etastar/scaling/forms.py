"""The laws that can be fitted: log-linear in n and L. A new one is an entry in `FORMS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from etastar.checking import check_choice
from etastar.errors import ConfigError
from etastar.scaling.cells import FloatArray

Labels: TypeAlias = Mapping[str, str | float]
_FLAT = 1e-9
"""A regressor is constant if its logarithm spreads by less than this."""


@dataclass(frozen=True)
class Form:
    """A law `log y = fixed(n, L) + a + Σ_k b_k · regressor_k(n, L)`.

    Attributes:
        title: As it is printed.
        exponents: Names of the b_k.
        regressors: From n, L (each `[M]`) and the group's labels, one column `[M]` per exponent.
        fixed: The part of log y with fixed coefficients, `[M]`, from n and L.
        varies: What must vary for each exponent to be defined, in words.
    """

    title: str
    exponents: tuple[str, ...]
    regressors: Callable[[FloatArray, FloatArray, Labels], tuple[FloatArray, ...]]
    varies: tuple[str, ...]
    fixed: Callable[[FloatArray, FloatArray], FloatArray] = lambda width, depth: 0.0 * width

    def design(self, width: FloatArray, depth: FloatArray, labels: Labels) -> FloatArray:
        """Ones and the regressors, `[M, 1 + number of exponents]`.

        Raises:
            ConfigError: The form needs a label that the group does not have.
        """
        return np.stack([np.ones(len(width)), *self.regressors(width, depth, labels)], 1)

    def check(self, width: FloatArray, depth: FloatArray, labels: Labels) -> None:
        """Raise if the networks do not determine every exponent.

        Raises:
            ConfigError: Naming the axis that does not vary, or the axes that vary only together.
        """
        x = self.design(width, depth, labels)
        for name, axis, column in zip(self.exponents, self.varies, x.T[1:], strict=True):
            if len(column) == 0 or np.ptp(column) < _FLAT:
                raise ConfigError(
                    f"{axis} does not vary over the {len(column)} cells that can be used (width "
                    f"{_several(width)}; depth {_several(depth)}), so the exponent {name} of the "
                    f"form {self.title} is not defined. Measure networks that differ in {axis}, "
                    f"or fit a form without it."
                )
        if not is_defined(x):
            raise ConfigError(
                f"{' and '.join(self.varies)} vary only together over the {len(x)} cells that can "
                f"be used (width {_several(width)}; depth {_several(depth)}), so the separate "
                f"exponents {', '.join(self.exponents)} are not defined. Add networks off that "
                f"line, or fit one exponent, as in the form 'product'."
            )


def is_defined(x: FloatArray) -> bool:
    """Check that a design `[M, p]`, first column ones, determines every coefficient."""
    if x.shape[1] == 1:
        return len(x) > 0
    if len(x) < x.shape[1]:
        return False
    centred = x[:, 1:] - x[:, 1:].mean(0)
    return bool(np.linalg.matrix_rank(centred, tol=1e-7) == x.shape[1] - 1)


def _several(values: FloatArray) -> str:
    distinct = np.unique(values)
    if len(distinct) > 4:
        return f"{distinct[0]:g} to {distinct[-1]:g}"
    return ", ".join(f"{v:g}" for v in distinct) or "none"


def _gradient_norm(width: FloatArray, depth: FloatArray, labels: Labels) -> tuple[FloatArray, ...]:
    """Log of `n + (v/2)(n(L−1) + κd)`, to which E‖∂f/∂θ‖² is proportional (docs/theory.md)."""
    numbers = {"output_variance": 1.0, **labels}
    for name in ("input_lr_ratio", "inputs"):
        if name not in numbers:
            raise ConfigError(
                "the form gradient-norm is computed from the labels 'input_lr_ratio' and 'inputs' "
                f"of ReLU networks, and these cells have no {name!r}; got "
                f"{', '.join(labels) or 'none'}. If they are of ReLU networks, add it to the rows "
                "(and to `group_by`, where that is given); else go by the other forms."
            )
    kappa, inputs, v = (
        float(numbers[name]) for name in ("input_lr_ratio", "inputs", "output_variance")
    )
    return (np.log(width + 0.5 * v * (width * (depth - 1) + kappa * inputs)),)


FORMS: dict[str, Form] = {
    "product": Form("a (nL)^b", ("product",), lambda n, d, _: (np.log(n * d),), ("width × depth",)),
    "separate": Form(
        "a n^b L^c",
        ("width", "depth"),
        lambda n, d, _: (np.log(n), np.log(d)),
        ("width", "depth"),
    ),
    "gradient-norm": Form(
        "a (n + v/2 (n(L-1) + κd))^b",
        ("gradient_norm",),
        _gradient_norm,
        ("the expected gradient norm",),
    ),
    "width": Form("a n^b", ("width",), lambda n, d, _: (np.log(n),), ("width",)),
    "depth": Form("a L^c", ("depth",), lambda n, d, _: (np.log(d),), ("depth",)),
    "constant": Form("a", (), lambda n, d, _: (), ()),
    "inverse-width": Form("a / n", (), lambda n, d, _: (), (), lambda n, d: -np.log(n)),
    "depth^-3/2": Form("a L^(-3/2)", (), lambda n, d, _: (), (), lambda n, d: -1.5 * np.log(d)),
}
"""`gradient-norm` is one exponent on the exact expected squared gradient norm of an output, biases
aside, instead of on n·L: it keeps the input layer's share, which n·L leaves out.
`inverse-width` and `depth^-3/2` are baselines: rules in use, of which only `a` is fitted."""
BASELINES = ("inverse-width", "depth^-3/2")


def get_form(name: str) -> Form:
    """The form of that name.

    Raises:
        ConfigError: It is not in `FORMS`.
    """
    check_choice("form", name, FORMS)
    return FORMS[name]
