"""The laws that can be fitted: log-linear in n and L. A new one is an entry in `FORMS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from etastar.errors import ConfigError, unknown_name
from etastar.scaling.cells import FloatArray

_FLAT = 1e-9
"""A regressor is constant if its logarithm spreads by less than this."""


@dataclass(frozen=True)
class Form:
    """A law `log y = offset(n, L) + a + Σ_k b_k · regressor_k(n, L)`.

    Attributes:
        title: As it is printed.
        exponents: Names of the b_k.
        regressors: From log n and log L, each `[M]`, to `[M, number of exponents]`.
        offset: The part with fixed coefficients, `[M]`.
        varies: What must vary for each exponent to be defined, in words.
    """

    title: str
    exponents: tuple[str, ...]
    regressors: Callable[[FloatArray, FloatArray], FloatArray]
    offset: Callable[[FloatArray, FloatArray], FloatArray]
    varies: tuple[str, ...]

    def design(self, width: FloatArray, depth: FloatArray) -> FloatArray:
        """Ones and the regressors, `[M, 1 + number of exponents]`."""
        log_n, log_l = np.log(width), np.log(depth)
        return np.concatenate([np.ones((len(width), 1)), self.regressors(log_n, log_l)], 1)

    def fixed(self, width: FloatArray, depth: FloatArray) -> FloatArray:
        """The offset, `[M]`."""
        return self.offset(np.log(width), np.log(depth))

    def is_defined(self, width: FloatArray, depth: FloatArray) -> bool:
        """Whether these networks determine every exponent."""
        x = self.design(width, depth)
        return len(x) > 0 and _rank(x) == x.shape[1]

    def check(self, width: FloatArray, depth: FloatArray) -> None:
        """Refuse networks that do not determine every exponent.

        Raises:
            ConfigError: Naming the axis that does not vary, or the axes that vary only together.
        """
        x = self.design(width, depth)
        for name, axis, column in zip(self.exponents, self.varies, x.T[1:], strict=True):
            if len(column) == 0 or np.ptp(column) < _FLAT:
                raise ConfigError(
                    f"{axis} does not vary over the {len(column)} cells that can be used (width "
                    f"{_several(width)}; depth {_several(depth)}), so the exponent {name} of the "
                    f"form {self.title} is not defined. Measure networks that differ in {axis}, "
                    f"or fit a form without it."
                )
        if _rank(x) < x.shape[1]:
            raise ConfigError(
                f"{' and '.join(self.varies)} vary only together over the {len(x)} cells that can "
                f"be used (width {_several(width)}; depth {_several(depth)}), so the separate "
                f"exponents {', '.join(self.exponents)} are not defined. Add networks off that "
                f"line, or fit one exponent, as in the form 'product'."
            )


def _rank(x: FloatArray) -> int:
    centred = x[:, 1:] - x[:, 1:].mean(0)
    return 1 + int(np.linalg.matrix_rank(centred, tol=1e-7)) if x.shape[1] > 1 else 1


def _several(values: FloatArray) -> str:
    distinct = np.unique(values)
    if len(distinct) > 4:
        return f"{distinct[0]:g} to {distinct[-1]:g}"
    return ", ".join(f"{v:g}" for v in distinct) or "none"


def _nothing(log_n: FloatArray, log_l: FloatArray) -> FloatArray:
    return np.zeros(len(log_n))


def _no_regressor(log_n: FloatArray, log_l: FloatArray) -> FloatArray:
    return np.zeros((len(log_n), 0))


FORMS: dict[str, Form] = {
    "product": Form(
        "a (nL)^b", ("product",), lambda n, d: (n + d)[:, None], _nothing, ("width × depth",)
    ),
    "separate": Form(
        "a n^b L^c",
        ("width", "depth"),
        lambda n, d: np.stack([n, d], 1),
        _nothing,
        ("width", "depth"),
    ),
    "width": Form("a n^b", ("width",), lambda n, d: n[:, None], _nothing, ("width",)),
    "depth": Form("a L^c", ("depth",), lambda n, d: d[:, None], _nothing, ("depth",)),
    "constant": Form("a", (), _no_regressor, _nothing, ()),
    "inverse-width": Form("a / n", (), _no_regressor, lambda n, d: -n, ()),
    "depth^-3/2": Form("a L^(-3/2)", (), _no_regressor, lambda n, d: -1.5 * d, ()),
}
"""`inverse-width` and `depth^-3/2` are baselines: rules in use, of which only `a` is fitted."""
BASELINES = ("inverse-width", "depth^-3/2")


def get_form(name: str) -> Form:
    """The form of that name.

    Raises:
        ConfigError: It is not in `FORMS`.
    """
    if name not in FORMS:
        raise unknown_name("form", name, FORMS)
    return FORMS[name]
