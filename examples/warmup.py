"""The shortest warm-up to a rate that is too high to start with, as a PyTorch schedule.

    python examples/warmup.py

A deep network whose output weights are large is sharp at initialisation and less so a few steps
later. `etastar.warmup` measures that, and the schedule that it gives is then used in a plain
training loop with a shuffling of its own, beside the same loop without it. η* along the run and the
schedule are drawn in `out/warmup.png`.
"""

import copy
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, TensorDataset

import etastar

EPOCHS, BATCH, THRESHOLD, TARGET = 8, 32, 0.8, 0.04


def main() -> None:
    """Measure the warm-up, then train with it and without."""
    torch.manual_seed(0)
    digits, model = etastar.load("digits"), sharp_network()
    train, val = (digits.x_train, digits.y_train), (digits.x_val, digits.y_val)
    found = etastar.warmup(
        model,
        train,
        val,
        target_lr=TARGET,
        ladder=(0, 5, 20, 50, 100),
        threshold=THRESHOLD,
        epochs=EPOCHS,
        batch_size=BATCH,
        resolution=0.1,
        seeds=2,
    )
    for rung in found.ladder:
        print(f"step {rung.step:3d}: η* of the lowest seed {rung.lowest:.3g}")
    print(f"warm-up to {TARGET}: {found.status}, {found.total} steps")

    loader = DataLoader(TensorDataset(*train), BATCH, shuffle=True, drop_last=True)
    for warm in (True, False):
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), lr=TARGET)
        scheduler = found.scheduler(optimizer) if warm else None
        accuracy = best_accuracy(own, optimizer, scheduler, loader, val)
        print(f"{'with' if warm else 'without'} warm-up: best validation accuracy {accuracy:.2f}")

    Path("out").mkdir(exist_ok=True)
    found.plot().figure.savefig("out/warmup.png", dpi=150)


def sharp_network() -> nn.Module:
    """Six ReLU layers of 64 units, He's initialisation, and output weights of variance 16."""
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(model[-1].weight, std=4.0)
    return model


def best_accuracy(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler | None,
    loader: DataLoader[tuple[torch.Tensor, ...]],
    val: tuple[torch.Tensor, torch.Tensor],
) -> float:
    """A plain training loop; the best accuracy after any epoch."""
    best = 0.0
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
        with torch.no_grad():
            right = (model(val[0]).argmax(1) == val[1]).float().mean().item()
        best = max(best, right)
    return best


if __name__ == "__main__":
    main()
