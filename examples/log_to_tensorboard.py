"""A measurement in TensorBoard: its numbers, the success curve, every trial, the picture.

    pip install tensorboard
    python examples/log_to_tensorboard.py
    tensorboard --logdir out/tensorboard

Everything is taken from `result.to_dict()`, which feeds any other logger as well.
"""

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import etastar

SCALE = 1e6
"""TensorBoard's axis is whole numbers: rates are shown in millionths."""


def main() -> None:
    """Measure η* of a small network, and log it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    digits = etastar.load("digits")
    result = etastar.maximal_lr(
        model, digits, threshold=0.9, epochs=5, batch_size=32, trials=40, confirm=5
    )
    found = result.to_dict()
    with SummaryWriter("out/tensorboard") as writer:
        for name in ("median", "ci_low", "ci_high", "safe"):
            if found["eta_star"][name] is not None:
                writer.add_scalar(f"eta_star/{name}", found["eta_star"][name], 0)
        if found["recommended"]:
            writer.add_scalar("eta_star/recommended", found["recommended"]["lr"], 0)
        for number, trial in enumerate(found["history"]):
            writer.add_scalar("trials/lr", trial["lr"], number)
            writer.add_scalar("trials/trained", trial["outcome"] == "trained", number)
        for point in found["success"]:
            writer.add_scalar("p", point["p"], round(SCALE * point["lr"]))
        writer.add_figure("p(η)", result.plot().figure, 0)
        writer.add_text("result", str(result).replace("\n", "  \n"), 0)
    print(result.summary)


if __name__ == "__main__":
    main()
