"""How a quantile forecast is judged: pinball loss, skill, exceedance, safety rates.

Definitions: docs/use/tune.md. A rate whose denominator is empty is absent, never
0. Every function has a slow, obvious twin in the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.errors import ModelError
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.settings import LabelSpec

Array = NDArray[np.float64]


def check_same_length(**arrays: Array | NDArray[np.bool_]) -> None:
    """Raise `ModelError` unless all arrays are one-dimensional, of equal length and not empty."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ModelError(f"arrays must share one length, got {shapes}")
    if not next(iter(arrays.values())).size:
        raise ModelError(f"no rows to score, got {shapes}")


def pinball_losses(excursion: Array, q: Array, alpha: float) -> Array:
    """Return the pinball loss of every row, in the unit of the label; lower is better.

    References
    ----------
    Koenker and Bassett (1978), Regression Quantiles.
    """
    error = excursion - q
    losses: Array = np.maximum(alpha * error, (alpha - 1.0) * error)
    return losses


def pinball_loss(excursion: Array, q: Array, alpha: float) -> float:
    """Return the mean pinball loss of quantile forecasts of level `alpha`."""
    check_same_length(excursion=excursion, q=q)
    return float(np.mean(pinball_losses(excursion, q, alpha)))


def skill(excursion: Array, q: Array, reference: Array, alpha: float) -> float:
    """Return ``1 - pinball(q) / pinball(reference)``: above 0 is better than the reference."""
    check_same_length(excursion=excursion, q=q, reference=reference)
    reference_loss = checked_reference(pinball_loss(excursion, reference, alpha))
    return 1.0 - pinball_loss(excursion, q, alpha) / reference_loss


SMALLEST_LOSS: Final = 1e-7
"""Least mean loss of a reference: a thousandth of a basis point. The ATR rule's is 1e-4 to 1e-3 at
5m, and 3e-6 where ATR14 / close is at its floor; below, nothing moved that could be forecast."""

LARGEST_DAY: Final = 5.0
"""A day counts as so many median days at most. Of 290 days and 12 pairs the ATR rule's loss exceeds
that on the crash of 2025-10-10 (28 times) and ten more (7 times at most): without a limit one day,
or one wild candle, is the skill of a fortnight."""


def checked_reference(reference_loss: float) -> float:
    """Return a reference's mean loss, or raise `ModelError` where it is too small to divide by."""
    if not reference_loss >= SMALLEST_LOSS:
        raise ModelError(
            f"no skill over a reference whose loss is {reference_loss:.3g}, expected at least "
            f"{SMALLEST_LOSS:g}: the market did not move"
        )
    return reference_loss


def day_weights(losses: Array) -> Array:
    """Return what a reference's losses by day are multiplied by: 1, less for days beyond `LARGEST_DAY`.

    Examples
    --------
    >>> day_weights(np.array([1.0, 2.0, 1.0, 50.0, 1.0])).tolist()
    [1.0, 1.0, 1.0, 0.1, 1.0]
    """
    largest = LARGEST_DAY * float(np.median(losses))
    # `where`: the other days may have no loss at all, and nothing is divided by it.
    return np.divide(largest, losses, out=np.ones_like(losses), where=losses > largest)


def mean_absolute_error(excursion: Array, q: Array) -> float:
    """Return ``mean(|excursion - q|)``, kept because users compare it; skill decides."""
    check_same_length(excursion=excursion, q=q)
    return float(np.mean(np.abs(excursion - q)))


def exceedance(excursion: Array, q: Array) -> float:
    """Return the share of rows whose excursion was below the forecast; nominal value: alpha."""
    check_same_length(excursion=excursion, q=q)
    return float(np.mean(excursion < q))


_TWO_SIDED_95: Final = 1.96


def exceedance_interval(alpha: float, n_independent: float) -> tuple[float, float]:
    """Return where an honest model's exceedance lies in 95 of 100 windows (normal approximation).

    Parameters
    ----------
    n_independent
        Rows that do not overlap: candles of the window / horizon.
    """
    half = _TWO_SIDED_95 * math.sqrt(alpha * (1 - alpha) / n_independent)
    return alpha - half, alpha + half


