"""Who wins: the search's best few against the start set, on redrawn folds of all pairs, beyond noise.

First the feeder's set, by blocks of a day over all pairs together; then each pair's own: it leaves the
feeder's set only for one that its redraws prefer beyond noise, shrunk to those of the other pairs; or,
where it is unlike all others, by its own days so clearly that asking so many pairs can't explain it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from feeder_mixin.model.metrics import ratio_with_error
from feeder_mixin.tune.pooling import LEVEL, DayLosses, Estimate, Pooled, pool
from feeder_mixin.tune.search.kept import Cell, Measure, Measured
from feeder_mixin.tune.search.space import Trial, key_of

N_FINALISTS: Final = 2
"""Best trials of the search that are redrawn beside the start set."""

REDRAWS: Final = 2

WIN_ERRORS: Final = 2.0
"""Standard errors by which a winner must beat the start set on the redraws.

Two, because a candidate is the best of many trials on the same candles. Measured pair by pair on 40
cells (ten pairs, both sides, test windows to 2025-11-16 and 2026-01-02, 60 trials): the search's best
trial taken as it is loses 0.14 points of test skill to the defaults (SE 0.11); winners by 1.0, 1.5 and
2.0 errors, 22, 10 and 5 % of the cells, gain nothing and lose nothing.
"""

PROMISING_ERRORS: Final = 1.64
"""The same for a set that was named before the search: one in twenty without a gain is ahead by so much.

