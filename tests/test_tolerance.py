"""The tolerance a pair gets: from the config, from its record, or the fallback, and from one place."""

from __future__ import annotations

import pytest

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import mismatch_reason
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tolerance import FALLBACK, is_measured, setting_problem, tolerance_of
from tests.builders import make_record, make_settings

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"


@pytest.mark.parametrize(
    ("asked", "measured", "expected"),
    [
        pytest.param(0.02, 0.004, (0.02, "config"), id="number"),
        pytest.param("auto", 0.004, (0.004, "record"), id="auto"),
        pytest.param("auto", None, (FALLBACK, "fallback"), id="auto-without-record"),
        pytest.param({BTC: 0.03, "default": "auto"}, 0.004, (0.03, "config"), id="named"),
        pytest.param({ETH: 0.03, "default": "auto"}, 0.004, (0.004, "record"), id="the-rest"),
        pytest.param({BTC: "auto", "default": 0.02}, 0.004, (0.004, "record"), id="auto-by-name"),
    ],
)
def test_pair_gets_the_configs_number_or_its_records_own(asked, measured, expected):
    """A number of the config wins; "auto" is the record's, and where there is none the fallback says so."""
    tolerance = tolerance_of(asked, BTC, measured)
    assert (tolerance.ratio, tolerance.origin) == expected
    assert is_measured(asked, BTC) == (expected[1] != "config")


@pytest.mark.parametrize(
    "value", [0, -0.01, 1.5, True, None, "Auto", {}, {BTC: 0.01}, {"default": 0}, {"default": {}}]
)
def test_setting_that_is_no_tolerance_says_what_was_expected(value):
    """A number of percent, a misspelled word, a mapping without "default": all three forms are named."""
    expected = setting_problem(value)
    assert expected is not None
    assert all(word in expected for word in ("above 0", '"auto"', '"default"'))


def test_mapping_that_names_a_pair_of_no_bot_is_refused_by_name(tmp_path):
    """A typo would leave the pair on the default, silently."""
    asked = {"BTC/USD:USD": 0.01, "default": "auto"}
    with pytest.raises(SettingsError, match=r"max_adverse_ratio names BTC/USD:USD, expected pairs"):
        make_settings(tmp_path, pairs=(BTC,), max_adverse_ratio=asked)
    asked = {BTC: 0.02, "default": "auto"}
    kept = make_settings(tmp_path, pairs=(BTC,), max_adverse_ratio=asked)
    assert kept.tolerance(BTC, 0.004).ratio == 0.02


@pytest.mark.parametrize("measured", [0.0, -0.01, 1.5, 100.0])
def test_record_whose_own_tolerance_is_none_is_rejected_by_name(measured):
    """It would call every candle safe, or none: the record is taken whole or not at all."""
    record = make_record(BTC, 1, metrics={"side": 1.0, "auto_tolerance": measured})
    reason = mismatch_reason(record, LabelSpec("long", 30, 300))
    assert reason == f"{BTC}: auto_tolerance={measured:g}, expected a number above 0, at most 1"
    fine = make_record(BTC, 1, metrics={"side": 1.0, "auto_tolerance": 0.02})
    assert mismatch_reason(fine, LabelSpec("long", 30, 300)) is None
