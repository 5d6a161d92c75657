"""Pooled evidence: the numbers against plain loops, what must never happen, error rates by chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.tune.pooling import LARGEST_APART, LEVEL, DayLosses, Estimate, pool
from tests.oracles import pooling as oracle
from tests.strategies import examples

SEEDS = st.integers(0, 10_000)


def make_losses(
    seed: int,
    n_pairs: int = 4,
    n_days: int = 15,
    *,
    gains: float | np.ndarray = 0.0,
    common: float = 0.4,
    likeness: float = 0.0,
    noise: float | np.ndarray = 0.05,
) -> dict[str, DayLosses]:
    """Return days of losses: heavy tails, restless days, pairs and neighbouring days alike.

    Parameters
    ----------
    gains
        True gain of each pair.
    common, likeness
        Correlation of the noise of two pairs, and of two neighbouring days.
    noise
        Of one day, in units of the rule's loss.
    """
    random = np.random.default_rng(seed)
    shared = random.standard_t(5, size=(1, n_days))
    own = random.standard_t(5, size=(n_pairs, n_days))
    shocks = np.sqrt(common) * shared + np.sqrt(1 - common) * own
    for day in range(1, n_days):
        fresh = np.sqrt(1 - likeness**2) * shocks[:, day]
        shocks[:, day] = likeness * shocks[:, day - 1] + fresh
    restless = np.exp(0.5 * random.normal(size=n_days))
    unit = restless * np.exp(0.2 * random.normal(size=(n_pairs, n_days)))
    gain, size = (np.broadcast_to(x, n_pairs)[:, None] for x in (gains, noise))
    saved = gain * unit + size * shocks * restless
    days = np.arange(20_000, 20_000 + n_days)
    return {f"P{i}": DayLosses(days, saved[i], unit[i]) for i in range(n_pairs)}


def changed(losses: dict[str, DayLosses], pair: str, by: float) -> dict[str, DayLosses]:
    """Return the losses with one pair's gain raised on every day alike."""
    one = losses[pair]
    return {**losses, pair: DayLosses(one.days, one.saved + by * one.unit, one.unit)}


def as_days(one: DayLosses) -> dict[int, tuple[float, float]]:
    """Return the form of the oracle."""
    return {
        int(d): (float(s), float(u)) for d, s, u in zip(one.days, one.saved, one.unit, strict=True)
    }


