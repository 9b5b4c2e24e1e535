"""Filters of a study: `width >= 8 * depth`, over the fields of a cell.

A condition is parsed with Python's grammar and evaluated by walking the tree: names of fields,
numbers, strings, `+ - * / // % **`, comparisons, `in`, `and`, `or`, `not`, and nothing else.
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from etastar.errors import ConfigError, unknown_name

LONGEST = 1000
"""Characters of a condition; longer ones could exhaust the parser's stack."""

_SIGNS = str.maketrans({"≥": ">=", "≤": "<=", "≠": "!=", "·": "*", "×": "*", "−": "-"})

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,  # integers could grow for hours
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}


@dataclass(frozen=True)
class Condition:
    """A parsed condition.

    Attributes:
        text: As it was written.
        place: Where it was written, e.g. `filter[0]`.
    """

    text: str
    place: str
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str, place: str, fields: Collection[str]) -> Condition:
        """Parse a condition.

        Args:
            text: E.g. `width >= 8 * depth and loss == "mse"`; `≥ ≤ ≠ · ×` are read too.
            place: Where it was written, for messages.
            fields: Names that may be used.

        Raises:
            ConfigError: It is not a condition over these fields; the message names the place.
        """
        if len(text) > LONGEST:
            raise ConfigError(f"{place}: {len(text)} characters; expected at most {LONGEST}.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `1or 2` is told below, if it is wrong
                tree = ast.parse(text.translate(_SIGNS).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(
                f"{place}: {text!r} is not a condition ({type(error).__name__}); expected for "
                'example "width >= 8 * depth".'
            ) from None
        for node in ast.walk(tree):
            if isinstance(node, ast.expr) and not _allowed(node):
                raise ConfigError(
                    f"{place}: {text!r} uses {type(node).__name__}, which a condition may not; use "
                    "fields, numbers, strings, arithmetic, comparisons, in, and, or, not."
                )
            if isinstance(node, ast.Name) and node.id not in fields:
                unknown = unknown_name("field", node.id, fields)
                raise ConfigError(f"{place}: {text!r} names an {unknown}")
        return cls(text, place, tree)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Evaluate the condition for these fields.

        Raises:
            ConfigError: It has no truth value there, e.g. it compares a number with a missing one.
        """
        try:
            result = _value(self._tree, values)
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            names = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}
            where = ", ".join(f"{name} = {values[name]!r}" for name in sorted(names))
            raise ConfigError(
                f"{self.place}: {self.text!r} cannot be evaluated ({error})"
                f"{where and ' where '}{where}."
            ) from None
        if not isinstance(result, bool):
            raise ConfigError(
                f"{self.place}: {self.text!r} gives {result!r}; expected a comparison, which is "
                "true or false."
            )
        return result


def _allowed(node: ast.expr) -> bool:
    """Check that `_value` evaluates a node, whatever stands below it."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float | str)
        case ast.UnaryOp(op=op) | ast.BinOp(op=op):
            return type(op) in _OPERATORS
        case ast.Compare(ops=ops):
            return all(type(op) in _OPERATORS for op in ops)
    return isinstance(node, ast.Name | ast.BoolOp | ast.List | ast.Tuple)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of an expression whose nodes are all allowed."""
    match node:
        case ast.Name(id=name):
            return values[name]
        case ast.Constant(value=value):
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, values) for part in parts]
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_truth(_value(part, values)) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_truth(_value(part, values)) for part in parts)
        case ast.UnaryOp(op=op, operand=part):
            checked = _truth if isinstance(op, ast.Not) else _number
            return _OPERATORS[type(op)](checked(_value(part, values)))
        case ast.BinOp(op=op, left=left, right=right):
            return _OPERATORS[type(op)](*(_number(_value(side, values)) for side in (left, right)))
        case ast.Compare(left=left, ops=ops, comparators=others):
            pairs = itertools.pairwise([left, *others])
            return all(
                _OPERATORS[type(op)](_value(a, values), _value(b, values))
                for op, (a, b) in zip(ops, pairs, strict=True)
            )
    raise TypeError(f"unexpected {type(node).__name__}")


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _number(value: Any) -> Any:
    """`value` if arithmetic is meant for it: a string times a number would be legal Python."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value
