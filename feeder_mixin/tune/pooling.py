"""Each pair's gain from its daily losses, shrunk towards the mean of the feeder's other pairs.

A pair's gain is a ratio: loss saved over the ATR rule's loss, both summed by day. Fifteen days of one
pair prove little, so the other pairs count as a prior: their mean, as far as pairs are alike. What
must stay true: days are shared, so errors of pairs are never taken as independent (every standard
error comes from one number a day, summed over pairs first); pairs count alike, so that none takes
over by being large or by hardly differing, nor by one extreme day (`metrics.day_weights`); a pair that
is nothing like the others has no influence on them (`LARGEST_APART`); a larger gain never lowers the estimate;
scaling all losses changes nothing.

Chosen (2026-11): normal-normal empirical Bayes, the between-pair variance by moments (Hedges) from
the other pairs. DerSimonian and Laird's weights let a pair whose sets hardly differ, and has almost
no error, dominate; and a variance that a pair's own gain enters lets a better pair lose: the
larger its gain, the less alike pairs seem, the wider its error.

References
----------
Morris (1983), Parametric Empirical Bayes Inference. Hedges (1983), A Random Effects Model for
Effect Sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from feeder_mixin.model.metrics import day_weights

Array = NDArray[np.float64]

LEVEL: Final = 0.05
"""One-sided: how often a gain that is none may look like one."""

LARGEST_APART: Final = 0.5
"""Gains further than this from the other pairs' median are no witness, nor part of the mean of all: half
of the rule's loss more or less. Pairs lie within 0.1 to 0.2; what is further out is a damaged or a
halted market, or a broken model."""

MIN_WITNESSES: Final = 2
"""Fewer other pairs can't tell how alike pairs are: each pair then stands for itself."""

WINDOW_DAYS: Final = 15.0
"""What a window is where evidence is told in windows."""


@dataclass(frozen=True, slots=True)
class DayLosses:
    """One pair's losses by day.

    Attributes
    ----------
    days : shape (n_days,)
        Day numbers since the epoch, ascending.
    saved : shape (n_days,)
        Loss saved against the other contender; negative where it cost.
    unit : shape (n_days,)
        The ATR rule's loss.
    """

    days: NDArray[np.int64]
    saved: Array
    unit: Array


@dataclass(frozen=True, slots=True)
class Estimate:
    """A gain in units of the rule's loss, with its standard error, from so many days."""

    value: float
    error: float
    n_days: int

    @property
    def is_above_zero(self) -> bool:
        """Return whether the gain is above zero beyond noise."""
        return self._is_beyond(self.value)

    @property
    def is_below_zero(self) -> bool:
        """Return whether it is a loss beyond noise."""
        return self._is_beyond(-self.value)

    def windows_needed(self, errors: float) -> float | None:
        """Return how many windows of 15 days would tell such a value from noise; None without one.

        Its error falls with the root of the days.

        Parameters
        ----------
        errors
            Standard errors that it must be away from zero.

        Examples
        --------
        >>> Estimate(0.01, 0.01, 15).windows_needed(errors=2.0)
        4.0
        """
        if not np.isfinite(errors * self.error) or self.value == 0.0:
            return None
        return (errors * self.error / self.value) ** 2 * self.n_days / WINDOW_DAYS

    @property
    def errors_needed(self) -> float:
        """Return the standard errors that are beyond noise, by Student's t at `LEVEL`."""
        return float(stats.t.ppf(1 - LEVEL, self.n_days - 1)) if self.n_days > 1 else math.inf

    def _is_beyond(self, value: float) -> bool:
        bound = self.errors_needed * self.error
        return bool(np.isfinite(bound) and value > bound)


_MOST_WINDOWS: Final = 1000


def windows_text(windows: float | None) -> str:
    """Return how many windows of 15 days would tell a gain from noise, in few figures.

    Examples
    --------
    >>> windows_text(3.2), windows_text(5e6), windows_text(None)
    ('4', 'over 1000', '-')
    """
    if windows is None:
        return "-"
    return f"over {_MOST_WINDOWS}" if windows > _MOST_WINDOWS else str(math.ceil(windows))


@dataclass(frozen=True, slots=True)
class Pooled:
    """Every pair's gain after shrinkage, and that of all pairs together."""

    by_pair: Mapping[str, Estimate]
    together: Estimate


