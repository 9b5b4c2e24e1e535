"""Wheels, and environments with nothing in them but what was asked for.

Both checks of the package use it (`wheel.py`, `oldest.py`). Nothing here imports etastar.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "package"
CONSTRAINTS = ROOT / "constraints.txt"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
"""The pip of the interpreter that runs this."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def require(condition: object, problem: str) -> None:
    """End with one line and exit code 1 unless the condition holds."""
    if not condition:
        sys.exit(f"{Path(sys.argv[0]).name}: {problem}")


def pinned_torch() -> str:
    """The line of constraints.txt that every environment starts with."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line.startswith("torch==")]
    require(len(found) == 1, f"constraints.txt has {len(found)} lines torch==...; expected one.")
    return found[0]


def build_wheel(folder: Path) -> Path:
    """The wheel of the working tree, built by the pinned hatchling in an environment of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    # pip before 25.3 constrains what it builds with by the first of these, later ones by the second
    pins = {name: str(CONSTRAINTS) for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
    wheel = [*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(wheel, check=True, env=os.environ | pins)
    made = list(folder.glob("*.whl"))
    require(len(made) == 1, f"the build made {[file.name for file in made]}; expected one wheel.")
    return made[0]


class Environment:
    """A virtual environment without even pip, of the interpreter that runs this."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        place = {"base": str(folder), "platbase": str(folder)}
        self.site = Path(sysconfig.get_path("purelib", "venv", place))
        self.home = folder / "home"
        self.home.mkdir()

    def install(self, *what: str, constraints: Path = CONSTRAINTS) -> None:
        """`pip install` into it, by `PIP`."""
        pip = [*PIP, "--python", str(self.python), "install", "--quiet"]
        subprocess.run([*pip, "--constraint", str(constraints), *what], check=True)

    def installed(self) -> dict[str, Distribution]:
        """The distributions that are there, by their canonical names."""
        found = distributions(path=[str(self.site)])
        return {canonicalize_name(each.metadata["Name"]): each for each in found}

    def run(
        self, *command: str, cwd: Path, code: int = 0, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment, as a user who has nothing else set up.

        Args:
            command: Its name in this environment's `bin`, and its arguments.
            cwd: Where.
            code: The exit code that is expected; any other ends the check.
            variables: Of the environment, beyond PATH, a home and one thread.
        """
        clean = {"PATH": f"{self.bin}{os.pathsep}{os.defpath}", "HOME": str(self.home)}
        clean |= {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"} | (variables or {})
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=cwd,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != code:
            print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        shown = " ".join(part if len(part) < 60 else "..." for part in command)
        require(
            done.returncode == code, f"`{shown}` ended with {done.returncode}; expected {code}."
        )
        return done


def closure(installed: dict[str, Distribution], name: str) -> set[str]:
    """What must be installed for a distribution to work, itself included and extras left out.

    Read from the metadata of what is installed, for this interpreter and platform. A requirement
    that is absent, or present in a version that it does not allow, ends the check.
    """
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    open_ends = [(name, "")]
    while open_ends:
        current, extra = open_ends.pop()
        if (current, extra) in seen:
            continue
        seen.add((current, extra))
        found.add(current)
        for line in installed[current].requires or []:
            need = Requirement(line)
            if need.marker is not None and not need.marker.evaluate({"extra": extra}):
                continue
            needed = canonicalize_name(need.name)
            there = installed.get(needed)
            require(
                there is not None and need.specifier.contains(there.version, prereleases=True),
                f"{current} needs {need}; found {there.version if there else 'nothing'}.",
            )
            open_ends += [(needed, wanted) for wanted in ("", *need.extras)]
    return found


def requirements(extras: Sequence[str] = ()) -> list[Requirement]:
    """What pyproject.toml declares: the core dependencies, and those of some extras."""
    optional = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in optional[extra])]
    return [Requirement(line) for line in lines]
