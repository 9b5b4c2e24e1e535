"""Retrains brackets of committed studies without etastar: does `lo` train, and does `hi` fail?

    python tests/independent/retrain.py --brackets 20 --json benchmarks/results/retrain.json

This program imports nothing of etastar. From a row of `studies/results/*.csv` it reads the data
files, draws the initial weights and the order of the batches, and trains one network at a time with
`torch.nn`, autograd and `torch.optim.SGD`. What it has to have in common with the engine is written
down here a second time, from the documented recipes:

- weights: generator of seed 2·s, layer by layer `randn(fan_in, fan_out)` in float64, times
  sqrt(2/fan_in), the last layer sqrt(output_variance/fan_in), then cast; biases zero; under
  `parametrization = "mup"` the last layer's variance is divided by s = width/128;
- rates: η, times κ in the first layer; `ntk`: weights η/fan_in; `mup`: times s for the first
  layer's weights and all hidden biases, η/s for the last layer's weights;
- batches: generator of seed 2·s + 1, one `randperm` per epoch, consecutive slices, rest dropped;
- evaluation every `eval_every` steps and at the end of the budget (`hold`: only there);
- `from_step`: so many steps at `from_lr` first, the trial then begins with the next batch.

PyTorch's random generators, matrix products and autograd, and SciPy's inverse normal distribution
(for the synthetic data), are shared with the engine; no way around the generators is known.

Near the boundary training is chaotic: what a run becomes can depend on the order of summation. So
every verdict is given a second time with the hidden units of each layer in another order, which
changes nothing but the rounding: how often this program agrees with itself is what agreement with
the engine can be measured by. Where a verdict differs from the engine's, the rates lo/1.05² or
hi·1.05² are tried as well.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import math
import os
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import binomtest
from torch import nn

STUDIES = Path(__file__).parents[2] / "studies" / "results"
APART = 1.05**2
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass
class Data:
    """Inputs `[N, d]` and labels `[N]` for training, and the same for validation."""

    x: torch.Tensor
    y: torch.Tensor
    x_val: torch.Tensor
    y_val: torch.Tensor
    classes: int


# Data


def read_idx(folder: Path, stem: str) -> np.ndarray[Any, Any]:
    """An IDX file of unsigned bytes."""
    path = folder / f"{stem}.gz"
    content = gzip.decompress(path.read_bytes()) if path.exists() else (folder / stem).read_bytes()
    shape = np.frombuffer(content, ">u4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def read_images(folder: Path, kind: str) -> tuple[np.ndarray[Any, Any], ...]:
    parts = [
        read_idx(folder, stem)
        for part in ("train", "t10k")
        for stem in (f"{part}-images-{kind}-ubyte", f"{part}-labels-idx1-ubyte")
    ]
    if kind == "idx4" and parts[0].shape[-1] == 3:  # channels go first
        parts[0], parts[2] = (parts[i].transpose(0, 3, 1, 2) for i in (0, 2))
    return tuple(parts)


def read_digits() -> tuple[np.ndarray[Any, Any], ...]:
    """scikit-learn's copy; every fifth sample is validation."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    held_out = np.arange(len(labels)) % 5 == 4
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


def draw_gaussians() -> tuple[np.ndarray[Any, Any], ...]:
    """Two normals in 20 dimensions, means ∓1 along (1, ..., 1), variances 1/3 ... 3."""
    variance = 3.0 ** np.linspace(-1, 1, 20)
    mean = np.full(20, 1 / math.sqrt(20))
    scale = math.sqrt((variance + mean**2).mean())
    sets = []
    for part, count in ((0, 9000), (1, 1000)):
        x = np.empty((2 * count, 20))
        for label, (centre, spread) in enumerate(((-mean, variance), (mean, variance[::-1]))):
            source = np.random.PCG64(np.random.SeedSequence(2023, spawn_key=(label, part)))
            bits = source.random_raw(20 * count) >> np.uint64(11)
            normal = ndtri((bits + 0.5) / 2**53).reshape(count, 20)
            x[label::2] = centre / scale + np.sqrt(spread / scale**2) * normal
        sets += [x.astype(np.float32), np.arange(2 * count) % 2]
    return tuple(sets)


@lru_cache(maxsize=2)
def load(name: str, folder: str, train_size: int, val_size: int) -> Data:
    """The first samples of a data set; pixels standardised by all its training pixels."""
    if name == "gaussians":
        x, y, x_val, y_val = draw_gaussians()
    elif name == "digits":
        x, y, x_val, y_val = read_digits()
    else:
        kind = "idx4" if name == "cifar10" else "idx3"
        x, y, x_val, y_val = read_images(Path(folder) / name, kind)
    mean, std = (0.0, 1.0) if name == "gaussians" else moments(x)
    inputs = [
        torch.from_numpy((part.reshape(len(part), -1) - np.float32(mean)) / np.float32(std))
        for part in (x[:train_size].astype(np.float32), x_val[:val_size].astype(np.float32))
    ]
    labels = [
        torch.from_numpy(part.astype(np.int64)) for part in (y[:train_size], y_val[:val_size])
    ]
    return Data(inputs[0], labels[0], inputs[1], labels[1], 2 if name == "gaussians" else 10)


