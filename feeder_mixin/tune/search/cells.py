"""What a parameter set is worth on a fold: Datasets built once, one fit a set.

`build_fold` makes a Dataset for training and one for scoring, built once and used by all parameter
sets; `losses` trains one set on a fold and scores it.

The score is that of the served forecast of own trees, pooled trees and ATR rule (`model.quantile.combine`) in units of the label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError
from feeder_mixin.market.features import labels, tree_features
from feeder_mixin.model.baseline import atr_rule_constant
from feeder_mixin.model.folds import Layout, Window
from feeder_mixin.model.metrics import pinball_losses
from feeder_mixin.model.quantile import (
    SharedModels,
    booster_params,
    combine,
    make_dataset,
    validation_scores,
)
from feeder_mixin.model.rows import open_seconds, select_rows, thinning
from feeder_mixin.model.scale import LabelScale
from feeder_mixin.model.training_set import TrainingWindow, training_rows
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tune.search.kept import Measured
from feeder_mixin.tune.search.space import StudySettings, derive_seed

Array = NDArray[np.float64]

KEPT_SHARE: Final = 1.0
"""Share of the newest training rows that a draw keeps; older ones are thinned by recency. The bot
weights them instead: 1.0 keeps the same weighted distribution at a third of the cost of a tree."""


@dataclass(frozen=True, slots=True)
class FoldRows:
    """What every draw of a fold shares: the scored rows, and the label scale of its cut.

    Attributes
    ----------
    label_scale
        The cut's label scale.
    x : shape (n_rows, n_features)
        Trees' inputs of the scored rows.
    excursion, scale, opens_s : shape (n_rows,)
        Label, label scale and candle open of the scored rows.
    pooled_z : shape (n_rows,) or None
        Pooled forecast of excursion / scale at the study's level.
    rule_z : shape (n_rows,)
        Forecast of the ATR rule in units of the scale, at the study's level.
    """

    window: Window
    label_scale: LabelScale
    x: NDArray[np.float32]
    excursion: Array
    scale: Array
    opens_s: NDArray[np.int64]
    pooled_z: Array | None
    rule_z: Array


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold of a draw: Datasets built once, shared by all parameter sets.

    Attributes
    ----------
    leaf_share
        Rows kept per row that the bot trains on: leaves hold that share of `min_child_samples`.
    """

    train: lgb.Dataset
    valid: lgb.Dataset
    scored: FoldRows
    seed: int
    leaf_share: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """What tells the draws of a search apart.

    Attributes
    ----------
    seed
        LightGBM's seed.
    drop_days
        Days left out at the front of every training window.
    offset
        Which rows the thinning keeps.
    """

    seed: int
    drop_days: float = 0.0
    offset: int = 0


def build_fold_rows(
    pair: str,
    table: pd.DataFrame,
    label: LabelSpec,
    window: Window,
    models: SharedModels,
    alpha: float,
) -> FoldRows:
    """Return the scored rows of a fold.

    Parameters
    ----------
    models
        Of the window's cut.
    alpha
        The quantile level of all parameter sets.
    """
    opens_s, y = open_seconds(table), labels(table, label.side)
    rows = select_rows(
        opens_s,
        np.isfinite(y),
        start_s=window.cut_s,
        stop_s=window.end_s,
        timeframe_s=label.timeframe_s,
        every=thinning(label.horizon).score,
    )
    if not len(rows):
        raise CandleError(f"{pair}: a fold has no row with features and label (gaps?)")
    part = table.iloc[rows]
    log_scale = models.scale.log_scale(pair, part)
    scale = np.exp(log_scale)
    constant = atr_rule_constant(table, label, window.cut_s, alpha)
    return FoldRows(
        window,
        models.scale,
        tree_features(part, log_scale, label.side),
        y[rows],
        scale,
        opens_s[rows],
        models.pooled_z(part, log_scale, label.side, alpha),
        constant * part["atr_ratio"].to_numpy(np.float64) / scale,
    )


