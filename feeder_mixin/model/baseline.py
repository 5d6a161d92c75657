"""The reference that a model must beat: the ATR rule, one line of arithmetic."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import ModelError
from feeder_mixin.market.features import labels
from feeder_mixin.model.rows import DAY_S, open_seconds, select_rows, train_stop_s
from feeder_mixin.schema import open_text
from feeder_mixin.settings import LabelSpec

RULE_DAYS: Final = 90


def rule_ratios(table: pd.DataFrame, label: LabelSpec, cut_s: int) -> NDArray[np.float64]:
    """Return excursion / (ATR14/close) over the last 90 days before the cut, ascending.

    Of the rows whose label ended by then: what the rule's constant is a quantile of.
    """
    y = labels(table, label.side)
    rows = select_rows(
        open_seconds(table),
        np.isfinite(y),
        start_s=cut_s - RULE_DAYS * DAY_S,
        stop_s=train_stop_s(cut_s, label),
        timeframe_s=label.timeframe_s,
    )
    if not len(rows):
        raise ModelError(f"no finished label in the {RULE_DAYS} days before {open_text(cut_s)}")
    return np.sort(y[rows] / table["atr_ratio"].to_numpy(np.float64)[rows])


def atr_rule_constant(table: pd.DataFrame, label: LabelSpec, cut_s: int, alpha: float) -> float:
    """Return c of ``q = c * ATR14/close``: the alpha-quantile of `rule_ratios`."""
    return rule_constant(rule_ratios(table, label, cut_s), alpha)


def rule_constant(ratios: NDArray[np.float64], alpha: float) -> float:
    """Return the rule's c at a level, from `rule_ratios`."""
    return float(np.quantile(ratios, alpha))
