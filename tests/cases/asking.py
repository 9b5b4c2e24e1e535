"""Calls of `maximal_lr` that end before the first trial, and options of a search of few steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from etastar.problem.own_model import OwnModel
from etastar.problem.problem import Problem

QUICK: dict[str, Any] = {
    "threshold": 0.9,
    "epochs": 3,
    "batch_size": 32,
    "seeds": 1,
    "resolution": 0.5,
    "start_lr": 1e-2,
    "progress": False,
}


def problem_of(
    model: nn.Module, train: Any, val_data: Any = None, **options: Any
) -> tuple[Problem, list[str]]:
    """The problem of a call of `maximal_lr`, and the notes made before the first trial."""
    given = {
        "model": model,
        "train_data": train,
        "val_data": val_data,
        "loss_fn": cross_entropy,
        "optimizer": torch.optim.SGD,
        "metric": "accuracy",
        "end_lr": 10.0,
        "eval_every": None,
        "step_fn": None,
        "device": None,
        "higher_is_better": None,
        "engine": "auto",
        "from_checkpoint": None,
    }
    problem, _, notes = OwnModel(**(given | QUICK | options)).problem()
    return problem, notes
