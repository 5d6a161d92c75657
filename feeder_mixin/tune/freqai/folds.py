"""What a parameter set is worth on a fold of a FreqAI strategy: Datasets built once, one fit a target.

Trials learn from rows that are thinned as far as labels overlap, in few bins. What is served is FreqAI's: the
judge (`judge`) fits all rows as FreqAI does. The loss of a row is the mean over targets of its loss in
units of what the config's own values lose there on the fold, so that targets of any unit count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError, ModelError
from feeder_mixin.freqai.dataset import Cut, Rows, ScoredRows
from feeder_mixin.freqai.parameters import SPELLINGS, training_parameters, without_objective
from feeder_mixin.freqai.targets import Target
from feeder_mixin.model.metrics import pinball_losses
from feeder_mixin.model.quantile import validation_scores
from feeder_mixin.model.rows import thinning
from feeder_mixin.schema import open_text
from feeder_mixin.tune.search.finalists import REDRAWS
from feeder_mixin.tune.search.kept import SEARCHED_DRAW, Measured
from feeder_mixin.tune.search.space import derive_seed

Array = NDArray[np.float64]

LEAST_ROWS: Final = 750
"""Rows of a fold that thinning leaves at least, where there are so many."""

_BINS: Final = 31
"""Bins of a trial's histograms at most.

Measured on ten random sets of the whole range (BTC, 30 candles, 281 features, 30 days): losses of trials on
every 10th row in 31 bins correlate by 0.93 with those on all rows in 63, at a fifth of the CPU; every 5th in 63
by 0.90, at half; every 5th in 15 by 0.89.
"""

_LOOK_TREES: Final = 20
"""A fit is looked at behind so many trees."""

GIVEN_UP: Final = 1.05
"""Loss against the fit's best so far behind which it is given up: more trees only overfit more."""

FAST_RATE: Final = 0.03
FEWEST_TREES: Final = 100
"""On the search's own draw a trial of smaller steps is fitted in steps of this rate, while so many trees
are left: twenty points lie between sets, and finalists are compared in their own steps. On the sets of
`_BINS` it costs another two thirds of the CPU, and the losses correlate by 0.86 with the exact ones.
"""

_DATASET: Final[Mapping[str, Any]] = {
    "feature_pre_filter": False,  # or a Dataset could not be shared by trials of other leaf sizes
    "force_col_wise": True,  # or LightGBM times both layouts at every fit, and may pick either
    "num_threads": 1,
    "verbosity": -1,
    "deterministic": True,
}

_EARLY: Final = (
    "early_stopping_round",
    "early_stopping_rounds",
    "early_stopping",
    "n_iter_no_change",
)

_OVERRULED: Final = frozenset(
    {
        *("seed", "random_seed", "random_state"),
        *("n_jobs", "num_threads", "num_thread", "nthread", "nthreads"),
        *("verbosity", "verbose", "force_col_wise", "force_row_wise", "deterministic"),
        *("max_bin", "max_bins", "bin_construct_sample_cnt", "subsample_for_bin"),
        *("feature_pre_filter", "min_data_in_bin", "device", "device_type"),
        *_EARLY,
        *SPELLINGS["n_estimators"],
    }
)
"""Of a config's block, what trials decide themselves."""


@dataclass(frozen=True, slots=True)
class ScoredFold:
    """The candles that a fold is scored on: those that FreqAI believes in and whose labels are known.

    Attributes
    ----------
    cut
        Its scored rows are these.
    """

    cut: Cut
    features: NDArray[np.float32]
    labels: Array
    opens_s: NDArray[np.int64]

    @classmethod
    def of(cls, cut: Cut, every: int = 1) -> ScoredFold:
        """Return one candle in so many of what comes after a cut.

        Raises
        ------
        CandleError
            When there is none.
        """
        rows = cut.scored
        known = np.isfinite(rows.labels).all(axis=1) & rows.is_predicted
        chosen = np.flatnonzero(known)[::every]
        if not len(chosen):
            raise CandleError(
                f"{cut.pair}: no candle with label after {open_text(int(cut.cut.timestamp()))} that FreqAI "
                "would predict (do_predict 1): too few candles, or all unlike those of the training window"
            )
        return cls(cut, rows.features[chosen], rows.labels[chosen], rows.opens_s[chosen])

    def losses(self, predicted: NDArray[np.floating[Any]]) -> Array:
        """Return the loss of every row and target, in the label's unit; shape as `labels`.

        Parameters
        ----------
        predicted
            As the models give it: scaled by FreqAI's label pipeline.
        """
        return target_losses(self.labels, self.cut.in_label_units(predicted), self.cut.targets)


