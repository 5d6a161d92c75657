"""The search: its space, its race, its winner's rule, its seeds; on losses that are given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.schema import PARAMETER_BY_NAME, default_parameters, parameter_problems
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tune.search.finalists import RedrawGain, choose_winner
from feeder_mixin.tune.search.kept import Cell, Measured
from feeder_mixin.tune.search.space import (
    MAX_WARM_STARTS,
    ParameterSet,
    SearchSpace,
    StudySettings,
    Trial,
    derive_seed,
    key_of,
    set_of,
    start_sets,
)
from feeder_mixin.tune.search.study import (
    BATCH,
    MOST_PAIRS,
    RUNGS,
    RUNGS_ALONE,
    Study,
    choose_sets,
    shuffled_cells,
)

START = Trial(0, default_parameters(), 0.0, pruned=False)
DAYS = tuple(range(20_000, 20_015))
PAIRS = {f"P{number}/USDT": 5 for number in range(6)}


def settings(seed: int = 0, **fixes: float) -> StudySettings:
    """Return study settings with these fixes."""
    return StudySettings("f", LabelSpec("short", 30, 300), 0.01, 150, seed, fixes)


def trial(number: int, **changes: float) -> Trial:
    """Return a finished trial of the defaults with these changes."""
    return Trial(number, {**default_parameters(), **changes}, -0.01, pruned=False)


class Market:
    """Losses that are a function of pair and set, with noise by cell; counts what is asked for.

    Parameters
    ----------
    penalty
        Pair and set -> its true loss against the defaults', as a ratio minus one.
    """

    def __init__(
        self,
        penalty: Callable[[str, Mapping[str, float]], float],
        noise: float = 0.0,
        failing: str = "",
        fails_from: int = 0,
    ) -> None:
        self.penalty, self.noise = penalty, noise
        self.failing, self.fails_from = failing, fails_from
        self.asked: list[Cell] = []

    def __call__(self, cells: Sequence[Cell]) -> dict[Cell, Measured]:
        """Measure cells."""
        self.asked += cells
        return {
            cell: self._measure(cell)
            for cell in cells
            if cell.pair != self.failing or len(self.asked) <= self.fails_from
        }

    def _measure(self, cell: Cell) -> Measured:
        random = np.random.default_rng(derive_seed("loss", cell.pair, cell.draw, cell.fold))
        level = np.exp(0.3 * random.normal(size=len(DAYS)))
        own = np.random.default_rng(derive_seed("own", cell))
        ratio = 1 + self.penalty(cell.pair, set_of(cell.key))
        is_start = cell.key == key_of(default_parameters())
        noise = 0.0 if is_start else self.noise
        sums = level * (ratio + noise * own.normal(size=len(DAYS)))
        days = tuple(day + 15 * cell.fold for day in DAYS)
        return Measured(days, tuple(sums.tolist()), 15 * 57)


def boost(parameters: Mapping[str, float]) -> float:
    """Return rate x trees."""
    return parameters["learning_rate"] * parameters["n_estimators"]


def wants_boost(_pair: str, parameters: Mapping[str, float], best: float = 2.5) -> float:
    """Return a loss that is least at `best` of rate x trees: 1 % below that of the defaults."""
    far = abs(math.log(boost(parameters) / best)) / math.log(best)
    return 0.01 * (min(far, 2.0) - 1)


def search(market: Market, n_trials: int = 40, seed: int = 0, folds: Mapping[str, int] = PAIRS):
    """Return a study that was run, and what it chose."""
    study = Study(settings(seed), folds, start_sets(settings(seed), []), market)
    study.run(n_trials, lambda: False, lambda _trials: None)
    return study, choose_sets(study, folds, market)


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
    trees = parameters["n_estimators"]
    assert trees in {100, 1000} or boost(parameters) == pytest.approx(
        coordinates["rate_x_trees"], abs=parameters["learning_rate"]
    )


def test_search_space_encode_then_decode_gives_the_same_set():
    """A set in the searched range is its coordinates."""
    space = SearchSpace({})
    stored = {
        **default_parameters(), "max_depth": 6, "num_leaves": 27, "learning_rate": 0.02, "n_estimators": 150,
    }  # fmt: skip
    assert space.decode(space.encode(stored)) == pytest.approx(stored)


def test_search_space_fixed_parameter_has_no_coordinate_and_keeps_its_value():
    """`--fix` takes a parameter out of the search; trees fixed leave no rate x trees."""
    space = SearchSpace({"num_leaves": 40.0, "n_estimators": 150.0})
    assert not {"num_leaves", "rate_x_trees"} & set(space.distributions)
    decoded = space.decode(space.encode(default_parameters()))
    assert (decoded["num_leaves"], decoded["n_estimators"]) == (40, 150)
    assert isinstance(decoded["num_leaves"], int)


def test_searched_are_all_parameters_but_the_level():
    """Rate x trees stands for the trees; losses at two levels can't be compared."""
    searched = set(SearchSpace({}).distributions)
    assert searched == set(PARAMETER_BY_NAME) - {"n_estimators", "quantile_alpha"} | {
        "rate_x_trees"
    }


