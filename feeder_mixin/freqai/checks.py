"""What keeps a strategy's features and targets from being trained on, told by name.

The model class and the dataset ask before they train.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from feeder_mixin.errors import CandleError, SettingsError

_SHOWN: Final = 3


def check_numbers(labelled: pd.DataFrame, columns: Sequence[str], strategy: str) -> None:
    """Raise `SettingsError` for a target of classes: regressors predict numbers."""
    for name in columns:
        if not pd.api.types.is_numeric_dtype(labelled[name].dtype):
            raise SettingsError(
                f"{strategy}: target {name} holds classes ({labelled[name].dtype}), expected numbers: a "
                "classifier is not tuned; use one of FreqAI's own classifier models for it"
            )


def check_features(frame: pd.DataFrame, pair: str, features: Sequence[str]) -> None:
    """Raise `CandleError` for features without any value: all rows would be dropped for them."""
    values = frame[list(features)].replace([np.inf, -np.inf], np.nan)
    empty = [name for name in features if values[name].isna().all()]
    if empty:
        more = f" and {len(empty) - _SHOWN} more" if len(empty) > _SHOWN else ""
        raise CandleError(
            f"{pair}: {', '.join(empty[:_SHOWN])}{more} has no value on any of {len(frame)} candles of the "
            "training window, so no row is left: its candles are missing, or it needs more of them than "
            "startup_candle_count loads"
        )
