"""Downloads: what freqtrade's downloader answers, and what that means for a run.

The real one runs against a replay exchange in ``tests/e2e/test_optimize.py``; here its output is what
it printed there.
"""

from __future__ import annotations

import pytest

from feeder_mixin.errors import CandleError
from feeder_mixin.market import history
from feeder_mixin.market.history import download_missing
from tests.candle_factory import make_candles, write_candles
from tests.live.conftest import BTC, ETH, PAIRS, SOL, market_settings

BEGUN = """\
2026-11-28 04:46:11,278 - freqtrade.exchange.exchange - INFO - Markets were not loaded. Loading them now..
2026-11-28 04:46:11,417 - freqtrade.data.history.history_utils - INFO - About to download pairs: [{}],
intervals: ['5m'] to user_data/data/binance
2026-11-28 04:46:11,566 - freqtrade.data.history.history_utils - INFO - Downloaded data
"""
NONE_LISTED = """\
2026-11-28 04:46:16,892 - freqtrade.data.history.history_utils - WARNING - No pairs available for
download. Please make sure you're using the correct Pair naming for your selected trade mode.
"""
NO_NETWORK = "2026-11-28 04:46:24,289 - freqtrade - ERROR - Markets were not loaded.\n"


@pytest.fixture
def settings(tmp_path):
    """Give a feeder of three pairs on an empty data folder; BTC and ETH are its context."""
    return market_settings(tmp_path / "user_data", context_pairs=[BTC, ETH])


@pytest.fixture
def exchange(monkeypatch, settings):
    """Give a function that says which pairs the exchange lists; None: it can't be reached."""
    frame = make_candles(300, 1)

    def play(listed, broken=()):
        def download(_settings, pairs, _days, *_args, **_options):
            if listed is None:
                return history.read_answer(2, NO_NETWORK)
            found = [pair for pair in pairs if pair in listed]
            there = {pair: frame for pair in found if pair not in broken}
            write_candles(settings.default_datadir, there)
            named = ", ".join(repr(pair) for pair in found)
            return history.read_answer(0, BEGUN.format(named) if found else NONE_LISTED)

        monkeypatch.setattr(history, "run_download", download)

    return play


@pytest.mark.parametrize("gone", PAIRS, ids=["btc-context", "eth-context", "sol"])
def test_pair_that_the_exchange_does_not_list_fails_alone(settings, exchange, gone):
    """Others are downloaded; what is said names the exchange and the pair, and no network."""
    exchange([pair for pair in PAIRS if pair != gone])
    lacking = download_missing(settings, PAIRS, days=30)
    assert lacking.keys() == {gone}
    assert "binance lists no active futures pair of that name" in lacking[gone]
    assert "network" not in lacking[gone]
    assert len(list((settings.default_datadir / "futures").iterdir())) == 2


def test_pairs_none_of_which_the_exchange_lists_each_get_their_reason(settings, exchange):
    """Answered is answered: no word of a network."""
    exchange([])
    lacking = download_missing(settings, PAIRS, days=30)
    assert lacking.keys() == set(PAIRS)
    assert all("lists no active futures pair" in reason for reason in lacking.values())


def test_pair_that_is_listed_but_brought_nothing_is_not_called_unlisted(settings, exchange):
    """What the exchange lists is not taken out of a config: the last lines say what went wrong."""
    exchange(PAIRS, broken=[SOL])
    lacking = download_missing(settings, PAIRS, days=30)
    assert lacking.keys() == {SOL}
    assert "binance answered, but sent no candles of this pair" in lacking[SOL]


def test_exchange_that_gives_no_answer_is_called_that_and_the_command_is_named(settings, exchange):
    """No network is no fault of a pair's."""
    exchange(None)
    with pytest.raises(CandleError, match=r"gave no answer \(no network.*freqtrade download-data"):
        download_missing(settings, PAIRS, days=30)


def test_pair_of_its_own_without_network_fails_alone_where_the_others_are_there(settings, exchange):
    """Candles of the others and of the context are on disk: they are tuned."""
    write_candles(settings.default_datadir, {pair: make_candles(300, 1) for pair in (BTC, ETH)})
    exchange(None)
    lacking = download_missing(settings, PAIRS, days=30)
    assert lacking.keys() == {SOL}
    assert "binance gave no answer (no network" in lacking[SOL]


def test_context_pair_without_network_stops_the_run(settings, exchange):
    """Another context is another model: with a network it would have been there."""
    write_candles(settings.default_datadir, {pair: make_candles(300, 1) for pair in (SOL, ETH)})
    exchange(None)
    with pytest.raises(CandleError, match=f"no candles for {BTC}"):
        download_missing(settings, [SOL], days=30)


def test_another_wording_of_the_downloader_says_no_more_than_it_knows():
    """A later freqtrade may word its log otherwise: then no pair is called unlisted."""
    answer = history.read_answer(0, "Fetching candles now\n")
    assert answer.is_answered
    assert answer.listed is None
