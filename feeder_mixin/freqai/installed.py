"""Whether the packages are there that FreqAI wants and the core package does not bring."""

from __future__ import annotations

import importlib.util
from typing import Final

from feeder_mixin.errors import SettingsError

_NEEDED: Final = ("datasieve", "xgboost")
"""What FreqAI's base classes import, and the core package does not bring."""


def check_installed() -> None:
    """Raise `SettingsError` where FreqAI's packages are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"FreqAI's packages are not installed ({', '.join(missing)}): pip install "
            "'feeder-mixin[freqai]', in a clone make setup EXTRAS=freqai"
        )
