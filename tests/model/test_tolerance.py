"""The tolerance of a pair's own: what the days before a cut stayed within, and nothing later."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import ModelError
from feeder_mixin.market.labels import LABEL_COLUMNS
from feeder_mixin.model.tolerance import LEAST_TOLERANCE, measure_tolerance
from feeder_mixin.settings import LabelSpec

LABEL = LabelSpec("long", 30, 3600)
DAYS = 120
CUT_S = 1_760_000_000 // 86_400 * 86_400


def table_of(excursion: np.ndarray) -> pd.DataFrame:
    """Return hourly candles up to ten days behind the cut, whose labels are these."""
    first_s = CUT_S + 10 * 86_400 - len(excursion) * 3600
    index = pd.to_datetime(first_s + 3600 * np.arange(len(excursion)), unit="s", utc=True)
    return pd.DataFrame(
        {LABEL_COLUMNS["long"]: excursion, LABEL_COLUMNS["short"]: 2 * excursion}, index
    )


def usual(seed: int = 1) -> np.ndarray:
    """Return excursions of many days, of one size."""
    return -np.abs(np.random.default_rng(seed).normal(0, 0.01, DAYS * 24))


@pytest.mark.parametrize(("side", "factor"), [("long", 1.0), ("short", 2.0)])
def test_four_in_five_candles_of_the_days_before_the_cut_stayed_within(side, factor):
    """On the side that is asked, as long as the last week is like the months before."""
    excursion = usual()
    tolerance = measure_tolerance(table_of(excursion), LabelSpec(side, 30, 3600), CUT_S)
    known = excursion[-100 * 24 : -10 * 24 - 30] * factor
    assert np.mean(known >= -tolerance) == pytest.approx(0.80, abs=0.03)
    assert np.mean(known >= -tolerance) >= 0.80 - 1e-9


def test_wilder_last_week_counts_and_a_calm_one_does_not():
    """The larger of the two answers: a wild market is not unsafe as a whole."""
    calm, wild = usual(), usual()
    calm[-17 * 24 : -10 * 24] /= 3
    wild[-17 * 24 : -10 * 24] *= 3
    in_calm, as_usual, in_wild = (
        measure_tolerance(table_of(x), LABEL, CUT_S) for x in (calm, usual(), wild)
    )
    assert in_calm == pytest.approx(as_usual, rel=0.1)
    assert in_wild > 2.5 * as_usual


def test_nothing_that_ends_behind_the_cut_is_looked_at():
    """Labels whose horizon reaches over the cut are purged, as everywhere."""
    changed = usual()
    changed[-10 * 24 - 30 :] = -0.5
    old = usual()
    old[: -100 * 24] = -0.5
    expected = measure_tolerance(table_of(usual()), LABEL, CUT_S)
    assert measure_tolerance(table_of(changed), LABEL, CUT_S) == expected
    assert measure_tolerance(table_of(old), LABEL, CUT_S) == expected


def test_market_that_hardly_moves_has_the_least_tolerance():
    """Never 0 or below, which no setting may be."""
    assert measure_tolerance(table_of(0 * usual()), LABEL, CUT_S) == LEAST_TOLERANCE


def test_no_finished_label_is_an_error_with_the_cut():
    """There is nothing to measure."""
    with pytest.raises(ModelError, match="no finished label in the 90 days before 2025-10-09"):
        measure_tolerance(table_of(np.full(2_000, np.nan)), LABEL, CUT_S)