@pytest.mark.parametrize("n_pairs", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pool_is_the_plain_loops(n_pairs, seed):
    """Gains, errors that keep what days share, the weight that errs least; days may differ."""
    random = np.random.default_rng(seed)
    losses = make_losses(seed, n_pairs, gains=random.normal(0.02, 0.03, n_pairs))
    if n_pairs > 2:  # another window than the others
        one = losses["P1"]
        losses["P1"] = DayLosses(one.days[3:] + 2, one.saved[3:], one.unit[3:])
    pooled = pool(losses)
    pairs = [as_days(one) for one in losses.values()]
    assert (pooled.together.value, pooled.together.error) == pytest.approx(oracle.together(pairs))
    for at, estimate in enumerate(pooled.by_pair.values()):
        assert (estimate.value, estimate.error) == pytest.approx(oracle.shrunk(pairs, at), abs=1e-5)
        assert estimate.n_days == len(pairs[at])


def test_pool_single_pair_stands_for_itself():
    """No other pair, no shrinkage: the plain ratio and its error."""
    losses = make_losses(5, 1)
    (estimate,) = pool(losses).by_pair.values()
    assert estimate.value == pytest.approx(losses["P0"].saved.sum() / losses["P0"].unit.sum())
    assert pool(losses).together == estimate


@given(SEEDS, st.integers(1, 6), st.floats(1e-6, 1e6))
def test_pool_of_scaled_losses_is_the_same(seed, n_pairs, scale):
    """A market twice as wild, or losses in percent: the same verdicts."""
    losses = make_losses(seed, n_pairs, gains=0.02)
    scaled = {p: DayLosses(x.days, x.saved * scale, x.unit * scale) for p, x in losses.items()}
    first, second = pool(losses), pool(scaled)
    for pair in losses:
        assert second.by_pair[pair].value == pytest.approx(first.by_pair[pair].value, rel=1e-6)
        assert second.by_pair[pair].error == pytest.approx(first.by_pair[pair].error, rel=1e-6)


@given(SEEDS, st.integers(1, 6), st.floats(0.0, 0.5), st.lists(st.floats(0.001, 1), min_size=6))
@examples(60)
def test_pool_more_gain_of_a_pair_never_unpromotes_it(seed, n_pairs, more, sizes):
    """However noisy pairs are: a pair that was above zero beyond noise stays so when it gains."""
    random = np.random.default_rng(seed)
    gains = random.normal(0.01, 0.05, n_pairs)
    losses = make_losses(seed, n_pairs, gains=gains, noise=np.array(sizes[:n_pairs]))
    before = pool(losses).by_pair["P0"]
    after = pool(changed(losses, "P0", more)).by_pair["P0"]
    assert after.value >= before.value - 1e-12
    if before.is_above_zero:
        assert after.is_above_zero


def test_pool_order_of_pairs_changes_nothing():
    """Whichever pair ended first, to the last digit: a record must not tell."""
    for seed in range(20):
        losses = make_losses(seed, 5, gains=0.02)
        assert pool(dict(reversed(losses.items()))) == pool(losses)


def test_pool_lag_behind_the_others_is_evidence_that_pairs_differ():
    """A pair without gain is not carried over the line by pairs with much of it."""
    losses = make_losses(3, 5, gains=np.array([0.0, 0.3, 0.3, 0.3, 0.3]), noise=0.02)
    by_pair = pool(losses).by_pair
    assert not by_pair["P0"].is_above_zero
    assert all(by_pair[f"P{i}"].is_above_zero for i in range(1, 5))


def test_pool_days_that_are_shared_do_not_count_twice():
    """Ten copies of one pair prove what the one proves."""
    losses = make_losses(4, 1, gains=0.02)
    (alone,) = pool(losses).by_pair.values()
    copies = pool({f"C{i}": losses["P0"] for i in range(10)})
    assert copies.together.error == pytest.approx(alone.error)
    for estimate in copies.by_pair.values():
        assert estimate.error == pytest.approx(alone.error)


def test_pool_single_day_proves_nothing():
    """One day can't show its own noise; beside others it is left out of their prior."""
    losses = make_losses(6, 3, gains=0.5, noise=0.001)
    one = losses["P2"]
    short = {**losses, "P2": DayLosses(one.days[:1], one.saved[:1] * 100, one.unit[:1])}
    pooled = pool(short)
    assert not pooled.by_pair["P2"].is_above_zero
    without = pool({p: losses[p] for p in ("P0", "P1")})
    assert pooled.by_pair["P0"] == without.by_pair["P0"]
    assert not pool({"P2": short["P2"]}).together.is_above_zero


def share_above_zero(n_runs: int, pair: str | None = None, **arguments: object) -> float:
    """Return how often pairs, or one of them, come out above zero over many markets."""
    found = []
    for seed in range(n_runs):
        by_pair = pool(make_losses(seed, **arguments)).by_pair
        found += [e.is_above_zero for p, e in by_pair.items() if pair in (None, p)]
    return float(np.mean(found))


def allowed(n_runs: int) -> float:
    """Return the level and two standard errors of so many markets' share."""
    return LEVEL + 2 * (LEVEL * (1 - LEVEL) / n_runs) ** 0.5


@pytest.mark.parametrize("n_runs", [200, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"n_pairs": 1}, id="one pair"),
        pytest.param({"n_pairs": 2}, id="two pairs"),
        pytest.param({"n_pairs": 4, "common": 0.0}, id="pairs independent"),
        pytest.param({"n_pairs": 4, "common": 0.8}, id="pairs alike"),
        pytest.param({"n_pairs": 8, "likeness": 0.1}, id="days alike"),
        pytest.param({"n_pairs": 4, "n_days": 8}, id="eight days"),
        pytest.param(
            {"n_pairs": 4, "noise": np.array([0.01, 0.05, 0.05, 1.0])}, id="noise of all sizes"
        ),
    ],
)
def test_pool_no_true_gain_rarely_looks_like_one(arguments, n_runs):
    """Challengers no better than what runs: at most 5 % plus two standard errors.

    Over 2,000 markets it is 6.3 % where days are alike: fifteen of them say little of how alike
    neighbours are.
    """
    assert share_above_zero(n_runs, **arguments) <= allowed(n_runs)


