"""Writes `records.json`: results that stay bit for bit the same when the code is restructured.

    python tests/golden/record.py

runs every recipe below through public entry points and rewrites the file, in about a minute;
`test_golden.py` compares it with what the code gives now. Rewrite it only in a change that is meant
to alter results, and say so. Nothing here is shared with other tests, so that no change of theirs
can move what is recorded. Results of `store-0.1.0.sqlite` are recorded too; the store itself is
never made anew (see `study-0.1.0.toml`).
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

import etastar
from etastar.cli import main
from etastar.study.specification import Study

HERE = Path(__file__).parent
RECORDS_FILE = HERE / "records.json"
STUDY, STORE = HERE / "study-0.1.0.toml", HERE / "store-0.1.0.sqlite"
CPUINFO = Path("/proc/cpuinfo")
STUDIES = HERE.parents[1] / "studies"

Record: TypeAlias = dict[str, Any]
"""JSON types only."""


def picked(source: Mapping[str, Any], names: Iterable[str]) -> Record:
    """What is recorded of a `to_dict`: these keys, and of the cost all but the time."""
    cost = {name: int(source["cost"][name]) for name in ("trials", "steps")}
    return {**{name: source[name] for name in names}, "cost": cost}


# etastar.measure

MEASURED = ("eta_star", "seeds", "success", "trials", "network", "training", "criterion", "search")
SMALL: dict[str, Any] = {
    **{"train_size": 300, "val_size": 100, "width": 16, "depth": 2, "batch_size": 32},
    **{"epochs": 4.0, "threshold": 0.6, "start_lr": 0.02, "end_lr": 5.0, "resolution": 0.2},
    **{"seeds": 2, "eval_every": 3, "threads": 1},
}
MEASURES: dict[str, dict[str, Any]] = {
    "cross-entropy": {"seeds": 3, "resolution": 0.05},
    "mse": {"loss": "mse", "epochs": 6.0, "threshold": 0.4, "width": 32, "depth": 1},
    "momentum": {"momentum": 0.9, "end_lr": 2.0},
    "hold": {"criterion": "hold", "eval_every": 5, "seeds": 3},
    "from a step": {"from_step": 10, "from_lr": 0.1, "threshold": 0.75},
    "from a step, at half of η*": {"from_step": 5, "resolution": 0.5},
    "layer norm": {"norm": "layer", "end_lr": 20.0, "resolution": 0.5},
    "bisection": {"strategy": "bisection", "seeds": 3},
    "κ 0.1": {"input_lr_ratio": 0.1, "seeds": 3},
    "frozen input layer": {"input_lr_ratio": 0.0, "width": 24},
    "full batch": {"batch_size": "full", "epochs": 20.0, "resolution": 0.05, "end_lr": 2.0},
    "full batch, mse, momentum, hold": {
        **{"batch_size": "full", "epochs": 20.0, "loss": "mse", "momentum": 0.5, "threshold": 0.4},
        **{"criterion": "hold", "norm": "layer", "input_lr_ratio": 0.5},
    },
    "float64, no biases": {"dtype": "float64", "biases": False, "output_variance": 0.25},
    "defaults of the data set": {
        **dict.fromkeys(("batch_size", "epochs", "threshold", "eval_every")),
        **{"max_steps": 50, "resolution": 0.5},
    },
    "an even number of late seeds": {"seeds": 4, "first_seed": 1000, "resolution": 0.5},
    "trains nowhere": {"threshold": 0.99, "max_steps": 6, "end_lr": 0.5},
    "trains everywhere": {"end_lr": 0.2, "start_lr": 0.1, "epochs": 12.0},
    "gaussians": {"dataset": "gaussians", "threshold": 0.8},
    "gaussians, mse, set by stability": {
        **{"dataset": "gaussians", "loss": "mse", "threshold": 0.6, "epochs": 12.0},
        **{"width": 32, "depth": 1, "resolution": 0.02},
    },
}


def measured(options: dict[str, Any]) -> Record:
    """One measurement."""
    return picked(etastar.measure(**(SMALL | options)).to_dict(), MEASURED)


# etastar.maximal_lr

FOUND = (
    *("lr", "bracket", "safe_lr", "interval", "status", "set_by", "group_lrs", "groups"),
    *("seeds", "spread", "history", "settings"),
)
QUICK: dict[str, Any] = {
    **{"threshold": 0.55, "batch_size": 16, "epochs": 5, "eval_every": 5, "start_lr": 0.1},
    **{"end_lr": 5.0, "resolution": 0.25, "seeds": 1, "progress": False},
}
"""Brackets so narrow that scans have strides, and what they find is refined."""


class Residual(nn.Module):
    """A convolutional block with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x.view(-1, 1, 4, 4))
        return self.head((h + self.second(h.relu())).relu().flatten(1))


