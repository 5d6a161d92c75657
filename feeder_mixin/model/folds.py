"""Walk-forward layout of one pair: training, folds, untouched test window, in time order.

    |------ labelled days before the test window ------|-- test --|
    |            training only           | f | f | f | f |          |

Each fold is a model cut and the days after it; the model of a fold is trained on `train_days`
before its cut, as the bot would, and purged by the horizon. The test window is looked at once, after
the winner is named.

Cuts of all pairs lie on one grid, because each distinct cut is one more fit of the models that pairs
share (about 4 CPU-seconds with ten context pairs). It hangs on the newest candle of the context, so
that a pair tuned alone has the cuts that it has among the others. Its steps are `FOLD_DAYS`, halved
until a pair's folds fit: cuts of older pairs are cuts of younger ones, too. Pairs of any age that end
together have 30 cuts in all at most (180 days back), and one more for each day that their ends are
apart; laid out each by itself, pairs of 20 ages would have 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from feeder_mixin.errors import CandleError
from feeder_mixin.model.rows import DAY_S, LEAST_ROWS, thinning, train_stop_s
from feeder_mixin.settings import LabelSpec

TEST_DAYS: Final = 15.0
SHORT_DAYS: Final = 60.0
SHORT_TEST_SHARE: Final = 0.25
"""Below this many labelled days the test window is this share of them."""

FOLD_DAYS: Final = 15.0
"""A model 15 days old loses 0.1 points of skill, 30 days old 0.6: longer folds judge stale models.
Younger pairs have folds of a half, a quarter, ... of it."""

CUT_STEP_DAYS: Final = TEST_DAYS / 2
"""Test cuts lie on the grid of the pair's folds, and of this at most: the test window of an older pair
that ends before the others is 11 to 19 days long."""

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
    before_test_s = _least_before_test_s(_shortest_fold_s(label), label)
    return max(MIN_LABELLED_DAYS, before_test_s / DAY_S / (1 - SHORT_TEST_SHARE))


def _shortest_fold_s(label: LabelSpec) -> float:
    return MIN_FOLD_HORIZONS * label.horizon_s


def _least_before_test_s(fold_s: float, label: LabelSpec) -> float:
    """Return how long the labels before the test window must reach back, for folds of this length."""
    training_s = (
        label.horizon + (LEAST_ROWS + 1) * thinning(label.horizon).own
    ) * label.timeframe_s
    # Folds take FOLDS_SHARE of the days before the test window, training for the first one the rest.
    return max(fold_s * MIN_FOLDS / FOLDS_SHARE, training_s / (1 - FOLDS_SHARE))


def plan_layout(
    first_row_s: int,
    last_candle_s: int,
    label: LabelSpec,
    *,
    newest_candle_s: int,
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
    newest_candle_s
        Open of the newest candle of the context: what the common grid of cuts hangs on.
    days_back
        Labelled days wanted, test window included, back from the last candle.
    needed_warmup_days
        Days that features need before the first row: for the message only.

    Raises
    ------
    CandleError
        When fewer than `needed_labelled_days` are there, or wanted.
    """
    end_s = _labels_end_s(last_candle_s, label)
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
    fold_s = _fold_s((labelled - test_days) * DAY_S * FOLDS_SHARE, label)
    start_s = max(first_row_s, end_s - round(days_back * DAY_S))
    anchor_s = _labels_end_s(newest_candle_s, label) - TEST_DAYS * DAY_S
    test_cut_s = _nearest_cut_s(
        end_s - test_days * DAY_S,
        anchor_s,
        step_s=min(fold_s, CUT_STEP_DAYS * DAY_S),
        # A candle of rounding costs nothing: needed days hold a row more than is needed.
        earliest_s=start_s + _least_before_test_s(fold_s, label) - label.timeframe_s,
    )
    # As many folds as fit: several markets tell more than one long one.
    n_folds = max(MIN_FOLDS, int((test_cut_s - start_s) * FOLDS_SHARE // fold_s))
    starts = [test_cut_s - i * fold_s for i in range(n_folds, -1, -1)]
    return _build([_to_grid(cut_s, label.timeframe_s) for cut_s in starts], end_s, labelled, label)


def _labels_end_s(last_candle_s: int, label: LabelSpec) -> int:
    """Return the open of the first candle whose label is not known yet."""
    return last_candle_s - label.horizon_s + label.timeframe_s


def _fold_s(span_s: float, label: LabelSpec) -> float:
    """Return the longest step of the grid of which `MIN_FOLDS` fit into a span."""
    fold_s = FOLD_DAYS * DAY_S
    while fold_s * MIN_FOLDS > span_s:
        fold_s /= 2
    # Long horizons: a step of their own, the same for all pairs.
    return max(fold_s, _shortest_fold_s(label))


def _nearest_cut_s(wanted_s: float, anchor_s: float, *, step_s: float, earliest_s: float) -> float:
    """Return the cut of the grid nearest to a moment, or the next one where that is too early."""
    cut_s = anchor_s + round((wanted_s - anchor_s) / step_s) * step_s
    return cut_s if cut_s >= earliest_s else cut_s + step_s


def _build(cuts_s: Sequence[int], end_s: int, labelled_days: float, label: LabelSpec) -> Layout:
    *starts, test_cut_s = cuts_s
    # The last fold is scored on labels that ended by the test cut: the test window is untouched.
    ends = [*starts[1:], train_stop_s(test_cut_s, label)]
    folds = tuple(Window(start, end) for start, end in zip(starts, ends, strict=True))
    return Layout(folds, Window(test_cut_s, end_s), labelled_days)


def _to_grid(moment_s: float, timeframe_s: int) -> int:
    """Return the open of the candle that a moment lies in: folds start there."""
    return int(moment_s // timeframe_s) * timeframe_s
