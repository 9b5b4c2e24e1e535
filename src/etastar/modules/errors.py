"""What is wrong with what was handed in, said before any search starts."""

from __future__ import annotations

from etastar.errors import ConfigError


class ModelError(ConfigError):
    """The model, data, loss, optimizer or metric that was given cannot be measured as it is."""


class NotBracketedWarning(UserWarning):
    """No largest rate was found in the range searched; the result says which end is to blame."""
