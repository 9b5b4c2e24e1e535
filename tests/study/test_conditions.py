"""Filters: what they may say, and that they mean what Python means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etastar.errors import ConfigError
from etastar.study.conditions import LONGEST, parse_condition

VALUES: dict[str, Any] = {
    "width": 64,
    "depth": 3,
    "kappa": 0.1,
    "loss": "mse",
    "biases": True,
    "max_steps": None,
}


def holds(text: str, **values: Any) -> bool:
    return parse_condition(text, "filter[0]", VALUES)(VALUES | values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("width >= 8 * depth", True),
        ("width ≥ 8·depth", True),
        ("width ≤ 8×depth", False),
        ("loss ≠ 'mse'", False),
        ("width − depth == 61", True),
        ("8 * depth <= width < 128", True),
        ("8 < width < 32", False),
        ("loss in ['mse', 'cross-entropy']", True),
        ("loss not in ('mse',)", False),
        ("width in [8, 2 ** 6]", True),
        ("biases", True),
        ("not biases or kappa < 0.5", True),
        ("biases and not depth > 3", True),
        ("max_steps == 3", False),
        ("width // depth == 21 and width % depth == 1 and width / depth > 21.3", True),
        ("-depth < +depth", True),
        ("depth ** -1 > 0.33", True),
        ("0 < 1 < depth != 4", True),
        ("'s' in loss", True),
    ],
)
def test_the_grammar(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("__import__('os').system('true')", "Call"),
        ("width.__class__ == 3", "Attribute"),
        ("loss[0] == 'm'", "Subscript"),
        ("(lambda: True)()", "Call"),
        ("[n for n in [1]] == [1]", "ListComp"),
        ("{1: 2} == 3", "Dict"),
        ("{1, 2} == 3", "Set"),
        ("(w := width) > 3", "NamedExpr"),
        ("f'{width}' == '64'", "JoinedStr"),
        ("width if biases else depth", "IfExp"),
        ("width & 1 == 0", "BitAnd"),
        ("width << 100000000 > 1", "LShift"),
        ("~width < 0", "Invert"),
        ("width is 64", "Is"),
        ("width == None", "Constant"),
        ("width == 3j", "Constant"),
        ("loss == b'mse'", "Constant"),
        ("width == ...", "Constant"),
        ("[*[1]] == [1]", "Starred"),
    ],
)
def test_everything_else_is_refused_when_it_is_read(text: str, node: str) -> None:
    with pytest.raises(ConfigError, match=rf"filter\[0\]: .* uses {node}, which a condition may"):
        holds(text)


@pytest.mark.parametrize(
    "text",
    ["", "width >", "width = 3", "import os", "width > 3; depth", "a b", "\0", "(" * 400, "1 > '"],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"filter\[0\]: .* is not a condition"):
        holds(text)


def test_unknown_fields_come_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"names an unknown field 'widht'; did you mean 'width'"):
        holds("depth > 2 and widht > 3")


def test_huge_powers_end_at_once() -> None:
    with pytest.raises(ConfigError, match=r"cannot be evaluated.*range error"):
        holds("9 ** 9 ** 9 > 1")
    with pytest.raises(ConfigError, match="cannot be evaluated"):
        holds("(9.0 ** 300) ** 300 > width")
    assert holds("9 ** 9 ** 0.5 > width")


def test_long_and_deep_conditions_are_refused_not_a_crash() -> None:
    with pytest.raises(ConfigError, match=f"expected at most {LONGEST}"):
        holds("width > " + "1" * LONGEST)
    assert holds("not " * 200 + "biases")
    assert holds("-" * 900 + "width == width")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_steps > 3", "'>' not supported .* where max_steps = None"),
        ("loss * 3 == 'a'", "'mse' is not a number.* where loss = 'mse'"),
        ("biases + 1 == 2", "True is not a number"),
        ("-loss == 3", "'mse' is not a number"),
        ("width and biases", "64 is neither true nor false"),
        ("not width", "64 is neither true nor false"),
        ("width / (depth - 3) > 1", "division by zero.* where depth = 3, width = 64"),
        ("width in loss", "cannot be evaluated"),
        ("(-1) ** 0.5 == 1", "math domain error"),
        ("width", "gives 64; expected a comparison"),
        ("'mse'", "gives 'mse'; expected a comparison"),
    ],
)
def test_what_has_no_truth_value_is_an_error_not_a_guess(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        holds(text)


NUMBERS = st.one_of(
    st.sampled_from(["width", "depth", "kappa"]),
    st.integers(0, 99).map(str),
    st.sampled_from(["0.5", "2.25", "1e3"]),
)
SUMS = st.recursive(
    NUMBERS,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
        lambda parts: f"({' '.join(parts)})"
    ),
    max_leaves=6,
)
COMPARISONS = st.tuples(SUMS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), SUMS).map(
    " ".join
)
CONDITIONS = st.recursive(
    st.one_of(COMPARISONS, COMPARISONS, st.just("biases"), st.just("loss in ['mse', 'x']")),
    lambda inner: st.one_of(
        inner.map(lambda text: f"(not {text})"),
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map(
            lambda parts: f"({''.join(parts)})"
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(CONDITIONS, st.integers(1, 512), st.integers(1, 16), st.sampled_from([0.0, 0.1, 1.0]))
def test_python_agrees(text: str, width: int, depth: int, kappa: float) -> None:
    values = VALUES | {"width": width, "depth": depth, "kappa": kappa}
    try:
        expected = eval(text, {"__builtins__": {}}, values)
    except ArithmeticError:
        with pytest.raises(ConfigError, match="cannot be evaluated"):
            holds(text, **values)
        return
    assert holds(text, **values) is expected
