"""Without Lightning or Transformers the entries for them import, and say what to install."""

from __future__ import annotations

import subprocess
import sys

ASKED = """
import sys
sys.modules |= {"lightning": None, "transformers": None}  # as if they were not installed
import torch
from etastar import ConfigError
from etastar.huggingface import trainer_maximal_lr
from etastar.lightning import lightning_maximal_lr
for entry in (lightning_maximal_lr, trainer_maximal_lr):
    for given in (torch.nn.Linear(2, 2), None):
        try:
            entry(given)
        except ConfigError as error:
            print(error)
"""


def test_says_in_one_line_what_to_install() -> None:
    command = [sys.executable, "-W", "error", "-c", ASKED]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for entry, package, extra in (
        ("lightning_maximal_lr", "lightning", "lightning"),
        ("trainer_maximal_lr", "transformers", "huggingface"),
    ):
        told = f"and {package} is not installed: pip install 'etastar[{extra}]'."
        assert [line.endswith(told) for line in said if line.startswith(f"{entry}: ")] == [True] * 2
    assert len(said) == 4
