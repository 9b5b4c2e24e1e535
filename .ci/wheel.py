"""What a user gets: the built wheel in an empty environment, tried from outside of the repository.

    make wheel

Ends with one line and exit code 1 at the first thing that is not as README.md and pyproject.toml
say, and prints what it measured.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import zipfile
from email.parser import BytesParser
from pathlib import Path

from environments import (
    OUT,
    PROJECT,
    ROOT,
    Environment,
    build_wheel,
    closure,
    pinned_torch,
    require,
)

HELP_SECONDS = 0.5
IMPORT_SECONDS = 0.3
ROUNDS = 5

EVERY_MODULE = """
import importlib, pkgutil, etastar
found = [m.name for m in pkgutil.walk_packages(etastar.__path__, "etastar.")]
found.remove("etastar.__main__")
for name in found:
    importlib.import_module(name)
print(len(found))
"""

OWN_MODEL = """
import torch, etastar
from torch.nn import Linear, ReLU, Sequential
torch.manual_seed(0)
x = torch.randn(240, 4)
y = (x[:, 0] > 0).long()
model = Sequential(Linear(4, 8), ReLU(), Linear(8, 8), ReLU(), Linear(8, 2))
options = dict(threshold=0.9, epochs=3, batch_size=20, seeds=2)
found = etastar.maximal_lr(model, (x[:200], y[:200]), (x[200:], y[200:]), **options)
low, high = found.bracket
assert 0 < low <= found.lr <= high, found
print(found)
"""

STUDY = """
[base]
dataset = "digits"
train_size = 300
val_size = 100
max_steps = 40
threshold = 0.5
batch_size = 32
resolution = 0.5
seeds = 1
[grid]
width = [8, 12]
depth = 1
"""

NEEDS_EXTRA = {
    "report": ("report", "study.toml"),
    "parquet": ("export", "study.toml", "--format", "parquet"),
    "cluster": ("run", "study.toml", "--executor", "dask"),
}
"""For an extra of studies, an `etastar study` command that cannot do without it."""

READS_FRAMEWORK = {
    "lightning": "etastar.lightning.lightning_maximal_lr",
    "huggingface": "etastar.huggingface.trainer_maximal_lr",
}
"""For the extra of a framework, the entry that reads its objects."""

OTHER_OBJECT = """
import importlib, sys, torch, etastar
module, _, name = sys.argv[1].rpartition(".")
try:
    getattr(importlib.import_module(module), name)(torch.nn.Linear(2, 2))
except etastar.ConfigError as error:
    print(error)