def target_losses(labels: Array, predicted: Array, targets: Sequence[Target]) -> Array:
    """Return every row's and target's loss: pinball at the target's level, else the squared error."""
    losses = np.empty_like(labels)
    for number, target in enumerate(targets):
        y, q = labels[:, number], predicted[:, number]
        losses[:, number] = (
            (y - q) ** 2 if target.quantile is None else pinball_losses(y, q, target.quantile)
        )
    return losses


def checked_unit(cut: Cut, config_losses: Array) -> Array:
    """Return the mean loss of every target under the config's own values: what losses are divided by.

    Raises
    ------
    ModelError
        When a target does not vary.
    """
    unit: Array = config_losses.mean(axis=0)
    for target, loss in zip(cut.targets, unit, strict=True):
        if not np.isfinite(loss) or loss <= 0.0:
            raise ModelError(
                f"{cut.pair}: target {target.name} has a loss of {loss:g} after "
                f"{open_text(int(cut.cut.timestamp()))}, expected one above 0: it does not vary there"
            )
    return unit


@dataclass(frozen=True, slots=True)
class _Thinned:
    """Rows of one draw in LightGBM's bins; labels are set target by target.

    Attributes
    ----------
    labels, stop_labels
        Shape (targets, rows).
    scored
        The fold's scored rows, in the same bins.
    stop
        For early stopping; None without.
    share
        Rows kept per row that FreqAI trains on.
    """

    train: lgb.Dataset
    labels: NDArray[np.float32]
    scored: lgb.Dataset
    stop: lgb.Dataset | None
    stop_labels: NDArray[np.float32]
    share: float


@dataclass(frozen=True, slots=True)
class _Scored:
    """What a target's model says of the scored rows.

    Attributes
    ----------
    predicted
        Scaled by FreqAI's label pipeline; shape (rows,).
    worse
        What the mean loss is multiplied by, where the fit was given up on the way.
    """

    predicted: Array
    worse: float = 1.0


