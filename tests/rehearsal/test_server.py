"""The server over real sockets, asked by ccxt and by hand."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import ccxt
import numpy as np
import pytest

from feeder_mixin.errors import SettingsError
from feeder_mixin.rehearsal.exchange._answers import number_text
from feeder_mixin.rehearsal.exchange.faults import Fault, Faults, parse_fault
from feeder_mixin.rehearsal.exchange.server import ReplayServerError, serving
from tests.rehearsal.conftest import NOW_S, PAIRS

BTC, ETH = PAIRS
KLINES = "/fapi/v1/klines"


@pytest.fixture
def url(market):
    """Give the base URL of a server in this process."""
    with serving(market) as base:
        yield base


@pytest.fixture
def client(url, make_client):
    """Give a ccxt client of it."""
    return make_client(url)


def ask(url: str, method: str = "GET", body: object = None) -> tuple[int, object]:
    """Return status and JSON answer of a request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_markets_suit_their_prices(client):
    """Contracts are linear perpetuals, a tick is that of the candles, a step worth a USDT at most."""
    market = client.load_markets()[BTC]

    assert (market["swap"], market["linear"], market["active"]) == (True, True, True)
    assert market["precision"]["price"] == 0.001
    price = client.fetch_ticker(BTC)["last"]
    assert market["precision"]["amount"] * price <= 1
    assert market["limits"]["cost"]["min"] == 5


def test_newest_klines_end_with_the_forming_candle(client, market):
    """Without a start the newest come, all but the last as stored, bit for bit."""
    rows = np.array(client.fetch_ohlcv(BTC, "5m", limit=499))
    n = market.series[BTC].n_closed(market.now_ms())
    stored = market.series[BTC].cut(n - 498, n)

    assert np.array_equal(rows[:-1, 0], stored.opens_ms)
    assert np.array_equal(rows[:-1, 1:], stored.rows)
    assert rows[-1, 0] == int(NOW_S) // 300 * 300_000
    assert rows[-1, 5] < market.series[BTC].rows[n, 4]


def test_paging_gives_the_whole(client, market):
    """Pages by start and limit, put together, are every closed candle once."""
    closed = market.series[ETH].closed(market.now_ms())
    since, pages = 0, []
    while page := client.fetch_ohlcv(ETH, "5m", since=since, limit=1000):
        pages += page
        since = page[-1][0] + 1
    whole = np.array(pages)[:-1]

    assert np.array_equal(whole[:, 0], closed.opens_ms)
    assert np.array_equal(whole[:, 1:], closed.rows)


def test_longer_and_mark_klines_are_answered(client):
    """Hours are made from the stored candles; mark prices have no volume."""
    hours = client.fetch_ohlcv(BTC, "1h", limit=5)
    marks = client.fetch_ohlcv(BTC, "1h", limit=5, params={"price": "mark"})

    assert [row[:5] for row in hours] == [row[:5] for row in marks]
    assert {row[5] for row in marks} == {0}


def test_order_book_and_tickers_are_of_one_price(client):
    """Best bid is the last price, the ask a tick above; day ticker and book ticker agree."""
    book = client.fetch_order_book(BTC, 5)
    ticker, quotes = client.fetch_tickers()[BTC], client.fetch_bids_asks()[BTC]
    bid, ask_price = book["bids"][0][0], book["asks"][0][0]

    assert len(book["bids"]) == len(book["asks"]) == 5
    assert round(ask_price - bid, 9) == 0.001
    assert (quotes["bid"], quotes["ask"], ticker["last"]) == (bid, ask_price, bid)
    assert client.fetch_last_prices()[BTC]["price"] == bid
    assert ticker["low"] <= bid <= ticker["high"]


def test_funding_is_paid_every_eight_hours(client):
    """History ends with the last funding before now; the next one is announced."""
    history = client.fetch_funding_rate_history(BTC, limit=3)
    rate = client.fetch_funding_rates([BTC])[BTC]

    assert [one["timestamp"] // 1000 % 28_800 for one in history] == [0, 0, 0]
    assert history[-1]["timestamp"] <= NOW_S * 1000 < rate["fundingTimestamp"]
    assert rate["fundingTimestamp"] - history[-1]["timestamp"] == 28_800_000


def test_time_is_the_markets(client):
    """The server's clock is the market's."""
    assert client.fetch_time() == NOW_S * 1000


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("interval=5m", -1102),
        ("symbol=NOPEUSDT&interval=5m", -1121),
        ("symbol=BTCUSDT&interval=1m", -1120),
        ("symbol=BTCUSDT&interval=5m&limit=0", -1130),
        ("symbol=BTCUSDT&interval=5m&startTime=soon", -1102),
    ],
    ids=["no-symbol", "unknown-symbol", "shorter-than-stored", "no-limit", "no-number"],
)
def test_wrong_requests_get_binances_code(url, query, code):
    """What Binance refuses is refused with its code."""
    status, answer = ask(f"{url}{KLINES}?{query}")
    assert (status, answer["code"]) == (400, code)


def test_unknown_path_is_named(url, caplog):
    """What is not replayed is 404, in the log once, and counted in the status."""
    for _ in range(2):
        assert ask(f"{url}/fapi/v1/order", "POST", {})[0] == 404
    assert caplog.text.count("request=POST /fapi/v1/order") == 1
    assert ask(f"{url}/replay")[1]["unknown"] == {"POST /fapi/v1/order": 2}