"""


def check_contents(wheel: Path) -> None:
    """The package as it lies in `src`, its licence and its metadata; nothing else."""
    source = ROOT / "src"
    package = {
        file.relative_to(source).as_posix(): file
        for file in (source / "etastar").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {entry for entry in archive.namelist() if not entry.endswith("/")}
        info = f"etastar-{PROJECT['version']}.dist-info/"
        about = {entry.removeprefix(info) for entry in names if entry.startswith(info)}
        code = {entry for entry in names if not entry.startswith(info)}
        require(
            code == set(package),
            f"the wheel and src/etastar differ by {sorted(code ^ set(package))}.",
        )
        changed = [name for name in code if archive.read(name) != package[name].read_bytes()]
        require(not changed, f"the wheel's {changed} are not those of src/etastar.")
        expected = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
        require(about == expected, f"{info} has {sorted(about)}; expected {sorted(expected)}.")
        licence = archive.read(f"{info}licenses/LICENSE")
        metadata = BytesParser().parsebytes(archive.read(f"{info}METADATA"))
    require(licence == (ROOT / "LICENSE").read_bytes(), "the wheel's licence is not LICENSE.")
    require("etastar/py.typed" in code, "the wheel has no py.typed, so its types go unused.")
    tests = [n for n in code if {"test", "tests"} & set(n.split("/")) or "/test_" in n]
    require(not tests, f"the wheel carries tests: {tests}.")
    extras, known = set(metadata.get_all("Provides-Extra", [])), {*NEEDS_EXTRA, *READS_FRAMEWORK}
    require(extras == known, f"extras {sorted(extras)}; this check knows {sorted(known)}.")
    print(f"{wheel.name}: {len(code)} files, {wheel.stat().st_size / 1024:.0f} KiB")


def check_installed(user: Environment) -> None:
    """Exactly the declared dependencies and theirs; none of an extra or of development."""
    there = user.installed()
    needed = closure(there, "etastar")
    surplus = set(there) - needed
    require(not surplus, f"installed without being required by anything: {sorted(surplus)}.")
    pin = pinned_torch().removeprefix("torch==")
    torch = there["torch"].version
    require(torch.partition("+")[0] == pin, f"torch {torch} is installed; expected {pin}.")
    print(f"{len(there)} distributions installed, all of them required; torch {torch}")


def check_use(user: Environment, folder: Path) -> None:
    """The commands and calls that README.md begins with."""
    place = user.run("python", "-c", "import etastar; print(etastar.__file__)", cwd=folder).stdout
    require(Path(place.strip()).is_relative_to(user.site), f"etastar was imported from {place}.")
    version = user.run("etastar", "--version", cwd=folder).stdout.strip()
    require(version == PROJECT["version"], f"etastar --version printed {version}.")
    shown = user.run("etastar", "--help", cwd=folder).stdout
    require(shown.startswith("usage: etastar"), f"etastar --help printed {shown[:50]!r}.")
    modules = user.run("python", "-W", "error", "-c", EVERY_MODULE, cwd=folder).stdout.strip()

    small = ("--width", "16", "--depth", "1", "--seeds", "2")
    measured = ("etastar", "measure", *small, "--json", "found.json", "--plot", "found.png")
    started = time.perf_counter()
    user.run(*measured, cwd=folder)
    seconds = time.perf_counter() - started
    record = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    value = record["eta_star"]["median"]
    require(0 < value < 100, f"etastar measure found η* = {value}.")
    picture = (folder / "found.png").read_bytes()
    require(picture.startswith(b"\x89PNG\r\n"), "etastar measure --plot wrote no PNG.")

    user.run("etastar", "sharpness", *small, "--samples", "100", "--json", "s.json", cwd=folder)
    require((folder / "s.json").stat().st_size, "etastar sharpness --json wrote nothing.")
    user.run("python", "-W", "error", "-c", OWN_MODEL, cwd=folder)
    print(
        f"{modules} modules import; measure (η* = {value:.3g}, JSON and PNG, {seconds:.0f} s), "
        "sharpness and maximal_lr work"
    )


def check_extras(user: Environment, folder: Path) -> None:
    """What an absent extra would be needed for says so in one line, and leaves nothing behind."""
    (folder / "study.toml").write_text(STUDY, encoding="utf-8")
    user.run("etastar", "study", "run", "study.toml", cwd=folder)
    user.run("etastar", "study", "export", "study.toml", cwd=folder)
    before = set(folder.iterdir())
    said = {}
    for extra, arguments in NEEDS_EXTRA.items():
        said[extra] = user.run("etastar", "study", *arguments, cwd=folder, code=2).stderr
    for extra, entry in READS_FRAMEWORK.items():
        asked = ("python", "-W", "error", "-c", OTHER_OBJECT, entry)
        said[extra] = user.run(*asked, cwd=folder).stdout
    for extra, line in said.items():
        who = f"{READS_FRAMEWORK.get(extra, 'etastar').rpartition('.')[2]}: "
        expected = f"pip install 'etastar[{extra}]'"
        require(
            line.startswith(who) and line.count("\n") == 1 and expected in line,
            f"without the extra {extra} was said {line!r}; expected one line of {who}{expected}.",
        )
    left = {path.name for path in set(folder.iterdir()) - before}
    require(not left, f"commands that were refused left {sorted(left)} behind.")
    print(f"without the extras {', '.join(said)}: one line each, nothing written")


def best(commands: dict[str, list[str]], folder: Path) -> dict[str, float]:
    """The shortest of several fresh processes of each, in seconds; taken in turns."""
    shortest = dict.fromkeys(commands, float("inf"))
    for _ in range(ROUNDS):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            shortest[name] = min(shortest[name], time.perf_counter() - started)
    return shortest


def check_speed(user: Environment, folder: Path) -> None:
    """A shell user must not wait for PyTorch before a help text, nor a script for anything else."""
    python = [str(user.python), "-c"]
    names = "import torch, etastar\nfor name in etastar.__all__: getattr(etastar, name)"
    seconds = best(
        {
            "help": [str(user.bin / "etastar"), "--help"],
            "python": [*python, "pass"],
            "torch": [*python, "import torch"],
            "etastar": [*python, "import torch, etastar"],
            "names": [*python, names],
        },
        folder,
    )
    shown, torch = seconds["help"], seconds["torch"]
    added = seconds["etastar"] - torch
    print(
        f"best of {ROUNDS} processes: etastar --help {shown:.2f} s (python alone "
        f"{seconds['python']:.2f} s); import torch {torch:.2f} s; beyond that import etastar "
        f"{added:.2f} s, and all public names {seconds['names'] - torch:.2f} s"
    )
    require(shown < HELP_SECONDS, f"etastar --help took {shown:.2f} s; expected < {HELP_SECONDS}.")
    require(
        added < IMPORT_SECONDS,
        f"import etastar took {added:.2f} s beyond torch; expected < {IMPORT_SECONDS}.",
    )


def main() -> None:
    """Build, install and try."""
    started = time.perf_counter()
    wheel = build_wheel(OUT / "dist")
    check_contents(wheel)
    user = Environment(OUT / "venv")
    user.install(pinned_torch())
    user.install(str(wheel))
    check_installed(user)
    with tempfile.TemporaryDirectory() as folder:
        check_use(user, Path(folder))
        check_extras(user, Path(folder))
        check_speed(user, Path(folder))
    print(f"the wheel is as promised ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