At 5m and 6 candles more trees for all pairs are ahead by about so much, and gain on the days behind the cut.
"""


@dataclass(frozen=True, slots=True)
class RedrawGain:
    """How a trial compares with the start set on the redraws, over all pairs together.

    Attributes
    ----------
    gain, error
        Relative loss saved against the start set, and its standard error by blocks of a day.
    days
        Days of the redraws.
    """

    trial: Trial
    gain: float
    error: float
    days: int

    @property
    def beats_start(self) -> bool:
        """Return whether the gain is beyond noise."""
        return self.gain > win_errors(self.trial) * self.error

    @property
    def windows_needed(self) -> float | None:
        """Return how many windows of 15 days would tell such a gain from noise; None without one."""
        return Estimate(self.gain, self.error, self.days).windows_needed(win_errors(self.trial))


@dataclass(frozen=True, slots=True)
class OwnChoice:
    """What a pair's own redraws say.

    Attributes
    ----------
    winner
        The set that serves the pair: the feeder's, or its own.
    other
        The best other set for this pair; None where nothing else was redrawn.
    gain, error
        Relative loss that `other` saves the pair against the feeder's set, by its own redraws alone,
        and its standard error by days.
    shrunk, shrunk_error
        The same, drawn to the other pairs as far as pairs are alike.
    days
        Days of the redraws.
    """

    winner: Trial
    other: Trial | None = None
    gain: float = 0.0
    error: float = float("inf")
    shrunk: float = 0.0
    shrunk_error: float = float("inf")
    days: int = 0

    @property
    def windows_needed(self) -> float | None:
        """Return how many windows of 15 days would tell such a gain from noise; None without one."""
        return Estimate(self.gain, self.error, self.days).windows_needed(WIN_ERRORS)


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
    """Losses of the finalists on the redrawn folds of all pairs.

    Parameters
    ----------
    folds
        Pair -> how many folds it has.
    measure
        Measures cells; a pair that fails there is left out from then on.
    """

    def __init__(self, folds: Mapping[str, int], measure: Measure) -> None:
        self._folds, self._measure = folds, measure
        self._measured: dict[tuple[str, int, int], list[Measured]] = {}

    def compare(self, candidates: Sequence[Trial], start: Trial) -> list[RedrawGain]:
        """Return the evidence for each candidate against the start set, over all pairs together.

        A candidate that is not ahead by half of what winning takes after a redraw gets no other one:
        it would cost as much and hardly ever change that.
        """
        found, left = dict[int, RedrawGain](), list(candidates)
        for draw in range(1, REDRAWS + 1):
            if not left:
                break
            self._draw(draw, self._folds, [start, *left])
            for trial in left:
                pooled = self._pooled(trial, start)
                one = pooled.together if pooled else Estimate(0.0, float("inf"), 0)
                found[trial.number] = RedrawGain(trial, one.value, one.error, one.n_days)
            left = [
                trial
                for trial in left
                if _is_near(found[trial.number].gain, found[trial.number].error, win_errors(trial))
            ]
        return [found[trial.number] for trial in candidates]

    def choices(self, winner: Trial, others: Iterable[Trial]) -> dict[str, OwnChoice]:
        """Return what serves each pair: the winner, unless its own redraws prefer another set."""
        best = {pair: OwnChoice(winner) for pair in self._folds}
        others = list(others)
        # Bonferroni: of so many gains that are none, one in 1 / LEVEL runs has one beyond this.
        clear = float(stats.norm.ppf(1 - LEVEL / max(1, len(others) * len(self._folds))))
        for other in others:
            pooled = self._pooled(other, winner)
            near = [
                pair
                for pair, one in (pooled.by_pair if pooled else {}).items()
                if _is_near(one.value, one.error, WIN_ERRORS)
                or self._own(pair, winner, other, one, clear).winner is other
            ]
            # Only where the first redraw says so is a second one worth its cost.
            for draw in range(1, REDRAWS + 1):
                self._draw(draw, near, [winner, other])
            pooled = self._pooled(other, winner)
            for pair, shrunk in (pooled.by_pair if pooled else {}).items():
                one = self._own(pair, winner, other, shrunk, clear)
                if one.gain > best[pair].gain or best[pair].other is None:
                    best[pair] = one
        return best

    def _own(
        self, pair: str, winner: Trial, other: Trial, shrunk: Estimate, clear: float
    ) -> OwnChoice:
        """Return what a pair's redraws say of another set.

        Parameters
        ----------
        clear
            Own standard errors beyond which a gain is no chance, whatever the other pairs say.
        """
        losses = self._day_losses(pair, other, winner)
        assert losses is not None  # noqa: S101 - it was pooled
        gain, error = ratio_with_error(losses.saved, losses.unit)
        prefers = shrunk.value > WIN_ERRORS * shrunk.error or gain > clear * error
        return OwnChoice(
            winner=other if prefers else winner,
            other=other,
            gain=gain,
            error=error,
            shrunk=shrunk.value,
            shrunk_error=shrunk.error,
            days=len(losses.days),
        )

    def _draw(self, draw: int, pairs: Iterable[str], trials: Sequence[Trial]) -> None:
        """Measure what is not measured yet of these sets on a redraw."""
        wanted = {
            (pair, trial.number): [
                Cell(pair, draw, fold, key_of(trial.parameters))
                for fold in range(self._folds[pair])
            ]
            for pair in pairs
            for trial in trials
            if (pair, draw, trial.number) not in self._measured
        }
        measured = self._measure([cell for cells in wanted.values() for cell in cells])
        for (pair, number), cells in wanted.items():
            if all(cell in measured for cell in cells):
                self._measured[pair, draw, number] = [measured[cell] for cell in cells]

    def _pooled(self, trial: Trial, reference: Trial) -> Pooled | None:
        losses = {pair: self._day_losses(pair, trial, reference) for pair in self._folds}
        known = {pair: one for pair, one in losses.items() if one is not None}
        return pool(known) if known else None

    def _day_losses(self, pair: str, trial: Trial, reference: Trial) -> DayLosses | None:
        """Return losses by day on the redraws that both sets have; None without one.

        Summed over redraws before the ratio: a redraw is the same days once more, not new evidence,
        so the error stays that of the days.
        """
        own, other = list[Measured](), list[Measured]()
        for draw in range(1, REDRAWS + 1):
            of_trial = self._measured.get((pair, draw, trial.number))
            of_reference = self._measured.get((pair, draw, reference.number))
            if of_trial is not None and of_reference is not None:
                own += of_trial
                other += of_reference
        return saved_by_day(own, other) if other else None


def saved_by_day(own: Iterable[Measured], other: Iterable[Measured]) -> DayLosses:
    """Return what a set saves a pair against another one, from the same cells of both."""
    of_own, of_other = _day_sums(own), _day_sums(other)
    days = sorted(of_other)
    unit = np.array([of_other[day] for day in days])
    return DayLosses(np.array(days), unit - np.array([of_own[day] for day in days]), unit)


def _day_sums(cells: Iterable[Measured]) -> dict[int, float]:
    sums: dict[int, float] = {}
    for one in cells:
        for day, loss in zip(one.days, one.sums, strict=True):
            sums[day] = sums.get(day, 0.0) + loss
    return sums


def win_errors(trial: Trial) -> float:
    """Return the standard errors by which a trial must beat the start set."""
    return PROMISING_ERRORS if trial.is_promising else WIN_ERRORS


def promise(trial: Trial, gain: Estimate) -> float:
    """Return what orders the search's best: what is left of a gain after its noise.

    Sets near the start set have less noise: both err on the same candles.
    """
    return gain.value - win_errors(trial) * gain.error


def _is_near(gain: float, error: float, errors: float) -> bool:
    """Return whether a gain is ahead by half of the standard errors that winning takes."""
    return bool(gain > errors / 2 * error)