class Sequence(nn.Module):
    """The input as four tokens of four numbers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer(x.view(-1, 4, 4))
        return self.head((h[0] if isinstance(h, tuple) else h).flatten(1))


def mlp() -> nn.Module:
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(16, 3))


def mlp_without_biases() -> nn.Module:
    linear = functools.partial(nn.Linear, bias=False)
    return nn.Sequential(nn.Flatten(), linear(16, 24), nn.ReLU(), linear(24, 3))


def cnn(norm: type[nn.Module] = nn.Identity) -> nn.Module:
    convolution = [nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3), norm(4), nn.ReLU()]
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(16, 3))


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def lstm() -> nn.Module:
    return Sequence(nn.LSTM(4, 4, batch_first=True))


def transformer() -> nn.Module:
    options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
    return Sequence(nn.TransformerEncoderLayer(4, 2, 16, **options))


def drawn(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model in double precision, drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double()


def factory(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """A model drawn from whatever stream there is."""
    return lambda seed: make().double()


def data(samples: int = 96, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of three sums of inputs is largest; one holds a product too."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 16, generator=g, dtype=torch.float64)
    sums = [x[:, :4].sum(1) + x[:, 4] * x[:, 5], x[:, 4:8].sum(1), x[:, 8:12].sum(1)]
    return x + 1, torch.stack(sums, 1).argmax(1)


def slow_input(model: nn.Module, lr: float) -> Optimizer:
    """The first layer at a tenth of the rate, the last at twice the rate."""
    layers = [layer for layer in model.children() if isinstance(layer, nn.Linear)]
    ratios = [0.1, *[1.0] * (len(layers) - 2), 2.0]
    groups = [
        {"params": layer.parameters(), "lr": ratio * lr}
        for layer, ratio in zip(layers, ratios, strict=True)
    ]
    return SGD(groups, lr=lr)


def dictionaries() -> list[dict[str, torch.Tensor]]:
    x, y = data()
    return [{"inputs": x[i : i + 16], "labels": y[i : i + 16]} for i in range(0, len(y), 16)]


def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return cross_entropy(model(batch["inputs"]), batch["labels"], label_smoothing=0.05)


def share_right(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (model(batch["inputs"]).argmax(1) == batch["labels"]).double().mean()


def mistakes(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(1) != targets).double().mean())


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - nn.functional.one_hot(targets, 3)).square().sum(1).mean()


def loader(batch: int = 16) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(TensorDataset(*data()), batch, shuffle=True, generator=generator)


def checkpoint(steps: int, optimizer: Callable[..., Optimizer] = SGD, lr: float = 0.1) -> Any:
    """States of a model and its optimizer after a few steps on all of the data."""
    (x, y), model = data(), drawn(mlp)
    trained = optimizer(model.parameters(), lr=lr)
    for _ in range(steps):
        trained.zero_grad()
        cross_entropy(model(x), y).backward()
        trained.step()
    return {"model": model.state_dict(), "optimizer": trained.state_dict()}


def digits(**options: Any) -> dict[str, Any]:
    """A model in single precision on images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    images = etastar.load("digits", train_size=300, val_size=100)
    given = {"train_data": images, "val_data": None, "batch_size": 32, "epochs": 3, "seeds": 2}
    return {"model": model, **given, "threshold": 0.6, "eval_every": 3, **options}


