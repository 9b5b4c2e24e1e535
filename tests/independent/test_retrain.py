"""`retrain.py` shares no code with the package, starts where it starts, and confirms its brackets.

Agreement over many brackets of every committed study is in benchmarks/results/retrain.json.
"""

from __future__ import annotations

import ast
import itertools
import os
from pathlib import Path

import pytest
import torch
from retrain import __file__ as program
from retrain import batches, load, network, optimizer, sample, train

import etastar
from etastar.data import load as etastar_load
from etastar.problem.networks import build
from etastar.problem.order import DataOrder

SIZES = {"gaussians": (18000, 2000), "digits": (1438, 359), "mnist": (60000, 10000)}


@pytest.fixture(autouse=True)
def _one_thread():
    """Verdicts near the boundary depend on rounding, hence on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_program_imports_nothing_of_etastar():
    tree = ast.parse(Path(program).read_text(encoding="utf-8"))
    imported = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
    ]
    assert "torch" in imported
    assert not [name for name in imported if name and "etastar" in name]


@pytest.mark.parametrize(
    "name", ["gaussians", "digits", pytest.param("mnist", marks=pytest.mark.data)]
)
def test_the_data_are_the_same_bit_for_bit(name):
    theirs = etastar_load(name)
    ours = load(name, os.environ.get("ETASTAR_DATA_DIR", ""), *SIZES[name])
    for part in ("x", "y"):
        assert torch.equal(getattr(ours, part), getattr(theirs, f"{part}_train"))
        assert torch.equal(getattr(ours, f"{part}_val"), getattr(theirs, f"{part}_val"))


def row_of(**changes: object) -> dict[str, str]:
    row = sample("gaussians", 1, 0)[0][1]
    return row | {name: str(value) for name, value in changes.items()}


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("biases", [True, False])
def test_the_initial_networks_are_the_same(norm, biases):
    row = row_of(width=16, depth=3, seed=7, output_variance=0.5, norm=norm, biases=biases)
    ours = network(row, 20, 2, None)
    theirs = build(
        "mlp-layernorm" if norm == "layer" else "mlp",
        **{"width": 16, "depth": 3, "output_variance": 0.5, "biases": biases},
    )
    params = theirs.init([7], 20, 2)
    for mine, other in zip(ours.parameters(), params, strict=True):
        assert torch.equal(mine, other[0].T if mine.ndim == 2 else other[0])
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs.apply(params, x)[0])


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("kind", ["ntk", "mup"])
def test_parametrisations_are_the_same(kind, biases):
    shape = {"width": 48, "depth": 3, "input_lr_ratio": 0.3, "output_variance": 0.5}
    shape |= {"biases": biases, "parametrization": kind}
    row = row_of(seed=7, **shape)
    ours, theirs = network(row, 20, 2, None), build("mlp", **shape)
    for mine, other in zip(ours.parameters(), theirs.init([7], 20, 2), strict=True):
        torch.testing.assert_close(mine.detach(), other[0].T if mine.ndim == 2 else other[0])
    rates = [group["lr"] for group in optimizer(ours, row, 0.25).param_groups]
    assert rates == pytest.approx([0.25 * ratio for ratio in theirs.ratios(20)])


def test_shuffled_units_change_nothing_but_the_rounding():
    row = row_of(width=16, depth=3, dtype="float64")
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, shuffled = network(row, 20, 2, None), network(row, 20, 2, 1)
    assert not torch.equal(plain[0].weight, shuffled[0].weight)
    torch.testing.assert_close(plain(x), shuffled(x), rtol=1e-13, atol=1e-13)


def test_the_order_of_the_batches_is_the_same():
    order = DataOrder(10)
    ours = itertools.islice(batches(row_of(batch_size=3, seed=5), 10), 9)
    for number, rows in enumerate(ours):
        epoch, at = divmod(number, 3)
        assert rows.tolist() == order.permutation(5, epoch)[3 * at : 3 * at + 3].tolist()


def confirmed(row: dict[str, str], lo: float, hi: float) -> list[bool]:
    """Whether the lower end trains, and whether the upper end fails."""
    data = load(row["dataset"], "", int(row["train_size"]), int(row["val_size"]))
    return [train(row, data, lo) == "trained", train(row, data, hi) != "trained"]


def test_committed_brackets_of_gaussians():
    """Of 114 verdicts on all data sets 101 agreed with the engine's (see above): at that rate
    fewer than 10 of 16 would be a false alarm of 1 in 900 for another sample."""
    verdicts = [
        verdict
        for _, row in sample("gaussians", 8, 1)
        for verdict in confirmed(row, float(row["eta_lo"]), float(row["eta_hi"]))
    ]
    assert len(verdicts) == 16
    assert sum(verdicts) >= 10


def test_brackets_measured_now_on_digits():
    found = etastar.measure(
        etastar.MLP(width=32, depth=2, input_lr_ratio=0.1),
        "digits",
        **{"seeds": 8, "epochs": 6.0, "batch_size": 64, "threshold": 0.85, "resolution": 0.5},
        threads=1,
    )
    row = row_of(
        **{"width": 32, "depth": 2, "input_lr_ratio": 0.1, "dataset": "digits", "batch_size": 64},
        **{"threshold": 0.85, "max_steps": 6 * 22, "eval_every": 2, "loss": "cross-entropy"},
        **{"train_size": SIZES["digits"][0], "val_size": SIZES["digits"][1]},
    )
    verdicts = [
        verdict
        for seed, bracket in found.seeds.items()
        for verdict in confirmed(row | {"seed": str(seed)}, bracket.lo or 0.0, bracket.hi or 0.0)
    ]
    assert len(verdicts) == 16
    assert sum(verdicts) >= 12
