"""The walk-forward layout: order, purge, sizes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given

from feeder_mixin.errors import CandleError
from feeder_mixin.model.folds import MIN_FOLDS, TEST_DAYS, needed_labelled_days, plan_layout
from feeder_mixin.model.rows import DAY_S, select_rows, train_stop_s
from feeder_mixin.settings import LabelSpec
from tests import strategies


def plan(history_days, days_back, horizon=30, timeframe_s=300, last_candle=5_900_000):
    """Return first row, last candle and layout of a history that ends at a candle number."""
    last_s = last_candle * timeframe_s
    first_s = last_s - int(history_days * DAY_S) // timeframe_s * timeframe_s
    layout = plan_layout(
        first_s,
        last_s,
        LabelSpec("long", horizon, timeframe_s),
        days_back=days_back,
        needed_warmup_days=14.05,
    )
    return first_s, last_s, layout


@given(strategies.layouts)
def test_layout_of_any_history_keeps_training_labels_out_of_later_windows(case):
    """Folds are contiguous, in time order, test last; no training label reads a later window."""
    horizon, timeframe_s = case["horizon"], case["timeframe_s"]
    labelled = min(case["days_back"], case["history_days"] - horizon * timeframe_s / DAY_S)
    # Folds are an eighth of three quarters of the days at least: room for the horizon in each.
    assume(labelled > needed_labelled_days(LabelSpec("long", horizon, timeframe_s)) + 0.1)
    first_s, last_s, layout = plan(**case)
    windows = [*layout.folds, layout.test]
    assert len(layout.folds) >= MIN_FOLDS
    assert layout.cuts_s == tuple(window.cut_s for window in windows)
    for before, after in pairwise(layout.folds):
        purged_s = horizon * timeframe_s if after is layout.test else 0
        assert before.cut_s < before.end_s == after.cut_s - purged_s
    last_fold = layout.folds[-1]
    assert last_fold.cut_s < last_fold.end_s
    assert last_fold.end_s == train_stop_s(
        layout.test.cut_s, LabelSpec("long", horizon, timeframe_s)
    )
    assert layout.test.end_s == last_s - (horizon - 1) * timeframe_s
    assert windows[0].cut_s > first_s
    opens_s = np.arange(first_s, last_s + timeframe_s, timeframe_s)
    known = opens_s + horizon * timeframe_s <= last_s
    for window in windows:
        training = select_rows(
            opens_s,
            known,
            start_s=0,
            stop_s=train_stop_s(window.cut_s, LabelSpec("long", horizon, timeframe_s)),
            timeframe_s=timeframe_s,
        )
        scored = select_rows(
            opens_s, known, start_s=window.cut_s, stop_s=window.end_s, timeframe_s=timeframe_s
        )
        assert len(scored)
        assert opens_s[scored[0]] == window.cut_s
        # The label of row i reads candles i + 1 to i + horizon.
        assert not len(training) or training[-1] + horizon < scored[0]
        assert scored[-1] + horizon <= len(opens_s) - 1


@pytest.mark.parametrize(
    ("days_back", "n_folds", "fold_days", "test_days"),
    [
        pytest.param(30, 4, 2.8125, 7.5, id="30"),
        pytest.param(60, 4, 5.625, 15, id="60"),
        pytest.param(135, 4, 15, 15, id="135"),
        pytest.param(180, 5, 15, 15, id="180"),
        pytest.param(365, 11, 15, 15, id="365"),
    ],
)
def test_layout_of_days_back_has_the_documented_sizes(days_back, n_folds, fold_days, test_days):
    """Long windows have folds of 15 days, short ones four folds and a smaller test window."""
    _, _, layout = plan(400.0, days_back)
    assert len(layout.folds) == n_folds
    assert layout.labelled_days == days_back
    assert (layout.test.end_s - layout.test.cut_s) / DAY_S == pytest.approx(test_days, abs=0.01)
    for fold in layout.folds[:-1]:
        assert (fold.end_s - fold.cut_s) / DAY_S == pytest.approx(fold_days, abs=0.01)


def test_layout_of_thin_history_takes_what_is_there():
    """A pair with less history than wanted is laid out over what it has."""
    _, _, layout = plan(45.0, 180)
    assert layout.labelled_days == pytest.approx(45.0 - 29 / 288)
    test_days = (layout.test.end_s - layout.test.cut_s) / DAY_S
    assert test_days == pytest.approx(layout.labelled_days / 4, abs=0.01)
    assert test_days < TEST_DAYS


@pytest.mark.parametrize(
    ("history_days", "days_back"),
    [
        pytest.param(9.9, 180, id="too-little-there"),
        pytest.param(0.01, 180, id="next-to-nothing"),
    ],
)
def test_layout_of_too_few_days_names_what_is_needed(history_days, days_back):
    """The error says how many days there are and how many are needed, warm-up included."""
    with pytest.raises(CandleError, match=r"labelled days, minimum 10 .* 14\.1 .*\(24 days"):
        plan(history_days, days_back)


def test_layout_of_too_few_days_wanted_names_the_option():
    """Where candles are there and the request is at fault, the error says so."""
    with pytest.raises(CandleError, match=r"--days-back 5 is too short: at least 10"):
        plan(100.0, 5)
