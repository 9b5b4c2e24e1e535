"""Filters of a study: `width >= 8 * depth`, over the fields of a cell.

A condition is parsed with Python's grammar, checked against the nodes that it may have, and
evaluated by Python: names of fields, numbers, strings, `+ - * / // % **`, comparisons, `in`, `and`,
`or`, `not`, and nothing else.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from etastar.errors import ConfigError, unknown_name

LONGEST = 1000
"""Characters of a condition; longer ones could exhaust the parser's stack."""

Holds: TypeAlias = Callable[[Mapping[str, Any]], bool]
"""Evaluates a condition for the fields of a cell."""

_SIGNS = str.maketrans({"≥": ">=", "≤": "<=", "≠": "!=", "·": "*", "×": "*", "−": "-"})

_ALLOWED = (
    *(ast.Expression, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.boolop, ast.Not, ast.UAdd, ast.USub),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.Compare, ast.In),
    *(ast.NotIn, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)


def parse_condition(text: str, place: str, fields: Collection[str]) -> Holds:
    """Parse a condition.

    Args:
        text: E.g. `width >= 8 * depth and loss == "mse"`; `≥ ≤ ≠ · ×` are read too.
        place: Where it was written, e.g. `filter[0]`, for messages.
        fields: Names that may be used.

    Returns:
        Tells whether the condition holds for some values of the fields. Raises a `ConfigError` if
        it has no truth value there, e.g. if it compares a number with a missing one.

    Raises:
        ConfigError: It is not a condition over these fields; the message names the place.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"{place}: {len(text)} characters; expected at most {LONGEST}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `1or 2` is told below, if it is wrong
            tree = ast.parse(text.translate(_SIGNS).strip(), mode="eval")
            names = _check(tree, f"{place}: {text!r}", fields)
            code = compile(_guarded(tree), place, "eval")
    except ConfigError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"{place}: {text!r} is not a condition ({type(error).__name__}); expected for "
            'example "width >= 8 * depth".'
        ) from None

    def holds(values: Mapping[str, Any]) -> bool:
        try:
            result = eval(code, _GUARDS | {"__builtins__": {}}, values)
        except (NameError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            where = ", ".join(f"{name} = {values.get(name)!r}" for name in names)
            raise ConfigError(
                f"{place}: {text!r} cannot be evaluated ({error}){where and ' where '}{where}."
            ) from None
        if not isinstance(result, bool):
            raise ConfigError(
                f"{place}: {text!r} gives {result!r}; expected a comparison, which is true or "
                "false."
            )
        return result

    return holds


def _check(tree: ast.Expression, condition: str, fields: Collection[str]) -> list[str]:
    """Return the names in a tree; raise if there is anything in it that a condition may not use."""
    names = set()
    for node in ast.walk(tree):
        constant = getattr(node, "value", 0)
        if not isinstance(node, _ALLOWED) or not isinstance(constant, bool | int | float | str):
            raise ConfigError(
                f"{condition} uses {type(node).__name__}, which a condition may not; use "
                "fields, numbers, strings, arithmetic, comparisons, in, and, or, not."
            )
        if isinstance(node, ast.Name):
            names.add(node.id)
            if node.id not in fields:
                raise ConfigError(f"{condition} names an {unknown_name('field', node.id, fields)}")
    return sorted(names)


def _guarded(tree: ast.Expression) -> ast.Expression:
    """Let every operand be checked: Python multiplies a string, and takes 64 for true."""
    for node in [*ast.walk(tree)]:
        match node:
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                power = _call("_power", left, right)
                node.left, node.op, node.right = power, ast.Mult(), ast.Constant(1)
            case ast.BinOp(left=left, right=right):
                node.left, node.right = _call("_number", left), _call("_number", right)
            case ast.BoolOp(values=parts):
                node.values = [_call("_truth", part) for part in parts]
            case ast.UnaryOp(op=op, operand=part):
                # of `- - - x` only x: each call would take from the compiler's stack
                if not (isinstance(part, ast.UnaryOp) and type(part.op) is type(op)):
                    guard = "_truth" if isinstance(op, ast.Not) else "_number"
                    node.operand = _call(guard, part)
    return ast.fix_missing_locations(tree)


def _call(function: str, *operands: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), list(operands), [])


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


def _power(base: Any, exponent: Any) -> float:
    return math.pow(_number(base), _number(exponent))  # integers could grow for hours


_GUARDS: dict[str, Any] = {"_truth": _truth, "_number": _number, "_power": _power}
