"""The online factor against its definition, row by row."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.errors import ModelError
from feeder_mixin.model.calibration import (
    HALF_LIFE_CANDLES,
    RATE,
    calibrate,
    calibrate_newer,
    next_theta,
)

STEP_S = 300
LABEL_S = 3 * STEP_S
values = st.floats(-0.2, 0.0)


@st.composite
def histories(draw):
    """Return raw quantiles, labels and opens with gaps; some of the first two are missing."""
    n = draw(st.integers(1, 60))
    maybe = st.one_of(values, st.just(math.nan))
    raw = np.array(draw(st.lists(maybe, min_size=n, max_size=n)))
    excursion = np.array(draw(st.lists(maybe, min_size=n, max_size=n)))
    gaps = draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    return raw, excursion, 1_700_000_000 + STEP_S * np.cumsum(gaps)


def slow(raw, excursion, opens_s, alpha, theta):
    """Return theta of every row by looking at all earlier rows anew."""
    served, thetas, applied = [], [], set()
    for row, open_s in enumerate(opens_s):
        for earlier in range(row):
            has_ended = opens_s[earlier] + LABEL_S <= open_s
            if earlier not in applied and has_ended:
                applied.add(earlier)
                if not math.isnan(raw[earlier] + excursion[earlier]):
                    theta *= 2 ** (-1 / HALF_LIFE_CANDLES)
                    theta += RATE * (float(excursion[earlier] < served[earlier]) - alpha)
        thetas.append(theta)
        served.append(raw[row] * math.exp(theta))
    return served, thetas


@given(histories(), st.floats(0.05, 0.2), st.floats(-0.5, 0.5))
def test_calibrate_of_any_history_equals_the_definition(history, alpha, theta):
    """Every row is served by the labels that had ended by its close, in their order."""
    raw, excursion, opens_s = history
    served, thetas = calibrate(raw, excursion, opens_s, alpha=alpha, label_s=LABEL_S, theta=theta)
    expected_served, expected_thetas = slow(raw, excursion, opens_s, alpha, theta)
    np.testing.assert_allclose(thetas, expected_thetas, rtol=1e-12)
    np.testing.assert_allclose(served, expected_served, rtol=1e-12)


@given(histories(), st.integers(0, 60))
def test_calibrate_of_a_truncated_history_changes_no_earlier_row(history, cut):
    """A later candle changes nothing: the label of a row counts when it has ended, not before."""
    raw, excursion, opens_s = history
    cut = min(cut, len(raw) - 1) + 1
    served, _ = calibrate(raw, excursion, opens_s, alpha=0.1, label_s=LABEL_S)
    known = np.where(opens_s + LABEL_S <= opens_s[cut - 1], excursion, np.nan)
    part, _ = calibrate(raw[:cut], known[:cut], opens_s[:cut], alpha=0.1, label_s=LABEL_S)
    np.testing.assert_array_equal(part, served[:cut])


def test_calibrate_of_a_biased_model_takes_most_of_the_bias_away():
    """A model that misses 20 % where it says 10 is served at 13, as the module says."""
    rng = np.random.default_rng(7)
    excursion = -np.abs(rng.normal(0.0, 0.01, 40_000))
    raw = np.full(len(excursion), np.quantile(excursion, 0.2))
    opens_s = STEP_S * np.arange(len(raw))
    served, thetas = calibrate(raw, excursion, opens_s, alpha=0.1, label_s=LABEL_S)
    assert np.mean(excursion < raw) == pytest.approx(0.2, abs=0.001)
    assert np.mean(excursion[-20_000:] < served[-20_000:]) == pytest.approx(0.13, abs=0.01)
    assert thetas[-1] > 0.1


def test_next_theta_after_a_miss_and_a_hold_balances_at_the_nominal_level():
    """One miss undoes what (1 - alpha) / alpha candles that held did."""
    theta = next_theta(0.0, -0.02, -0.01, 0.1)
    for _ in range(9):
        theta = next_theta(theta, -0.005, -0.01, 0.1)
    assert theta == pytest.approx(0.0, abs=RATE / 100)


def test_next_theta_goes_half_of_the_way_back_in_the_half_life():
    """An old market is forgotten: of two factors that see the same candles half the gap is left."""
    apart = [0.3, -0.1]
    for n in range(HALF_LIFE_CANDLES):
        excursion = -0.02 if n % 10 == 0 else -0.005
        apart = [next_theta(theta, excursion, -0.01, 0.1) for theta in apart]
    assert apart[0] - apart[1] == pytest.approx(0.2, rel=1e-9)


def test_calibrate_of_arrays_of_other_lengths_is_refused():
    """Shapes that do not fit are an error, not a broadcast."""
    with pytest.raises(ModelError, match="share one length"):
        calibrate(np.zeros(3), np.zeros(2), np.arange(3), alpha=0.1, label_s=LABEL_S)


@given(histories(), st.lists(st.integers(1, 20), max_size=20), st.floats(-0.5, 0.5))
def test_calibrate_newer_in_any_portions_gives_the_bits_of_calibrate(history, portions, theta):
    """A bot that sees a candle at a time, or many after an absence, serves what the batch serves."""
    raw, excursion, opens_s = history
    expected, expected_thetas = calibrate(
        raw, excursion, opens_s, alpha=0.1, label_s=LABEL_S, theta=theta
    )
    served, thetas, n, seen_s = raw.copy(), [], 0, None
    for portion in [*portions, len(raw)]:
        stop = min(n + portion, len(raw))
        served[:stop], new = calibrate_newer(
            served[:stop], excursion[:stop], np.full(stop, 0.1), opens_s[:stop],
            label_s=LABEL_S, theta=thetas[-1] if thetas else theta, seen_s=seen_s,
        )  # fmt: skip
        thetas += new.tolist()
        n, seen_s = stop, int(opens_s[stop - 1])
    np.testing.assert_array_equal(served, expected)
    np.testing.assert_array_equal(thetas, expected_thetas)
