"""The search: its space, its winner's rule, its seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.schema import PARAMETER_BY_NAME, default_parameters, parameter_problems
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tune.search._finalists import RedrawGain, alpha_pays, choose_winner
from feeder_mixin.tune.search.space import SearchSpace, StudySettings, Trial, warm_start_sets
from feeder_mixin.tune.search.study import Baseline, derive_seed

START = Trial(0, default_parameters(), 0.0, pruned=False)


def settings(**fixes: float) -> StudySettings:
    """Return study settings with these fixes."""
    return StudySettings("f", "BTC/USDT:USDT", LabelSpec("short", 30, 300), 0.01, 150, 0, fixes)


def trial(number: int, **changes: float) -> Trial:
    """Return a finished trial of the defaults with these changes."""
    return Trial(number, {**default_parameters(), **changes}, -0.01, pruned=False)


def test_derive_seed_differs_by_part_and_is_stable():
    """Seeds of (seed, feeder, pair, number) are the same in every process."""
    assert derive_seed(0, "f", "BTC", 1) == derive_seed(0, "f", "BTC", 1)
    assert len({derive_seed(0, "f", "BTC", n) for n in range(1000)}) == 1000
    assert derive_seed("a", "bc") != derive_seed("ab", "c")


@given(st.data())
def test_search_space_decode_gives_valid_parameters(data):
    """Whatever Optuna draws is inside the schema's ranges, leaves within what the depth allows."""
    space = SearchSpace({})
    coordinates = {}
    for name, distribution in space.distributions.items():
        integers = st.integers(distribution.low, distribution.high)
        floats = st.floats(distribution.low, distribution.high)
        kind = integers if isinstance(distribution.low, int) else floats
        coordinates[name] = data.draw(kind, label=name)
    parameters = space.decode(coordinates)
    assert parameter_problems(parameters) == []
    assert parameters["num_leaves"] <= max(15, 2 ** parameters["max_depth"])


def test_search_space_encode_then_decode_gives_the_same_set():
    """A stored record enters the search as it was, where its leaves fit its depth."""
    space = SearchSpace({})
    stored = {**default_parameters(), "max_depth": 6, "num_leaves": 37, "learning_rate": 0.003}
    assert space.decode(space.encode(stored)) == stored


def test_search_space_fixed_parameter_has_no_coordinate_and_keeps_its_value():
    """`--fix` takes a parameter out of the search."""
    space = SearchSpace({"num_leaves": 40.0, "quantile_alpha": 0.1})
    assert not {"num_leaves", "quantile_alpha"} & set(space.distributions)
    decoded = space.decode(space.encode(default_parameters()))
    assert decoded["num_leaves"] == 40
    assert isinstance(decoded["num_leaves"], int)


def test_warm_start_begins_with_defaults_then_own_then_others_without_repeats():
    """Trial 0 is always the defaults; a record equal to them is no second trial."""
    own = {**default_parameters(), "learning_rate": 0.02}
    other = {**default_parameters(), "learning_rate": 0.03}
    sets = warm_start_sets(settings(), own, [default_parameters(), own, other])
    assert sets == [default_parameters(), own, other]


def test_warm_start_applies_fixes():
    """A fixed value holds in every trial."""
    sets = warm_start_sets(settings(max_depth=7), {**default_parameters(), "max_depth": 3}, [])
    assert [s["max_depth"] for s in sets] == [7]


def test_baseline_passes_through_its_points():
    """The defaults' curve is exact where it was measured."""
    alphas, losses = (0.05, 0.10, 0.15, 0.20), (0.6e-3, 1.0e-3, 1.3e-3, 1.5e-3)
    baseline = Baseline(np.polyfit(alphas, losses, deg=3))
    assert [baseline.loss(a) for a in alphas] == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize(
    ("evidence", "winner"),
    [
        pytest.param([], 0, id="no candidate"),
        pytest.param([RedrawGain(trial(1), -0.01, 0.001)], 0, id="worse"),
        pytest.param([RedrawGain(trial(1), 0.005, 0.003)], 0, id="within noise"),
        pytest.param([RedrawGain(trial(1), 0.007, 0.003)], 1, id="beyond noise"),
        pytest.param(
            [
                RedrawGain(trial(1, n_estimators=400), 0.010, 0.003),
                RedrawGain(trial(2, n_estimators=200), 0.009, 0.003),
            ],
            2,
            id="near-tie goes to the smaller model",
        ),
        pytest.param(
            [
                RedrawGain(trial(1, n_estimators=400), 0.020, 0.003),
                RedrawGain(trial(2, n_estimators=200), 0.009, 0.003),
            ],
            1,
            id="clearly better wins whatever its size",
        ),
    ],
)
def test_choose_winner_needs_evidence_and_prefers_small_models(evidence, winner):
    """Near-ties go to the defaults, then to the simpler model."""
    assert choose_winner(evidence, START).number == winner


class _Forecasts:
    """Redraws whose forecasts are given: the own level's and the default level's."""

    def __init__(self, excursion, by_alpha):
        self.excursion = excursion
        self.opens_s = np.arange(len(excursion)) * 300
        self._by_alpha = by_alpha

    def mean_forecast(self, parameters):
        return self._by_alpha[parameters["quantile_alpha"]]


def test_alpha_leaves_its_default_only_for_fewer_unsafe_candles():
    """At an equal number called safe, a level that ranks better pays, one that ranks alike not."""
    rng = np.random.default_rng(0)
    excursion = -rng.exponential(0.01, 20_000)
    blurred = excursion + rng.normal(0, 0.01, len(excursion))
    knows = {0.10: blurred + 0.002, 0.15: excursion}
    alike = {0.10: blurred + 0.002, 0.15: blurred + 0.004}
    own = {**default_parameters(), "quantile_alpha": 0.15}
    assert alpha_pays(_Forecasts(excursion, knows), own, 0.10, 0.01)
    assert not alpha_pays(_Forecasts(excursion, alike), own, 0.10, 0.01)


def test_alpha_without_any_candle_called_safe_has_no_evidence():
    """A pair that is never safe keeps the default level."""
    excursion = np.full(1000, -0.05)
    forecasts = {0.10: np.full(1000, -0.06), 0.15: np.full(1000, -0.055)}
    own = {**default_parameters(), "quantile_alpha": 0.15}
    assert not alpha_pays(_Forecasts(excursion, forecasts), own, 0.10, 0.01)


def test_searched_parameters_are_all_but_the_tree_count():
    """The learning curve of one fit gives the tree count; the other nine are drawn."""
    assert set(SearchSpace({}).distributions) == set(PARAMETER_BY_NAME) - {"n_estimators"}
