"""η* of a convolutional network on handwritten digits.

    python examples/five_lines.py

Prints η* with its bracket and draws what became of every rate in `out/five_lines.png`.
"""

from pathlib import Path

import torch
from torch import nn

import etastar

torch.manual_seed(0)
model = nn.Sequential(
    nn.Unflatten(1, (1, 8, 8)),
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(256, 10),
)

digits = etastar.load("digits")
train, val = (digits.x_train, digits.y_train), (digits.x_val, digits.y_val)
result = etastar.maximal_lr(model, train, val, epochs=5, batch_size=32)
print(result)
print(f"cost: {result.cost['trials']} trials, {result.cost['steps']:,} steps")

Path("out").mkdir(exist_ok=True)
result.plot().figure.savefig("out/five_lines.png", dpi=150)
