"""Metrics against counting."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from feeder_mixin.errors import ModelError
from feeder_mixin.model import metrics
from feeder_mixin.settings import LabelSpec
from tests import strategies
from tests.oracles import metrics as oracle

alphas = st.floats(0.05, 0.20)


@given(strategies.forecasts(), alphas)
def test_losses_of_any_forecasts_equal_the_oracle(arrays, alpha):
    """Pinball loss, MAE and exceedance are those of counting row by row."""
    y, q, _ = arrays
    assert metrics.pinball_loss(y, q, alpha) == pytest.approx(oracle.pinball(y, q, alpha))
    assert metrics.mean_absolute_error(y, q) == pytest.approx(oracle.mean_absolute_error(y, q))
    assert metrics.exceedance(y, q) == pytest.approx(oracle.exceedance(y, q))


@given(strategies.forecasts(), st.sampled_from((0.01, 0.02)) | st.floats(1e-4, 0.1))
def test_safety_rates_of_any_forecasts_equal_the_oracle(arrays, tolerance):
    """Safety rates are those of counting; the border belongs to safe; empty ones are None."""
    y, q, _ = arrays
    rates = metrics.safety_rates(q >= -tolerance, y >= -tolerance)
    for name, expected in oracle.safety(y, q, tolerance).items():
        found = getattr(rates, name)
        assert (found is None) if expected is None else (found == pytest.approx(expected))


@given(strategies.forecasts(), alphas, st.integers(1, 40_000))
def test_skill_of_any_forecasts_equals_the_oracle(arrays, alpha, timeframe_s):
    """Skill is one minus the ratio of losses, also when summed by days."""
    y, q, reference = arrays
    opens_s = 1_700_000_000 + timeframe_s * np.arange(len(y))
    base = oracle.pinball(y, reference, alpha)
    if base < metrics.SMALLEST_LOSS:
        with pytest.raises(ModelError, match="did not move"):
            metrics.skill(y, q, reference, alpha)
        return
    expected = 1 - oracle.pinball(y, q, alpha) / base
    assert metrics.skill(y, q, reference, alpha) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    saved, total = oracle.skill_by_day(y, q, reference, alpha, opens_s, metrics.LARGEST_DAY)
    n_days = len({open_s // 86_400 for open_s in opens_s})
    if total < n_days * metrics.SMALLEST_LOSS:  # one day moved among many that did not
        with pytest.raises(ModelError, match="did not move"):
            metrics.skill_with_error(y, q, reference, alpha, opens_s)
        return
    gain, error = metrics.skill_with_error(y, q, reference, alpha, opens_s)
    assert gain == pytest.approx(saved / total, rel=1e-6, abs=1e-9)
    assert error == float("inf") if n_days == 1 else error >= 0


def test_skill_of_a_market_that_nearly_stands_still_is_refused():
    """Nearly nothing in the denominator is no skill of minus 1e95: the loss and the least are named."""
    n = 15 * 288
    y, q, reference = np.zeros(n), np.full(n, -0.004), np.full(n, -1e-99)
    opens_s = 1_700_000_000 + 300 * np.arange(n)
    with pytest.raises(ModelError, match=r"loss is 1e-100, expected at least 1e-07"):
        metrics.skill(y, q, reference, 0.1)
    with pytest.raises(ModelError, match="did not move"):
        metrics.skill_with_error(y, q, reference, 0.1, opens_s)


@given(strategies.forecasts(), st.integers(1, 40_000))
def test_day_sums_of_any_values_equal_the_oracle(arrays, timeframe_s):
    """Blocks are UTC days, in order; days without rows are no blocks."""
    values, _, _ = arrays
    opens_s = 1_700_000_000 + timeframe_s * np.arange(len(values))
    np.testing.assert_allclose(
        metrics.day_block_sums(values, opens_s), oracle.sums_by_day(values, opens_s), atol=1e-12
    )


@given(strategies.forecasts(), alphas)
def test_pinball_loss_at_the_sample_quantile_is_lowest(arrays, alpha):
    """No constant beats the sample's own quantile: what the loss is for."""
    y, other, _ = arrays
    best = np.quantile(y, alpha, method="inverted_cdf")
    constant = np.full_like(y, other[0])
    lowest = metrics.pinball_loss(y, np.full_like(y, best), alpha)
    assert lowest <= metrics.pinball_loss(y, constant, alpha) + 1e-12


