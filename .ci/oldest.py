"""The oldest dependencies that pyproject.toml allows, core and extras, and some of the tests there.

    make oldest

All but PyTorch are installed at the first release that the bounds allow, as `uv pip compile
--resolution lowest-direct` finds it, and the wheel is tried with them. PyTorch stays at the pin of
constraints.txt: its old builds for Linux come with gigabytes of CUDA. In its stead mypy reads the
package against the Python sources of the oldest PyTorch allowed, from its wheel for macOS, which
has no CUDA: every name of torch that the package uses must be there. That is no test of what these
names did then.
"""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
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
from packaging.utils import canonicalize_name

TESTS = [
    "tests/cli/test_cli_help.py",
    "tests/cli/test_cli_measure.py",
    "tests/cli/test_cli_study.py",
    "tests/data",
    "tests/problem/test_networks.py",
    "tests/report",
    "tests/scaling",
    "tests/search",
    "tests/study/test_dask.py",
    "tests/study/test_export.py",
    "tests/study/test_store.py",
    "tests/study/test_study_file.py",
    "tests/test_measure.py",
]
TEST_TOOLS = (
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "pandas",
    "psutil",
    "scikit-learn",
)
"""What these tests import besides the package and its extras, as recent as those allow."""

LEFT_OUT = (
    "tests/study/test_export.py::test_pandas_reads_the_seeds_in_one_call",
    "tests/search/test_replay.py::test_the_committed_replays_are_of_this_code",
)
"""The first compares floats to the last bit, which pandas 3.1.1 reads but 2.2.0 and 3.0.0 sometimes
round; 3.1.1 needs numpy 2.0.2. The file is exact, and pandas is no dependency. The second compares
to nine digits what other releases of numpy and scipy gave, which differ in the eighth."""

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


def write_pins() -> tuple[dict[str, str], Path]:
    """The oldest releases, as uv finds them, and a file of constraints with the pinned torch."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", str(ROOT / "pyproject.toml"), "--quiet"]
    uv += ["--all-extras", "--resolution", "lowest-direct", "--only-binary", ":all:"]
    uv += ["--no-header", "--no-annotate"]
    said = subprocess.run(uv, capture_output=True, text=True, check=False)
    require(said.returncode == 0, f"uv said: {said.stderr}")
    found = dict(line.split("==") for line in said.stdout.splitlines() if "==" in line)
    wanted = {
        canonicalize_name(r.name) for r in requirements(list(PROJECT["optional-dependencies"]))
    }
    pins = {name: found[name] for name in sorted(wanted)}
    path = OUT / "oldest.txt"
    lines = [f"{name}=={version}" for name, version in pins.items() if name != "torch"]
    path.write_text("\n".join([pinned_torch(), *lines]) + "\n", encoding="utf-8")
    return pins, path


def check_torch_names(oldest: str) -> None:
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
            name == "torch" or there[name].version == version,
            f"{name} {there[name].version} is installed; expected {version}.",
        )
    shown = ", ".join(f"{name} {there[name].version}" for name in sorted(pins))
    print(f"Python {sys.version.split()[0]} with {shown}")
    pytest = [str(old.python), "-m", "pytest", "-q", "-n", "2", "--durations=5"]
    tests = [*pytest, "-p", "no:cacheprovider", "--basetemp", str(OUT / "tmp")]
    tests += [*(f"--deselect={name}" for name in LEFT_OUT), *TESTS]
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(old.home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(tests, cwd=ROOT, env=clean, check=False, timeout=600)
    require(done.returncode == 0, f"the tests ended with {done.returncode}.")
    check_torch_names(pins["torch"])
    print(f"the oldest dependencies work ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
