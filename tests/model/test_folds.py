"""The walk-forward layout: order, purge, sizes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from feeder_mixin.errors import CandleError
from feeder_mixin.model.folds import (
    FOLD_DAYS,
    MIN_FOLD_HORIZONS,
    MIN_FOLDS,
    TEST_DAYS,
    needed_labelled_days,
    plan_layout,
)
from feeder_mixin.model.rows import (
    DAY_S,
    LEAST_ROWS,
    select_rows,
    thinning,
    train_stop_s,
)
from feeder_mixin.settings import LabelSpec
from tests import strategies


def plan(
    history_days, days_back, horizon=30, timeframe_s=300, last_candle=5_900_000, newer_candles=0
):
    """Return first row, last candle and layout of a history that ends at a candle number.

    The context ends `newer_candles` later.
    """
    last_s = last_candle * timeframe_s
    first_s = last_s - int(history_days * DAY_S) // timeframe_s * timeframe_s
    layout = plan_layout(
        first_s,
        last_s,
        LabelSpec("long", horizon, timeframe_s),
        newest_candle_s=last_s + newer_candles * timeframe_s,
        days_back=days_back,
        needed_warmup_days=14.05,
    )
    return first_s, last_s, layout


def plan_or_skip(case, label):
    """Return the plan of a case, or skip one with too few days."""
    labelled = min(case["days_back"], case["history_days"] - label.horizon_s / DAY_S)
    # Folds are an eighth of three quarters of the days at least: room for the horizon in each.
    assume(labelled > needed_labelled_days(label) + 0.1)
    return plan(**case)


@given(strategies.layouts)
def test_layout_of_any_history_keeps_training_labels_out_of_later_windows(case):
    """Folds are contiguous, in time order, test last; no training label reads a later window."""
    horizon, timeframe_s = case["horizon"], case["timeframe_s"]
    first_s, last_s, layout = plan_or_skip(case, LabelSpec("long", horizon, timeframe_s))
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
    # Where the pair ends before or after the context, the grid makes it longer or shorter.
    wanted_days = min(TEST_DAYS, layout.labelled_days / 4)
    assert wanted_days / 3 < (layout.test.end_s - layout.test.cut_s) / DAY_S < wanted_days * 1.5
    shortest_s = MIN_FOLD_HORIZONS * horizon * timeframe_s
    assert all(after - before >= shortest_s for before, after in pairwise(layout.cuts_s))
    # Half of what lies before the test window, at least, trains for the first fold; a split needs rows.
    start_s = layout.test.end_s - layout.labelled_days * DAY_S
    folds_s = layout.test.cut_s - windows[0].cut_s
    assert windows[0].cut_s - start_s > folds_s - 2 * timeframe_s
    assert windows[0].cut_s - first_s > (horizon + LEAST_ROWS * thinning(horizon).own) * timeframe_s
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
        pytest.param(30, 6, 1.875, 7.5, id="30"),
        pytest.param(60, 6, 3.75, 15, id="60"),
        pytest.param(90, 5, 7.5, 15, id="90"),
        pytest.param(135, 4, 15, 15, id="135"),
        pytest.param(180, 5, 15, 15, id="180"),
        pytest.param(365, 11, 15, 15, id="365"),
    ],
)
def test_layout_of_days_back_has_the_documented_sizes(days_back, n_folds, fold_days, test_days):
    """Long windows have folds of 15 days, shorter ones of a half or a quarter, and so on."""
    _, _, layout = plan(400.0, days_back)
    assert len(layout.folds) == n_folds
    assert layout.labelled_days == days_back
    assert (layout.test.end_s - layout.test.cut_s) / DAY_S == pytest.approx(test_days, abs=0.01)
    for fold in layout.folds[:-1]:
        assert (fold.end_s - fold.cut_s) / DAY_S == pytest.approx(fold_days, abs=0.01)


@given(st.floats(150.0, 500.0), st.sampled_from((180.0, 365.0)), st.integers(1, 288))
def test_layout_of_a_full_history_hangs_on_its_own_last_candle(history_days, days_back, horizon):
    """Pairs that are old enough and end together keep folds and test window of 15 days to the candle."""
    _, last_s, layout = plan(history_days, days_back, horizon)
    end_s = last_s - (horizon - 1) * 300
    n_folds = int((layout.labelled_days - TEST_DAYS) / 2 // FOLD_DAYS)
    cuts_s = [end_s - int((TEST_DAYS + i * FOLD_DAYS) * DAY_S) for i in range(n_folds, -1, -1)]
    assert layout.cuts_s == tuple(cuts_s)


@given(
    st.lists(st.tuples(st.floats(10.2, 400.0), st.floats(0.0, 1.0)), min_size=1, max_size=200),
    st.sampled_from((0.0, 1.0, 10.0, 40.0)),
)
def test_cuts_of_any_mix_of_pairs_are_few(pairs, days_apart):
    """Any ages: 30 cuts in all, and one for each step (22.5 h) of the finest grid between the ends."""
    layouts = []
    for history_days, share in pairs:
        older = int(share * days_apart * 288)
        layouts.append(
            plan(history_days, 180.0, last_candle=5_900_000 - older, newer_candles=older)
        )
    cuts_s = {cut_s for *_, layout in layouts for cut_s in layout.cuts_s}
    assert len(cuts_s) <= 31 + days_apart / (FOLD_DAYS / 16)
    newest_s = max(layout.test.cut_s for *_, layout in layouts)
    assert all((newest_s - cut_s) % (FOLD_DAYS / 16 * DAY_S) == 0 for cut_s in cuts_s)


@pytest.mark.parametrize("labelled_days", [10.1, 20.5, 41.0], ids=["10", "20", "41"])
def test_test_cut_moves_to_the_next_of_the_grid_where_folds_would_not_fit(labelled_days):
    """The nearest cut would leave less training for the first fold than four folds take."""
    _, _, layout = plan(labelled_days + 29 / 288, 180)
    first_s = layout.test.end_s - layout.labelled_days * DAY_S
    training_s = layout.folds[0].cut_s - first_s
    assert training_s >= MIN_FOLDS * (layout.folds[0].end_s - layout.folds[0].cut_s)


def test_layout_of_a_pair_that_ends_earlier_has_cuts_of_the_others():
    """A pair whose download stopped a day ago costs no fit of shared models."""
    _, _, layout = plan(400.0, 180)
    _, _, earlier = plan(399.0, 180, last_candle=5_900_000 - 288, newer_candles=288)
    assert set(earlier.cuts_s) <= set(layout.cuts_s)


def test_layout_of_thin_history_takes_what_is_there():
    """A pair with less history than wanted is laid out over what it has."""
    _, _, layout = plan(45.0, 180)
    assert layout.labelled_days == pytest.approx(45.0 - 29 / 288)
    test_days = (layout.test.end_s - layout.test.cut_s) / DAY_S
    assert test_days == pytest.approx(layout.labelled_days / 4, rel=0.2)
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
