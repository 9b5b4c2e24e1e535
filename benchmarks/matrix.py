"""The promise of the recommended rate, kind by kind: model × step × data, retrained by hand.

    python benchmarks/matrix.py --workers 16 --minutes 8 --json benchmarks/results/matrix.json

Every kind is measured by `etastar.maximal_lr` and then trained by a plain loop of this file, which
uses nothing of the package, on fresh initialisations and orders: at the recommended rate, where at
least 17 of 20 should train and 95 % over all kinds, and at twice the rate where the fitted p falls
through 0.05, where at most 3 should and 5 % over all. A kind that the file has already is kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, parametrizations

import etastar

SAMPLES, BATCH, STEPS, EVERY, THRESHOLD = 640, 32, 80, 8, 0.65
FRESH, FIRST = 20, 100_000
"""Fresh seeds, and the first of them: no measurement comes near."""
MISSES = 3
"""Of these, as many as may fail at the recommended rate, or train far beyond the edge."""
cross_entropy = nn.functional.cross_entropy


class Sequence(nn.Module):
    """Sixteen numbers as four tokens of four, a layer over them, and a head."""

    def __init__(self, layer: nn.Module, features: int = 16) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(features, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs `[B, 3]` for inputs `[B, 16]`."""
        h = self.layer(x.view(-1, 4, 4))
        return self.head((h[0] if isinstance(h, tuple) else h).flatten(1))


class Residual(nn.Module):
    """A convolutional block with a skip connection, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(96, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs `[B, 3]` for inputs `[B, 16]`."""
        h = self.first(x.view(-1, 1, 4, 4))
        return self.head((h + self.second(h.relu())).relu().flatten(1))


def cnn(norm: Callable[[int], nn.Module], wrap: Callable[[Any], nn.Module] = lambda m: m) -> Any:
    layers = [nn.Unflatten(1, (1, 4, 4)), wrap(nn.Conv2d(1, 8, 3)), norm(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 3))


def mlp(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), *between, nn.Linear(32, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(nn.ReLU(), nn.Linear(32, 32), nn.ReLU()),
    "dropout": lambda: mlp(nn.ReLU(), nn.Dropout(0.2)),
    "layer norm": lambda: mlp(nn.LayerNorm(32), nn.GELU()),
    "cnn": lambda: cnn(lambda n: nn.Identity()),
    "batch norm": lambda: cnn(nn.BatchNorm2d),
    "weight norm": lambda: cnn(lambda n: nn.Identity(), parametrizations.weight_norm),
    "residual": Residual,
    "lstm": lambda: Sequence(nn.LSTM(4, 8, batch_first=True), 32),
    "narrow transformer": lambda: Sequence(
        nn.TransformerEncoderLayer(4, 2, 16, 0.0, batch_first=True)
    ),
    "transformer": lambda: Sequence(
        nn.Sequential(
            nn.Linear(4, 16),
            nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True, norm_first=True),
        ),
        64,
    ),
}


def clipped(model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
    optimizer.zero_grad()
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def mixed() -> Callable[..., torch.Tensor]:
    scaler = torch.amp.GradScaler("cpu")

    def step(model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


def accumulating() -> Callable[..., torch.Tensor]:
    count = [0]

    def step(model: nn.Module, batch: Any, optimizer: Any) -> torch.Tensor:
        loss = cross_entropy(model(batch[0]), batch[1])
        (loss / 2).backward()
        count[0] += 1
        if count[0] % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return step


def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr)


def momentum(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr)


def rising(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))


class Way(NamedTuple):
    """A step: an optimizer, what makes a step function (None: the plain one), and a schedule."""

    optimizer: Callable[..., Any]
    step: Callable[[], Callable[..., Any]] | None = None
    scheduler: Callable[..., Any] | None = None


WAYS = {
    "sgd": Way(sgd),
    "momentum": Way(momentum),
    "adamw": Way(adamw),
    "clipping": Way(momentum, lambda: clipped),
    "mixed precision": Way(adamw, mixed),
    "accumulation": Way(sgd, accumulating),
    "schedule": Way(adamw, None, rising),
}
PAIRS = [
    *itertools.product(("mlp", "cnn", "batch norm", "narrow transformer"), WAYS),
    *itertools.product(
        ("dropout", "layer norm", "weight norm", "residual", "lstm"), ("sgd", "adamw")
    ),
    *itertools.product(("transformer",), WAYS),
]
"""Kinds: `MODEL, WAY`; every other one is given as a shuffled loader instead of tensors."""
KINDS = [", ".join(pair) for pair in PAIRS]
CHEAP = ("mlp", "dropout", "layer norm", "cnn", "weight norm", "batch norm", "residual")
"""Models from the cheapest on; those that are not named cost most, and begin first."""


