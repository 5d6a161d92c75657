"""What a trial costs and is worth: folds grown in lockstep on Datasets built once.

`build_draw` turns a pair's table and the shared models of every cut into a `Draw`: one Dataset per
fold for training and one for scoring, built once and used by all trials. `grow` trains one
parameter set on all folds side by side and returns its learning curve over all folds together, so
that one fit scores every tree count at once.

The score is that of the served forecast ``scale * (own + pooled) / 2`` in units of the label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError
from feeder_mixin.market.features import labels, tree_features
from feeder_mixin.market.labels import Side
from feeder_mixin.model.folds import Window
from feeder_mixin.model.metrics import pinball_losses
from feeder_mixin.model.quantile import (
    SharedModels,
    booster_params,
    combine,
    interpolate_alpha,
    make_dataset,
    training_rows,
)
from feeder_mixin.model.rows import open_seconds, select_rows
from feeder_mixin.schema import PARAMETER_BY_NAME

Array = NDArray[np.float64]

SCORE_EVERY: Final = 5
"""Labels overlap by 30 candles: every 5th row of a fold scores as well as all of them."""

SEARCH_SHARE: Final = 0.5
"""Share of the newest training rows that the search keeps; older ones are thinned by recency."""

TREES: Final = PARAMETER_BY_NAME["n_estimators"]
MIN_TREES: Final = int(TREES.low)
MAX_TREES: Final = int(TREES.high)
STEP_TREES: Final = 20
"""Trees between two points of the learning curve."""

PATIENCE_TREES: Final = 40
MIN_GAIN: Final = 5e-4
"""The curve has stopped improving when `PATIENCE_TREES` more trees lower it by less than this share."""

PRUNE_AT: Final = (20, 60)
"""Tree counts at which a trial may be pruned: points of the curve below the smallest model."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold of a draw: shared Datasets, and what turns trees' output into a score.

    Attributes
    ----------
    excursion, scale : shape (n_rows,)
        Label and label scale of the scored rows.
    pooled_z : shape (n_alphas, n_rows) or None
        Pooled forecasts of excursion / scale at `POOLED_ALPHAS`.
    opens_s : shape (n_rows,)
        Candle opens of the scored rows.
    """

    train: lgb.Dataset
    valid: lgb.Dataset
    excursion: Array
    scale: Array
    pooled_z: Array | None
    opens_s: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Draw:
    """All folds with one seed: number 0 is searched on, later ones are redraws."""

    folds: tuple[Fold, ...]
    seed: int
    leaf_share: float = 1.0
    """Rows kept per row that the bot trains on: leaves hold that share of `min_child_samples`."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A learning curve over all folds together.

    Attributes
    ----------
    trees
        Tree counts of the points.
    losses
        Mean pinball loss of all scored rows at each point.
    forecasts
        Served forecasts of the last point, fold after fold, shape (n_rows,).
    """

    trees: tuple[int, ...]
    losses: tuple[float, ...]
    forecasts: Array

    def best(self) -> tuple[int, float]:
        """Return the tree count inside the schema's range with the lowest loss, and that loss."""
        points = [(n, x) for n, x in zip(self.trees, self.losses, strict=True) if n >= MIN_TREES]
        return min(points, key=lambda point: (point[1], point[0]))


class PrunedError(Exception):
    """A trial was stopped early; carries the last point of its curve."""

    def __init__(self, trees: int, loss: float) -> None:
        super().__init__(f"pruned at {trees} trees")
        self.trees = trees
        self.loss = loss


def build_draw(
    pair: str,
    table: pd.DataFrame,
    side: Side,
    windows: Sequence[Window],
    shared: Mapping[int, SharedModels],
    *,
    train_days: float,
    horizon: int,
    timeframe_s: int,
    seed: int,
    sample_by_weight: bool = False,
    drop_days: float = 0.0,
    offset: int = 0,
) -> Draw:
    """Return the folds of a draw, each Dataset built once.

    Parameters
    ----------
    shared
        Model cut in seconds -> scale and pooled trees of that cut.
    sample_by_weight
        Thin rows by recency instead of weighting them: for the search, where speed counts. The
        redraws, which name the winner, train on what the bot trains on.
    seed, drop_days, offset
        What a redraw changes: LightGBM's seed, days left out at the front of every training
        window, and which rows the thinning keeps.
    """
    opens_s, y = open_seconds(table), labels(table, side)
    folds, n_kept, n_rows = [], 0, 0
    for window in windows:
        models = shared[window.cut_s]
        log_scale = models.scale.log_scale(pair, table)
        training = training_rows(
            table,
            log_scale,
            side,
            cut_s=window.cut_s,
            train_days=train_days,
            horizon=horizon,
            timeframe_s=timeframe_s,
            drop_days=drop_days,
            offset=offset,
        )
        n_rows += len(training.rows)
        if sample_by_weight:
            training = training.sampled_by_weight(SEARCH_SHARE)
        n_kept += len(training.rows)
        rows = select_rows(
            opens_s,
            np.isfinite(y),
            start_s=window.cut_s,
            stop_s=window.end_s,
            timeframe_s=timeframe_s,
            every=SCORE_EVERY,
        )
        if not len(rows):
            raise CandleError(f"{pair}: a fold has no row with features and label (gaps?)")
        part = table.iloc[rows]
        weight = None if sample_by_weight else training.weight
        train = make_dataset(training.x, training.z, weight)
        x = tree_features(part, log_scale[rows], side)
        valid = lgb.Dataset(x, np.zeros(len(rows)), reference=train, free_raw_data=True).construct()
        pooled_z = models.pooled_z(part, log_scale[rows], side)
        folds.append(Fold(train, valid, y[rows], np.exp(log_scale[rows]), pooled_z, opens_s[rows]))
    return Draw(tuple(folds), seed, n_kept / n_rows)


