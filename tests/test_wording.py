"""Messages are written once, in Python's words, and warnings point to the line that called.

How a command line and a study file write the options that a message names: `tests/cli`.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import etastar
from etastar.cli.model import ModelOptions
from etastar.cli.predict import PredictOptions
from etastar.cli.sharpness import SharpnessOptions
from etastar.cli.study import ACTIONS
from etastar.huggingface import trainer_maximal_lr
from etastar.lambda1 import measure_sharpness
from etastar.lightning import lightning_maximal_lr
from etastar.scaling import CellTable, fit_laws
from etastar.scaling.fitted import Fitted
from etastar.settings import Settings
from etastar.study.specification import StudyFile

SOURCE = Path(etastar.__file__).parent
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if "cli" not in path.parts]
ENTRIES = [
    *(etastar.maximal_lr, etastar.warmup, etastar.sharpness, etastar.measure, etastar.load),
    *(measure_sharpness, lightning_maximal_lr, trainer_maximal_lr),
    *(fit_laws, CellTable.from_rows, Fitted.predict),
]
MODELS = [Settings, ModelOptions, PredictOptions, SharpnessOptions, StudyFile]
MODELS += [model for model, _, _ in ACTIONS.values()]
OF_OTHERS = "dask worker ADDRESS --nthreads 1 --resources GPU=1"
"""A command of another program, quoted in full."""


@cache
def of_commands() -> set[str]:
    """Every option of a command, and every key of a study."""
    return {field.alias or name for kind in MODELS for name, field in kind.model_fields.items()}


@cache
def options() -> set[str]:
    """Every option of an entry: a call, a command, a study file."""
    names = {name for entry in ENTRIES for name in inspect.signature(entry).parameters}
    return names | of_commands()


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Strings of a file that are no docstrings, `{}` where an f-string has a value."""

    def visit(node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.JoinedStr):
            parts = [str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values]
            yield node.lineno, "".join(parts)
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield from visit(part.value)
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def bare(text: str) -> list[str]:
    """Options with a value that a message names without backticks; calls such as `f(a=1)` aside."""
    text = re.sub(r"`[^`]*`", "", text)
    while (shorter := re.sub(r"\w+\([^()]*\)", "", text)) != text:
        text = shorter
    value = r"['\"\d{(]|lambda|True|False|None|true|false|\.\.\."
    return re.findall(rf"(?<![\w.])({'|'.join(options())}) ?= ?(?={value})", text)


def bare_words(text: str) -> list[str]:
    """Options with an underscore that a message names without backticks, its first word aside."""
    if text.count(" ") < 3 or re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)\b", text):
        return []
    names = "|".join(name for name in of_commands() if "_" in name)
    text = re.sub(r"`[^`]*`", "", text)
    return re.findall(rf"(?<=[ (,])({names})(?=[ ,.:;)]|$)", text)


def unknown(text: str) -> set[str]:
    """Names in backticks that are options of no entry."""
    return set(re.findall(r"`(\w+)(?:=[^`]*)?`", text)) - options()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("give threshold='auto', or more", ["threshold"]),
        ("more than max_steps={} batches", ["max_steps"]),
        ('or set strategy = "section".', ["strategy"]),
        ("pass step_fn=lambda model, batch: loss", ["step_fn"]),
        ("`threshold='auto'`, etastar.MLP(width=128, depth=4), limit_{}_batches={}", []),
    ],
)
def test_an_option_without_backticks_is_seen(text: str, names: list[str]) -> None:
    assert bare(text) == names


def test_an_option_without_a_value_is_seen_too() -> None:
    assert bare_words("η* lies above the range. Raise end_lr.") == ["end_lr"]
    assert bare_words("start_lr must be below `end_lr`, got /x/start_lr and 2.") == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_messages_name_options_in_pythons_words_and_in_backticks(path: Path) -> None:
    for line, text in texts(path):
        place = f"{path.relative_to(SOURCE)}:{line}: {text}"
        assert not re.search(r"(?<!\w)--[a-z{]", text.replace(OF_OTHERS, "")), place
        if not re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)\b", text):  # SQL
            assert not bare(text), place
            assert not unknown(text), place
        if path.name != "curve_remarks.py" and "(?<=" not in text:  # `advice` gives them backticks
            assert not bare_words(text), place


def test_warnings_are_given_by_one_function() -> None:
    for path in FILES:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        found = [call for call in calls if ast.unparse(call.func) == "warnings.warn"]
        assert bool(found) == (path.name == "errors.py"), path.relative_to(SOURCE)


HOW: dict[str, Any] = {"seeds": 1, "resolution": 0.9, "epochs": 1, "progress": False}
CALLS = {
    "maximal_lr": lambda **how: etastar.maximal_lr(
        torch.nn.Linear(64, 10), etastar.load("digits", train_size=320, val_size=100), **how
    ),
    "warmup": lambda **how: etastar.warmup(
        torch.nn.Linear(64, 10),
        etastar.load("digits", train_size=320, val_size=100),
        **({"target_lr": 5.0, "ladder": (0, 1)} | how),
    ),
}


@pytest.mark.parametrize("entry", CALLS)
@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"engine": "vmap", "threshold": 0.5}, FutureWarning),
        ({"threshold": 0.999}, etastar.NotBracketedWarning),
    ],
)
def test_a_warning_points_to_the_line_that_called(
    entry: str, how: dict[str, Any], kind: type[Warning]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CALLS[entry](**(HOW | how))
    ours = [one for one in caught if "etastar" in one.filename or one.filename == __file__]
    assert kind in {one.category for one in ours}
    assert {one.filename for one in ours} == {__file__}