class FreqaiFold:
    """One fold of a pair: every draw's rows, and what the config's own values lose on each.

    Parameters
    ----------
    block
        The config's ``model_training_parameters``.
    start
        The ten values that it makes (`search.space.key_of`).
    n_draws
        The search's own draw, and redraws.
    """

    def __init__(
        self,
        cut: Cut,
        block: Mapping[str, object],
        start: tuple[float, ...],
        horizon: int,
        seed: int,
        n_draws: int = REDRAWS + 1,
    ) -> None:
        self._block, self._start, self._seed = block, start, seed
        self._stop_rounds = next((block[key] for key in _EARLY if key in block), None)
        scored = ScoredFold.of(cut, thinning(horizon).score)
        step = max(1, min(thinning(horizon).own, len(cut.train) // LEAST_ROWS))
        self._draws = [
            self._thinned(cut, scored, step, draw * max(1, round(0.3 * step)) % step)
            for draw in range(n_draws)
        ]
        self._units: dict[int, Array] = {}
        self._scored = replace(scored, cut=_without_rows(cut), features=scored.features[:0].copy())

    def measure(
        self,
        draw: int,
        parameters: Mapping[str, float],
        key: tuple[float, ...],
        unit: Array | None = None,
    ) -> Measured:
        """Return the losses of a parameter set, by day.

        Parameters
        ----------
        unit
            What losses are told in, by target; by default what the config's own values lose here.
        """
        losses = self._losses(draw, parameters, key)
        if unit is None:
            unit = self.unit(draw, losses if key == self._start else None)
        relative = (losses / unit).mean(axis=1)
        return Measured.of(relative, self._scored.opens_s)

    def unit(self, draw: int, of_start: Array | None = None) -> Array:
        """Return what the config's own values lose on a draw; fitted here where nobody has."""
        if draw not in self._units:
            losses = self._losses(draw, None, self._start) if of_start is None else of_start
            self._units[draw] = checked_unit(self._scored.cut, losses)
        return self._units[draw]

    def _losses(
        self, draw: int, parameters: Mapping[str, float] | None, key: tuple[float, ...]
    ) -> Array:
        """Return the loss of every scored row and target."""
        is_start = key == self._start
        params = training_parameters(self._block, None if is_start else parameters)
        made = [
            self._fit(draw, params, number, may_give_up=not is_start)
            for number in range(len(self._scored.cut.targets))
        ]
        losses = self._scored.losses(np.column_stack([one.predicted for one in made]))
        told: Array = losses * np.array([one.worse for one in made])
        return told

    def _fit(
        self, draw: int, parameters: Mapping[str, object], number: int, *, may_give_up: bool
    ) -> _Scored:
        """Return what a target's model says of the scored rows, trained on the rows of a draw.

        Parameters
        ----------
        may_give_up
            A trial's fit, of which less than all is enough; the config's own values are fitted whole.
        """
        rows, target = self._draws[draw], self._scored.cut.targets[number]
        n_trees = next((parameters[k] for k in SPELLINGS["n_estimators"] if k in parameters), 100)
        params = {k: v for k, v in parameters.items() if k not in _OVERRULED}
        if target.objective:
            params = {**without_objective(params), **target.objective}
        params = {**_thinned_leaves(params, rows.share), **_DATASET, "metric": "none"}
        if draw == SEARCHED_DRAW and may_give_up and rows.stop is None:
            params["learning_rate"], n_trees = larger_steps(params, _whole(n_trees))
        params |= {"seed": derive_seed(self._seed, "draw", draw), "max_bin": _bins(self._block)}
        train = rows.train.set_label(rows.labels[number])
        booster = lgb.Booster(params, train)
        booster.add_valid(rows.scored, "scored")
        growth = _Growth(booster, self._scored, number)
        if rows.stop is not None:
            stop = rows.stop.set_label(rows.stop_labels[number])
            return growth.until_stopped(_whole(n_trees), stop, _whole(self._stop_rounds))
        return growth.whole(_whole(n_trees), may_give_up=may_give_up)

    def _thinned(self, cut: Cut, scored: ScoredFold, step: int, offset: int) -> _Thinned:
        params = {**_DATASET, "max_bin": _bins(self._block)}
        kept = slice(offset, None, step)
        labels = np.ascontiguousarray(cut.train.labels[kept].T)
        train = lgb.Dataset(
            cut.train.features[kept].copy(),
            labels[0],
            weight=cut.train.weights[kept].copy(),
            params=params,
        ).construct()

        def beside(features: NDArray[np.float32], labels: NDArray[np.floating[Any]]) -> lgb.Dataset:
            return lgb.Dataset(features, labels, reference=train, params=params).construct()

        has_stop = bool(self._stop_rounds) and len(cut.stop) > 0
        stop_labels = np.ascontiguousarray(cut.stop.labels[kept].T)
        return _Thinned(
            train,
            labels,
            beside(scored.features, np.zeros(len(scored.features))),
            beside(cut.stop.features[kept].copy(), stop_labels[0]) if has_stop else None,
            stop_labels,
            labels.shape[1] / len(cut.train),
        )


class _Growth:
    """A target's model, tree by tree, with what it says of the scored rows."""

    def __init__(self, booster: lgb.Booster, scored: ScoredFold, number: int) -> None:
        self._booster, self._scored, self._number = booster, scored, number

    def whole(self, n_trees: int, *, may_give_up: bool) -> _Scored:
        """Return what all trees say, or those up to where more of them only make it worse.

        A fit that is given up is told as much worse as it would go on to be at that pace.
        """
        best, best_trees = np.inf, 0
        for n_grown in range(1, n_trees + 1):
            self._booster.update()
            if may_give_up and n_grown % _LOOK_TREES == 0 and n_grown < n_trees:
                loss = self._loss()
                if loss < best:
                    best, best_trees = loss, n_grown
                elif loss > GIVEN_UP * best:
                    pace = (loss - best) / (n_grown - best_trees)
                    worse = (loss + pace * (n_trees - n_grown)) / loss
                    return _Scored(self._predicted(), worse)
        return _Scored(self._predicted())

    def until_stopped(self, n_trees: int, stop: lgb.Dataset, rounds: int) -> _Scored:
        """Return what the trees say that early stopping leaves, as LightGBM has it."""
        self._booster.add_valid(stop, "stop")
        labels = np.asarray(stop.get_label(), np.float64)[:, None]
        target = self._scored.cut.targets[self._number]
        kept, best, best_trees = np.zeros(0), np.inf, 0
        for n_grown in range(1, n_trees + 1):
            self._booster.update()
            predicted, stopping = validation_scores(self._booster)
            # By the model's own objective.
            loss = float(target_losses(labels, stopping[:, None], [target]).mean())
            if loss < best:
                kept, best, best_trees = predicted, loss, n_grown
            elif n_grown - best_trees >= rounds:
                break
        return _Scored(kept)

    def _predicted(self) -> Array:
        (predicted,) = validation_scores(self._booster)
        return predicted

    def _loss(self) -> float:
        """Return the mean loss of the target on the scored rows."""
        n_targets = len(self._scored.cut.targets)
        predicted = np.tile(self._predicted()[:, None], (1, n_targets))
        return float(self._scored.losses(predicted)[:, self._number].mean())


def larger_steps(params: Mapping[str, object], n_trees: int) -> tuple[float, int]:
    """Return rate and trees that come as far in fewer, larger steps: what a trial fits.

    Examples
    --------
    >>> larger_steps({"learning_rate": 0.001}, 1000)
    (0.01, 100)
    >>> larger_steps({"learning_rate": 0.05}, 200)
    (0.05, 200)
    """
    rate = float(str(params["learning_rate"]))
    fewer = max(1.0, min(FAST_RATE / rate, n_trees / FEWEST_TREES))
    n_fitted = round(n_trees / fewer)
    return round(rate * n_trees / n_fitted, 6), n_fitted


def _whole(value: object) -> int:
    """Return a number of a config's block as LightGBM takes it."""
    return int(str(value).partition(".")[0])


def _bins(block: Mapping[str, object]) -> int:
    """Return the bins of trials: the config's, where they are fewer."""
    wanted = next((block[key] for key in ("max_bin", "max_bins") if key in block), _BINS)
    return min(_BINS, int(wanted)) if isinstance(wanted, int | float) else _BINS


def _thinned_leaves(params: Mapping[str, object], share: float) -> dict[str, object]:
    """Return parameters with which thinned rows make leaves of the same share of the market.

    Rows of a leaf, and what their gradients sum up to, are fewer; so are what is asked of a leaf and what
    its sums are penalised by.
    """
    scaled = {"min_child_samples": 20, **params}  # LightGBM's default, where the config is silent
    if any(key in params for key in SPELLINGS["min_child_samples"][1:]):
        del scaled["min_child_samples"]
    for name in ("min_child_samples", "reg_alpha", "reg_lambda"):
        for key in SPELLINGS[name]:
            value = scaled.get(key)
            if isinstance(value, int | float):
                scaled[key] = value * share
                if name == "min_child_samples":
                    scaled[key] = max(1, round(value * share))
    return scaled


def _without_rows(cut: Cut) -> Cut:
    """Return a cut without what it is trained and scored on: the draws have their own."""
    train, scored = cut.train, cut.scored
    none = Rows(train.features[:0].copy(), train.labels[:0].copy(), train.weights[:0].copy())
    nothing = ScoredRows(
        scored.opens_s[:0].copy(),
        scored.features[:0].copy(),
        scored.labels[:0].copy(),
        scored.is_predicted[:0].copy(),
    )
    return replace(cut, train=none, stop=none, scored=nothing)
