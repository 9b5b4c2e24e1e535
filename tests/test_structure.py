"""The walls between the rooms, what an import may cost, and what docstrings must say."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

import etastar

SOURCE = Path(etastar.__file__).parent
REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
ORDER = [
    *(
        "errors",
        "checking",
        "validation",
        "machine",
        "data",
        "problem",
        "engines",
        "search",
        "curvature",
    ),
    *(
        "theory",
        "scaling",
        "settings",
        "result",
        "advice",
        "progress",
        "run",
        "api",
        "schedule",
        "lambda1",
        "study",
    ),
    *("maximal", "warm_up", "carried", "shadow", "lightning", "huggingface", "report", "cli"),
]
"""The rooms and root modules along the data flow; each may import what stands before it."""
MOST_LINES = 400
"""Of a file."""
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path.parent != SOURCE]
FILES += [SOURCE / f"{name}.py" for name in ORDER if (SOURCE / f"{name}.py").is_file()]
DRAWN = dict.fromkeys(("result.py", "schedule.py"), SOURCE / "report" / "figures.py")
"""What these two look into when they are asked to draw themselves: the only imports forward."""


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def file_of(name: str) -> Path | None:
    """The file of a dotted module name; None if it is a name inside a module."""
    stem = SOURCE.joinpath(*name.split(".")[1:])
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def files_imported(path: Path) -> set[Path]:
    """Files of ours that a file imports: inside functions, for types alone, by a string too.

    A module of a room that is imported is that module, not the room's `__init__`.
    """
    found: set[Path | None] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.relative_to(SOURCE)} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if names != ["etastar.__version__"] and names[0].startswith("etastar."):
                found |= {file_of(name) or file_of(node.module or "") for name in names}
        elif isinstance(node, ast.Import):
            found |= {file_of(a.name) for a in node.names if a.name.split(".")[0] == "etastar"}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"etastar(\.\w+)+", str(node.value)):
            named = file_of(node.value) or file_of(node.value.rpartition(".")[0])
            found |= {named} if named and named.name != "__init__.py" else set()  # a folder's data
    return {file for file in found if file} - {path, DRAWN.get(path.name)}


def test_no_file_imports_itself_by_any_way_around() -> None:
    graph = {path: files_imported(path) for path in FILES}
    seen: dict[Path, int] = {}

    def visit(path: Path, way: list[Path]) -> None:
        if seen.get(path) == 2:
            return
        circle = [str(at.relative_to(SOURCE)) for at in [*way, path]]
        assert seen.get(path) != 1, " → ".join(circle)
        seen[path] = 1
        for to in sorted(graph.get(path, ())):
            visit(to, [*way, path])
        seen[path] = 2

    for path in FILES:
        visit(path, [])


def test_files_are_short_and_no_two_have_one_name() -> None:
    for path in FILES:
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= MOST_LINES, f"{path.relative_to(SOURCE)} has {lines} lines"
    names = [path.name for path in FILES if path.name not in ("__init__.py", "base.py")]
    assert sorted(names) == sorted(set(names))


def test_every_room_has_its_place() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert rooms | modules == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_backwards_along_the_data_flow(path: Path) -> None:
    room = room_of(path)
    allowed = set(ORDER[: ORDER.index(room) + 1])
    assert {room_of(file) for file in files_imported(path)} <= allowed


def test_search_and_scaling_are_free_of_torch() -> None:
    for room in ("search", "scaling"):
        for path in (SOURCE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                heavy = [name for name in names if name.split(".")[0] == "torch"]
                assert not heavy, path.relative_to(SOURCE)


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, etastar, etastar.cli\n"
        "etastar.cli.main(['--help'])\n"
        "etastar.cli.main(['--version'])\n"
        "heavy = {'torch', 'scipy', 'numpy', 'matplotlib', 'pandas', 'plotly', 'rich'}\n"
        "sys.exit(f'loaded: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert etastar.__version__ in run.stdout


def test_every_public_name_resolves_and_is_documented() -> None:
    for name in etastar.__all__:
        assert name == "__version__" or getattr(etastar, name).__doc__
    assert set(etastar.__all__) <= set(dir(etastar))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = etastar.nothing


# docstrings


def section(docstring: str, title: str) -> str:
    """What stands indented under `Title:`; empty if there is no such section."""
    found = re.search(rf"^{title}:\n((?:[ \t]+.*\n?|\n)*)", docstring + "\n", re.M)
    return found[1] if found else ""


def entries(text: str) -> set[str]:
    """The names that a section explains, stars left out: `a, b: ...`, one entry per line."""
    lines = re.findall(r"^    (\*{0,2}\w+(?:, \w+)*):", text, re.M)
    return {name.strip(" *") for line in lines for name in line.split(",")}


def parameters(function: ast.FunctionDef) -> set[str]:
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return {argument.arg for argument in every} - {"self", "cls"}


def raised(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Names of the errors that a body raises itself; functions that make one by what they make."""
    made = {"unknown_name": "ConfigError", "damaged": "StoreError"}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = node.exc.func.id if isinstance(node.exc.func, ast.Name) else ""
            yield made.get(name, name)
        yield from raised(list(ast.iter_child_nodes(node)))