def test_start_sets_are_the_defaults_more_trees_then_what_is_stored_most_frequent_first():
    """Trial 0 is always the defaults, trial 1 the set that short horizons want; a record equal to them is no second trial."""
    often = {**default_parameters(), "learning_rate": 0.02, "quantile_alpha": 0.15}
    once = {**default_parameters(), "learning_rate": 0.03}
    sets = start_sets(settings(), [once, often, default_parameters(), often])
    more = {**default_parameters(), "n_estimators": 200.0}
    assert sets == [default_parameters(), more, {**often, "quantile_alpha": 0.1}, once]
    many = [{**default_parameters(), "reg_alpha": n / 100} for n in range(1, 30)]
    assert len(start_sets(settings(), many)) == MAX_WARM_STARTS


PROMISING = {**default_parameters(), "learning_rate": 0.02}


class WithPromising(StudySettings):
    """A study that knows a set which does well elsewhere."""

    @property
    def promising(self) -> Sequence[ParameterSet]:
        """Return it."""
        return (PROMISING,)


def test_promising_set_is_tried_first_and_comes_to_the_end_of_the_race():
    """Two unlucky cells end any other trial; start set and promising ones are measured everywhere."""
    study_settings = WithPromising("f", LabelSpec("short", 30, 300), 0.01, 150, 0)
    unlucky = shuffled_cells(study_settings, PAIRS)[:2]

    def measure(cells: Sequence[Cell]) -> dict[Cell, Measured]:
        def loss(cell: Cell) -> float:
            if cell.key != key_of(PROMISING):
                return 1.0
            return 3.0 if (cell.pair, cell.fold) in unlucky else 0.9

        return {cell: Measured(DAYS[:1], (loss(cell),), 57) for cell in cells}

    starts = start_sets(study_settings, [{**default_parameters(), "max_depth": 3}])
    assert starts[1] == PROMISING
    study = Study(study_settings, PAIRS, starts, measure)
    study.run(8, lambda: False, lambda _trials: None)
    assert [trial.pruned for trial in study.trials] == [False, False, *[True] * 6]
    assert max(study.kept[1].reported) == study.n_cells


def test_start_sets_apply_fixes():
    """A fixed value holds in every trial."""
    sets = start_sets(settings(max_depth=7), [{**default_parameters(), "max_depth": 3}])
    assert [(s["max_depth"], s["n_estimators"]) for s in sets] == [(7, 100), (7, 200)]
    sets = start_sets(settings(n_estimators=300), [])
    assert [s["n_estimators"] for s in sets] == [300]


def test_stored_set_outside_of_the_searched_range_is_tried_as_it_is():
    """What is valid and what is searched are two things."""
    wild = {**default_parameters(), "learning_rate": 0.09, "num_leaves": 60, "max_depth": 12}
    market = Market(lambda _pair, parameters: -0.01 if parameters["num_leaves"] == 60 else 0.0)
    study = Study(settings(), PAIRS, start_sets(settings(), [wild]), market)
    study.run(8, lambda: False, lambda _trials: None)
    assert study.trials[2].parameters == wild
    assert not study.trials[2].pruned


@pytest.mark.parametrize("n_pairs", [1, 4, 48, 163])
def test_race_begins_with_many_pairs_and_sees_every_fold_of_at_most_32(n_pairs):
    """The first cells are of different pairs; none is there twice."""
    folds = {f"P{number}": 4 + number % 3 for number in range(n_pairs)}
    cells = shuffled_cells(settings(), folds)
    assert len(set(cells)) == len(cells)
    raced = {pair for pair, _ in cells}
    assert len(raced) == min(n_pairs, MOST_PAIRS)
    assert len(cells) == sum(folds[pair] for pair in raced)
    first = Counter(pair for pair, _ in cells[: RUNGS[0]])
    assert max(first.values()) - min(first.values(), default=0) <= 1
    assert len(first) == min(RUNGS[0], n_pairs)


