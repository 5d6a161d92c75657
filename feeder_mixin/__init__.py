"""Per-pair LightGBM safety models for freqtrade, tuned by Optuna, swapped in the running bot.

What users' own code may rely on stands here; everything else may move between versions. Names are
imported when they are first asked for: the package itself needs no library, and a strategy that wants
the mixin does not pay for the stores.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from feeder_mixin.mixin import OptunaParamsMixin
    from feeder_mixin.schema import ParameterRecord
    from feeder_mixin.settings import load_settings
    from feeder_mixin.stores.url import open_store

__all__ = ["OptunaParamsMixin", "ParameterRecord", "load_settings", "open_store"]

_HOMES: Final = {
    "OptunaParamsMixin": "feeder_mixin.mixin",
    "ParameterRecord": "feeder_mixin.schema",
    "load_settings": "feeder_mixin.settings",
    "open_store": "feeder_mixin.stores.url",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