def moments(x: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Mean and standard deviation of whole numbers, from exact sums."""
    total = sum(int(part.sum(dtype=np.int64)) for part in x)
    squares = sum(int((part.astype(np.int64) ** 2).sum()) for part in x)
    return total / x.size, math.sqrt((squares * x.size - total**2) / x.size**2)


# Training


def multipliers(row: dict[str, str], layer: int, fan_in: int) -> tuple[float, float, float]:
    """What a layer's initial variance, its weights' rate and its biases' rate are multiplied by."""
    kind, s = row.get("parametrization") or "standard", int(row["width"]) / 128
    kappa = float(row["input_lr_ratio"]) if layer == 0 else 1.0
    if kind == "ntk":
        return 1.0, kappa / fan_in, kappa
    if kind == "mup":
        if layer == int(row["depth"]):
            return 1 / s, 1 / s, 1.0
        return 1.0, kappa * s if layer == 0 else 1.0, kappa * s
    assert kind == "standard", kind
    return 1.0, kappa, kappa


def network(row: dict[str, str], inputs: int, classes: int, shuffle: int | None) -> nn.Sequential:
    """The initial network of a row; `shuffle` permutes the hidden units of every layer."""
    width, depth, dtype = int(row["width"]), int(row["depth"]), DTYPES[row["dtype"]]
    generator = torch.Generator().manual_seed(2 * int(row["seed"]))
    order = torch.Generator().manual_seed(shuffle or 0)
    layers: list[nn.Module] = []
    before = torch.arange(inputs)
    for layer in range(depth + 1):
        last = layer == depth
        sizes = inputs if layer == 0 else width, classes if last else width
        variance = float(row["output_variance"]) if last else 2.0
        variance *= multipliers(row, layer, sizes[0])[0]
        weight = torch.randn(sizes, generator=generator, dtype=torch.float64)
        weight *= math.sqrt(variance / sizes[0])
        after = torch.arange(sizes[1])
        if shuffle is not None and not last:
            after = torch.randperm(width, generator=order)
        linear = nn.Linear(*sizes, bias=row["biases"] == "True", dtype=dtype)
        with torch.no_grad():
            linear.weight.copy_(weight[before][:, after].T)
            if linear.bias is not None:
                linear.bias.zero_()
        layers.append(linear)
        before = after
        if not last:
            if row["norm"] == "layer":
                layers.append(nn.LayerNorm(width, 1e-5, elementwise_affine=False))
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def batches(row: dict[str, str], samples: int) -> Iterator[torch.Tensor]:
    """Rows of one batch after another, without end."""
    size = samples if row["batch_size"] == "full" else min(int(row["batch_size"]), samples)
    generator = torch.Generator().manual_seed(2 * int(row["seed"]) + 1)
    while True:
        order = torch.randperm(samples, generator=generator)
        if size == samples:
            order = torch.arange(samples)
        for start in range(0, samples - size + 1, size):
            yield order[start : start + size]


def optimizer(model: nn.Sequential, row: dict[str, str], lr: float) -> torch.optim.SGD:
    groups: list[dict[str, Any]] = []
    for layer, linear in enumerate(part for part in model if isinstance(part, nn.Linear)):
        _, weight, bias = multipliers(row, layer, linear.in_features)
        groups.append({"params": [linear.weight], "lr": weight * lr})
        if linear.bias is not None:
            groups.append({"params": [linear.bias], "lr": bias * lr})
    return torch.optim.SGD(groups, lr=lr, momentum=float(row["momentum"]))


def loss_of(row: dict[str, str], outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over samples: cross-entropy, or half the squared distance to the one-hot target."""
    if row["loss"] == "cross-entropy":
        return nn.functional.cross_entropy(outputs, labels)
    target = torch.eye(outputs.shape[1], dtype=outputs.dtype)[labels]
    return (outputs - target).square().sum(1).mean() / 2


def train(row: dict[str, str], data: Data, lr: float, shuffle: int | None = None) -> str:
    """`trained`, `diverged` or `short` (which includes networks that died)."""
    dtype = DTYPES[row["dtype"]]
    x, x_val = data.x.to(dtype), data.x_val.to(dtype)
    model = network(row, x.shape[1], data.classes, shuffle)
    order = batches(row, len(x))

    def step(using: torch.optim.SGD) -> bool:
        rows = next(order)
        using.zero_grad()
        loss = loss_of(row, model(x[rows]), data.y[rows])
        if not math.isfinite(loss.item()):
            return False
        loss.backward()
        using.step()
        return True

    if before := int(row["from_step"]):
        common = optimizer(model, row, float(row["from_lr"]))
        if not all(step(common) for _ in range(before)):
            return "diverged"
    using = optimizer(model, row, lr)
    budget, every = int(row["max_steps"]), int(row["eval_every"])
    for taken in range(1, budget + 1):
        if not step(using):
            return "diverged"
        if taken == budget or (row["criterion"] == "reach" and taken % every == 0):
            with torch.no_grad():
                outputs = model(x_val)
            if not all(part.isfinite().all() for part in model.parameters()):
                return "diverged"
            right = (outputs.argmax(1) == data.y_val) & outputs.isfinite().all(1)
            if int(right.sum()) / len(right) >= float(row["threshold"]):
                return "trained"
    return "short"


# Brackets


def sample(study: str, count: int, seed: int) -> list[tuple[int, dict[str, str]]]:
    """So many bracketed rows of a study, drawn without replacement, with their line in the file."""
    with (STUDIES / f"{study}.csv").open(newline="") as file:
        rows = list(enumerate(csv.DictReader(file), start=2))
    bracketed = [(line, row) for line, row in rows if row["status"] == "bracketed"]
    random.Random(f"{study} {seed}").shuffle(bracketed)  # a longer sample begins with the shorter
    return bracketed[:count]


def retrain(row: dict[str, str], folder: str) -> dict[str, Any]:
    """Both ends of a bracket, twice; and further out where a verdict is not the engine's."""
    data = load(row["dataset"], folder, int(row["train_size"]), int(row["val_size"]))
    lo, hi = float(row["eta_lo"]), float(row["eta_hi"])
    found: dict[str, Any] = {
        "lo": train(row, data, lo),
        "hi": train(row, data, hi),
        "lo_shuffled": train(row, data, lo, shuffle=1),
        "hi_shuffled": train(row, data, hi, shuffle=1),
    }
    if found["lo"] != "trained":
        found["lo_apart"] = train(row, data, lo / APART)
    if found["hi"] == "trained":
        found["hi_apart"] = train(row, data, hi * APART)
    return found


def rate(verdicts: list[bool]) -> dict[str, Any]:
    """How many of how many, with the exact (Clopper-Pearson) 95 % interval."""
    if not verdicts:
        return {"agree": 0, "of": 0}
    low, high = binomtest(sum(verdicts), len(verdicts)).proportion_ci(method="exact")
    return {"agree": sum(verdicts), "of": len(verdicts), "low": float(low), "high": float(high)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Agreement with the engine, of this program with itself, and further from the boundary."""
    trained = [
        {end: row[end] == "trained" for end in row if end[:2] in ("lo", "hi")} for row in rows
    ]
    ends = [found[f"{end}_apart"] == (end == "lo")
            for found in trained for end in ("lo", "hi") if f"{end}_apart" in found]  # fmt: skip
    return {
        "both": rate([found["lo"] and not found["hi"] for found in trained]),
        "lo_trains": rate([found["lo"] for found in trained]),
        "hi_fails": rate([not found["hi"] for found in trained]),
        "verdicts_with_itself": rate(
            [found[end] == found[f"{end}_shuffled"] for found in trained for end in ("lo", "hi")]
        ),
        "disagreements_that_agree_apart": rate(ends),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    # curves have no brackets: see retrain_curves.py
    known = sorted(p.stem for p in STUDIES.glob("*.csv") if not p.stem.startswith("curves-"))
    parser.add_argument("studies", nargs="*", default=known, help="names in studies/results")
    parser.add_argument("--brackets", type=int, default=20, help="per study")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--data-dir", default=os.environ.get("ETASTAR_DATA_DIR", ""))
    parser.add_argument("--json", type=Path, help="kept up to date; brackets in it are not redone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if args.json and args.json.exists():
        rows = json.loads(args.json.read_text())["brackets"]
    done = {(row["study"], row["line"]) for row in rows}
    samples = {study: sample(study, args.brackets, args.seed) for study in args.studies}
    turns = itertools.zip_longest(*([(study, *s) for s in v] for study, v in samples.items()))
    for study, line, row in (turn for turns_ in turns for turn in turns_ if turn is not None):
        if (study, line) in done:
            continue
        started = time.perf_counter()
        found = retrain(row, args.data_dir)
        names = ("width", "depth", "input_lr_ratio", "loss", "seed", "eta_lo", "eta_hi")
        rows.append(
            {"study": study, "line": line, **{name: row[name] for name in names}, **found}
            | {"seconds": round(time.perf_counter() - started, 1)}
        )
        print(rows[-1], flush=True)
        if args.json:
            write(args.json, rows, args)
    for study in args.studies:
        print(study, summary([row for row in rows if row["study"] == study])["both"])
    if args.json:
        write(args.json, rows, args)


def write(path: Path, rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    studies = sorted({row["study"] for row in rows})
    record = {
        "command": f"python tests/independent/retrain.py --brackets {args.brackets} --seed "
        f"{args.seed} --json benchmarks/results/retrain.json",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "all": summary(rows),
        "studies": {s: summary([row for row in rows if row["study"] == s]) for s in studies},
        "brackets": sorted(rows, key=lambda row: (row["study"], row["line"])),
    }
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    main()
