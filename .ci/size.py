"""Prints how large the package is: lines of code (no blank ones, no comments, no docstrings)."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "etastar"
NOTHING = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    tokenize.ENDMARKER,
}


def lines_of_code(text: str) -> int:
    """Count the lines that hold a token of code outside docstrings."""
    told = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    used = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in NOTHING
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(used - told)


def main() -> None:
    """Print the lines of every room, and the sums."""
    rooms: Counter[str] = Counter()
    classes = 0
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        classes += sum(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(text)))
        inside = path.relative_to(SOURCE).parts
        rooms[inside[0] if len(inside) > 1 else "(top)"] += lines_of_code(text)
    for room, lines in rooms.most_common():
        print(f"{lines:6} {room}")
    print(f"{rooms.total():6} lines of code, {classes} classes")


if __name__ == "__main__":
    main()