class _FoldBooster:
    """One Booster on a fold, and the served forecast after its latest tree."""

    def __init__(self, fold: Fold, params: Mapping[str, Any], alpha: float) -> None:
        self._booster = lgb.Booster(dict(params), fold.train)
        self._booster.add_valid(fold.valid, "scored")
        self._fold = fold
        self._pooled = interpolate_alpha(fold.pooled_z, alpha)
        self._own_z: Array = np.empty(0)

    def update(self, n_trees: int) -> None:
        for _ in range(n_trees):
            self._booster.update()

    def forecast(self) -> Array:
        # LightGBM keeps the scores of a validation set up to date tree by tree; a metric function
        # is the public way to read them.
        self._booster.eval_valid(self._read)
        return combine(self._own_z, self._pooled) * self._fold.scale

    def _read(self, scores: Array, _dataset: lgb.Dataset) -> tuple[str, float, bool]:
        self._own_z = scores.copy()
        return "read", 0.0, False


def grow(
    draw: Draw,
    parameters: Mapping[str, float],
    *,
    fixed_trees: int | None = None,
    report: Callable[[int, float], bool] | None = None,
) -> Curve:
    """Return the learning curve of a parameter set, all folds grown side by side.

    Parameters
    ----------
    fixed_trees
        Grow exactly this many trees. None: grow until the curve stops improving, between the
        schema's bounds.
    report
        Called at `PRUNE_AT` with tree count and loss; True stops the trial.

    Raises
    ------
    PrunedError
        When `report` says so.
    """
    alpha = parameters["quantile_alpha"]
    params = {**booster_params(parameters, draw.seed), "metric": "none"}
    params["min_child_samples"] = max(1, round(params["min_child_samples"] * draw.leaf_share))
    boosters = [_FoldBooster(fold, params, alpha) for fold in draw.folds]
    excursion = np.concatenate([fold.excursion for fold in draw.folds])
    trees: list[int] = []
    losses: list[float] = []
    forecasts = np.empty(0)
    for count in _checkpoints(fixed_trees, with_pruning=report is not None):
        step = count - (trees[-1] if trees else 0)
        for booster in boosters:
            booster.update(step)
        forecasts = np.concatenate([booster.forecast() for booster in boosters])
        loss = float(np.mean(pinball_losses(excursion, forecasts, alpha)))
        trees.append(count)
        losses.append(loss)
        if count in PRUNE_AT and report is not None and report(count, loss):
            raise PrunedError(count, loss)
        if fixed_trees is None and _has_stopped_improving(trees, losses):
            break
    return Curve(tuple(trees), tuple(losses), forecasts)


def _checkpoints(fixed_trees: int | None, *, with_pruning: bool) -> list[int]:
    early = list(PRUNE_AT) if with_pruning else []
    if fixed_trees is not None:
        return [*(n for n in early if n < fixed_trees), fixed_trees]
    return [*early, *range(MIN_TREES, MAX_TREES + 1, STEP_TREES)]


def _has_stopped_improving(trees: Sequence[int], losses: Sequence[float]) -> bool:
    """Return whether the last `PATIENCE_TREES` trees lowered the best loss by under `MIN_GAIN`."""
    before = [x for n, x in zip(trees, losses, strict=True) if n <= trees[-1] - PATIENCE_TREES]
    since = [x for n, x in zip(trees, losses, strict=True) if n > trees[-1] - PATIENCE_TREES]
    if trees[-1] < MIN_TREES or not before:
        return False
    return min(since) > min(before) * (1 - MIN_GAIN)
