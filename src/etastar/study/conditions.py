"""Filters of a study: `width >= 8 * depth`, over the fields of a cell.

A condition is parsed with Python's grammar and evaluated by walking the tree: names of fields,
numbers, strings, `+ - * / // % **`, comparisons, `in`, `and`, `or`, `not`, and nothing else.
"""

from __future__ import annotations

import ast
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

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,  # integers could grow for hours
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
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
        condition = cls(text, place, tree)
        try:
            condition._check(tree, fields)
        except RecursionError:
            raise ConfigError(f"{place}: {text!r} is nested too deeply.") from None
        return condition

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the condition is true of these fields.

        Raises:
            ConfigError: It has no truth value there, e.g. it compares a number with a missing one.
        """
        try:
            result = _value(self._tree, values)
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            where = ", ".join(f"{name} = {values[name]!r}" for name in self.names())
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

    def names(self) -> list[str]:
        """Fields that the condition uses, sorted."""
        return sorted({node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)})

    def _check(self, node: ast.expr, fields: Collection[str]) -> None:
        """Refuse whatever `_value` does not evaluate."""
        match node:
            case ast.Name():
                if node.id not in fields:
                    error = unknown_name("field", node.id, fields)
                    raise ConfigError(f"{self.place}: {self.text!r} names an {error}")
                return
            case ast.Constant(value=bool() | int() | float() | str()):
                return
            case ast.BoolOp(values=children):
                pass
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=child):
                children = [child]
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                children = [left, right]
            case ast.Compare(ops=ops) if all(type(op) in _COMPARISONS for op in ops):
                children = [node.left, *node.comparators]
            case ast.List(elts=children) | ast.Tuple(elts=children):
                pass
            case _:
                raise ConfigError(
                    f"{self.place}: {self.text!r} uses {type(node).__name__}, which a condition "
                    "may not; use fields, numbers, strings, arithmetic, comparisons, in, and, or, "
                    "not."
                )
        for child in children:
            self._check(child, fields)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of a checked expression."""
    match node:
        case ast.Name():
            return values[node.id]
        case ast.Constant():
            return node.value
        case ast.BoolOp():
            results = (_truth(_value(child, values)) for child in node.values)
            return all(results) if isinstance(node.op, ast.And) else any(results)
        case ast.UnaryOp(op=ast.Not()):
            return not _truth(_value(node.operand, values))
        case ast.UnaryOp():
            operand = _number(_value(node.operand, values))
            return -operand if isinstance(node.op, ast.USub) else operand
        case ast.BinOp():
            left, right = (_number(_value(side, values)) for side in (node.left, node.right))
            return _ARITHMETIC[type(node.op)](left, right)
        case ast.Compare():
            left = _value(node.left, values)
            for op, side in zip(node.ops, node.comparators, strict=True):
                right = _value(side, values)
                if not _COMPARISONS[type(op)](left, right):
                    return False
                left = right
            return True
        case ast.List() | ast.Tuple():
            return [_value(child, values) for child in node.elts]
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
