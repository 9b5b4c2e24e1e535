"""η* of a Hugging Face model, handed to its Trainer.

    pip install transformers accelerate
    python examples/hugging_face_trainer.py

A small vision transformer, built from a configuration: nothing is downloaded. The model returns its
own loss, so `step_fn` takes it from there. Then the Trainer trains fresh copies at a quarter of η*
and at eight times it: with a constant rate, AdamW without weight decay and no clipping of
gradients, as was measured. A Trainer's defaults (a falling rate, clipping at norm 1) are not that.
"""

import functools
import tempfile

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import logging

import etastar

EPOCHS, BATCH, THRESHOLD = 4, 32, 0.7

Example = dict[str, Tensor]


def build(seed: int) -> nn.Module:
    """A vision transformer for 8×8 images, with weights drawn from the seed."""
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=10,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
    )
    return ViTForImageClassification(config)


def examples(inputs: Tensor, targets: Tensor) -> list[Example]:
    """A data set in the form that the Trainer and a loader read."""
    images = inputs.view(-1, 1, 8, 8)
    return [{"pixel_values": x, "labels": y} for x, y in zip(images, targets, strict=True)]


def accuracy(model: nn.Module, batch: Example) -> float:
    """The share of a batch that is classified right."""
    logits = model(pixel_values=batch["pixel_values"]).logits
    return (logits.argmax(1) == batch["labels"]).float().mean().item()


def main() -> None:
    """Measure η*, then train at a quarter of it and at eight times it."""
    digits = etastar.load("digits")
    train = examples(digits.x_train, digits.y_train)
    val = examples(digits.x_val, digits.y_val)

    result = etastar.maximal_lr(
        build,
        DataLoader(train, BATCH, shuffle=True, drop_last=True),
        DataLoader(val, len(val)),
        step_fn=lambda model, batch: model(**batch).loss,
        metric=accuracy,
        optimizer=functools.partial(torch.optim.AdamW, weight_decay=0.0),
        threshold=THRESHOLD,
        epochs=EPOCHS,
        start_lr=1e-3,
        end_lr=1.0,
        resolution=0.2,
        seeds=2,
    )
    print(result)
    assert result.lr is not None

    everything = next(iter(DataLoader(val, len(val))))
    for factor in (0.25, 8):
        model = build(0)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                learning_rate=factor * result.lr,
                lr_scheduler_type="constant",
                optim="adamw_torch",
                weight_decay=0.0,
                max_grad_norm=0.0,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                dataloader_drop_last=True,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            trainer = Trainer(model, arguments, train_dataset=train)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        with torch.no_grad():
            share = accuracy(model.eval(), everything)
        print(f"Trainer at {factor:g} × η*: validation accuracy {share:.2f}")


if __name__ == "__main__":
    logging.set_verbosity_error()
    main()