def build_fold(
    pair: str,
    table: pd.DataFrame,
    label: LabelSpec,
    rows: FoldRows,
    train_days: float,
    sampling: Sampling,
) -> Fold:
    """Return a fold of a draw, its Datasets built once."""
    window = TrainingWindow(rows.window.cut_s, train_days, sampling.drop_days, sampling.offset)
    training = training_rows(pair, table, rows.label_scale, label, window)
    kept = training.sampled_by_weight(KEPT_SHARE)
    train = make_dataset(kept.x, kept.z)
    valid = make_dataset(rows.x, np.zeros(len(rows.x)), reference=train)
    return Fold(train, valid, rows, sampling.seed, len(kept.rows) / len(training.rows))


def forecast(fold: Fold, parameters: Mapping[str, float]) -> Array:
    """Return the served forecast of the fold's scored rows by a parameter set, shape (n_rows,)."""
    params = {**booster_params(parameters, fold.seed), "metric": "none"}
    # Thinned rows must make leaves of the same share of the market as the bot's fit.
    params["min_child_samples"] = max(1, round(params["min_child_samples"] * fold.leaf_share))
    booster = lgb.Booster(params, fold.train)
    booster.add_valid(fold.valid, "scored")
    for _ in range(int(parameters["n_estimators"])):
        booster.update()
    (own,) = validation_scores(booster)
    rows = fold.scored
    return combine(own, rows.pooled_z, rows.rule_z) * rows.scale


def losses(fold: Fold, parameters: Mapping[str, float]) -> Array:
    """Return the pinball losses of the fold's scored rows under a parameter set."""
    alpha = parameters["quantile_alpha"]
    return pinball_losses(fold.scored.excursion, forecast(fold, parameters), alpha)


class PreparedPair:
    """A pair's folds, ready for fits: the same for every set, so a worker keeps them.

    Of one draw at a time: each is asked for in a stage of its own.

    Parameters
    ----------
    make_table
        Returns the pair's rows (`market.features.build_table`); called where folds are built.
    shared
        Scale and pooled trees of every fold's cut, by cut in seconds.
    """

    def __init__(
        self,
        pair: str,
        settings: StudySettings,
        layout: Layout,
        make_table: Callable[[], pd.DataFrame],
        shared: Mapping[int, SharedModels],
    ) -> None:
        self._pair, self._settings, self._windows = pair, settings, layout.folds
        self._make_table, self._shared = make_table, shared
        self._rows: list[FoldRows] = []
        self._draw, self._folds = -1, list[Fold]()

    def folds(self, draw: int) -> list[Fold]:
        """Return the folds of a draw; `SEARCHED_DRAW` is the search's own."""
        if draw != self._draw:
            self._draw, self._folds = draw, self._build(draw)
        return self._folds

    def _build(self, draw: int) -> list[Fold]:
        s, pair, table = self._settings, self._pair, self._make_table()
        if not self._rows:
            self._rows = [
                build_fold_rows(
                    pair, table, s.label, window, self._shared[window.cut_s], s.table_alpha
                )
                for window in self._windows
            ]
        sampling = Sampling(
            seed=derive_seed(s.seed, s.feeder_id, pair, "draw", draw),
            # The search's own draw keeps every day. Redraws learn from rows that the search and each
            # other have not seen, where the thinning leaves three such sets (7 candles and more).
            drop_days=min(draw, 1),
            offset=draw * max(1, round(0.3 * thinning(s.label.horizon).own)),
        )
        return [
            build_fold(pair, table, s.label, rows, s.train_days, sampling) for rows in self._rows
        ]


def measure(fold: Fold, parameters: Mapping[str, float]) -> Measured:
    """Return the losses of a parameter set on a fold."""
    return Measured.of(losses(fold, parameters), fold.scored.opens_s)
