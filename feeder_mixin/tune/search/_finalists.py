"""Who wins: the search's best few against the defaults, on redrawn folds, beyond noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.model.metrics import day_block_sums, pinball_losses, ratio_with_error
from feeder_mixin.tune.search._objective import Draw, FoldRows, grow
from feeder_mixin.tune.search.kept import KeptRedraw, SearchLog
from feeder_mixin.tune.search.space import ALPHA, Trial

Array = NDArray[np.float64]

WIN_ERRORS: Final = 2.0
"""Standard errors by which a winner must beat the defaults on the redraws.

Two, because a candidate is the best of many trials on the same candles. Measured on 40 cells (ten
pairs, both sides, test windows to 2025-11-16 and 2026-01-02, 60 trials): the search's best trial
taken as it is loses 0.14 points of test skill to the defaults (SE 0.11); winners by 1.0, 1.5 and
2.0 errors, 22, 10 and 5 % of the cells, gain nothing and lose nothing.
"""

ALPHA_ERRORS: Final = 2.0
"""Standard errors of fewer unsafe candles that let `quantile_alpha` leave its default."""


@dataclass(frozen=True, slots=True)
class RedrawGain:
    """How a parameter set compares with the start set on the redraws.

    Attributes
    ----------
    gain, error
        Relative loss saved against the start set, and its standard error by blocks of a day.
    """

    trial: Trial
    gain: float
    error: float

    @property
    def beats_start(self) -> bool:
        """Return whether the gain is beyond noise."""
        return self.gain > WIN_ERRORS * self.error


def choose_winner(evidence: Sequence[RedrawGain], start: Trial) -> Trial:
    """Return the trial that wins: the start set unless a candidate beats it beyond noise.

    Among candidates within one standard error of the best, the one with the fewest leaves in all
    (trees x leaves) wins.
    """
    better = [e for e in evidence if e.beats_start]
    if not better:
        return start
    best = max(better, key=lambda e: e.gain)
    near = [e for e in better if e.gain >= best.gain - best.error]
    return min(near, key=lambda e: (_size(e.trial.parameters), -e.gain, e.trial.number)).trial


def _size(parameters: Mapping[str, float]) -> float:
    return parameters["n_estimators"] * parameters["num_leaves"]


class Redraws:
    """Losses of parameter sets on the redrawn folds, each kept as it is computed.

    Parameters
    ----------
    rows
        The folds' scored rows, the same in every draw.
    make_draw
        Draw number, from 1, -> its folds.
    n_draws
        How many redraws a candidate is compared on at most.
    log
        Has the redraws that are kept, and gets those that are made.
    forecasts
        Filled here; what earlier batches made need not be made again.
    """

    def __init__(
        self,
        rows: Sequence[FoldRows],
        make_draw: Callable[[int], Draw],
        n_draws: int,
        log: SearchLog,
        forecasts: dict[str, Array],
    ) -> None:
        self._make_draw, self._n_draws = make_draw, n_draws
        self._log, self._forecasts = log, forecasts
        self._kept = {one.key: one.day_losses for one in log.kept.redraws.values()}
        self.excursion = np.concatenate([fold.excursion for fold in rows])
        self.opens_s = np.concatenate([fold.opens_s for fold in rows])

    def forecasts(self, parameters: Mapping[str, float], number: int) -> Array:
        """Return the served forecasts of a redraw, folds joined."""
        key = _key(parameters, number)
        if key not in self._forecasts:
            trees = int(parameters["n_estimators"])
            curve = grow(self._make_draw(number), parameters, fixed_trees=trees)
            self._forecasts[key] = curve.forecasts
        return self._forecasts[key]

    def day_losses(self, parameters: Mapping[str, float], number: int) -> Array:
        """Return a redraw's pinball loss summed by day, shape (n_days,)."""
        key = _key(parameters, number)
        if key not in self._kept:
            forecasts = self.forecasts(parameters, number)
            losses = pinball_losses(self.excursion, forecasts, parameters[ALPHA])
            sums = day_block_sums(losses, self.opens_s)
            redraw = KeptRedraw(key, tuple(sums.tolist()))
            self._kept[key] = redraw.day_losses
            self._log.add_redraw(len(self._kept) - 1, redraw)
        return np.asarray(self._kept[key])

    def compare(self, trial: Trial, start: Mapping[str, float], alpha: float) -> RedrawGain:
        """Return the evidence for a trial against the start set, both at one level.

        Ends at the first redraw after which the trial is not ahead by half of what winning takes:
        the next one would cost as much and hardly ever change that.
        """
        reference, losses = np.zeros(1), np.zeros(1)
        gain, error = 0.0, np.inf
        for number in range(1, self._n_draws + 1):
            reference = reference + self.day_losses({**start, ALPHA: alpha}, number)
            losses = losses + self.day_losses({**trial.parameters, ALPHA: alpha}, number)
            # Summed over redraws before the ratio: a redraw is the same days once more, not new evidence,
            # so the error stays that of the days.
            gain, error = ratio_with_error(reference - losses, reference)
            if gain <= WIN_ERRORS / 2 * error:
                break
        return RedrawGain(trial, gain, error)

    def mean_forecast(self, parameters: Mapping[str, float]) -> Array:
        """Return the served forecasts averaged over all redraws."""
        numbers = range(1, self._n_draws + 1)
        mean: Array = np.mean([self.forecasts(parameters, n) for n in numbers], axis=0)
        return mean


def _key(parameters: Mapping[str, float], number: int) -> str:
    return json.dumps([number, dict(parameters)], sort_keys=True)


def alpha_pays(
    redraws: Redraws, parameters: Mapping[str, float], alpha: float, max_adverse_ratio: float
) -> bool:
    """Return whether the set's own quantile level makes better decisions than the default level.

    As many candles as the default level calls safe are taken by either level's ranking; the own
    level must hold fewer realised-unsafe ones, beyond `ALPHA_ERRORS` standard errors by day.
    """
    if parameters[ALPHA] == alpha:
        return True
    default = redraws.mean_forecast({**parameters, ALPHA: alpha})
    n_safe = int(np.sum(default >= -max_adverse_ratio))
    if not n_safe:
        return False
    own = redraws.mean_forecast(parameters)
    unsafe = redraws.excursion < -max_adverse_ratio
    # +1 for an unsafe candle that only the default level takes, -1 for one that only the own level does.
    difference = np.zeros(len(unsafe))
    for forecasts, sign in ((default, 1.0), (own, -1.0)):
        taken = np.argsort(-forecasts, kind="stable")[:n_safe]
        difference[taken] += sign * unsafe[taken]
    by_day = day_block_sums(difference, redraws.opens_s)
    # Standard error of a sum over independent days.
    error = float(np.std(by_day, ddof=1)) * len(by_day) ** 0.5 if len(by_day) > 1 else np.inf
    return bool(by_day.sum() > ALPHA_ERRORS * error)