@pytest.mark.parametrize(
    ("excursion", "absent"),
    [
        pytest.param([0.0, -0.001], "false_positive_rate", id="all-safe"),
        pytest.param([-0.5, -0.6], "false_negative_rate", id="all-unsafe"),
    ],
)
def test_safety_rate_with_empty_denominator_is_absent(excursion, absent):
    """A rate of nothing is None, never 0; the other one is there."""
    rates = metrics.safety_rates(np.array([True, False]), np.array(excursion) >= -0.01)
    names = {"false_positive_rate", "false_negative_rate"}
    assert getattr(rates, absent) is None
    assert getattr(rates, (names - {absent}).pop()) == 0.5


def test_ratio_error_of_many_random_blocks_is_the_spread_of_the_ratio():
    """The standard error is what repeating the experiment shows."""
    random = np.random.default_rng(1)
    found, errors = [], []
    for _ in range(400):
        denominator = random.uniform(0.5, 1.5, 40)
        numerator = 0.1 * denominator + random.normal(0, 0.2, 40)
        ratio, error = metrics.ratio_with_error(numerator, denominator)
        found.append(ratio)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.1)
    assert np.mean(found) == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize(
    ("y", "q"),
    [
        pytest.param(np.zeros(3), np.zeros(2), id="lengths"),
        pytest.param(np.zeros((2, 2)), np.zeros((2, 2)), id="dimensions"),
        pytest.param(np.zeros(0), np.zeros(0), id="empty"),
    ],
)
def test_metrics_of_arrays_that_do_not_fit_are_refused(y, q):
    """Shapes that are stated are shapes that are checked."""
    with pytest.raises(ModelError, match="got"):
        metrics.pinball_loss(y, q, 0.1)
    with pytest.raises(ModelError, match="got"):
        metrics.safety_rates(y >= 0, q >= 0)


misses = st.lists(st.booleans(), min_size=0, max_size=300).map(lambda x: np.array(x, bool))


@given(misses, alphas)
def test_kupiec_of_any_misses_equals_the_binomial_likelihood_ratio(missed, alpha):
    """The p-value is chi-squared's upper tail at twice the log ratio of binomial likelihoods."""
    found = metrics.kupiec_p(missed, alpha)
    if not len(missed):
        assert found is None
        return
    n, k = len(missed), missed.sum()
    ratio = 2 * (binom.logpmf(k, n, k / n) - binom.logpmf(k, n, alpha))
    assert found == pytest.approx(chi2.sf(max(ratio, 0.0), 1), rel=1e-6, abs=1e-9)


@given(misses)
def test_christoffersen_of_any_misses_equals_counting_transitions(missed):
    """The p-value is that of the contingency table of a miss and the row before."""
    found = metrics.christoffersen_p(missed)
    pairs = list(itertools.pairwise(missed))
    rows = [[after for before, after in pairs if before == state] for state in (True, False)]
    if not all(rows):
        assert found is None
        return
    overall = sum(map(sum, rows)) / len(pairs)
    ratio = 0.0
    for row in rows:
        k, n = sum(row), len(row)
        ratio += 2 * (binom.logpmf(k, n, k / n) - binom.logpmf(k, n, overall))
    assert found == pytest.approx(chi2.sf(max(ratio, 0.0), 1), rel=1e-6, abs=1e-9)


def test_christoffersen_of_clustered_misses_is_small_and_kupiec_is_not():
    """Misses that come in runs are told apart from misses that are too many."""
    missed = np.zeros(200, bool)
    missed[40:60] = True
    assert metrics.christoffersen_p(missed) < 1e-6
    assert metrics.kupiec_p(missed, 0.1) == pytest.approx(1.0)


def test_exceedance_interval_of_a_test_window_holds_95_of_100_honest_models():
    """The interval of 144 independent rows is that of the binomial distribution."""
    low, high = metrics.exceedance_interval(0.1, 144)
    inside = binom.cdf(high * 144, 144, 0.1) - binom.cdf(low * 144, 144, 0.1)
    assert inside == pytest.approx(0.95, abs=0.02)


def test_thinned_misses_of_a_longer_series_choose_the_same_rows():
    """Rows are counted from the epoch: what comes before or after changes no choice."""
    rng = np.random.default_rng(1)
    y, q = rng.normal(size=500), rng.normal(size=500)
    opens_s = 1_700_000_100 // 300 * 300 + 300 * np.arange(500)
    whole = metrics.thinned_misses(y, q, opens_s, LabelSpec("long", 30, 300))
    part = metrics.thinned_misses(y[100:], q[100:], opens_s[100:], LabelSpec("long", 30, 300))
    assert len(whole) in {16, 17}
    np.testing.assert_array_equal(whole[-len(part) :], part)