def thinned_misses(
    excursion: Array, q: Array, opens_s: NDArray[np.int64], label: LabelSpec
) -> NDArray[np.bool_]:
    """Return whether each row of one a horizon missed: labels that do not overlap.

    Rows are counted from the epoch, so that a later candle changes no earlier choice.
    """
    check_same_length(excursion=excursion, q=q)
    keep = (opens_s // label.timeframe_s) % label.horizon == 0
    misses: NDArray[np.bool_] = excursion[keep] < q[keep]
    return misses


def kupiec_p(misses: NDArray[np.bool_], alpha: float) -> float | None:
    """Return the p-value of the share of misses being `alpha`; None without rows.

    References
    ----------
    Kupiec (1995), Techniques for Verifying the Accuracy of Risk Measurement Models.
    """
    n, n_missed = len(misses), int(misses.sum())
    if not n:
        return None
    expected = _log_likelihood(n - n_missed, n_missed, alpha)
    return _chi_squared_p(_log_likelihood(n - n_missed, n_missed, n_missed / n) - expected)


def christoffersen_p(misses: NDArray[np.bool_]) -> float | None:
    """Return the p-value of a miss being no likelier after a miss; None without rows of both kinds.

    References
    ----------
    Christoffersen (1998), Evaluating Interval Forecasts, section 3.2.
    """
    before, after = misses[:-1], misses[1:]
    if not before.any() or before.all():
        return None
    both = _log_likelihood(len(after) - int(after.sum()), int(after.sum()), float(after.mean()))
    apart = 0.0
    for part in (after[before], after[~before]):
        n_missed = int(part.sum())
        apart += _log_likelihood(len(part) - n_missed, n_missed, n_missed / len(part))
    return _chi_squared_p(apart - both)


def _log_likelihood(n_held: int, n_missed: int, share: float) -> float:
    held = n_held * math.log1p(-share) if n_held else 0.0
    return held + (n_missed * math.log(share) if n_missed else 0.0)


def _chi_squared_p(half_ratio: float) -> float:
    """Return the upper tail of chi-squared with one degree of freedom at ``2 x half_ratio``."""
    return math.erfc(math.sqrt(max(half_ratio, 0.0)))


@dataclass(frozen=True, slots=True)
class SafetyRates:
    """Shares in 0 to 1; positive class = safe. None where the denominator is empty."""

    accuracy: float
    false_positive_rate: float | None
    false_negative_rate: float | None
    predicted_safe_share: float
    realised_safe_share: float


def safety_rates(predicted: NDArray[np.bool_], realised: NDArray[np.bool_]) -> SafetyRates:
    """Return how predicted safety (`decision.called_safe`) compares with realised safety.

    Parameters
    ----------
    predicted, realised : shape (n_rows,)
        Whether a candle was called safe, and whether its excursion stayed within the tolerance.
    """
    check_same_length(predicted=predicted, realised=realised)
    return SafetyRates(
        accuracy=float(np.mean(predicted == realised)),
        false_positive_rate=float(np.mean(predicted[~realised])) if (~realised).any() else None,
        false_negative_rate=float(np.mean(~predicted[realised])) if realised.any() else None,
        predicted_safe_share=float(np.mean(predicted)),
        realised_safe_share=float(np.mean(realised)),
    )


def day_block_sums(values: Array, opens_s: NDArray[np.int64]) -> Array:
    """Return the sums of `values` by UTC day, in order: the blocks of paired comparisons.

    Labels overlap and volatility clusters, so rows are far from independent; days nearly are.
    """
    _, day = np.unique(opens_s // DAY_S, return_inverse=True)
    return np.bincount(day, weights=values).astype(np.float64)


def ratio_with_error(numerator: Array, denominator: Array) -> tuple[float, float]:
    """Return ``sum(numerator) / sum(denominator)`` over blocks, and its standard error.

    Both are weighted by `day_weights` of the denominator, so that one block never decides. Linearised
    ratio estimator over independent blocks (Cochran, Sampling Techniques, chapter 6). The error is
    infinite with fewer than two blocks: one day proves nothing.

    Raises
    ------
    ModelError
        When most days' denominator is next to nothing, whatever one wild day adds.

    Parameters
    ----------
    numerator, denominator : shape (n_blocks,)
    """
    check_same_length(numerator=numerator, denominator=denominator)
    weights = day_weights(denominator)
    numerator, denominator = numerator * weights, denominator * weights
    n_blocks = len(numerator)
    total = n_blocks * checked_reference(float(denominator.mean()))
    ratio = float(numerator.sum()) / total
    if n_blocks < 2:
        return ratio, float("inf")
    # Taylor's first order: the ratio moves by residual / total with each block's draw.
    residual = numerator - ratio * denominator
    variance = n_blocks / (n_blocks - 1) * float(np.sum(residual**2))
    return ratio, variance**0.5 / total


def skill_with_error(
    excursion: Array, q: Array, reference: Array, alpha: float, opens_s: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the skill over a reference and its standard error, by blocks of a day.

    No day counts for more than `LARGEST_DAY` median days: where one does, this is not `skill`.
    """
    check_same_length(excursion=excursion, q=q, reference=reference)
    loss = day_block_sums(pinball_losses(excursion, q, alpha), opens_s)
    reference_loss = day_block_sums(pinball_losses(excursion, reference, alpha), opens_s)
    return ratio_with_error(reference_loss - loss, reference_loss)