def test_status_counts_and_tells_the_origin(url, client):
    """The status names where the candles are from and counts requests by path."""
    client.fetch_time()
    for path in ("/", "/replay"):
        status = ask(url + path)[1]
        assert (status["generated"], status["requests"]) == (False, {"/fapi/v1/time": 1})
        assert "weeks" in status["replay"]


def test_fault_at_run_time_ends_after_its_count(url, client):
    """Two requests fail as ordered, the third is answered; other paths never fail."""
    fault = {"path": KLINES, "status": 503, "count": 2}
    assert ask(f"{url}/replay/faults", "POST", fault)[0] == 201
    client.load_markets()
    for _ in range(2):
        with pytest.raises(ccxt.ExchangeNotAvailable):
            client.fetch_ohlcv(BTC, "5m")
    assert client.fetch_ohlcv(BTC, "5m")
    assert ask(f"{url}/replay")[1]["faulted"] == {KLINES: 2}


def test_faults_last_until_cleared(url, client):
    """Without a count a fault stays; clearing ends it."""
    ask(f"{url}/replay/faults", "POST", {"path": "/fapi", "status": 429})
    for _ in range(3):
        with pytest.raises(ccxt.DDoSProtection):
            client.fetch_time()
    assert ask(f"{url}/replay/faults", "DELETE") == (200, [])
    assert client.fetch_time()


def test_status_zero_hangs_up(market, make_client):
    """The connection closes without an answer."""
    with serving(market, faults=Faults((Fault(status=0, count=1),))) as url:
        with pytest.raises(ccxt.NetworkError):
            make_client(url).fetch_time()
        assert make_client(url).fetch_time()


def test_lag_makes_candles_late_and_leaves_the_clock(url, client, market):
    """A candle arrives late by the lag; server time does not."""
    client.load_markets()
    ask(f"{url}/replay/faults", "POST", {"lag_s": 10})
    assert client.fetch_ohlcv(BTC, "5m")[-1][0] == int(NOW_S) // 300 * 300_000 - 300_000
    assert client.fetch_time() == NOW_S * 1000


def test_end_stops_the_candles_of_its_symbol_alone(url, client):
    """A delisted pair stands still at its last price, the others go on."""
    client.load_markets()
    end_s = int(NOW_S) // 300 * 300 - 3600
    ask(f"{url}/replay/faults", "POST", {"symbol": "ETHUSDT", "end_s": end_s})
    assert client.fetch_ohlcv(ETH, "5m")[-2][0] == (end_s - 300) * 1000
    assert client.fetch_ohlcv(ETH, "5m", since=end_s * 1000 + 1) == []
    assert client.fetch_ohlcv(BTC, "5m")[-1][0] == int(NOW_S) // 300 * 300_000


def test_delay_holds_the_answer(market, make_client):
    """An answer slower than the client's patience is its time-out."""
    with serving(market, faults=Faults((Fault(delay_s=0.5, count=1),))) as url:
        client = make_client(url)
        client.timeout = 100
        with pytest.raises(ccxt.RequestTimeout):
            client.fetch_time()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"path": "klines"}, "fault path='klines'"),
        ({"path": 5}, "fault path=5"),
        ({"status": 200}, "fault status=200"),
        ({"delay_s": -1}, "fault delay_s=-1"),
        ({"symbol": 5}, "fault symbol=5"),
        ({"end_s": "now"}, "fault end_s='now'"),
        ({"count": 0}, "fault count=0"),
        ({"counts": 1}, "unknown key 'counts'"),
        ([], "a fault is an object"),
    ],
    ids=["path", "path-type", "status", "delay", "symbol", "end", "count", "key", "list"],
)
def test_wrong_faults_are_refused(url, fault, message):
    """Each message names the key and the value."""
    status, answer = ask(f"{url}/replay/faults", "POST", fault)
    assert status == 400
    assert message in answer["error"]


def test_fault_option_reads_as_its_fields():
    """The option's text gives the same fault as JSON does."""
    fault = parse_fault("path=/fapi/v1/klines, status=503, count=5, delay_s=1.5, lag_s=20")
    assert fault == Fault(KLINES, 503, 1.5, 20.0, 5)
    with pytest.raises(SettingsError, match="--fault count=many"):
        parse_fault("count=many")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org"])  # noqa: S104
def test_only_loopback_is_allowed(market, host):
    """The server has no password, so it is never on a network."""
    with pytest.raises(SettingsError, match="only loopback"), serving(market, host):
        pass


def test_taken_port_is_an_error(market, url):
    """A port in use is named."""
    port = int(url.rpartition(":")[2])
    with pytest.raises(ReplayServerError, match=f"port {port}"), serving(market, port=port):
        pass


@pytest.mark.parametrize("value", [1e-8, 6.8e-06, 0.1 + 0.2, 66435.9, 1e15, 250.0])
def test_number_text_reads_back_as_the_same_number(value):
    """No bit is lost on the way, and no exponent is sent."""
    assert float(number_text(value)) == value
    assert "e" not in number_text(value)
