"""What a trial costs and is worth: folds grown in lockstep on Datasets built once.

`build_draw` turns a pair's table into a `Draw`: one Dataset per fold for training and one for
scoring, built once and used by all trials. `grow` trains one
parameter set on all folds side by side and returns its learning curve over all folds together, so
that one fit scores every tree count at once.

The score is that of the served forecast of own trees, pooled trees and ATR rule (`model.quantile.combine`) in units of the label.
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
from feeder_mixin.model.baseline import rule_ratios
from feeder_mixin.model.folds import Window
from feeder_mixin.model.metrics import pinball_losses
from feeder_mixin.model.quantile import (
    SharedModels,
    TrainingWindow,
    booster_params,
    combine,
    interpolate_alpha,
    make_dataset,
    training_rows,
)
from feeder_mixin.model.rows import open_seconds, select_rows, thinning
from feeder_mixin.model.scale import LabelScale
from feeder_mixin.schema import PARAMETER_BY_NAME
from feeder_mixin.settings import LabelSpec

Array = NDArray[np.float64]

SEARCH_SHARE: Final = 0.5
REDRAW_SHARE: Final = 1.0
"""Share of the newest training rows that a draw keeps; older ones are thinned by recency. The bot
weights them instead: 1.0 keeps the same weighted distribution at a third of the cost of a tree."""

TREES: Final = PARAMETER_BY_NAME["n_estimators"]
MIN_TREES: Final = int(TREES.low)
MAX_TREES: Final = int(TREES.high)
STEP_TREES: Final = 20
"""Trees between two points of the learning curve."""

PATIENCE_TREES: Final = 40
MIN_GAIN: Final = 5e-4
"""The curve has stopped improving when `PATIENCE_TREES` more trees lower it by less than this share."""

PRUNE_AT: Final = (15, 45)
"""Tree counts at which a trial may be pruned: points of the curve below the smallest model."""


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
    pooled_z : shape (n_alphas, n_rows) or None
        Pooled forecasts of excursion / scale at `POOLED_ALPHAS`.
    atr_z : shape (n_rows,)
        ATR14 / close in units of the scale.
    rule_ratios
        What the ATR rule's constant is a quantile of (`model.baseline.rule_ratios`).
    """

    window: Window
    label_scale: LabelScale
    x: NDArray[np.float32]
    excursion: Array
    scale: Array
    opens_s: NDArray[np.int64]
    pooled_z: Array | None
    atr_z: Array
    rule_ratios: Array


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold of a draw: Datasets built once, shared by all trials."""

    train: lgb.Dataset
    valid: lgb.Dataset
    scored: FoldRows


@dataclass(frozen=True, slots=True)
class Sampling:
    """What tells the draws of a search apart.

    Attributes
    ----------
    seed
        LightGBM's seed.
    share
        Of the newest training rows kept; older ones are thinned by recency instead of weighted.
    drop_days
        Days left out at the front of every training window.
    offset
        Which rows the thinning keeps.
    """

    seed: int
    share: float
    drop_days: float = 0.0
    offset: int = 0


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


def build_fold_rows(
    pair: str,
    table: pd.DataFrame,
    label: LabelSpec,
    windows: Sequence[Window],
    shared: Mapping[int, SharedModels],
) -> list[FoldRows]:
    """Return the scored rows of every fold.

    Parameters
    ----------
    shared
        Model cut in seconds -> scale and pooled trees of that cut.
    """
    opens_s, y = open_seconds(table), labels(table, label.side)
    folds = []
    for window in windows:
        models = shared[window.cut_s]
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
        folds.append(
            FoldRows(
                window,
                models.scale,
                tree_features(part, log_scale, label.side),
                y[rows],
                np.exp(log_scale),
                opens_s[rows],
                models.pooled_z(part, log_scale, label.side),
                part["atr_ratio"].to_numpy(np.float64) / np.exp(log_scale),
                rule_ratios(table, label, window.cut_s),
            )
        )
    return folds


def build_draw(
    pair: str,
    table: pd.DataFrame,
    label: LabelSpec,
    folds: Sequence[FoldRows],
    train_days: float,
    sampling: Sampling,
) -> Draw:
    """Return the folds of a draw, each Dataset built once."""
    built, n_kept, n_rows = [], 0, 0
    for rows in folds:
        window = TrainingWindow(rows.window.cut_s, train_days, sampling.drop_days, sampling.offset)
        training = training_rows(pair, table, rows.label_scale, label, window)
        kept = training.sampled_by_weight(sampling.share)
        n_rows += len(training.rows)
        n_kept += len(kept.rows)
        train = make_dataset(kept.x, kept.z)
        valid = make_dataset(rows.x, np.zeros(len(rows.x)), reference=train)
        built.append(Fold(train, valid, rows))
    return Draw(tuple(built), sampling.seed, n_kept / n_rows)


class _FoldBooster:
    """One Booster on a fold, and the served forecast after its latest tree."""

    def __init__(self, fold: Fold, params: Mapping[str, Any], alpha: float) -> None:
        self._booster = lgb.Booster(dict(params), fold.train)
        self._booster.add_valid(fold.valid, "scored")
        self._scale = fold.scored.scale
        self._pooled = interpolate_alpha(fold.scored.pooled_z, alpha)
        self._rule = float(np.quantile(fold.scored.rule_ratios, alpha)) * fold.scored.atr_z
        self._own_z: Array = np.empty(0)

    def update(self, n_trees: int) -> None:
        for _ in range(n_trees):
            self._booster.update()

    def forecast(self) -> Array:
        # LightGBM keeps the scores of a validation set up to date tree by tree; a metric function
        # is the public way to read them.
        self._booster.eval_valid(self._read)
        return combine(self._own_z, self._pooled, self._rule) * self._scale

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
    # A draw on half of the rows must make leaves of the same share of the market as the bot's fit.
    params["min_child_samples"] = max(1, round(params["min_child_samples"] * draw.leaf_share))
    boosters = [_FoldBooster(fold, params, alpha) for fold in draw.folds]
    excursion = np.concatenate([fold.scored.excursion for fold in draw.folds])
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
    # Two bests are compared, not two neighbours: a curve that only wobbles has stopped.
    before = [x for n, x in zip(trees, losses, strict=True) if n <= trees[-1] - PATIENCE_TREES]
    since = [x for n, x in zip(trees, losses, strict=True) if n > trees[-1] - PATIENCE_TREES]
    if trees[-1] < MIN_TREES or not before:
        return False
    return min(since) > min(before) * (1 - MIN_GAIN)