def cost(name: str) -> int:
    model = name.split(", ")[0]
    return CHEAP.index(model) if model in CHEAP else len(CHEAP)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs `[2 SAMPLES, 16]`, half of them for tests, and the largest of three sums."""
    x = torch.randn(2 * SAMPLES, 16, generator=torch.Generator().manual_seed(0))
    sums = [x[:, :4].sum(1) + x[:, 4] * x[:, 5], x[:, 4:8].sum(1), x[:, 8:12].sum(1)]
    return x, torch.stack(sums, 1).argmax(1)


def measured(model: Callable[[], nn.Module], way: Way, loader: bool) -> etastar.Result:
    x, y = data()
    train: Any = (x[:SAMPLES], y[:SAMPLES])
    if loader:
        dataset = torch.utils.data.TensorDataset(*train)
        train = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True)
    return etastar.maximal_lr(
        lambda seed: model(),
        train,
        (x[SAMPLES:], y[SAMPLES:]),
        optimizer=way.optimizer,
        step_fn=way.step() if way.step else None,
        scheduler=way.scheduler,
        threshold=THRESHOLD,
        epochs=STEPS * BATCH / SAMPLES,
        batch_size=None if loader else BATCH,
        eval_every=EVERY,
        start_lr=1e-4,
        end_lr=100.0,
        progress=False,
    )


def batches(x: torch.Tensor, y: torch.Tensor, seed: int) -> Iterator[Any]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(y), generator=generator).split(BATCH):
            yield x[rows], y[rows]


def steps_of(net: nn.Module, way: Way, lr: float, source: Iterator[Any]) -> Iterator[float]:
    """Train by hand, batch after batch; yield the loss of each step."""
    optimizer = way.optimizer(net, lr)
    scheduler = way.scheduler(optimizer) if way.scheduler else None
    step_fn = way.step() if way.step else None
    for batch in source:
        if step_fn:
            loss = step_fn(net, batch, optimizer)
        else:
            optimizer.zero_grad()
            loss = cross_entropy(net(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
        if scheduler:
            scheduler.step()
        yield loss.item()


def trains(model: Callable[[], nn.Module], way: Way, lr: float, seed: int) -> bool:
    """Train by hand; tell whether the threshold is touched within the budget."""
    x, y = data()
    torch.manual_seed(seed)
    net = model()
    losses = steps_of(net, way, lr, batches(x[:SAMPLES], y[:SAMPLES], seed))
    for step, loss in enumerate(itertools.islice(losses, STEPS), start=1):
        if not math.isfinite(loss):
            return False
        if step % EVERY == 0 or step == STEPS:
            net.eval()
            with torch.no_grad():
                right = (net(x[SAMPLES:]).argmax(1) == y[SAMPLES:]).float().mean()
            net.train()
            if right >= THRESHOLD:
                return True
    return False


def falls_through(found: etastar.Result, p: float = 0.05) -> float | None:
    """Return where the fitted p falls below a value; beyond the band, as a logistic would."""
    curve = found.curve
    if curve is None or curve.eta_50 is None:
        return None
    beyond = [point.lr for point in curve.band if point.lr > curve.eta_50 and point.p <= p]
    low = curve.eta_95 or curve.eta_50 / 2
    return min(beyond, default=curve.eta_50**2 / low)


def row(name: str) -> dict[str, Any]:
    kind, step = name.split(", ")
    model, way = MODELS[kind], WAYS[step]
    found = measured(model, way, loader=KINDS.index(name) % 2 == 1)
    low, high = found.recommended_lr, falls_through(found)
    counts = {}
    for what, lr in (("recommended", low), ("beyond", None if high is None else 2 * high)):
        seeds = range(FIRST, FIRST + FRESH)
        counts[f"{what}_lr"] = lr
        counts[what] = None if lr is None else sum(trains(model, way, lr, s) for s in seeds)
    return {"kind": name, "eta": found.lr, "engine": found.engine, **counts}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what was promised, over all kinds."""
    told: dict[str, Any] = {"kinds": len(rows)}
    for what, worst in (("recommended", min), ("beyond", max)):
        counts = [row[what] for row in rows if row[what] is not None]
        told[what] = {
            "kinds": len(counts),
            "worst of 20": worst(counts, default=None),
            "share": sum(counts) / (FRESH * len(counts)) if counts else math.nan,
        }
    told["no rate"] = [row["kind"] for row in rows if row["recommended"] is None]
    told["missed"] = [
        row["kind"]
        for row in rows
        if (row["beyond"] or 0) > MISSES
        or (row["recommended"] is not None and row["recommended"] < FRESH - MISSES)
    ]
    return told


def count(name: str, rates: list[float], fresh: int) -> None:
    """Print how many of so many fresh seeds train at each rate."""
    kind, step = name.split(", ")
    for lr in rates:
        seeds = range(FIRST, FIRST + fresh)
        trained = sum(trains(MODELS[kind], WAYS[step], lr, seed) for seed in seeds)
        print(f"{name}, {lr:g}: {trained} of {fresh} train", flush=True)


def rows_of(names: list[str], workers: int, minutes: float) -> Iterator[dict[str, Any]]:
    """Yield rows as they come, one process a kind; what is not there in time is given up."""
    end = time.monotonic() + 60 * minutes
    with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
        waiting = {name: pool.apply_async(row, (name,)) for name in names}
        while waiting and time.monotonic() < end:
            for name in [name for name, task in waiting.items() if task.ready()]:
                try:
                    yield waiting.pop(name).get()
                except etastar.EtaStarError as error:
                    print(f"{name}: {error}", flush=True)
            time.sleep(0.1)
    for name in waiting:
        print(f"{name}: not done in {minutes:g} minutes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rates", nargs="+", type=float, help="only count what trains at these")
    parser.add_argument("--fresh", type=int, default=100, help="seeds at each of these")
    parser.add_argument("--kinds", nargs="+", default=KINDS, help="of all, in quotes each")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread")
    parser.add_argument("--minutes", type=float, default=math.inf, help="then stop")
    options = parser.parse_args()
    if options.rates:
        for name in options.kinds:
            count(name, options.rates, options.fresh)
        return
    if options.json is None:
        parser.error("--json is missing, the file that rows are kept in")
    kept = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    rows = {row["kind"]: row for row in kept}
    missing = sorted((name for name in options.kinds if name not in rows), key=cost, reverse=True)
    for found in rows_of(missing, options.workers, options.minutes):
        print(found, flush=True)
        rows[found["kind"]] = found
        ordered = [rows[name] for name in KINDS if name in rows]
        record = {"summary": summary(ordered), "rows": ordered}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(summary(list(rows.values())), indent=1))


if __name__ == "__main__":
    main()
