"""Data, models and optimizers of `finders.py`: what is trained, and one plain training run.

Nothing here is etastar's but the data sets that it carries or reads.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import etastar

EVALUATIONS = 40
"""Per budget, evenly spaced."""
VALIDATION = 256
"""Samples that are evaluated."""
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "RMSprop": torch.optim.RMSprop,
}

Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """Training and validation part, each `(inputs, targets)`."""

    train: Split
    val: Split


def images(name: str) -> Data:
    """Flat grey images `[N, side²]`, standardised; of MNIST and Fashion-MNIST the first 3,200."""
    data = etastar.load(name, train_size=None if name == "digits" else 3200, val_size=VALIDATION)
    return Data((data.x_train, data.y_train), (data.x_val, data.y_val))


def gaussians() -> Data:
    """Two normals in 20 dimensions, `[3200, 20]`."""
    data = etastar.load("gaussians", train_size=3200, val_size=VALIDATION)
    return Data((data.x_train, data.y_train), (data.x_val, data.y_val))


def encoded() -> Data:
    """The digits, which are their own targets."""
    data = images("digits")
    return Data((data.train[0],) * 2, (data.val[0],) * 2)


LETTERS, LENGTH = 6, 6
"""Of the synthetic sequences."""


def sequences(kind: str) -> Data:
    """Sequences of letters `[N, 6]`; the class is the first letter, or the most frequent one."""
    generator = torch.Generator().manual_seed(2023)
    x = torch.randint(LETTERS, (3200 + VALIDATION, LENGTH), generator=generator)
    y = x[:, 0] if kind == "first" else nn.functional.one_hot(x).sum(1).argmax(1)
    return Data((x[:3200], y[:3200]), (x[3200:], y[3200:]))


DATA: dict[str, Callable[[], Data]] = {
    "digits": functools.partial(images, "digits"),
    "mnist": functools.partial(images, "mnist"),
    "fashion-mnist": functools.partial(images, "fashion-mnist"),
    "gaussians": gaussians,
    "digits, themselves": encoded,
    "first letter": functools.partial(sequences, "first"),
    "commonest letter": functools.partial(sequences, "commonest"),
}
CLASSES = {"gaussians": 2, "first letter": LETTERS, "commonest letter": LETTERS}


@functools.cache
def loaded(name: str) -> Data:
    """Return the data of that name, read once."""
    return DATA[name]()


def mlp(inputs: int, outputs: int, width: int, depth: int, norm: str = "", he: bool = False) -> Any:
    """ReLU layers; PyTorch's initialisation, or He's without biases, which deep ones need."""
    kinds: dict[str, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs] + [width] * depth):
        layers += [nn.Linear(before, after), *([kinds[norm](after)] if norm else []), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, outputs))
    for layer in model if he else []:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def cnn(inputs: int, outputs: int, norm: bool = False) -> nn.Module:
    """Two convolutions, with or without batch normalisation; larger images are halved first."""
    side = math.isqrt(inputs)
    stride, channels = (1, 8) if side <= 8 else (2, 8)
    left = side // stride // 4

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Conv2d(before, after, 3, stride, padding=1)]
        return [*layers, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        *block(1, channels, stride),
        *block(channels, 2 * channels, 1),
        nn.Flatten(),
        nn.Linear(2 * channels * left * left, outputs),
    )


class Residual(nn.Module):
    """Two 3×3 convolutions with batch normalisation beside a 1×1 one, at half the resolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.skip = nn.Conv2d(before, after, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[B, after, H/2, W/2]`."""
        return torch.relu(self.body(x) + self.skip(x))


def resnet(inputs: int, outputs: int) -> nn.Module:
    side = math.isqrt(inputs)
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, 8, 3, 1 if side <= 8 else 3, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(8, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, outputs),
    )


class Transformer(nn.Module):
    """One pre-norm encoder layer over the rows of an image or over letters; no dropout."""

    def __init__(self, inputs: int, outputs: int, letters: bool = False) -> None:
        super().__init__()
        self.length = inputs if letters else math.isqrt(inputs)
        self.letters = letters
        self.embed = nn.Embedding(LETTERS, 32) if letters else nn.Linear(self.length, 32)
        self.position = nn.Parameter(0.02 * torch.randn(self.length, 32))
        self.encoder = nn.TransformerEncoderLayer(
            32, 2, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, outputs]` of flat images or letters `[B, inputs]`."""
        x = x if self.letters else x.view(-1, self.length, self.length)
        rows = self.embed(x) + self.position  # [B, length, 32]
        return self.head(self.norm(self.encoder(rows)).mean(1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Letters, embedded, through an LSTM or GRU; classified by its last state."""

    def __init__(self, inputs: int, outputs: int, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(LETTERS, 16)
        self.cells = kind(16, 32, batch_first=True)
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, outputs]` of letters `[B, inputs]`."""
        return self.head(self.cells(self.embed(x))[0][:, -1])  # type: ignore[no-any-return]


def autoencoder(inputs: int, outputs: int) -> nn.Module:
    return mlp(inputs, inputs, 32, 2)  # type: ignore[no-any-return]


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "MLP 2": functools.partial(mlp, width=64, depth=2),
    "MLP 6": functools.partial(mlp, width=64, depth=6, he=True),
    "MLP 4, layer norm": functools.partial(mlp, width=64, depth=4, norm="layer"),
    "MLP 3, batch norm": functools.partial(mlp, width=64, depth=3, norm="batch"),
    "autoencoder": autoencoder,
    "CNN": cnn,
    "CNN, batch norm": functools.partial(cnn, norm=True),
    "ResNet": resnet,
    "transformer": Transformer,
    "transformer of letters": functools.partial(Transformer, letters=True),
    "LSTM": functools.partial(Recurrent, kind=nn.LSTM),
    "GRU": functools.partial(Recurrent, kind=nn.GRU),
}


@dataclass(frozen=True)
class Problem:
    """A model on a data set, whatever trains it.

    Attributes:
        data: Name in `DATA`.
        model: Name in `MODELS`.
        threshold: Of the score on the validation part: the accuracy, or R² for an autoencoder.
        budget: Steps; a multiple of `EVALUATIONS`.
        batch: Samples per step.
    """

    data: str
    model: str
    threshold: float
    budget: int
    batch: int = 32

    @property
    def name(self) -> str:
        """Model and data."""
        return f"{self.model} on {self.data}"

    @property
    def regression(self) -> bool:
        """Whether the inputs are the targets."""
        return self.model == "autoencoder"

    def build(self, seed: int) -> nn.Module:
        """The model with the initial weights of a seed; global random streams stay as they are."""
        inputs = loaded(self.data).train[0].shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MODELS[self.model](inputs, CLASSES.get(self.data, 10))

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Cross-entropy, or the mean squared error."""
        return nn.functional.mse_loss if self.regression else nn.functional.cross_entropy

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Accuracy, or R², of all outputs at once; 0 where R² is negative or not finite."""
        if not self.regression:
            return float((outputs.argmax(1) == targets).float().mean())
        r2 = 1 - float((outputs - targets).square().mean() / targets.var(correction=0))
        return max(r2, 0.0) if math.isfinite(r2) else 0.0

    def loader(self, seed: int) -> Any:
        """The training data in the order of a seed, as a `DataLoader`."""
        pairs = torch.utils.data.TensorDataset(*loaded(self.data).train)
        sampler = EpochBatches(len(pairs), self.batch, seed)
        return torch.utils.data.DataLoader(pairs, batch_sampler=sampler)


class EpochBatches(torch.utils.data.Sampler[list[int]]):
    """Batch sampler that shuffles anew in every pass; a last batch that is not full is dropped."""

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        self.samples, self.batch = samples, batch
        self.generator = torch.Generator().manual_seed(2 * seed + 1)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.samples, generator=self.generator)
        return iter(order[: len(self) * self.batch].view(-1, self.batch).tolist())

    def __len__(self) -> int:
        return self.samples // self.batch


def train(
    problem: Problem, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer], seed: int
) -> dict[str, Any]:
    """Train from initialisation through one whole budget, at whatever rate the optimizer has.

    Args:
        problem: What.
        optimizer_of: Makes the optimizer of a model.
        seed: Of the initial weights and of the order of the data.

    Returns:
        `step` of the first of 40 evaluations at which the score met the threshold (None: never),
        the score at the `end`, and whether the loss `diverged`, which ends the run.
    """
    model, (x, y) = problem.build(seed), loaded(problem.data).train
    optimizer, sampler = optimizer_of(model), EpochBatches(len(x), problem.batch, seed)
    batches = itertools.chain.from_iterable(itertools.repeat(sampler))
    met, score, diverged = None, 0.0, False
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step, rows in enumerate(itertools.islice(batches, problem.budget), start=1):
        optimizer.zero_grad()
        loss = problem.loss(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        diverged = not math.isfinite(loss.item())
        if diverged or step % (problem.budget // EVALUATIONS) == 0:
            score = evaluated(problem, model, optimizer, seed)
            if met is None and score >= problem.threshold:
                met = step
        if diverged:
            break
    return {"seed": seed, "step": met, "end": round(score, 5), "diverged": diverged}


def evaluated(
    problem: Problem, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int
) -> float:
    """The validation score, at the averaged weights if the optimizer has such (schedule-free).

    Statistics of batch normalisation are then renewed by 20 batches, as schedule-free asks (by 50).
    """
    averages = getattr(optimizer, "eval", None)
    x, y = loaded(problem.data).val
    with torch.no_grad():
        if averages:
            averages()
            if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
                inputs = loaded(problem.data).train[0]
                for rows in itertools.islice(EpochBatches(len(inputs), problem.batch, seed), 20):
                    model(inputs[rows])
        model.eval()
        score = problem.score(model(x), y)
        model.train()
        if averages:
            optimizer.train()  # type: ignore[attr-defined]
    return score


SUITE: dict[Problem, tuple[str, ...]] = {
    Problem("digits", "MLP 2", 0.83, 200): ("SGD", "momentum", "Adam"),
    Problem("digits", "MLP 6", 0.78, 200): ("SGD", "RMSprop"),
    Problem("digits", "MLP 4, layer norm", 0.80, 160): ("SGD", "AdamW"),
    Problem("digits", "CNN", 0.80, 120): ("SGD", "Adam"),
    Problem("digits", "CNN, batch norm", 0.81, 80): ("momentum", "AdamW"),
    Problem("digits", "ResNet", 0.64, 80): ("SGD", "AdamW"),
    Problem("digits", "transformer", 0.67, 120): ("AdamW",),
    Problem("digits, themselves", "autoencoder", 0.70, 160): ("momentum", "Adam"),
    Problem("gaussians", "MLP 2", 0.84, 160): ("SGD", "RMSprop"),
    Problem("gaussians", "MLP 3, batch norm", 0.84, 120): ("SGD", "Adam"),
    Problem("mnist", "MLP 2", 0.73, 160): ("SGD", "momentum", "AdamW"),
    Problem("mnist", "CNN", 0.70, 80): ("momentum", "RMSprop"),
    Problem("fashion-mnist", "MLP 4, layer norm", 0.63, 120): ("SGD", "AdamW"),
    Problem("fashion-mnist", "ResNet", 0.48, 80): ("AdamW",),
    Problem("first letter", "LSTM", 0.90, 120): ("Adam", "RMSprop"),
    Problem("commonest letter", "GRU", 0.73, 80): ("momentum",),
    Problem("commonest letter", "transformer of letters", 0.80, 80): ("SGD",),
}
"""The problems, with the optimizers that each is trained with.

Budgets keep a training near half a second. The threshold of a problem is nine tenths of the score
that a coarse grid reaches in half of the budget (`python benchmarks/finders.py --thresholds`).
"""
MILLISECONDS = {
    "MLP 2": 2,
    "MLP 6": 3,
    "MLP 4, layer norm": 4,
    "MLP 3, batch norm": 3,
    "autoencoder": 2,
    "CNN": 6,
    "CNN, batch norm": 7,
    "ResNet": 8,
    "transformer": 8,
    "transformer of letters": 8,
    "LSTM": 4,
    "GRU": 8,
}
"""Of a step on one thread, roughly: long jobs go first."""
