"""The ledger: its tables follow from the committed rows, and its commands run what it says."""

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from etastar.curvature import stack_sharpness
from etastar.study.specification import Study
from linear_networks import LinearNetwork

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "studies" / "results"
LEDGER = ROOT / "docs" / "reproduction.md"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("reproduction")


@pytest.fixture
def reproduction(script: ModuleType) -> ModuleType:
    """What it knows of the studies and their rows."""
    return importlib.import_module("reproduction_studies")


@pytest.mark.slow
def test_tables_follow_from_the_rows(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduction.py", "--check"])
    assert script.main() == 0, capsys.readouterr().err


@pytest.fixture
def ledger(script: ModuleType) -> ModuleType:
    """The script that makes every number again."""
    return importlib.import_module("ledger")


def test_the_ledgers_numbers_follow_from_the_rows(
    ledger: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the slowest two, which have a test each here."""
    found = ledger.main(["--check", "--without", "prediction", "--without", "reproduction"])
    printed = capsys.readouterr().out
    assert not found, printed
    assert printed.splitlines() == [
        f"{n}: ok" for n in ("phase", "curve_tables", "twice", "blocks")
    ]


def test_what_is_said_of_predictions_follows_from_the_rows(ledger: ModuleType) -> None:
    assert not ledger.results("prediction", check=True)


@pytest.mark.parametrize(
    "said", ["463 of 880", "by a factor of 1.87", "8 to 16 | 0.47", "35 of 40", "`mup` | −0.04"]
)
def test_a_changed_number_of_a_block_is_seen_and_mended(
    said: str,
    tmp_path: Path,
    ledger: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "reproduction.md"
    right = LEDGER.read_text(encoding="utf-8")
    assert right.count(said) == 1
    page.write_text(right.replace(said, said[:-1] + "9"), encoding="utf-8")
    monkeypatch.setattr(ledger, "LEDGER", page)
    rest = [word for name in ledger.PARTS if name != "blocks" for word in ("--without", name)]
    assert ledger.main(["--check", *rest]) == 1
    assert "not what the rows give" in capsys.readouterr().out
    assert ledger.main(rest) == 0
    assert page.read_text(encoding="utf-8") == right


def test_groups_of_several_data_sets_are_taken_together(script: ModuleType) -> None:
    """Two at z = 1.5 give 3/√2; one at κ = 1 counts if its data set has none at 0.1."""
    phase = importlib.import_module("phase")

    def group(dataset: str, ratio: float, z: float) -> dict[str, object]:
        exponents = {"width": [-0.5], "depth": [-0.5 - 0.1 * z]}
        row = {"region": phase.REGION, "equal_exponents_z": z, "exponents": exponents}
        labels = {"dataset": dataset, "loss": "cross-entropy", "input_lr_ratio": ratio}
        return {**labels, "rows": [row]}

    def both(loss: str, records: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{**record, "loss": loss} for record in records]

    groups = [group("a", 0.1, 1.5), group("a", 1.0, -3.0), group("b", 1.0, 1.5), group("c", 0.0, 9)]
    first, second = phase.combined(both("cross-entropy", groups) + both("mse", groups))
    one = first["one per data set"]
    assert one["data sets"] == ["a", "b"]
    assert one["z"] == 2.12
    assert one["p"] == pytest.approx(0.034)
    assert (first["all groups"]["L steeper"], first["all groups"]["groups"]) == (3, 4)
    assert one["steeper by"] == [0.15, 0.15, 0.15]
    assert second["κ = 0.1"]["z"] == 1.5


def test_where_names_widths_per_depth(script: ModuleType) -> None:
    def row(width: int, depth: int, cause: str) -> dict[str, str]:
        sizes = {"width": str(width), "depth": str(depth), "dataset": "mnist"}
        return {**sizes, "eta": "1", "status": "bracketed", "hi_outcome": cause}

    rows = [row(n, depth, "diverged") for n in (64, 128) for depth in (4, 6)]
    rows += [row(32, 4, "short"), row(32, 8, "dead"), row(64, 8, "short"), row(128, 8, "dead")]
    rows += [row(128, 16, "short")]
    where = importlib.import_module("curve_tables").where(rows)
    assert where == "n ≥ 64, L = 4–6; n ≥ 128, L = 8; 32×8"


def test_what_is_said_of_twice_the_budget_follows_from_the_rows(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["twice.py"])
    importlib.import_module("twice").main()
    printed = capsys.readouterr().out
    said = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8").replace("−", "-")
    numbers = re.findall(r"-\d\.\d\d \[.*?\]", printed)
    assert len(numbers) == 2
    assert all(number in said for number in numbers)
    ratios = {row[1]: float(row[2]) for row in re.finditer(r"\| (\d+×\d+) .* (\S+) \|\n", printed)}
    steady = [f"{width}×{depth}" for width in (64, 128, 256) for depth in (4, 8)]
    assert all(0.97 <= ratios[size] <= 1.03 for size in steady)
    assert (ratios["32×4"], ratios["32×8"]) == (1.25, 1.37)


def test_every_row_file_has_its_study() -> None:
    rows = {p.stem for p in RESULTS.glob("*.csv")}
    assert rows
    assert rows <= {p.stem for p in (ROOT / "studies").glob("*.toml")}


def test_every_study_behind_a_claim_exists_and_every_row_file_is_behind_one(
    reproduction: ModuleType,
) -> None:
    assert set(reproduction.CLAIMS) == set("abcde")
    for claim in "abcde":
        for study in reproduction.studies_of(claim):
            cells = Study.from_file(ROOT / "studies" / f"{study}.toml").cells
            # the cells of a study file are those of its committed rows
            rows = reproduction.rows_of(study)
            assert {cell.id for cell in cells} == {row["cell"] for row in rows}, study
    everything = reproduction.studies_of("all")
    # success curves are behind claims a and c, through benchmarks/phase.py
    brackets = [p.stem for p in RESULTS.glob("*.csv") if not p.stem.startswith("curves-")]
    assert sorted(everything) == sorted(brackets)
    assert set(reproduction.SECONDS) == set(everything)


def test_the_tables_use_the_rows_of_the_claims(reproduction: ModuleType) -> None:
    assert reproduction.studies_of("e") == reproduction.LATER_STUDIES
    for claim in "abcd":
        needed = {study for studies in reproduction.LAW_STUDIES for study in studies}
        assert needed <= set(reproduction.studies_of(claim))


def test_a_dry_run_prints_what_a_run_runs(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduction.py", "--run", "a", "--dry-run"])
    assert script.main() == 0
    lines = capsys.readouterr().out.splitlines()
    runs = [line for line in lines if line.startswith("etastar study run ")]
    exports = [line for line in lines if line.startswith("etastar study export ")]
    assert len(runs) == len(exports) == 7
    for line in (*runs, *exports):
        assert Path(shlex.split(line)[3]).is_file()
    shared = [line for line in runs if "mnist-cross-entropy.sqlite" in line]
    assert len(shared) == 2  # the study of the other κ goes on in the store of the first
    assert lines[-1] == "# together 5.7 h"


def test_a_run_stops_at_the_first_failure(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []

    def refuse(command: list[str]) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        return subprocess.CompletedProcess(command, 1 if "export" in command else 0)

    monkeypatch.setattr(subprocess, "run", refuse)
    assert script.run("e", dry=False) == 1
    assert [command[4] for command in seen] == ["run", "export"]
    assert seen[0][:4] == [sys.executable, "-m", "etastar", "study"]
    assert "mnist-later stopped" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--run", "f"), ("--dry-run",), ("--check", "--run", "a")])
def test_what_makes_no_sense_is_refused(
    arguments: tuple[str, ...],
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduction.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "error: " in capsys.readouterr().err


def test_the_ledger_names_the_command_of_every_claim(reproduction: ModuleType) -> None:
    rows = {
        line.split("|")[1].strip(): line
        for line in LEDGER.read_text("utf-8").splitlines()
        if line.startswith("| ")
    }
    for claim in reproduction.CLAIMS:
        hours = reproduction.hours_of(claim)
        assert f"`python benchmarks/reproduction.py --run {claim}` ({hours:.1f} h)" in rows[claim]


@pytest.mark.parametrize("factor", [1.0, 1.9, 2.5, 3.5])
def test_curvature_falls_between_two_and_four_over_lambda_and_stays_below(factor: float) -> None:
    """Lewkowycz et al. 2020, §2: two-layer linear network, one sample, η = factor/λ0.

    At zero loss the Hessian is the Gauss-Newton matrix. A run that ends there has λ ≤ 2/η.
    """
    network = LinearNetwork(width=2048)
    x = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    labels, target = torch.tensor([1]), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    params = network.init([0], 2, 2, dtype=torch.float64)

    def curvature() -> float:
        given = [p.detach() for p in params]
        kind = "gauss-newton"
        return stack_sharpness(network, given, x, labels, loss="mse", kind=kind, tol=1e-6).values[0]

    before = curvature()
    lr = factor / before
    for p in params:
        p.requires_grad_()
    for _ in range(400):
        loss = (network.apply(params, x)[0] - target).square().sum() / 2
        gradients = torch.autograd.grad(loss, params)
        with torch.no_grad():
            for p, gradient in zip(params, gradients, strict=True):
                p -= lr * gradient
    assert loss.item() < 1e-9
    if factor < 2:
        assert curvature() == pytest.approx(before, rel=0.01)
    else:
        assert curvature() * lr < 2
