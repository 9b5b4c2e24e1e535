"""η* of what a Hugging Face Trainer trains, read from the Trainer.

    pip install 'etastar[huggingface]'
    python examples/hugging_face_trainer.py

A small vision transformer, built from a configuration: nothing is downloaded. What etastar adds to
the script of before stands between the two marks. Then the Trainer trains at the recommended rate,
its linear schedule, weight decay and clipping being what they were, and a fresh one at eight times
η*.
"""

import tempfile

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.trainer_utils import EvalPrediction
from transformers.utils import logging

import etastar

Example = dict[str, torch.Tensor]


def examples(inputs: torch.Tensor, targets: torch.Tensor) -> list[Example]:
    """A data set in the form that the Trainer reads."""
    images = inputs.view(-1, 1, 8, 8)
    return [{"pixel_values": x, "labels": y} for x, y in zip(images, targets, strict=True)]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share that is classified right."""
    right = prediction.predictions.argmax(-1) == prediction.label_ids
    return {"accuracy": float(right.mean())}


def new_trainer(folder: str) -> Trainer:
    """Four epochs of AdamW, with the Trainer's own defaults for all that is not said."""
    torch.manual_seed(0)
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
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=4,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=200,
        weight_decay=0.1,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    digits = etastar.load("digits")
    return Trainer(
        ViTForImageClassification(config),
        arguments,
        train_dataset=examples(digits.x_train[:640], digits.y_train[:640]),
        eval_dataset=examples(digits.x_val[:200], digits.y_val[:200]),
        compute_metrics=accuracy,
    )


def main() -> None:
    """Measure η*, and train at the recommended rate and far above."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = new_trainer(folder)

        # etastar begins
        from etastar.huggingface import trainer_maximal_lr

        result = trainer_maximal_lr(trainer, threshold=0.6, precision=0.4, end_lr=1.0)
        print(result)
        result.apply(trainer)
        # etastar ends

        trainer.train()
        reached = trainer.evaluate()["eval_accuracy"]
        print(f"Trainer at the recommended rate: validation accuracy {reached:.2f}")
        assert result.lr is not None
        again = new_trainer(folder)
        again.args.learning_rate = 8 * result.lr
        again.train()
        reached = again.evaluate()["eval_accuracy"]
        print(f"Trainer at 8 × η*: validation accuracy {reached:.2f}")


if __name__ == "__main__":
    logging.set_verbosity_error()
    main()
