"""The snapshot in force: whole for every reader, and never a model of other parameters."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from feeder_mixin.live.serve.snapshot import PairSnapshot, ParameterCache, Serving
from feeder_mixin.live.train.models import TrainedModel
from tests.live.conftest import BTC, ETH, SOL, STEP_S, loaded_pair

N_SWAPS = 300
PAIRS = tuple(f"P{i}/USDT:USDT" for i in range(8))


def is_current(pair):
    """Return whether the newest serving was trained from what is loaded."""
    return pair.newest is not None and pair.newest.loaded.version == pair.loaded.version


def serving_at(pair, open_s):
    """Return what is in force for one candle, or None."""
    number = pair.numbers_at(np.array([open_s]))[0]
    return None if number < 0 else pair.servings[number]


def trained(loaded, cut_s=0, name="model"):
    """Return a model of a pair's parameters, without trees: nothing here predicts."""
    return TrainedModel(
        loaded.pair, loaded.parameters, cut_s, 100, 1.0, 0, 150.0, name, "shared", None
    )


def swap(cache, generation, *loaded, next_candle_s=0):
    """Put parameters in force."""
    pairs = {pair.pair: pair for pair in loaded}
    return cache.swap_parameters(pairs, generation, generation, next_candle_s)


@pytest.fixture
def cache():
    """Give a cache in which ETH runs on record 1 with a model from candle 0 on."""
    cache = ParameterCache()
    loaded = loaded_pair(ETH)
    swap(cache, 1, loaded)
    assert cache.put_model(trained(loaded), 0)
    return cache


def of_generation(number):
    """Return what the stress test loads: version and two values follow the generation."""
    return [
        loaded_pair(pair, number, num_leaves=15 + number % 40, reg_alpha=number / N_SWAPS)
        for pair in PAIRS
    ]


def problem_of(snapshot):
    """Return what is torn in a snapshot of the stress test, or None."""
    for pair in snapshot.pairs.values():
        if pair.loaded.version != snapshot.generation or pair.generation != snapshot.generation:
            return f"{pair.loaded.pair}: record {pair.loaded.version} in {snapshot.generation}"
        if snapshot.loaded_at_ns != snapshot.generation:
            return f"time {snapshot.loaded_at_ns} in {snapshot.generation}"
        for serving in pair.servings:
            trained_from = serving.model.parameters
            if trained_from["reg_alpha"] != serving.loaded.version / N_SWAPS:
                return f"model of {trained_from['reg_alpha']} under {serving.loaded.version}"
            if trained_from != serving.loaded.parameters:
                return f"values of {serving.loaded.version} are not the model's"
            if serving.generation != serving.loaded.version:
                return f"generation {serving.generation} under {serving.loaded.version}"
    return None


