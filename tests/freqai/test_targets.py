"""Targets against the strategy's columns, and the hashes that a record is told by."""

from __future__ import annotations

import pytest

from feeder_mixin.errors import SettingsError
from feeder_mixin.freqai.targets import Target, TunedOn, match_targets

PAIR = "BTC/USDT:USDT"
LOW, CLOSE = Target("&-min_low", 0.1), Target("&-close", 0.75)
COLUMNS = ["&-close", "&-min_low"]
HERE = TunedOn.of(["%-rsi", "%-mfi"], [LOW, CLOSE])


def test_targets_are_in_the_strategys_order():
    """FreqAI's labels decide the order, whatever the config's is."""
    assert match_targets([LOW, CLOSE], COLUMNS, "S") == (CLOSE, LOW)
    assert match_targets([], COLUMNS, "S") == (Target("&-close"), Target("&-min_low"))


@pytest.mark.parametrize(
    ("configured", "columns", "message"),
    [
        pytest.param([LOW], COLUMNS, "does not name &-close: expected exactly", id="left_out"),
        pytest.param(
            [LOW, CLOSE, Target("&-lwo")], COLUMNS, "names &-lwo, which S does not make", id="wrong"
        ),
        pytest.param(
            [], [], "S: set_freqai_targets makes no column", id="strategy_without_targets"
        ),
    ],
)
def test_targets_that_do_not_match_are_named(configured, columns, message):
    """A forgotten or mistyped target is an error with both lists, never a silent objective."""
    with pytest.raises(SettingsError, match=message):
        match_targets(configured, columns, "S")


def test_record_of_same_features_and_targets_serves():
    """Hashes survive the way through floats; a record without them is taken, as everywhere."""
    assert HERE.refusal(PAIR, HERE.metrics) is None
    assert HERE.refusal(PAIR, {}) is None


@pytest.mark.parametrize(
    ("other", "what"),
    [
        pytest.param(TunedOn.of(["%-mfi", "%-rsi"], [LOW, CLOSE]), "features", id="order"),
        pytest.param(TunedOn.of(["%-rsi"], [LOW, CLOSE]), "features", id="fewer_features"),
        pytest.param(
            TunedOn.of(["%-rsi", "%-mfi"], [LOW, Target("&-close", 0.5)]), "targets", id="level"
        ),
        pytest.param(TunedOn.of(["%-rsi", "%-mfi"], [LOW]), "targets", id="fewer_targets"),
    ],
)
def test_record_of_other_features_or_targets_is_refused_by_name(other, what):
    """The reason names the pair, what differs and both hashes."""
    reason = HERE.refusal(PAIR, other.metrics)
    assert reason is not None
    assert f"BTC/USDT:USDT: tuned on other {what} than the strategy has now" in reason
    assert "tune again" in reason
