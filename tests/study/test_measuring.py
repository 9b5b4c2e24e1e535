"""What a worker measures is what `etastar.measure` and `etastar.sharpness` measure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_studies import lr_task

import etastar
from etastar.problem.trial import Outcome, Trial
from etastar.settings import Settings
from etastar.study.cell import Cell, SharpnessSettings
from etastar.study.measuring import Task, run_task
from etastar.study.results import Results

SMALL = {
    "width": 16,
    "depth": 2,
    "train_size": 300,
    "val_size": 100,
    "max_steps": 40,
    "threshold": 0.5,
    "resolution": 0.2,
    "seeds": 3,
    "threads": 1,
}


def measured(task: Task) -> Results:
    return run_task(task)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "mse", "input_lr_ratio": 0.1, "norm": "layer", "momentum": 0.5},
        {"strategy": "bisection", "criterion": "hold", "dtype": "float64", "batch_size": 64},
        {"dataset": "gaussians", "threshold": 0.8, "threads": 2, "first_seed": 7},
        {"end_lr": 0.01},  # nothing trains, or all does
    ],
)
def test_the_brackets_and_trials_are_those_of_measure(changes: dict[str, object]) -> None:
    options = SMALL | changes
    expected = etastar.measure(**options)
    found = measured(lr_task(Cell(Settings.checked(**options))))
    assert found.seeds == expected.seeds
    assert found.trials == expected.trials
    assert found.resolved["recipe"] == expected.recipe.model_dump()
    assert found.resolved["data"].items() <= expected.data.items()
    assert found.environment == expected.environment


@pytest.mark.parametrize("strategy", ["section", "bisection"])
def test_an_interrupted_search_goes_on_to_the_identical_result(strategy: str) -> None:
    task = lr_task(Cell(Settings.checked(**SMALL, strategy=strategy)))
    reported: list[tuple[Trial, Outcome]] = []
    whole = run_task(task, lambda trial, outcome: reported.append((trial, outcome)))
    assert whole.trials.items() <= dict(reported).items()
    for count in (0, 1, len(reported) // 2, len(reported)):
        known = dict(reported[:count])
        again: dict[Trial, Outcome] = {}
        found = run_task(replace(task, known=known), again.__setitem__)
        assert (found.seeds, found.trials) == (whole.seeds, whole.trials)
        assert not again.keys() & known.keys()
    assert again == {}  # all was known


def test_any_part_of_the_outcomes_will_do_in_any_order() -> None:
    task = lr_task(Cell(Settings.checked(**SMALL)))
    whole = measured(task)
    rng = np.random.default_rng(0)
    trials = list(whole.trials)
    for _ in range(5):
        chosen = rng.permutation(len(trials))[: rng.integers(1, len(trials))]
        known = {trials[i]: whole.trials[trials[i]] for i in chosen}
        found = measured(replace(task, known=known))
        assert (found.seeds, found.trials) == (whole.seeds, whole.trials)


def test_outcomes_of_other_seeds_are_not_mixed_in() -> None:
    task = lr_task(Cell(Settings.checked(**SMALL)))
    whole = measured(task)
    alone = measured(replace(task, seeds=(1,), known=whole.trials))
    assert alone.seeds == {1: whole.seeds[1]}
    assert alone.trials == {t: o for t, o in whole.trials.items() if t.seed == 1}


def dense(
    network: etastar.MLP, seed: int, data: etastar.Dataset, samples: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hessian and Gauss-Newton matrix `[P, P]` of one seed by autograd, and the rates `[P]`."""
    params = network.init([seed], data.inputs, data.classes, dtype=torch.float64)
    x, y = data.x_train[:samples].double(), data.y_train[:samples]
    shapes = [p.shape for p in params]
    counts = [p.numel() for p in params]

    def outputs(flat: torch.Tensor) -> torch.Tensor:
        parts = [part.view(shape) for part, shape in zip(flat.split(counts), shapes, strict=True)]
        return network.apply(parts, x)[0]

    flat = torch.cat([p.flatten() for p in params])
    hessian = torch.autograd.functional.hessian(
        lambda v: torch.nn.functional.cross_entropy(outputs(v), y), flat
    )
    jacobian = torch.autograd.functional.jacobian(outputs, flat)  # [m, C, P]
    p = outputs(flat).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]  # [m, C, C]
    newton = torch.einsum("mcp,mcd,mdq->pq", jacobian, inner, jacobian) / samples
    rates = [
        torch.full((n,), r, dtype=torch.float64)
        for n, r in zip(counts, network.lr_ratios(), strict=True)
    ]
    return hessian, newton, torch.cat(rates)


def top(matrix: torch.Tensor) -> float:
    return float(torch.linalg.eigvalsh(matrix)[-1])


@pytest.mark.parametrize("kappa", [1.0, 0.1])
def test_lambda_is_that_of_the_dense_matrices_at_initialisation(kappa: float) -> None:
    options = SMALL | {"width": 6, "depth": 1, "input_lr_ratio": kappa, "dtype": "float64"}
    wanted = SharpnessSettings(samples=40, tol=1e-5)
    cell = Cell(Settings.checked(**options), wanted)
    assert cell.sharpness_id is not None
    assert cell.sharpness_specification is not None
    found = run_task(
        Task(
            "sharpness",
            cell.sharpness_id,
            cell.sharpness_specification,
            cell.settings,
            (0, 2),
            wanted,
        )
    )
    assert list(found.seeds) == [0, 2]
    assert found.resolved["samples"] == 40
    searched = measured(lr_task(cell))
    assert found.environment == searched.environment  # one line of the page for one machine
    data = etastar.load("digits", train_size=300, val_size=100)
    network = etastar.MLP(width=6, depth=1, input_lr_ratio=kappa)
    for seed, values in found.seeds.items():
        hessian, newton, rates = dense(network, seed, data, 40)
        root = rates.sqrt()
        assert values.lambda1_plain == pytest.approx(top(hessian), rel=1e-6)
        assert values.lambda1_preconditioned == pytest.approx(
            top(root[:, None] * hessian * root), rel=1e-6
        )
        assert values.lambda1_gauss_newton == pytest.approx(
            top(root[:, None] * newton * root), rel=1e-6
        )
        assert values.converged
        assert values.residual is not None
        assert values.lambda1_preconditioned is not None
        assert values.residual <= 1e-5 * values.lambda1_preconditioned