@pytest.fixture
def _switch_often() -> Iterator[None]:
    """Switch threads every few bytecodes, not every 5 ms: a torn swap then shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class _Stress:
    """Readers and trainers on one cache, each in a loop until the swaps are over."""

    def __init__(self) -> None:
        self.cache = ParameterCache()
        swap(self.cache, 1, *of_generation(1))
        self.is_over = threading.Event()
        self.problems: list[str] = []
        self.n_reads = self.n_put = 0

    def read(self) -> None:
        """Look at one snapshot after another, as `populate_indicators` does."""
        while not self.is_over.is_set():
            if problem := problem_of(self.cache.snapshot):
                self.problems.append(problem)
                return
            self.n_reads += 1

    def train(self, first: int) -> None:
        """Read what is loaded, then put the model of it: by then it may be outdated."""
        for at in itertools.count(first):
            if self.is_over.is_set():
                return
            known = self.cache.snapshot.pairs[PAIRS[at % len(PAIRS)]]
            time.sleep(0)  # lets another thread in between
            self.n_put += self.cache.put_model(trained(known.loaded), at * STEP_S)
            self.cache.forget_before(known.loaded.pair, (at - 20) * STEP_S)


@pytest.mark.usefixtures("_switch_often")
def test_readers_during_hundreds_of_swaps_never_see_a_mixture():
    """No reader sees parameters of one generation with a model of another, or half a swap."""
    run = _Stress()
    readers = [threading.Thread(target=run.read) for _ in range(3)]
    trainers = [threading.Thread(target=run.train, args=(i,)) for i in range(2)]
    for thread in (*readers, *trainers):
        thread.start()
    for generation in range(2, N_SWAPS + 2):
        swap(run.cache, generation, *of_generation(generation), next_candle_s=run.n_put)
        n_reads = run.n_reads
        while run.n_reads == n_reads and not run.problems:  # readers keep up with the swaps
            time.sleep(0)
    run.is_over.set()
    for thread in (*readers, *trainers):
        thread.join(30)
    assert run.problems == []
    assert run.cache.snapshot.generation == N_SWAPS + 1
    assert run.n_put > 0
    assert run.n_reads > N_SWAPS


def test_every_write_is_one_assignment_of_a_whole_snapshot():
    """There is no moment between the old snapshot and the new one."""
    written = []

    class Watched(ParameterCache):
        def __setattr__(self, name, value):
            if name == "_snapshot":
                written.append(value)
            super().__setattr__(name, value)

    cache = Watched()
    for generation in (1, 2, 3):
        written.clear()
        swap(cache, generation, *of_generation(generation))
        assert cache.put_model(trained(of_generation(generation)[0]), generation)
        assert [problem_of(snapshot) for snapshot in written] == [None, None]
        assert len(written[0].pairs) == len(PAIRS)


def test_snapshot_taken_before_a_swap_never_changes(cache):
    """Who holds a snapshot holds it whole: later swaps and models do not reach it."""
    before = cache.snapshot
    servings = before.pairs[ETH].servings
    swap(cache, 2, loaded_pair(ETH, 2, num_leaves=30), loaded_pair(BTC))
    cache.put_model(trained(loaded_pair(ETH, 2, num_leaves=30)), STEP_S)
    assert before.generation == 1
    assert list(before.pairs) == [ETH]
    assert before.pairs[ETH].servings is servings
    with pytest.raises(TypeError):
        before.pairs[BTC] = before.pairs[ETH]
    with pytest.raises(FrozenInstanceError):
        before.generation = 5


def test_same_record_loaded_again_keeps_model_and_serving(cache):
    """A reload that brings nothing new changes no pair: same objects, same first candle."""
    (serving,) = cache.snapshot.pairs[ETH].servings
    swap(cache, 2, loaded_pair(ETH), next_candle_s=10 * STEP_S)
    pair = cache.snapshot.pairs[ETH]
    assert cache.snapshot.generation == 2
    assert pair.servings == (serving,)
    assert pair.servings[0] is serving
    assert pair.generation == 1  # that loaded the record
    assert is_current(pair)


def test_same_record_loaded_again_notes_what_was_rejected_now(cache):
    """The reason of a refused newer record is in the snapshot, though nothing else changed."""
    swap(cache, 2, replace(loaded_pair(ETH), rejected="num_leaves=99 is outside 15 to 63"))
    assert cache.snapshot.pairs[ETH].loaded.rejected == "num_leaves=99 is outside 15 to 63"
    assert len(cache.snapshot.pairs[ETH].servings) == 1


def test_new_record_with_the_same_values_is_relabelled_from_the_next_candle_on(cache):
    """Equal values: the very model goes on, under the new record from the next candle on."""
    (old,) = cache.snapshot.pairs[ETH].servings
    newer = replace(loaded_pair(ETH, 2), beats_rule=False)
    swap(cache, 2, newer, next_candle_s=10 * STEP_S)
    pair = cache.snapshot.pairs[ETH]
    assert [s.model is old.model for s in pair.servings] == [True, True]
    assert serving_at(pair, 10 * STEP_S - 1) is old
    serving = serving_at(pair, 10 * STEP_S)
    assert (serving.loaded, serving.generation) == (newer, 2)
    assert not serving.loaded.beats_rule
    assert is_current(pair)


def test_changed_values_keep_the_old_serving_until_the_model_is_there(cache):
    """Between reload and fit the old pair of values and model goes on, whole."""
    (old,) = cache.snapshot.pairs[ETH].servings
    changed = loaded_pair(ETH, 2, num_leaves=30)
    swap(cache, 2, changed, next_candle_s=10 * STEP_S)
    pair = cache.snapshot.pairs[ETH]
    assert pair.loaded == changed
    assert pair.servings == (old,)
    assert not is_current(pair)
    model = trained(changed)
    assert cache.put_model(model, 12 * STEP_S)
    pair = cache.snapshot.pairs[ETH]
    assert serving_at(pair, 11 * STEP_S) is old
    newest = serving_at(pair, 12 * STEP_S)
    assert (newest.model, newest.loaded, newest.generation) == (model, changed, 2)
    assert is_current(pair)


def test_model_of_parameters_that_were_replaced_meanwhile_is_refused(cache):
    """What was trained from values that the operator took back never serves."""
    changed = loaded_pair(ETH, 2, num_leaves=30)
    swap(cache, 2, changed)
    swap(cache, 3, loaded_pair(ETH, 3, num_leaves=40))
    before = cache.snapshot
    assert not cache.put_model(trained(changed), STEP_S)
    assert cache.snapshot is before


def test_model_of_a_pair_that_is_not_loaded_is_refused(cache):
    """A pair the feeder does not have gets no model."""
    assert not cache.put_model(trained(loaded_pair(SOL)), 0)
    assert SOL not in cache.snapshot.pairs


def test_values_taken_back_before_the_model_came_need_no_new_model(cache):
    """There and back again within one fit: the old model stands for the newest record."""
    (old,) = cache.snapshot.pairs[ETH].servings
    swap(cache, 2, loaded_pair(ETH, 2, num_leaves=30), next_candle_s=STEP_S)
    swap(cache, 3, loaded_pair(ETH, 3), next_candle_s=STEP_S)
    pair = cache.snapshot.pairs[ETH]
    assert pair.newest.model is old.model
    assert (pair.newest.generation, pair.newest.first_candle_s) == (3, STEP_S)
    assert is_current(pair)


def test_serving_that_never_served_gives_way(cache):
    """Two swaps before one candle: of two servings of that candle the later one counts."""
    swap(cache, 2, loaded_pair(ETH, 2), next_candle_s=STEP_S)
    swap(cache, 3, loaded_pair(ETH, 3), next_candle_s=STEP_S)
    servings = cache.snapshot.pairs[ETH].servings
    assert [(s.first_candle_s, s.loaded.version) for s in servings] == [(0, 1), (STEP_S, 3)]


def test_retrained_model_of_the_same_record_follows_the_old_one(cache):
    """A later cut puts a second serving behind the first, of one record and generation."""
    loaded = cache.snapshot.pairs[ETH].loaded
    assert cache.put_model(trained(loaded, cut_s=86_400, name="later"), 86_400)
    servings = cache.snapshot.pairs[ETH].servings
    assert [s.model.name for s in servings] == ["model", "later"]
    assert {s.generation for s in servings} == {1}


def test_other_pairs_are_left_alone_by_a_new_model(cache):
    """A model of one pair changes no other pair's entry."""
    swap(cache, 2, loaded_pair(ETH), loaded_pair(BTC))
    known = cache.snapshot.pairs[ETH]
    cache.put_model(trained(loaded_pair(BTC)), STEP_S)
    assert cache.snapshot.pairs[ETH] is known
    assert cache.snapshot.generation == 2