def test_race_ends_most_trials_after_few_cells():
    """Every trial is measured on the first rung; the first two and few others on all cells."""
    market = Market(wants_boost, noise=0.02)
    study, _ = search(market, 80)
    cells = Counter(cell.key for cell in market.asked if cell.draw == 0)
    assert set(cells.values()) <= {*RUNGS, study.n_cells}
    n_whole = sum(n == study.n_cells for n in cells.values())
    assert n_whole <= 2 + 80 / BATCH
    assert sum(n == RUNGS[0] for n in cells.values()) > 0.7 * 80
    assert cells[key_of(default_parameters())] == study.n_cells


def test_race_of_a_pair_alone_ends_most_trials_after_one_cell():
    """Five cells in all: a first rung of two would be 40 % of them."""
    market = Market(wants_boost, noise=0.02)
    study = Study(settings(), {"P0": 5}, start_sets(settings(), []), market)
    study.run(40, lambda: False, lambda _trials: None)
    cells = Counter(cell.key for cell in market.asked)
    assert set(cells.values()) <= {*RUNGS_ALONE, 5}
    assert sum(n == 1 for n in cells.values()) >= 0.7 * 40


def test_study_finds_what_all_pairs_gain_from():
    """One per cent less loss at another rate x trees, under noise: found, and beyond noise."""
    study, found = search(Market(wants_boost, noise=0.02), 60)
    assert found.winner.number != 0
    assert 1.6 < boost(found.winner.parameters) < 4.0
    assert all(choice.winner is found.winner for choice in found.choices.values())
    assert sum(study.importances().values()) == pytest.approx(1.0)


