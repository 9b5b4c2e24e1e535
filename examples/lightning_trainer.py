"""η* of a LightningModule, read from the module, its loaders and its Trainer.

    pip install 'etastar[lightning]'
    python examples/lightning_trainer.py

What etastar adds to the script of before stands between the two marks. Then the Trainer fits at the
recommended rate, and a fresh copy at eight times η*.
"""

import logging
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import etastar


class Digits(LightningModule):
    """A small network that trains by momentum."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.lr = lr
        self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """The loss of a batch."""
        return cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Log the accuracy."""
        right = self.network(batch[0]).argmax(1) == batch[1]
        self.log("val_acc", right.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Momentum at the module's rate."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def new_trainer() -> Trainer:
    """Four epochs, with clipping; nothing is written or shown."""
    return Trainer(
        max_epochs=4,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main() -> None:
    """Measure η*, and fit at the recommended rate and far above."""
    digits = etastar.load("digits")
    train = DataLoader(TensorDataset(digits.x_train, digits.y_train), 64, shuffle=True)
    val = DataLoader(TensorDataset(digits.x_val, digits.y_val), 360)
    torch.manual_seed(0)
    module, trainer = Digits(), new_trainer()

    # etastar begins
    from etastar.lightning import lightning_maximal_lr

    data = train, val
    result = lightning_maximal_lr(module, data, trainer, metric="val_acc", threshold=0.9)
    print(result)
    result.apply(module)
    # etastar ends

    trainer.fit(module, train, val)
    best = trainer.callback_metrics["val_acc"]
    print(f"Trainer at the recommended rate: validation accuracy {best:.2f}")
    assert result.lr is not None
    again = new_trainer()
    again.fit(Digits(lr=8 * result.lr), train, val)
    print(f"Trainer at 8 × η*: validation accuracy {again.callback_metrics['val_acc']:.2f}")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    main()
