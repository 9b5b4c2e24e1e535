"""η* of a LightningModule, handed to a Lightning Trainer.

    pip install lightning
    python examples/lightning_trainer.py

`step_fn` is the module's own `training_step` and the optimizer its own `configure_optimizers`, so
that what is measured is what the Trainer will do. Then the Trainer trains fresh copies at half of
η* and at four times it.
"""

import logging
import tempfile
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import etastar

EPOCHS, BATCH, THRESHOLD = 5, 32, 0.9


class Digits(LightningModule):
    """A small convolutional network that trains by momentum."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.lr = lr
        self.best = 0.0
        self.network = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Linear(32, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, 10]` of flat images `[B, 64]`."""
        return self.network(x)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """The loss of a batch."""
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Keep the best accuracy; the validation data are one batch."""
        self.best = max(self.best, accuracy(self, batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Momentum at the module's rate."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def accuracy(module: nn.Module, batch: list[Tensor]) -> float:
    """The share of a batch that is classified right."""
    return (module(batch[0]).argmax(1) == batch[1]).float().mean().item()


def optimizer(module: Digits, lr: float) -> torch.optim.Optimizer:
    """The module's own optimizer at another rate."""
    module.lr = lr
    return module.configure_optimizers()


def main() -> None:
    """Measure η*, then train at half of it and at four times it."""
    digits = etastar.load("digits")
    train = TensorDataset(digits.x_train, digits.y_train)
    val = TensorDataset(digits.x_val, digits.y_val)
    train_loader = DataLoader(train, BATCH, shuffle=True, drop_last=True)
    val_loader = DataLoader(val, len(val))

    result = etastar.maximal_lr(
        lambda seed: Digits(),
        train_loader,
        val_loader,
        step_fn=lambda module, batch: module.training_step(batch, 0),
        metric=accuracy,
        optimizer=optimizer,
        threshold=THRESHOLD,
        epochs=EPOCHS,
        resolution=0.1,
    )
    print(result)
    assert result.lr is not None

    for factor in (0.5, 4):
        torch.manual_seed(0)
        module = Digits(lr=factor * result.lr)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                max_epochs=EPOCHS,
                accelerator="cpu",
                default_root_dir=folder,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(module, train_loader, val_loader)
        print(f"Trainer at {factor:g} × η*: best validation accuracy {module.best:.2f}")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    main()