momentum = functools.partial(SGD, momentum=0.9)
nesterov = functools.partial(SGD, momentum=0.8, nesterov=True, weight_decay=1e-3)
adamw = functools.partial(AdamW, weight_decay=0.1, eps=1e-6)

STACK, LOOP = ("stack", "loop"), ("loop",)

MODULES: dict[str, tuple[tuple[str, ...], Callable[[], dict[str, Any]]]] = {
    "MLP": (STACK, lambda: {"seeds": 3, "resolution": 0.1}),
    "MLP without biases": (STACK, lambda: {"model": drawn(mlp_without_biases), "seeds": [4, 2]}),
    "momentum": (STACK, lambda: {"optimizer": momentum, "seeds": 2}),
    "an even number of seeds": (STACK, lambda: {"seeds": 4, "epochs": 2.5, "batch_size": 20}),
    "trains above a rate that fails": (STACK, lambda: {"seeds": [8, 5], "resolution": 0.1}),
    "factory": (
        STACK,
        lambda: {"model": factory(mlp), "seeds": 2, "resolution": 0.3, "end_lr": 8.0},
    ),
    "factory, three seeds": (
        STACK,
        lambda: {
            **{"model": factory(mlp_without_biases), "seeds": [3, 1, 8]},
            **{"resolution": 0.5, "end_lr": 8.0},
        },
    ),
    "given up": (
        STACK,
        lambda: {"threshold": 0.6, "epochs": 15, "end_lr": 30.0, "resolution": 0.5},
    ),
    "digits": (STACK, digits),
    "digits, momentum": (
        STACK,
        lambda: digits(optimizer=momentum, loss_fn=nn.CrossEntropyLoss(), seeds=1),
    ),
    "checkpoint": (
        STACK,
        lambda: {"from_checkpoint": checkpoint(4)["model"], "threshold": 0.65, "seeds": 2},
    ),
    "checkpoint that meets the threshold": (
        STACK,
        lambda: {"from_checkpoint": checkpoint(200)["model"], "seeds": 2},
    ),
    "trains nowhere": (STACK, lambda: {"threshold": 1.0, "epochs": 1, "seeds": 2}),
    "trains everywhere": (
        STACK,
        lambda: {"start_lr": 0.02, "end_lr": 0.03, "epochs": 40, "seeds": 2},
    ),
    "checkpoint with Adam's state": (
        LOOP,
        lambda: {
            **{"from_checkpoint": checkpoint(4, Adam, 1e-3), "optimizer": Adam},
            **{"start_lr": 1e-4, "end_lr": 10.0},
        },
    ),
    "CNN, mse": (
        LOOP,
        lambda: {"model": drawn(cnn), "loss_fn": squares, "threshold": 0.5, "epochs": 10},
    ),
    "CNN": (LOOP, lambda: {"model": drawn(cnn)}),
    "batch norm": (
        LOOP,
        lambda: {"model": factory(functools.partial(cnn, nn.BatchNorm2d)), "seeds": 2},
    ),
    "dropout": (LOOP, lambda: {"model": drawn(dropout), "seeds": 2}),
    "dropout, factory": (
        LOOP,
        lambda: {"model": factory(dropout), "seeds": 2, "resolution": 0.5},
    ),
    "residual block": (LOOP, lambda: {"model": drawn(Residual)}),
    "layer norm, Nesterov": (LOOP, lambda: {"model": drawn(layer_norm), "optimizer": nesterov}),
    "LSTM, Adam": (LOOP, lambda: {"model": drawn(lstm), "optimizer": Adam, "start_lr": 1e-3}),
    "attention, AdamW": (
        LOOP,
        lambda: {"model": drawn(transformer), "optimizer": adamw, "start_lr": 1e-3},
    ),
    "parameter groups": (LOOP, lambda: {"optimizer": slow_input, "seeds": 2}),
    "loss as the metric": (
        LOOP,
        lambda: {"metric": "loss", "threshold": 0.95, "val_data": None, "seeds": 2},
    ),
    "metric of one's own": (
        LOOP,
        lambda: {"metric": mistakes, "higher_is_better": False, "threshold": 0.45},
    ),
    "step of one's own": (
        LOOP,
        lambda: {
            **{"step_fn": step, "metric": share_right, "threshold": 0.65},
            **{"train_data": dictionaries(), "val_data": dictionaries()[:3], "batch_size": None},
        },
    ),
    "loader": (
        LOOP,
        lambda: {
            **{"train_data": loader(), "val_data": loader(), "batch_size": None, "seeds": 2},
        },
    ),
    "loader with a short last batch, batch norm": (
        LOOP,
        lambda: {
            **{"model": drawn(functools.partial(cnn, nn.BatchNorm2d)), "optimizer": momentum},
            **{"train_data": loader(20), "batch_size": None},
        },
    ),
}


