"""The mixin as freqtrade's strategy resolver and analysis use it, without an exchange."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from freqtrade.enums import CandleType, RunMode, TradingMode
from freqtrade.exceptions import OperationalException
from freqtrade.optimize.backtest_caching import get_strategy_run_id

from feeder_mixin.live.announce import warn_unlisted
from feeder_mixin.live.reload.feeder_reader import FeederReader
from feeder_mixin.live.reload.loader import load_parameters
from feeder_mixin.mixin import OptunaParamsMixin
from feeder_mixin.stores.url import open_store
from tests.builders import make_record

PAIR = "ETH/USDT:USDT"
N = 12
STORE = "sqlite:///store.sqlite"


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
            "max_adverse_ratio": 0.01,
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


def test_start_with_a_bad_file_of_blackouts_is_refused_by_name(make_config, tmp_path):
    """Before anything trades, and without a traceback: freqtrade prints the message alone."""
    config = make_config()
    config["feeder"] |= {"blackouts": "times.csv"}
    with pytest.raises(OperationalException, match=rf"{tmp_path}/times\.csv can't be read"):
        Always(config)


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


@pytest.fixture
def run_id(make_config, tmp_path):
    """Give a function that returns by what freqtrade finds an earlier result of a backtest."""

    def ask(**more):
        config = make_config(runmode=RunMode.BACKTEST) | more
        config["feeder"] |= {"store_url": STORE}
        strategy = Always(config)
        strategy.__file__ = __file__  # as the resolver sets it
        return get_strategy_run_id(strategy)

    (tmp_path / "user_data").mkdir()
    return ask


def write_record(root, time_ns, **values):
    """Store a record of the pair."""
    record = make_record(PAIR, time_ns, feeder_id="feeder1", **values)
    with open_store(STORE, root=root) as store:
        store.write([record])


def test_backtest_is_found_again_until_the_records_in_use_change(run_id, tmp_path):
    """An unchanged store may be answered from freqtrade's cache, a tuned one never."""
    now_ns = time.time_ns()
    write_record(tmp_path, now_ns - 2)
    before = run_id()
    assert run_id() == before
    write_record(tmp_path, now_ns - 1, quantile_alpha=0.2)
    assert run_id() != before


def test_backtest_without_cache_asks_the_store_when_it_predicts(run_id, caplog):
    """What looks for no earlier result pays for none: the analyses make many strategies."""
    run_id(backtest_cache="none")
    assert "Loaded Optuna params" not in caplog.text


class Host:
    """A data provider whose exchange lists some pairs, as freqtrade's knows them."""

    def __init__(self, *listed):
        self._listed = listed

    def market(self, pair):
        """Return a pair's market, None where there is none."""
        return {"symbol": pair} if pair in self._listed else None


def test_context_pairs_that_the_exchange_does_not_list_are_never_asked_for(make_config):
    """Each request of one would be a warning of the host's, every few seconds, for ever."""
    strategy = Always(make_config())
    assert strategy.feeder.context_pairs == ("BTC/USDT:USDT", PAIR)
    strategy.dp = Host(PAIR)
    assert strategy.informative_pairs() == [(PAIR, "5m", "")]
    strategy.dp = Host("BTC/USDT:USDT", PAIR)  # listed later: asked for from then on
    assert len(strategy.informative_pairs()) == 2


def test_pairs_that_the_exchange_does_not_list_are_said_once_with_their_key(make_config, caplog):
    """A bot names what its exchange lacks, and says nothing where it lists them all."""
    feeder = Always(make_config()).feeder
    warn_unlisted(feeder, lambda _pair: True)
    assert not caplog.records
    warn_unlisted(feeder, lambda pair: pair == PAIR)
    (record,) = caplog.records
    assert "does not list BTC/USDT:USDT, features are built without them" in record.getMessage()
    assert "feeder.context_pairs feeder=feeder1 exchange=binance" in record.getMessage()


def test_start_line_says_what_the_feeder_is_set_to(make_config, tmp_path, caplog):
    """One line of a log that was handed on tells which feeder ran, on what, from where."""
    feeder = Always(make_config()).feeder
    with caplog.at_level("INFO", logger="feeder_mixin"):
        reader = FeederReader(feeder, 300)
        reader.log_start(load_parameters(reader, {}, None))
    (said,) = [r.getMessage() for r in caplog.records if "Feeder starts" in r.getMessage()]
    for fact in (
        "feeder=feeder1 side=long horizon_candles=30 timeframe=5m max_adverse_ratio=0.01",
        f"quantile_alpha=0.1 pairs=1 context=2 context_pairs=BTC/USDT:USDT,{PAIR}",
        f"store=sqlite:///{tmp_path}/user_data/feeder_params.sqlite (default)",
    ):
        assert fact in said
