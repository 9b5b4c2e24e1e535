"""`benchmarks/finders.py`: its tables are those of the committed rows, and a rerun goes on."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def finders():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        import finders

        yield finders


def test_the_tables_are_those_of_the_rows(finders):
    import finders_report

    for path, blocks in finders_report.blocks(finders.rows(finders.RESULTS)).items():
        text = path.read_text()
        for name, block in blocks.items():
            assert finders_report.marked(text, name, block) == text


def test_a_rerun_goes_on_behind_a_line_that_was_cut_off(tmp_path, finders, monkeypatch, capsys):
    problem = next(p for p in finders.SUITE if p.model == "autoencoder")
    first = json.dumps(finders.Job("AdamW 1e-3", problem, None).key) + "\n"
    results = tmp_path / "rows.jsonl"
    results.write_text(first + '{"way": "SGD 0.1", "opt')
    options = [
        "--only",
        "autoencoder",
        "--ways",
        "SGD 0.1",
        "AdamW 1e-3",
        "--results",
        str(results),
    ]
    monkeypatch.setattr(sys, "argv", ["finders.py", *options])
    finders.main()
    assert "2 of 2 jobs" in capsys.readouterr().out
    assert results.read_text().startswith(first)
    [_, row] = map(json.loads, results.read_text().splitlines())
    assert row["way"] == "SGD 0.1"
    assert [run["seed"] for run in row["runs"]] == list(range(1000, 1020))