def pool(losses: Mapping[str, DayLosses]) -> Pooled:
    """Return the pooled gain of each pair, and of all pairs together.

    A pair of a single day can't show its noise: it stands for itself, with an infinite error.

    Parameters
    ----------
    losses
        Pair -> losses; at least one pair.
    """
    # Sorted, or the last digit would tell which pair ended first.
    losses = {pair: _tamed(losses[pair]) for pair in sorted(losses)}
    gains = {pair: float(one.saved.sum() / one.unit.sum()) for pair, one in losses.items()}
    noisy = [pair for pair, one in losses.items() if len(one.days) > 1]
    days = np.unique(np.concatenate([losses[pair].days for pair in losses]))
    # One row a pair, one column a day: what a day adds to the error of a pair's gain, 0 where the pair
    # has no such day. Errors of any mean of pairs then come from sums down the columns.
    gain = np.array([gains[pair] for pair in noisy])
    noise = np.zeros((len(noisy), len(days)))
    for row, pair in enumerate(noisy):
        noise[row, np.searchsorted(days, losses[pair].days)] = _noise(losses[pair], gains[pair])
    by_pair = {pair: Estimate(gains[pair], float("inf"), 1) for pair in losses}
    for row, pair in enumerate(noisy):
        by_pair[pair] = Estimate(*_shrink(gain, noise, row), len(losses[pair].days))
    if not noisy:
        return Pooled(by_pair, Estimate(float(np.mean(list(gains.values()))), float("inf"), 1))
    alike = _alike(gain)
    error = _variance(noise[alike].mean(axis=0)) ** 0.5
    return Pooled(by_pair, Estimate(float(gain[alike].mean()), error, len(days)))


def _tamed(one: DayLosses) -> DayLosses:
    """Return the losses with no day of more than `metrics.LARGEST_DAY` median days."""
    weights = day_weights(one.unit)
    return DayLosses(one.days, one.saved * weights, one.unit * weights)


def _alike(gain: Array) -> NDArray[np.bool_]:
    """Return which gains are near the median; all of two, which have no middle."""
    if len(gain) <= MIN_WITNESSES:
        return np.ones(len(gain), bool)
    near: NDArray[np.bool_] = np.abs(gain - np.median(gain)) <= LARGEST_APART
    return near


def _noise(one: DayLosses, gain: float) -> Array:
    """Return each day's part in the error of a gain (linearised ratio); squares sum to its variance."""
    n_days = len(one.days)
    # The residual of a day, saved - gain * unit, over the denominator of the ratio: its first-order
    # effect on the ratio. n / (n - 1), because the gain was estimated from the same days.
    noise: Array = (one.saved - gain * one.unit) / one.unit.sum() * (n_days / (n_days - 1)) ** 0.5
    return noise


def _variance(noise: Array) -> float:
    """Return the variance of a sum of days, of which neighbours may be alike.

    Neighbours that agree raise it; neighbours that differ, as chance has it, do not lower it.
    """
    # The first autocovariance in full (Hansen and Hodrick, 1980), where it is positive.
    return float(noise @ noise) + 2 * max(0.0, float(noise[1:] @ noise[:-1]))


def _between(gain: Array, noise: Array) -> float:
    """Return how much pairs truly differ: the variance of their gains beyond that of their noise.

    Noise that all pairs share moves all gains alike, so only what is left of it counts.
    """
    # A market-wide day lifts all gains; what tells pairs apart is the noise beside the day's mean.
    apart = noise - noise.mean(axis=0)
    expected = float(np.sum(apart**2)) / (len(gain) - 1)
    return max(0.0, float(np.var(gain, ddof=1)) - expected)


def _shrink(gain: Array, noise: Array, row: int) -> tuple[float, float]:
    """Return the gain of one pair, drawn to the mean of the others, and its standard error.

    How far is what makes the expected error smallest, the shared noise taken into account. Where the
    pair lags behind the others, its own gain is a witness, too, that pairs differ.
    """
    others = np.arange(len(gain)) != row
    others[others] = _alike(gain[others])  # whatever this pair's own gain is
    n_others = int(others.sum())
    if n_others < MIN_WITNESSES:
        return float(gain[row]), _variance(noise[row]) ** 0.5
    mean, mean_noise = float(gain[others].mean()), noise[others].mean(axis=0)
    spread = _between(gain[others], noise[others])
    # Only downwards: with a larger gain of its own the spread may not grow, or it would be believed less.
    if gain[row] < mean:
        with_own = others.copy()
        with_own[row] = True
        spread = max(spread, _between(gain[with_own], noise[with_own]))
    unlike = spread * (1 + 1 / n_others)  # of this pair's true gain from the others' mean
    # Weight of the own gain that makes the expected squared error smallest, two estimates of one gain
    # being given: the own one (variance own_doubt + shared) and the others' mean (doubt + shared).
    shared = float(noise[row] @ mean_noise)  # covariance: days that moved both
    doubt = float(mean_noise @ mean_noise) + unlike - shared
    own_doubt = float(noise[row] @ noise[row]) - shared
    total = doubt + own_doubt
    own = min(max(doubt / total, 0.0), 1.0) if total > 0 else 1.0
    # The error of the mixture day by day, then what the others' mean can't know of this pair.
    both = own * noise[row] + (1 - own) * mean_noise
    value = own * float(gain[row]) + (1 - own) * mean
    return value, (_variance(both) + (1 - own) ** 2 * unlike) ** 0.5
