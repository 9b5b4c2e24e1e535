"""Small modules, data and Trainers of Lightning and Hugging Face, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as Fit
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments


def blobs(count: int, seed: int, spread: float = 0.2) -> tuple[Tensor, Tensor]:
    """Points around three corners of a cube, and which corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.eye(8)[labels] + spread * torch.randn(count, 8, generator=generator), labels


def loaders(batch: int = 16, shuffle: bool = True) -> tuple[DataLoader[Any], DataLoader[Any]]:
    train, val = TensorDataset(*blobs(120, 0)), TensorDataset(*blobs(60, 1))
    return DataLoader(train, batch, shuffle=shuffle), DataLoader(val, 25)


class Blobs(LightningModule):
    """Three classes, by SGD with momentum; the rate is an attribute."""

    def __init__(self, lr: float = 1e-4) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        right = self(batch[0]).argmax(1) == batch[1]
        self.log("val_acc", right.float().mean())
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def fit(**options: Any) -> Fit:
    """A Trainer of Lightning that writes and shows nothing."""
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    known = {"max_epochs": 3, "accelerator": "cpu", **dict.fromkeys(quiet, False)}
    return Fit(**(known | options))


def sentences(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Eight tokens, and which of three tokens begins them."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 20, (count, 8), generator=generator)
    labels = torch.arange(count) % 3
    tokens[:, 0] = labels + 1
    return [{"input_ids": x, "labels": y} for x, y in zip(tokens, labels, strict=True)]


def bert(dropout: float = 0.0) -> BertForSequenceClassification:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = BertConfig(
        vocab_size=20, intermediate_size=32, max_position_embeddings=8, num_labels=3, **size, **drop
    )
    return BertForSequenceClassification(config)


def right(prediction: Any) -> dict[str, float]:
    found = prediction.predictions.argmax(-1) == prediction.label_ids
    return {"accuracy": float(found.mean())}


def trainer(folder: Path, kind: type[Trainer] = Trainer, **options: Any) -> Trainer:
    """A Trainer of Hugging Face; options of its arguments and of its own, told apart by name."""
    own = ("model", "model_init", "optimizers", "callbacks", "compute_metrics", "eval_dataset")
    known: dict[str, Any] = {
        **{"num_train_epochs": 3, "per_device_train_batch_size": 8, "use_cpu": True},
        **{"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True},
    }
    arguments = TrainingArguments(
        output_dir=str(folder), **(known | {k: v for k, v in options.items() if k not in own})
    )
    parts = {k: v for k, v in options.items() if k in own}
    if "model_init" not in parts:
        parts.setdefault("model", bert())
    parts.setdefault("eval_dataset", sentences(48, 1))
    return kind(args=arguments, train_dataset=sentences(96, 0), **parts)