def public(tree: ast.AST, owner: ast.ClassDef | None = None) -> Iterator[tuple[Any, str]]:
    """Public functions and methods with the docstring that tells of them, a class's for `__init__`.

    Commands are left out: what they raise is printed by `cli.main`.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node, node)
        elif isinstance(node, ast.FunctionDef) and owner and node.name == "__init__":
            yield node, ast.get_docstring(owner) or ""
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, ast.get_docstring(node) or ""


@pytest.mark.parametrize("room", [room for room in ORDER if room != "cli"])
def test_docstrings_name_the_arguments_and_errors_that_there_are(room: str) -> None:
    errors = ("ConfigError", "DataError", "ModelError", "CurvatureError", "StoreError")
    for path in [path for path in FILES if room_of(path) == room]:
        for function, docstring in public(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path.relative_to(SOURCE)}:{function.lineno} {function.name}"
            if told := section(docstring, "Args"):
                assert entries(told) == parameters(function), place
            for error in set(raised(function.body)) & set(errors):
                assert f"{error}:" in section(docstring, "Raises"), (place, error)


@cache
def documented() -> list[str]:
    pages = [page.read_text(encoding="utf-8") for page in sorted(REFERENCE.glob("*.md"))]
    return [name for page in pages for name in re.findall(r"^::: (\S+)", page, re.M)]


def test_the_reference_names_everything_public() -> None:
    names = {f"etastar.{name}" for name in etastar.__all__ if name != "__version__"}
    assert names <= set(documented())


def described(kind: type) -> set[str]:
    """Fields of a class that are explained: below them, in `Attributes:`, or by a description."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    told = entries(section(inspect.getdoc(kind) or "", "Attributes"))
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            options = node.value.keywords if isinstance(node.value, ast.Call) else []
            if text or any(option.arg == "description" for option in options):
                told.add(node.target.id)
    return told


@pytest.mark.parametrize("name", documented())
def test_what_the_reference_names_tells_of_every_argument_and_field(name: str) -> None:
    found = resolve_name(name)
    functions: list[Callable[..., Any]] = [found]
    if inspect.isclass(found):
        members = [getattr(m, "__func__", m) for n, m in vars(found).items() if n[0] != "_"]
        functions = [member for member in members if inspect.isfunction(member)]
        own = set(inspect.get_annotations(found))
        fields = own & set(getattr(found, "model_fields", ()))
        if dataclasses.is_dataclass(found):
            fields |= own
        assert fields <= described(found)
    for function in functions:
        docstring = inspect.getdoc(function) or ""
        elsewhere = re.search(r"[Ss]ee `[\w.]+`", docstring)
        needed = set(inspect.signature(function).parameters) - {"self", "cls"}
        assert elsewhere or entries(section(docstring, "Args")) == needed, function.__qualname__
