"""What a pair's model learns from at a cut: the same for every parameter set.

The ten values decide the trees that are grown; rows, labels, scale weights, the ATR rule's ratios and the
range of ordinary candles are there before them. They cost more than the trees do (0.3 and 0.2 CPU-s a
pair of 415 days), so the bot keeps them for the next reload (`live.train.prepared`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import ModelError
from feeder_mixin.market.features import labels, tree_features
from feeder_mixin.model.baseline import rule_ratios
from feeder_mixin.model.ordinary import OrdinaryRange, fit_ordinary
from feeder_mixin.model.rows import (
    DAY_S,
    LEAST_ROWS,
    keep_multiples,
    open_seconds,
    recency_weights,
    select_rows,
    thinning,
    train_stop_s,
)
from feeder_mixin.model.scale import LabelScale
from feeder_mixin.schema import open_text
from feeder_mixin.settings import LabelSpec, Side

PAIR_HALF_LIFE_DAYS: Final = 45.0  # recency cuts the bias of the exceedance: 10.67 to 10.22 %
GOLDEN_RATIO: Final = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What the pair's own trees are trained on: inputs, label / scale, weights.

    `rows` are positions in the table; `weight` halves every `PAIR_HALF_LIFE_DAYS`.
    """

    x: NDArray[np.float32]
    z: NDArray[np.float64]
    weight: NDArray[np.float64]
    rows: NDArray[np.int64]

    def sampled_by_weight(self, share: float) -> TrainingRows:
        """Return the rows that stay when recency thins them instead of weighting them.

        Kept is the newest rows' `share`, and less of older ones: the same weighted distribution on
        fewer rows, and LightGBM's quantile leaves cost half without weights. Multiples of the
        golden ratio spread the kept rows evenly.
        """
        fraction = np.modf(np.arange(len(self.rows)) * GOLDEN_RATIO)[0]
        keep = fraction < share * self.weight
        return TrainingRows(self.x[keep], self.z[keep], np.ones(keep.sum()), self.rows[keep])


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """Which of a pair's rows its own trees learn from.

    Attributes
    ----------
    train_days
        Days before the cut.
    drop_days, offset
        Leave out the first days, and take other rows of the thinning: what a redraw changes.
    """

    cut_s: int
    train_days: float
    drop_days: float = 0.0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """All that the models of a pair and side at a cut have in common.

    Attributes
    ----------
    scale_weights : shape (n_regressors + 1,)
        The pair's weights in the label scale; empty where that is ATR14 / close.
    rule_ratios : shape (n_candles,)
        Excursion / (ATR14/close) of the last 90 days, ascending: the rule's constant is a quantile.
    ordinary
        Which candles are like those that are learned from.
    """

    pair: str
    side: Side
    trees: TrainingRows
    scale_weights: NDArray[np.float64]
    rule_ratios: NDArray[np.float64]
    ordinary: OrdinaryRange


def pair_rows(table: pd.DataFrame, horizon: int, timeframe_s: int) -> pd.DataFrame:
    """Return the rows of a table that a pair's own trees and scale weights can choose.

    They are a quarter of all at 30 candles.
    """
    every = thinning(horizon)
    return keep_multiples(table, timeframe_s, every.scale, every.own)


def training_rows(
    pair: str,
    table: pd.DataFrame,
    scale: LabelScale,
    label: LabelSpec,
    window: TrainingWindow,
) -> TrainingRows:
    """Return what the pair's own trees learn from: the window before the cut, thinned, weighted.

    Parameters
    ----------
    table, scale
        The pair's rows, and the label scale of this cut, which knows the pair.

    Raises
    ------
    ModelError
        When there are none.
    """
    y, opens_s, cut_s = labels(table, label.side), open_seconds(table), window.cut_s
    rows = select_rows(
        opens_s,
        np.isfinite(y),
        start_s=int(cut_s - (window.train_days - window.drop_days) * DAY_S),
        stop_s=train_stop_s(cut_s, label),
        timeframe_s=label.timeframe_s,
        every=thinning(label.horizon).own,
        offset=window.offset,
    )
    if not len(rows):
        raise _too_few(0, window)
    part = table.iloc[rows]
    log_scale = scale.log_scale(pair, part)
    x = tree_features(part, log_scale, label.side)
    z = y[rows] / np.exp(log_scale)
    return TrainingRows(x, z, recency_weights(opens_s[rows], cut_s, PAIR_HALF_LIFE_DAYS), rows)


def make_training_set(
    pair: str,
    table: pd.DataFrame,
    scale: LabelScale,
    label: LabelSpec,
    window: TrainingWindow,
    outline: pd.DataFrame | None = None,
) -> TrainingSet:
    """Return what every parameter set of a pair is fitted to at a cut.

    Parameters
    ----------
    table
        The pair's `build_table`, or `pair_rows` of it with the `outline` of all rows.
    scale
        The label scale of this cut, which knows the pair.

    Raises
    ------
    ModelError
        When fewer than `LEAST_ROWS` are there.
    """
    trees = training_rows(pair, table, scale, label, window)
    if len(trees.rows) < LEAST_ROWS:
        raise _too_few(len(trees.rows), window)
    return TrainingSet(
        pair,
        label.side,
        trees,
        np.empty(0) if scale.is_fallback else scale.coefficients[pair],
        rule_ratios(table if outline is None else outline, label, window.cut_s),
        fit_ordinary(table.iloc[trees.rows]),
    )


def _too_few(n_rows: int, window: TrainingWindow) -> ModelError:
    return ModelError(
        f"{n_rows} rows to learn from in the {window.train_days:g} days before "
        f"{open_text(window.cut_s)}, minimum {LEAST_ROWS}: candles before that are missing, or the pair "
        "is too young"
    )
