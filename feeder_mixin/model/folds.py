"""Walk-forward layout of one pair: training, folds, untouched test window, in time order.

    |------ labelled days before the test window ------|-- test --|
    |            training only           | f | f | f | f |          |

Each fold is a model cut and the days after it; the model of a fold is trained on `train_days`
before its cut, as the bot would, and purged by the horizon. The test window is looked at once, after
the winner is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from feeder_mixin.errors import CandleError
from feeder_mixin.model.rows import DAY_S, LEAST_ROWS, PAIR_EVERY, train_stop_s
from feeder_mixin.settings import LabelSpec

TEST_DAYS: Final = 15.0
SHORT_DAYS: Final = 60.0
SHORT_TEST_SHARE: Final = 0.25
"""Below this many labelled days the test window is this share of them."""

FOLD_DAYS: Final = 15.0
"""A model 15 days old loses 0.1 points of skill, 30 days old 0.6: longer folds judge stale models."""

MIN_FOLDS: Final = 4
FOLDS_SHARE: Final = 0.5
"""Of the days before the test window; the rest is training for the first fold at least."""

MIN_LABELLED_DAYS: Final = 10.0
"""Less leaves folds of under a day: noise. Long horizons need more (`needed_labelled_days`)."""

MIN_FOLD_HORIZONS: Final = 2.0
"""A fold is at least this many horizons long, or purging would leave little of it."""

ADVISED_DAYS: Final = 120.0
"""Windows under 120 days were measured to lose."""


@dataclass(frozen=True, slots=True)
class Window:
    """Rows that open in ``[cut_s, end_s)``, forecast by models cut at `cut_s`; seconds, UTC."""

    cut_s: int
    end_s: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The folds in time order, and the test window behind them."""

    folds: tuple[Window, ...]
    test: Window
    labelled_days: float

    @property
    def cuts_s(self) -> tuple[int, ...]:
        """Return every model cut, oldest first."""
        return (*(fold.cut_s for fold in self.folds), self.test.cut_s)


def needed_labelled_days(label: LabelSpec) -> float:
    """Return how many labelled days a layout needs: for its folds, and to train for the first one."""
    fold_days = MIN_FOLD_HORIZONS * label.horizon_s / DAY_S
    train_days = (label.horizon + (LEAST_ROWS + 1) * PAIR_EVERY) * label.timeframe_s / DAY_S
    # Folds take FOLDS_SHARE of the days before the test window, training for the first one the rest.
    before_test = max(fold_days * MIN_FOLDS / FOLDS_SHARE, train_days / (1 - FOLDS_SHARE))
    return max(MIN_LABELLED_DAYS, before_test / (1 - SHORT_TEST_SHARE))


def plan_layout(
    first_row_s: int,
    last_candle_s: int,
    label: LabelSpec,
    *,
    days_back: float,
    needed_warmup_days: float,
) -> Layout:
    """Return the layout for a pair.

    Parameters
    ----------
    first_row_s
        Open of the pair's first row with complete features.
    last_candle_s
        Open of its last candle; the last label ends there.
    days_back
        Labelled days wanted, test window included, back from the last candle.
    needed_warmup_days
        Days that features need before the first row: for the message only.

    Raises
    ------
    CandleError
        When fewer than `needed_labelled_days` are there, or wanted.
    """
    timeframe_s = label.timeframe_s
    end_s = last_candle_s - label.horizon_s + timeframe_s
    there = (end_s - first_row_s) / DAY_S
    labelled = min(float(days_back), there)
    needed = needed_labelled_days(label)
    if days_back < needed:
        raise CandleError(
            f"--days-back {days_back:g} is too short: at least {needed:.4g} labelled days are needed"
        )
    if labelled < needed:
        raise CandleError(
            f"too few candles: {max(labelled, 0.0):.1f} labelled days, minimum {needed:.4g} "
            f"beside {needed_warmup_days:.1f} days of warm-up for features "
            f"({needed + needed_warmup_days:.0f} days of candles without gaps)"
        )
    test_days = TEST_DAYS if labelled >= SHORT_DAYS else labelled * SHORT_TEST_SHARE
    # On the candle grid, so that every fold starts at a candle's open.
    test_cut_s = _to_grid(end_s - test_days * DAY_S, timeframe_s)
    # As many folds as fit, none longer than needed: several markets tell more than one long one.
    span_days = (labelled - test_days) * FOLDS_SHARE
    longest = max(FOLD_DAYS, MIN_FOLD_HORIZONS * label.horizon_s / DAY_S)
    n_folds = max(MIN_FOLDS, int(span_days // longest))
    fold_days = min(longest, span_days / n_folds)
    starts = [
        _to_grid(test_cut_s - (n_folds - i) * fold_days * DAY_S, timeframe_s)
        for i in range(n_folds)
    ]
    # The last fold is scored on labels that ended by the test cut: the test window is untouched.
    ends = [*starts[1:], train_stop_s(test_cut_s, label)]
    folds = tuple(Window(start, end) for start, end in zip(starts, ends, strict=True))
    return Layout(folds, Window(test_cut_s, end_s), labelled)


def _to_grid(moment_s: float, timeframe_s: int) -> int:
    return int(moment_s // timeframe_s) * timeframe_s
