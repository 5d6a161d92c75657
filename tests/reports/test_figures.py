"""What the figures draw, without drawing: data against results made by hand, and counting."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.reports import _figures as figures
from feeder_mixin.reports._candles import candle_chart, candle_figure
from feeder_mixin.reports.documents import TunedPair
from feeder_mixin.schema import PARAMETER_BY_NAME, PARAMETERS, default_parameters
from feeder_mixin.tune.judge.result import Chart, DecisionValue, Score
from tests.reports import builder

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
RESULT = builder.make_result()


def tuned(**changes) -> TunedPair:
    """Return a pair that was tuned here, with some fields of its result changed."""
    return TunedPair(builder.make_result(**changes))


def scored(**scores: Score) -> TunedPair:
    """Return a pair with these scores."""
    return TunedPair(builder.with_scores(builder.make_result(), scores))


def with_parameter(name: str, value: float) -> TunedPair:
    """Return a pair whose tuned set is the defaults but for one value."""
    return TunedPair(builder.with_tuned(RESULT, {**default_parameters(), name: value}))


def score(skill, **changes) -> Score:
    """Return a score with a skill of one standard error of 0.02."""
    values = {"skill_se": 0.02, "exceedance": 0.1, **changes}
    return builder.make_score(np.random.default_rng(0), skill, **values)


def test_skill_dots_are_in_order_with_an_interval_of_two_errors_to_either_side():
    """Defaults, tuned and champion side by side; the rule itself is the zero line."""
    scores = {"ATR rule": score(0.0), "tuned": score(0.07), "running": score(0.06, skill_se=None)}
    dots = figures.skill_dots({BTC: scored(**scores, defaults=score(0.05))})
    assert [dot.contender for dot in dots] == ["defaults", "tuned", "running"]
    assert dots[1] == (BTC, "tuned", 0.07, pytest.approx(0.0308), pytest.approx(0.1092))
    assert dots[2][2:] == (0.06, None, None)  # one day only: no error, no bar


def test_exceedance_dots_leave_out_what_a_score_does_not_hold():
    """A stored record may lack it."""
    scores = {"ATR rule": score(0.0), "tuned": score(0.1, exceedance=None)}
    dots = figures.exceedance_dots({BTC: scored(**scores)})
    assert dots == [(BTC, "ATR rule", 0.1, None, None)]


def test_pooled_value_equals_counting_every_pair():
    """All pairs together are one heap of candles, not a mean of shares."""
    counts = DecisionValue(100, 40, unsafe_model=3, unsafe_rule=5, tolerance=0.01)
    other = DecisionValue(50, 10, unsafe_model=3, unsafe_rule=3, tolerance=0.01)
    values = figures.safe_values(
        {BTC: tuned(decision_value=counts), ETH: tuned(decision_value=other)}
    )
    assert values == [(BTC, 100, 40, 3, 5), (ETH, 50, 10, 3, 3)]
    pooled = figures.pooled_value(values)
    assert pooled == ("all pairs", 150, 50, 6, 8)
    assert pooled.fewer == pytest.approx(0.25)


def test_value_of_a_rule_without_unsafe_candles_has_no_ratio():
    """Nothing to divide by is absent, never 0."""
    assert figures.SafeValue(BTC, 10, 5, 0, 0).fewer is None
    assert figures.pooled_value([]) is None


@given(
    st.lists(st.tuples(st.floats(-0.1, 0.5), st.booleans()), max_size=30),
    st.randoms(use_true_random=False),
)
def test_trial_history_of_any_search_equals_the_oracle(trials, random):
    """Pruned trials are apart, and the running best is the least finished loss up to there."""
    shuffled = [
        (n, builder.make_trial(value, pruned=pruned)) for n, (value, pruned) in enumerate(trials)
    ]
    random.shuffle(shuffled)
    history = figures.trial_history(dict(shuffled))
    assert history.pruned == [(n, v) for n, (v, pruned) in enumerate(trials) if pruned]
    assert history.finished == [(n, v) for n, (v, pruned) in enumerate(trials) if not pruned]
    for number, best in history.best:
        assert best == min(v for v, pruned in trials[: number + 1] if not pruned)
    assert [n for n, _ in history.best] == [n for n, _ in history.finished]


@given(st.lists(st.floats(-0.05, 0.5), min_size=1, max_size=40))
def test_history_bounds_of_any_search_hold_zero_the_best_and_nine_in_ten(values):
    """One wild trial must not press all others onto one line, nor hide the best."""
    history = figures.TrialHistory(list(enumerate(values)), [], [])
    low, high = figures.history_bounds(history)
    assert low < min(0.0, *(100 * v for v in values))
    assert high > 0.0
    assert sum(low <= 100 * v <= high for v in values) >= 0.9 * len(values)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.name)
def test_parameter_spread_stacks_equal_values_and_keeps_different_ones_down(parameter):
    """Ten pairs at the default are a column of ten, not one dot."""
    ends = [parameter.low, parameter.high, parameter.default, parameter.default, parameter.default]
    results = {f"P{n}": with_parameter(parameter.name, value) for n, value in enumerate(ends)}
    spread = figures.parameter_spread(parameter, results)
    for number, item in enumerate(spread):
        assert item.value == ends[number]
        assert item.level == ends[:number].count(ends[number])


def test_learning_rate_is_drawn_and_stacked_on_a_log_axis():
    """0.001 and 0.002 are a factor apart; on a linear axis they would be one place."""
    parameter = PARAMETER_BY_NAME["learning_rate"]
    results = {
        name: with_parameter("learning_rate", value)
        for name, value in (("A", 0.001), ("B", 0.002), ("C", 0.1))
    }
    spread = figures.parameter_spread(parameter, results)
    assert [item.level for item in spread] == [0, 0, 0]
    axis = figures.spread_figure(parameter, spread, 4).layout["xaxis"]
    assert axis["type"] == "log"
    assert axis["range"][0] < math.log10(0.001)
    assert axis["range"][1] > math.log10(0.1)
    assert axis["tickvals"] == [0.001, 0.01, 0.1]


CHART = Chart(
    opens_s=(1_771_459_200, 1_771_459_500, 1_771_459_800),
    open=(100.0, 101.0, 100.0),
    high=(102.0, 102.0, 101.0),
    low=(99.0, 100.0, 98.0),
    close=(101.0, 100.0, 99.0),
    q=(-0.02, -0.01, -0.03),
    excursion=(-0.01, -0.01, -0.031),
)


@pytest.mark.parametrize(
    ("side", "band", "tolerance"),
    [
        pytest.param("long", [98.98, 99.0, 96.03], [99.99, 99.0, 98.01], id="long below"),
        pytest.param("short", [103.02, 101.0, 101.97], [102.01, 101.0, 99.99], id="short above"),
    ],
)
def test_candle_chart_has_band_and_tolerance_on_the_side_that_hurts(side, band, tolerance):
    """Long is hurt by a fall, short by a rise; the border itself is no breach."""
    chart = candle_chart(BTC, tuned(chart=CHART, max_adverse_ratio=0.01), side)
    assert chart.band == pytest.approx(band)
    assert chart.tolerance == pytest.approx(tolerance)
    assert chart.breached == [False, False, True]
    assert chart.breached_share == pytest.approx(1 / 3)
    assert chart.times[0] == datetime(2026, 2, 19, tzinfo=UTC)


def test_candle_figure_marks_exactly_the_breaches_on_the_band():
    """A mark stands at the candle whose future was worse, at its predicted price."""
    chart = candle_chart(BTC, tuned(chart=CHART), "long")
    marks = next(trace for trace in candle_figure(chart).data if trace["name"] == "breached")
    assert marks["x"] == ["2026-02-19 00:10"]
    assert marks["y"] == pytest.approx([96.03])


def test_made_chart_is_breached_as_often_as_its_level_says():
    """The builder's candles, excursions and forecasts fit together, as a real chart's do."""
    for side in ("long", "short"):
        chart = candle_chart(BTC, tuned(side=side), side)
        assert chart.breached_share == pytest.approx(builder.ALPHA, abs=0.05)


def test_dot_figure_axis_shows_every_interval_whole():
    """An interval that runs out of the figure would look shorter than it is."""
    dots = [figures.Dot(BTC, "tuned", 0.05, -0.04, 0.14)]
    spans = [figures.Span(BTC, 0.1, 0.01, 0.19)]
    low, high = figures.dot_figure({BTC: "BTC"}, dots, "skill", spans=spans).layout["xaxis"][
        "range"
    ]
    assert low < -4.0
    assert high > 19.0