@pytest.mark.parametrize("n_seeds", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_study_of_nothing_but_noise_ends_at_the_start_set(n_seeds):
    """The best of many trials looks better than it is; on redraws it is not."""
    found = [search(Market(lambda *_: 0.0, noise=0.02), 24, seed)[1] for seed in range(n_seeds)]
    assert sum(one.winner.number != 0 for one in found) <= n_seeds / 20
    left = [choice.winner is not one.winner for one in found for choice in one.choices.values()]
    # Two standard errors on one side are one pair in forty, give and take chance.
    expected = len(left) / 40
    assert sum(left) <= expected + 2 * expected**0.5


def test_finalists_are_those_whose_gain_is_certain_not_those_with_the_largest():
    """A set near the start set gains a little every day; the others more, and less the day after."""
    more = {**default_parameters(), "n_estimators": 200.0}

    def measure(cells: Sequence[Cell]) -> dict[Cell, Measured]:
        def losses(cell: Cell, days: Sequence[int]) -> tuple[float, ...]:
            if cell.key == key_of(default_parameters()):
                return (1.0,) * len(days)
            if cell.key == key_of(more):
                return (0.992,) * len(days)
            return tuple(0.988 + 0.1 * (-1) ** day for day in days)

        days = {cell: tuple(day + 15 * cell.fold for day in DAYS) for cell in cells}
        return {cell: Measured(days[cell], losses(cell, days[cell]), 57) for cell in cells}

    study = Study(settings(), PAIRS, start_sets(settings(), []), measure)
    study.run(24, lambda: False, lambda _trials: None)
    ended = [trial for trial in study.trials if not trial.pruned and trial.value < 0.0]
    assert sum(trial.value < -0.010 for trial in ended) > 2
    found = choose_sets(study, PAIRS, measure)
    assert found.evidence[0].trial.parameters == more
    assert found.winner.parameters == more


def test_pair_leaves_the_feeders_set_only_for_what_its_own_days_prefer():
    """Five pairs want more trees, one the defaults: it stays there, and the others have theirs."""

    def penalty(pair: str, parameters: Mapping[str, float]) -> float:
        return (-4 if pair == "P3/USDT" else 1) * wants_boost(pair, parameters)

    _, found = search(Market(penalty, noise=0.01), 60)
    assert found.winner.number != 0
    own = {pair for pair, choice in found.choices.items() if choice.winner is not found.winner}
    assert own == {"P3/USDT"}
    assert found.choices["P3/USDT"].winner.number == 0
    assert found.choices["P3/USDT"].gain > 0.02


def test_study_is_a_function_of_settings_and_cells():
    """Twice the same; another seed is another study."""
    first, _ = search(Market(wants_boost, noise=0.02), 30)
    second, _ = search(Market(wants_boost, noise=0.02), 30)
    other, _ = search(Market(wants_boost, noise=0.02), 30, seed=1)
    assert first.trials == second.trials
    assert first.trials[8:] != other.trials[8:]


@pytest.mark.parametrize("n_first", [1, 8, 12, 21])
def test_study_with_more_trials_later_is_the_one_longer_study(n_first):
    """`--n-trials` raised behind an interruption: what was proposed stays what is proposed."""
    short, _ = search(Market(wants_boost, noise=0.02), n_first)
    whole, _ = search(Market(wants_boost, noise=0.02), 30)
    assert len(short.trials) == n_first
    for one, other in zip(short.trials, whole.trials, strict=False):
        assert one.parameters == other.parameters


def test_study_that_goes_on_asks_for_the_same_cells_again():
    """Nothing else is kept: the journal's cells are the whole state."""
    first, again = Market(wants_boost, noise=0.02), Market(wants_boost, noise=0.02)
    search(first, 30)
    search(again, 30)
    assert first.asked == again.asked


def test_study_out_of_time_ends_with_whole_batches():
    """The first is made whatever the limit; what is there is compared."""
    market = Market(wants_boost, noise=0.02)
    study = Study(settings(), PAIRS, start_sets(settings(), []), market)
    study.run(100, lambda: True, lambda _trials: None)
    assert len(study.trials) == BATCH
    assert choose_sets(study, PAIRS, market).choices.keys() == PAIRS.keys()


@pytest.mark.parametrize("fails_from", [0, 50, 300, 2000])
def test_pair_that_fails_on_the_way_is_left_out_and_the_others_go_on(fails_from):
    """Whenever it fails: the study ends, and nothing is chosen for it."""
    market = Market(wants_boost, noise=0.02, failing="P2/USDT", fails_from=fails_from)
    study = Study(settings(), PAIRS, start_sets(settings(), []), market)
    study.run(40, lambda: False, lambda _trials: None)
    left = {pair: n for pair, n in PAIRS.items() if pair != "P2/USDT"}
    found = choose_sets(study, left, market)
    assert found.winner.number != 0
    assert found.choices.keys() == left.keys()


def test_study_tells_its_trials_by_batch():
    """What the journal gets for reports: each trial once, with its rungs."""
    told: list[list[int]] = []
    study = Study(settings(), PAIRS, start_sets(settings(), []), Market(wants_boost))
    study.run(20, lambda: False, lambda trials: told.append(list(trials)))
    assert told == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    assert all(set(kept.reported) <= {*RUNGS, study.n_cells} for kept in study.kept.values())


@pytest.mark.parametrize(
    ("evidence", "winner"),
    [
        pytest.param([], 0, id="no candidate"),
        pytest.param([RedrawGain(trial(1), -0.01, 0.001, 75)], 0, id="worse"),
        pytest.param([RedrawGain(trial(1), 0.005, 0.003, 75)], 0, id="within noise"),
        pytest.param([RedrawGain(trial(1), 0.007, 0.003, 75)], 1, id="beyond noise"),
        pytest.param(
            [RedrawGain(replace(trial(1), is_promising=True), 0.005, 0.003, 75)],
            1,
            id="as much is enough for one that was named before the search",
        ),
        pytest.param(
            [
                RedrawGain(trial(1, n_estimators=400), 0.010, 0.003, 75),
                RedrawGain(trial(2, n_estimators=200), 0.009, 0.003, 75),
            ],
            2,
            id="near-tie goes to the smaller model",
        ),
        pytest.param(
            [
                RedrawGain(trial(1, n_estimators=400), 0.020, 0.003, 75),
                RedrawGain(trial(2, n_estimators=200), 0.009, 0.003, 75),
            ],
            1,
            id="clearly better wins whatever its size",
        ),
    ],
)
def test_choose_winner_needs_evidence_and_prefers_small_models(evidence, winner):
    """Near-ties go to the defaults, then to the simpler model."""
    assert choose_winner(evidence, START).number == winner