@pytest.mark.parametrize("n_runs", [200, pytest.param(600, marks=pytest.mark.slow)])
def test_pool_huge_noise_of_one_pair_promotes_no_other(n_runs):
    """A pair of noise, however lucky, carries nobody."""
    noise = np.array([0.05, 0.05, 0.05, 50.0])
    assert share_above_zero(n_runs, "P0", noise=noise) <= allowed(n_runs)
    lucky = changed(make_losses(8, 4, noise=noise), "P3", 100.0)
    by_pair = pool(lucky).by_pair
    alone = pool({"P0": lucky["P0"]}).by_pair["P0"]
    assert by_pair["P0"].value == pytest.approx(alone.value, abs=0.5 * alone.error)
    assert not by_pair["P0"].is_above_zero


def test_pool_hair_fine_gain_of_one_pair_promotes_no_other():
    """A pair whose sets hardly differ knows its gain to a hair, and speaks for itself only."""
    losses = make_losses(9, 4, noise=np.array([0.05, 0.05, 0.05, 1e-6]), gains=1e-6)
    by_pair = pool(losses).by_pair
    assert by_pair["P0"].error > 0.3 * pool({"P0": losses["P0"]}).by_pair["P0"].error


def test_pool_true_gains_are_found_more_often_together():
    """A true gain of one and a half of its standard errors: four pairs see it, one seldom does."""
    gain = 1.5 * 0.05 * (5 / 3) ** 0.5 / 15**0.5
    alone = share_above_zero(200, n_pairs=1, gains=gain)
    four = share_above_zero(200, n_pairs=4, gains=gain, common=0.2)
    assert four > 0.55
    assert four > alone + 0.15


def test_windows_needed_are_those_that_tell_such_a_gain_half_of_the_time():
    """So many windows more of the same: what is true is told from noise in every second run."""
    gain, bound = 0.008, 2.0
    found = [pool(make_losses(seed, 1, n_days=60, gains=gain)).together for seed in range(100)]
    error = float(np.median([one.error for one in found]))
    windows = Estimate(gain, error, 60).windows_needed(bound)
    assert windows is not None
    told = 0
    for seed in range(200):
        one = pool(make_losses(seed, 1, n_days=round(15 * windows), gains=gain)).together
        told += one.value > bound * one.error
    assert 70 <= told <= 130


@pytest.mark.parametrize(("value", "error", "n_days"), [(0.0, 0.1, 15), (0.1, float("inf"), 1)])
def test_windows_needed_are_unknown_without_a_gain_or_its_noise(value, error, n_days):
    """No number of windows tells what is not there."""
    one = Estimate(value, error, n_days)
    assert one.windows_needed(2.0) is None
    assert one.windows_needed(one.errors_needed) is None


@given(SEEDS, st.floats(1.0, 1e90), st.sampled_from((-1.0, 1.0)), st.floats(1e-12, 1e12))
def test_pool_garbage_of_one_pair_changes_no_other_and_not_the_mean(seed, size, sign, unit):
    """Whatever a halted pair's losses are: the others' verdicts and the pooled figure stay."""
    losses = make_losses(seed, 5, gains=0.05)
    one = losses["P4"]
    garbage = DayLosses(one.days, sign * size * one.unit * unit, one.unit * unit)
    found = pool({**losses, "P4": garbage})
    without = pool({pair: losses[pair] for pair in ("P0", "P1", "P2", "P3")})
    assert found.together == without.together
    for pair in without.by_pair:
        assert found.by_pair[pair] == without.by_pair[pair]


@given(SEEDS, st.floats(-1e6, 1e6))
def test_pool_one_pair_moves_the_pooled_gain_by_a_bounded_amount(seed, by):
    """At most by its share of the bound, however far its gain goes."""
    losses = make_losses(seed, 5, gains=0.05)
    without = pool({pair: losses[pair] for pair in ("P0", "P1", "P2", "P3")}).together.value
    with_it = pool(changed(losses, "P4", by)).together.value
    assert abs(with_it - without) <= (LARGEST_APART + 0.2) / 5


def test_pool_one_wild_day_is_not_the_gain():
    """A day of a thousand times the rule's usual loss counts for five, not for all."""
    losses = make_losses(2, 1, noise=0.001, gains=0.0)
    one = losses["P0"]
    unit, saved = one.unit.copy(), one.saved.copy()
    unit[7] = saved[7] = 1_000 * unit[7]
    (estimate,) = pool({"P0": DayLosses(one.days, saved, unit)}).by_pair.values()
    assert 0.1 < estimate.value < 0.4
    assert not estimate.is_above_zero
