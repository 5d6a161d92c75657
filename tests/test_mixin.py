"""The mixin as freqtrade's strategy resolver and analysis use it, without an exchange."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from freqtrade.enums import CandleType, RunMode, TradingMode
from freqtrade.exceptions import OperationalException

from feeder_mixin.mixin import OptunaParamsMixin

PAIR = "ETH/USDT:USDT"
N = 12


class Always(OptunaParamsMixin):
    """Wants an entry on every candle."""

    timeframe = "5m"
    minimal_roi: ClassVar = {"0": 0.02}
    stoploss = -0.1

    def entry_trigger(self, dataframe, metadata):  # noqa: ARG002
        """Want every candle."""
        return pd.Series(data=True, index=dataframe.index)


class BothSides(Always):
    """Adds entries of both sides to the feeder's own, as a strategy of before did."""

    def populate_entry_trend(self, dataframe, metadata):
        """Enter both sides on the first candles."""
        dataframe = super().populate_entry_trend(dataframe, metadata)
        dataframe.loc[dataframe.index[:5], ["enter_long", "enter_short"]] = 1
        return dataframe


class Shorting(Always):
    """Says that it shorts."""

    can_short = True


class ShortingLater(Always):
    """Says that it shorts once it is made."""

    def __init__(self, config):
        super().__init__(config)
        self.can_short = True


@pytest.fixture
def make_config(tmp_path):
    """Give a function that returns the config of a feeder as freqtrade hands it to a strategy."""

    def make(side="long", **more):
        return {
            "bot_name": "feeder1",
            "feeder": {"side": side},
            "timeframe": "5m",
            "trading_mode": TradingMode.FUTURES,
            "candle_type_def": CandleType.FUTURES,
            "exchange": {"name": "binance", "pair_whitelist": [PAIR]},
            "user_data_dir": tmp_path / "user_data",
            "datadir": tmp_path / "user_data" / "data" / "binance",
            "runmode": RunMode.HYPEROPT,
        } | more

    return make


def analysed(strategy, pair=PAIR):
    """Return a frame with entries, as freqtrade makes it; every second candle is safe."""
    frame = pd.DataFrame(
        {
            "safe": np.arange(N) % 2,
            "safety_q": -0.005,
            "safety_alpha": 0.1,
            "params_generation": 1,
        }
    )
    return strategy.advise_entry(frame, {"pair": pair})


@pytest.mark.parametrize("strategy", [Shorting, ShortingLater], ids=["class", "instance"])
def test_strategy_that_shorts_on_a_long_feeder_is_refused_by_name(make_config, strategy):
    """What it wants is neither overwritten nor traded: it does not start."""
    with pytest.raises(
        OperationalException, match=rf"{strategy.__name__} has can_short=True.*long"
    ):
        strategy(make_config()).bot_start()


@pytest.mark.parametrize("strategy", [Always, Shorting, ShortingLater], ids=lambda s: s.__name__)
def test_strategy_on_a_short_feeder_shorts_whatever_it_says(make_config, strategy):
    """The feeder's own side needs no word of the strategy."""
    made = strategy(make_config("short"))
    made.bot_start()
    assert made.can_short


@pytest.mark.parametrize(("side", "other"), [("long", "short"), ("short", "long")], ids=str)
def test_entries_of_the_other_side_are_dropped_and_counted_once_a_pair(
    make_config, caplog, side, other
):
    """On the other side nothing is gated: no entry of it leaves the strategy, and it is said."""
    strategy = BothSides(make_config(side))
    for pair in (PAIR, PAIR, "SOL/USDT:USDT"):
        frame = analysed(strategy, pair)
        assert not frame[f"enter_{other}"].any()
        assert (frame[f"enter_{side}"] == 1).sum() == 5 + (N - 5 + 1) // 2
    said = [r.getMessage() for r in caplog.records if "other side" in r.getMessage()]
    assert len(said) == 2
    assert f"pair={PAIR} strategy=BothSides feeder=feeder1 side={side} signals=5" in said[0]


def test_entries_of_the_own_side_are_where_trigger_and_gate_agree(make_config, caplog):
    """A strategy of one side is left as it is, without a word."""
    frame = analysed(Always(make_config()))
    assert (frame["enter_long"] == frame["safe"]).all()
    assert "other side" not in caplog.text
