"""The walls between the rooms, and what an import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import etastar

SOURCE = Path(etastar.__file__).parent
ROOMS = [
    "data",
    "networks",
    "training",
    "search",
    "curvature",
    "scaling",
    "modules",
    "study",
    "report",
    "cli",
]
FOUNDATION = {"errors"}
"""Root modules that any room may import."""


def imports_of(path: Path) -> set[str]:
    """Names under `etastar` that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in found if name.startswith("etastar.")}


@pytest.mark.parametrize("room", ROOMS[:7])
def test_rooms_of_the_pipeline_import_backwards_only(room: str) -> None:
    """The rooms before `study` know nothing of what comes after them, nor of the API above them."""
    allowed = FOUNDATION | set(ROOMS[: ROOMS.index(room) + 1])
    for path in (SOURCE / room).rglob("*.py"):
        assert imports_of(path) <= allowed, path.relative_to(SOURCE)


@pytest.mark.parametrize("room", ROOMS[7:])
def test_later_rooms_do_not_import_forwards(room: str) -> None:
    later = set(ROOMS[ROOMS.index(room) + 1 :])
    for path in (SOURCE / room).rglob("*.py"):
        assert not imports_of(path) & later, path.relative_to(SOURCE)


def test_search_and_scaling_are_free_of_torch() -> None:
    for room in ("search", "scaling"):
        for path in (SOURCE / room).rglob("*.py"):
            assert "torch" not in {
                alias.name.split(".")[0]
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Import)
                for alias in node.names
            }, path.relative_to(SOURCE)


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
