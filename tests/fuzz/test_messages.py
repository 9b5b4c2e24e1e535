"""What a file puts into a message cannot break its line, reach the terminal, or be endless."""

from __future__ import annotations

import pytest

from etastar.cli import main
from etastar.errors import ConfigError, DataError, EtaStarError


@pytest.mark.parametrize("kind", [EtaStarError, ConfigError, DataError])
def test_messages_are_one_printable_line(kind):
    assert str(kind("η* ≥ 1: x\n\x1b[31m\ud800\u202e")) == r"η* ≥ 1: x\n\x1b[31m\ud800\u202e"
    assert str(kind("plain 'quoted' text")) == "plain 'quoted' text"


def test_long_messages_lose_their_middle():
    text = str(ConfigError("unknown key " + "x" * 100_000 + "; did you mean 'width'?"))
    assert len(text) < 2000
    assert text.startswith("unknown key xxx")
    assert text.endswith("xxx; did you mean 'width'?")


def test_a_key_with_control_characters(tmp_path, capsys):
    path = tmp_path / "study.toml"
    path.write_text('[base]\n"wid\\nth\\u001b[2J" = 8\n')
    assert main(["study", "status", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()