@pytest.mark.parametrize("since", [0, 1, 4, 5, 6, 9, 10, 29, 30, 99])
def test_forget_before_never_drops_what_a_kept_candle_needs(cache, since):
    """Candles from the given one on find the same serving as before; older ones go."""
    loaded = cache.snapshot.pairs[ETH].loaded
    for number, first_s in enumerate((5, 10, 30)):
        cache.put_model(trained(loaded, number + 1, f"m{number}"), first_s)
    before = cache.snapshot.pairs[ETH]
    cache.forget_before(ETH, since)
    after = cache.snapshot.pairs[ETH]
    for open_s in range(since, 120):
        assert serving_at(after, open_s) is serving_at(before, open_s)
    needed = {id(serving_at(before, open_s)) for open_s in range(since, 120)}
    assert {id(s) for s in after.servings} == needed


def test_forget_before_the_first_serving_drops_nothing(cache):
    """Where no model was in force at the oldest kept candle, all that came later stay."""
    first = Serving(loaded_pair(BTC), trained(loaded_pair(BTC)), 50, 1)
    swap(cache, 2, loaded_pair(ETH), loaded_pair(BTC))
    cache.put_servings(BTC, [first], 60)
    cache.forget_before(BTC, 10)
    assert cache.snapshot.pairs[BTC].servings == (first,)


def test_serving_at_a_candle_before_the_first_is_none():
    """Without a model there is none, and none before the first one's first candle."""
    loaded = loaded_pair(ETH)
    assert serving_at(PairSnapshot(loaded, 1), 0) is None
    assert PairSnapshot(loaded, 1).newest is None
    serving = Serving(loaded, trained(loaded), 10, 1)
    pair = PairSnapshot(loaded, 1, (serving,))
    assert serving_at(pair, 9) is None
    assert serving_at(pair, 10) is serving


def restored(*versions):
    """Return servings of an earlier process, a day apart, with other values each."""
    pairs = [loaded_pair(ETH, version, num_leaves=15 + version) for version in versions]
    return [Serving(p, trained(p), i * 86_400, 0) for i, p in enumerate(pairs)]


def test_restored_servings_of_the_same_record_go_on_as_they_were():
    """After a restart on an unchanged store the schedule is the one before."""
    cache = ParameterCache()
    servings = restored(1, 2)
    swap(cache, 1, servings[-1].loaded)
    cache.put_servings(ETH, servings, 5 * 86_400)
    assert cache.snapshot.pairs[ETH].servings == tuple(servings)
    assert is_current(cache.snapshot.pairs[ETH])


def test_restored_model_serves_until_that_of_a_changed_record_is_there():
    """Tuned while the bot was down: the old model goes on, whole, until the new one."""
    cache = ParameterCache()
    servings = restored(1, 2)
    changed = loaded_pair(ETH, 3, num_leaves=50)
    swap(cache, 1, changed)
    cache.put_servings(ETH, servings, 5 * 86_400)
    pair = cache.snapshot.pairs[ETH]
    assert pair.servings == tuple(servings)
    assert pair.loaded == changed
    assert not is_current(pair)
    assert cache.put_model(trained(changed), 5 * 86_400)
    assert cache.snapshot.pairs[ETH].newest.loaded == changed


def test_restored_model_of_equal_values_stands_for_the_newer_record():
    """The same values written anew while the bot was down need no training."""
    cache = ParameterCache()
    servings = restored(1)
    newer = loaded_pair(ETH, 9, num_leaves=16)
    swap(cache, 1, newer)
    cache.put_servings(ETH, servings, 5 * 86_400)
    pair = cache.snapshot.pairs[ETH]
    assert [s.first_candle_s for s in pair.servings] == [0, 5 * 86_400]
    assert pair.newest.model is servings[0].model
    assert (pair.newest.loaded, pair.newest.generation) == (newer, 1)