def found(given: dict[str, Any], engine: str) -> Record:
    """η* of a module."""
    standard = {"model": drawn(mlp), "train_data": data(), "val_data": data(192, 1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", etastar.NotBracketedWarning)
        result = etastar.maximal_lr(**(standard | QUICK | given), engine=engine)
    return picked(result.to_dict(), FOUND)


# identities

EVERY_FIELD = """
[sharpness]
samples = 300
tol = 0.01

[base]
train_size = 500
epochs = 2.0

[[grid]]
width = [16, 32]
depth = [2, 3]
input_lr_ratio = [0.1, 1.0]
loss = ["cross-entropy", "mse"]
filter = "width >= 8 * depth"

[[grid]]
width = 16
momentum = [0.0, 0.9]
criterion = ["reach", "hold"]
"batch_size,threshold" = [[64, 0.85], ["full", 0.5]]

[[grid]]
width = 16
val_size = [50, 100]
output_variance = [0.0, 2]
norm = ["none", "layer"]
"""
CELLS: list[dict[str, Any]] = [
    {},
    {"dataset": "gaussians"},
    {"dataset": "mnist"},
    {"dataset": "cifar10", "loss": "mse"},
    {"dataset": "fashion-mnist", "train_size": 100},
    {"biases": False},
    {"input_lr_ratio": 0},
    {"input_lr_ratio": -0.0},
    {"epochs": 3},
    {"max_steps": 7},
    {"eval_every": 2},
    {"from_step": 10, "from_lr": 0.1},
    {"from_step": 10},
    {"from_lr": 0.1},
    {"resolution": 0.3},
    {"start_lr": 1e-5, "end_lr": 1e2},
    {"strategy": "bisection"},
    {"device": "cuda:1"},
    {"dtype": "float64"},
    {"optimizer": "sgd", "threads": 2, "seeds": 3, "first_seed": 7, "data_dir": "elsewhere"},
]
"""Further ones, which differ in one setting: all that there are, and values written in two ways."""


def toml(cell: dict[str, Any]) -> str:
    """One of `[[cells]]`; JSON's strings, numbers and truth values are TOML's too."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in {"width": 48, **cell}.items()]
    return "\n".join(["[[cells]]", *lines, ""])


def identities() -> Record:
    """Hashes and specifications of a study that uses every setting."""
    study = Study.from_text("\n".join([EVERY_FIELD, *map(toml, CELLS)]))
    return {
        "cells": [
            {
                "id": cell.id,
                "sharpness_id": cell.sharpness_id,
                "specification": cell.specification,
                "sharpness_specification": cell.sharpness_specification,
                "seeds": list(cell.seeds),
            }
            for cell in study.cells
        ]
    }


def identities_of_shipped() -> Record:
    """For every study of the repository its cells, and a digest of their hashes, in order."""
    found = {}
    for path in sorted(STUDIES.glob("*.toml")):
        cells = Study.from_file(path).cells
        lines = [f"{cell.id} {cell.sharpness_id} {cell.seeds}" for cell in cells]
        text = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        found[path.name] = {"cells": len(cells), "digest": text}
    return found


# studies and stores


@contextmanager
def workplace(store: Path | None) -> Iterator[Path]:
    """A folder with the study, and a copy of a store or none: to open a store is to write to it."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(shutil.copy(STUDY, folder))
        if store:
            shutil.copy(store, study.with_suffix(".sqlite"))
        yield study


def etastar_study(*words: str, code: int = 0) -> str:
    """What a command prints."""
    printed, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(errors):
        ended = main(["study", *words])
    if ended != code:
        raise RuntimeError(f"etastar study {' '.join(words)}: {ended}, {errors.getvalue()}")
    return printed.getvalue()


def table(study: Path, name: str) -> dict[str, list[str]]:
    """A table as `study export` writes it, by columns."""
    file = study.with_suffix(".csv")
    etastar_study("export", str(study), "--table", name, "--output", str(file))
    header, *rows = csv.reader(io.StringIO(file.read_text(encoding="utf-8")))
    return {column: list(values) for column, *values in zip(header, *rows, strict=True)}


def contents(study: Path) -> Record:
    """All that a store says of a study."""
    status = json.loads(etastar_study("status", str(study), "--json", "-"))
    counted = {name: status[name] for name in ("cells", "done", "failed", "seeds_missing")}
    return {"status": counted, "seeds": table(study, "seeds"), "trials": table(study, "trials")}


def study_from_nothing() -> Record:
    """The study, all of it measured now."""
    with workplace(None) as study:
        etastar_study("run", str(study))
        return contents(study)


def store_as_it_was() -> Record:
    """What 0.1.0 left: some seeds, an interrupted search, a cell that was given up."""
    with workplace(STORE) as study:
        return contents(study)


def store_extended() -> Record:
    """The same after a run, which leaves out what was given up."""
    with workplace(STORE) as study:
        etastar_study("run", str(study), code=1)
        return contents(study)


def store_completed() -> Record:
    """The same after a run that tries again what was given up."""
    with workplace(STORE) as study:
        etastar_study("run", str(study), "--retry-failed")
        return contents(study)


# all of them

RECORDS: dict[str, Callable[[], Record]] = {
    **{f"measure: {n}": functools.partial(measured, o) for n, o in MEASURES.items()},
    **{
        f"maximal_lr, {engine}: {name}": lambda given=given, engine=engine: found(given(), engine)
        for name, (engines, given) in MODULES.items()
        for engine in engines
    },
    "identities: every setting": identities,
    "identities: studies of the repository": identities_of_shipped,
    "study: from nothing": study_from_nothing,
    "store of 0.1.0: as it was": store_as_it_was,
    "store of 0.1.0: extended": store_extended,
    "store of 0.1.0: completed": store_completed,
}


def as_read(record: Record) -> Record:
    """A record as it comes back from the file: lists for tuples; floats stay what they are."""
    back: Record = json.loads(json.dumps(record, allow_nan=False))
    return back


def machine() -> dict[str, str]:
    """What else the last bits depend on: kernels differ between processors and releases."""
    models: list[str] = []
    if CPUINFO.exists():
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line[:10] == "model name"]
    return {
        "torch": torch.__version__,
        "processor": models[0] if models else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def written(made: dict[str, str], records: dict[str, Record]) -> str:
    """The file's text: a line for every part of a record, so that a difference shows which."""
    parts = {"made with": made, **records}
    blocks = [
        f" {_text(name)}: {{\n"
        + ",\n".join(f"  {_text(key)}: {_text(value)}" for key, value in part.items())
        + "\n }"
        for name, part in parts.items()
    ]
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = {name: as_read(make()) for name, make in RECORDS.items()}
    RECORDS_FILE.write_text(written(machine(), made), encoding="utf-8")
