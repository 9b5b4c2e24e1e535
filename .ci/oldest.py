"""The oldest dependencies that pyproject.toml allows, core and extras, and some of the tests there.

    make oldest

All but PyTorch are installed at the first release that the bounds allow, found in the package
index, and the wheel is tried with them. PyTorch stays at the pin of constraints.txt: its old builds
for Linux come with gigabytes of CUDA. In its stead mypy reads the package against the Python
sources of the oldest PyTorch allowed, from its wheel for macOS, which has no CUDA: every name of
torch that the package uses must be there. That is no test of what these names did then.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from environments import (
    OUT,
    PIP,
    PROJECT,
    ROOT,
    Environment,
    build_wheel,
    closure,
    pinned_torch,
    require,
    requirements,
)
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import VERSION_PATTERN, Version

TESTS = [
    "tests/cli/test_cli_help.py",
    "tests/cli/test_cli_measure.py",
    "tests/cli/test_cli_study.py",
    "tests/data",
    "tests/networks",
    "tests/report",
    "tests/scaling",
    "tests/search",
    "tests/study/test_dask.py",
    "tests/study/test_export.py",
    "tests/study/test_store.py",
    "tests/study/test_study_file.py",
    "tests/test_measure.py",
]
TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis", "pandas", "psutil", "scikit-learn")
"""What these tests import besides the package and its extras, as recent as those allow."""

LEFT_OUT = "tests/study/test_export.py::test_pandas_reads_the_seeds_in_one_call"
"""Compares floats to the last bit, which pandas 3.1.1 reads but 2.2.0 and 3.0.0 sometimes round;
3.1.1 needs numpy 2.0.2. The file is exact, and pandas is no dependency."""

_IS_VERSION = re.compile(VERSION_PATTERN, re.VERBOSE | re.IGNORECASE)
"""The index has files with older forms, which pip would never install."""

MYPY_SETTINGS = """
[mypy]
files = {source}
python_version = {python}
mypy_path = {torch}
[mypy-torch.*]
follow_imports = silent
[mypy-pooch.*,plotly.*,distributed.*,dask.*,pyarrow.*]
ignore_missing_imports = True
"""


def bounds() -> dict[str, SpecifierSet]:
    """What pyproject.toml allows of each distribution, core and all extras."""
    found: dict[str, SpecifierSet] = {}
    for need in requirements(list(PROJECT["optional-dependencies"])):
        name = canonicalize_name(need.name)
        found[name] = found.get(name, SpecifierSet()) & need.specifier
    return found


def oldest_release(name: str, allowed: SpecifierSet) -> Version:
    """The first release with a wheel for this interpreter and platform that the bounds allow."""
    pip = [*PIP, "index", "versions", name, "--only-binary", ":all:"]
    said = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    lines = [line for line in said.splitlines() if line.startswith("Available versions: ")]
    require(lines, f"the package index has no versions of {name}.")
    listed = lines[0].partition(": ")[2].split(", ")
    releases = [Version(text) for text in listed if _IS_VERSION.fullmatch(text)]
    return min(version for version in releases if version in allowed)


def write_pins() -> tuple[dict[str, Version], Path]:
    """The oldest releases, and a file of constraints that holds them and the pinned torch."""
    wanted = bounds()
    with ThreadPoolExecutor(4) as pool:
        pins = dict(zip(wanted, pool.map(oldest_release, wanted, wanted.values()), strict=True))
    path = OUT / "oldest.txt"
    lines = [f"{name}=={version}" for name, version in pins.items() if name != "torch"]
    path.write_text("\n".join([pinned_torch(), *lines]) + "\n", encoding="utf-8")
    return pins, path


def check_torch_names(oldest: Version) -> None:
    """Every name of torch that the package uses is in the oldest release allowed."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    folder = OUT / f"torch-{oldest}"
    pip = [*PIP, "download", "--quiet"]
    pip += ["--no-deps", "--only-binary", ":all:", "--platform", "macosx_11_0_arm64"]
    pip += ["--python-version", python, "--dest", str(folder), f"torch=={oldest}"]
    subprocess.run(pip, check=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        names = [n for n in archive.namelist() if n.startswith("torch/")]
        archive.extractall(folder, [n for n in names if n.endswith((".py", ".pyi", "py.typed"))])
    settings = MYPY_SETTINGS.format(source=ROOT / "src", python=python, torch=folder)
    (folder / "mypy.ini").write_text(settings, encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(folder / "mypy.ini")]
    mypy += ["--cache-dir", str(folder / "cache"), "--no-error-summary"]
    said = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)
    require(not said.stderr, f"mypy said: {said.stderr}")
    # torch's own old stubs have errors of their own
    ours = [line for line in said.stdout.splitlines() if line.startswith("src/")]
    require(not ours, "not in torch " + str(oldest) + ":\n" + "\n".join(ours))
    print(f"torch {oldest} has every name that the package uses (mypy, its Python sources)")


def main() -> None:
    """Install the oldest, run the tests, then look at torch."""
    started = time.perf_counter()
    wheel = build_wheel(OUT / "dist")
    pins, constraints = write_pins()
    extras = ",".join(PROJECT["optional-dependencies"])
    old = Environment(OUT / "oldest")
    old.install(pinned_torch())
    old.install(f"{wheel}[{extras}]", constraints=constraints)
    there = old.installed()
    closure(there, "etastar")
    old.install(*TEST_TOOLS, constraints=constraints)
    for name, version in pins.items():
        require(
            name == "torch" or there[name].version == str(version),
            f"{name} {there[name].version} is installed; expected {version}.",
        )
    shown = ", ".join(f"{name} {there[name].version}" for name in sorted(pins))
    print(f"Python {sys.version.split()[0]} with {shown}")
    pytest = [str(old.python), "-m", "pytest", "-q", "-n", "2", "--durations=5"]
    tests = [*pytest, "-p", "no:cacheprovider", "--basetemp", str(OUT / "tmp")]
    tests += ["--deselect", LEFT_OUT, *TESTS]
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(old.home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(tests, cwd=ROOT, env=clean, check=False, timeout=600)
    require(done.returncode == 0, f"the tests ended with {done.returncode}.")
    check_torch_names(pins["torch"])
    print(f"the oldest dependencies work ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
