"""What counts as a number: NumPy's do, booleans do not; one message for each refusal."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from etastar import checking
from etastar.errors import ConfigError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)], ids=repr)
def test_whole_numbers_of_python_and_numpy_count(value: Any) -> None:
    found = checking.check_whole("count", value)
    assert type(found) is int
    assert json.dumps(found) == "3"


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)], ids=repr)
def test_numbers_of_python_and_numpy_count(value: Any) -> None:
    found = checking.check_number("rate", value)
    assert type(found) is float
    assert found == 0.5


@pytest.mark.parametrize("value", [True, np.True_, "3", None, [3], np.array([3])], ids=repr)
def test_what_is_no_number_is_refused(value: Any) -> None:
    assert not checking.is_number(value)
    assert not checking.is_whole(value)
    assert not checking.is_ratio(value)
    for check in (checking.check_whole, checking.check_number):
        with pytest.raises(ConfigError, match=r"^rate must be .*, got "):
            check("rate", value)


Case = tuple[Callable[[], Any], str]
MESSAGES: list[Case] = [
    (lambda: checking.check_whole("n", 2.0), "n must be a whole number, got 2.0."),
    (lambda: checking.check_whole("n", 0), "n must be at least 1, got 0."),
    (lambda: checking.check_whole("n", 5, 2, 4), "n must be at most 4, got 5."),
    (lambda: checking.check_whole("n", 2**63), f"n must be below 2**63, got {2**63}."),
    (lambda: checking.check_number("lr", 0, above=0), "lr must be finite and above 0, got 0."),
    (
        lambda: checking.check_number("lr", math.inf, above=0),
        "lr must be finite and above 0, got inf.",
    ),
    (lambda: checking.check_number("x", math.nan), "x must be finite, got nan."),
    (
        lambda: checking.check_number("tol", 1, above=0, below=1),
        "tol must be above 0 and below 1, got 1.",
    ),
    (
        lambda: checking.check_choice("loss", "mes", ("mse", "cross-entropy")),
        "unknown loss 'mes'; did you mean 'mse'? Known: mse, cross-entropy.",
    ),
    (
        lambda: checking.check_choice("loss", ["mse"], {"mse": 1}),
        "unknown loss \"['mse']\"; did you mean 'mse'? Known: mse.",
    ),
]


@pytest.mark.parametrize(("check", "message"), MESSAGES, ids=[message for _, message in MESSAGES])
def test_a_message_says_what_was_expected_and_what_was_given(
    check: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check()
    assert str(caught.value) == message


def test_the_checks_load_neither_torch_nor_numpy() -> None:
    code = "import sys, etastar.checking; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
