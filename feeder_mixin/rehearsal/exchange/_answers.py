"""What Binance's USDT-M futures REST API answers, as far as ccxt and freqtrade ask.

Pure functions of market, parameters and time: `ANSWERS` maps a path to one. Prices go out as the
shortest text that reads back as the same number, so disk and live agree to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from feeder_mixin.errors import FeederError
from feeder_mixin.rehearsal.exchange._series import CLOSE, DAY_MS, HIGH, LOW, OPEN, VOLUME, window
from feeder_mixin.rehearsal.exchange.market import INTERVALS, ReplayMarket

Params = Mapping[str, str]
Json = object
Answer = Callable[[ReplayMarket, Params, int], Json]

PERPETUAL_MS: Final = 4_133_404_800_000
"""Delivery date of every contract without one, on Binance and so in ccxt."""

_KLINES_MAX: Final = 1500
_FUNDING_MAX: Final = 1000
_DEPTHS: Final = (5, 10, 20, 50, 100, 500, 1000)


class RefusedError(FeederError):
    """The request is wrong: whoever asks corrects it. Carries Binance's error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def symbol_of(pair: str) -> str:
    """Return Binance's name of a pair.

    >>> symbol_of("BTC/USDT:USDT")
    'BTCUSDT'
    """
    return pair.partition(":")[0].replace("/", "")


def number_text(value: float) -> str:
    """Return the shortest plain decimal that reads back as the same number.

    >>> number_text(6.8e-06), number_text(66435.9), number_text(250.0)
    ('0.0000068', '66435.9', '250')
    """
    return np.format_float_positional(value, trim="-")


def _pair(market: ReplayMarket, params: Params, key: str = "symbol") -> str:
    symbol = params.get(key, "")
    if not symbol:
        raise RefusedError(-1102, f"Mandatory parameter '{key}' was not sent, was empty/null.")
    for pair in market.series:
        if symbol_of(pair) == symbol:
            return pair
    raise RefusedError(-1121, "Invalid symbol.")


def _whole(params: Params, key: str) -> int | None:
    text = params.get(key)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise RefusedError(-1102, f"Mandatory parameter '{key}' was malformed.") from None


def _limit(params: Params, default: int, highest: int) -> int:
    limit = _whole(params, "limit")
    if limit is not None and limit < 1:
        raise RefusedError(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(limit or default, highest)


def _each(market: ReplayMarket, params: Params, one: Callable[[str], Json]) -> Json:
    """Answer for the symbol asked for, else for all."""
    if "symbol" in params:
        return one(_pair(market, params))
    return [one(pair) for pair in market.series]


def ping(_market: ReplayMarket, _params: Params, _now_ms: int) -> Json:
    """Answer nothing, as Binance does."""
    return {}


def server_time(market: ReplayMarket, _params: Params, _now_ms: int) -> Json:
    """Return the clock; candles may lag, it does not."""
    return {"serverTime": market.now_ms()}


def exchange_info(market: ReplayMarket, _params: Params, now_ms: int) -> Json:
    """Return every pair's contract with tick, step and limits that suit its price."""
    assets = sorted({pair.partition(":")[2] for pair in market.series})
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": 2400,
            }
        ],
        "exchangeFilters": [],
        "assets": [{"asset": asset, "marginAvailable": True} for asset in assets],
        "symbols": [_contract(market, pair, now_ms) for pair in market.series],
    }


def _contract(market: ReplayMarket, pair: str, now_ms: int) -> dict[str, Json]:
    base, quote = pair.partition(":")[0].split("/")
    price, decimals = market.price(pair, now_ms), market.decimals(pair)
    tick = number_text(10.0**-decimals)
    amount_decimals = max(0, math.ceil(math.log10(price)))  # one step is worth a USDT at most
    lot = {
        "minQty": number_text(10.0**-amount_decimals),
        "stepSize": number_text(10.0**-amount_decimals),
    }
    most = number_text(float(10 ** max(3, 9 - amount_decimals)))
    return {
        "symbol": symbol_of(pair),
        "pair": symbol_of(pair),
        "contractType": "PERPETUAL",
        "deliveryDate": PERPETUAL_MS,
        "onboardDate": int(market.series[pair].opens_ms[0]),
        "status": "TRADING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": base,
        "quoteAsset": quote,
        "marginAsset": pair.partition(":")[2],
        "pricePrecision": decimals,
        "quantityPrecision": amount_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "triggerProtect": "0.0500",
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick,
                "maxPrice": number_text(float(10 ** (math.ceil(math.log10(price)) + 3))),
                "tickSize": tick,
            },
            {"filterType": "LOT_SIZE", "maxQty": most, **lot},
            {"filterType": "MARKET_LOT_SIZE", "maxQty": most, **lot},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
        "orderTypes": [
            "LIMIT",
            "MARKET",
            "STOP",
            "STOP_MARKET",
            "TAKE_PROFIT",
            "TAKE_PROFIT_MARKET",
        ],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def klines(market: ReplayMarket, params: Params, now_ms: int) -> Json:
    """Return candles; the last one forms when the window reaches now."""
    return _klines(market, params, now_ms, mark=False)


def mark_price_klines(market: ReplayMarket, params: Params, now_ms: int) -> Json:
    """Return candles of the mark price, whose volume is always 0."""
    return _klines(market, params, now_ms, mark=True)


def _klines(market: ReplayMarket, params: Params, now_ms: int, *, mark: bool) -> Json:
    pair = _pair(market, params)
    step_ms = INTERVALS.get(params.get("interval", ""), 0)
    if not step_ms or step_ms % market.series[pair].step_ms:
        raise RefusedError(
            -1120, f"Invalid interval (the replay has {market.timeframe} and longer)."
        )
    candles = market.klines(pair, step_ms, now_ms, mark=mark)
    limit = _limit(params, 500, _KLINES_MAX)
    part = window(candles.opens_ms, _whole(params, "startTime"), _whole(params, "endTime"), limit)
    return [
        _kline(int(open_ms), row, step_ms, is_mark=mark)
        for open_ms, row in zip(candles.opens_ms[part], candles.rows[part], strict=True)
    ]


def _kline(open_ms: int, row: np.ndarray, step_ms: int, *, is_mark: bool) -> list[Json]:
    volume = 0.0 if is_mark else float(row[VOLUME])
    turnover = volume * float(row[OPEN] + row[CLOSE]) / 2
    prices = [number_text(value) for value in row[:VOLUME]]
    traded = [number_text(round(part, 8)) for part in (turnover, volume / 2, turnover / 2)]
    n_trades = math.ceil(turnover / 1000)
    return [
        open_ms, *prices, number_text(volume), open_ms + step_ms - 1, traded[0], n_trades, *traded[1:], "0",
    ]  # fmt: skip


def funding_rate(market: ReplayMarket, params: Params, now_ms: int) -> Json:
    """Return paid funding, ascending; without a start the newest."""
    pairs = [_pair(market, params)] if "symbol" in params else list(market.series)
    limit = _limit(params, 100, _FUNDING_MAX)
    answer: list[Json] = []
    for pair in pairs:
        funding = market.fundings[pair]
        times_ms = funding.times_ms[: funding.n_paid(now_ms)]
        part = window(times_ms, _whole(params, "startTime"), _whole(params, "endTime"), limit)
        answer += [
            {
                "symbol": symbol_of(pair),
                "fundingTime": int(time_ms),
                "fundingRate": number_text(rate),
                "markPrice": number_text(market.price(pair, int(time_ms))),
            }
            for time_ms, rate in zip(
                times_ms[part], funding.rates[: len(times_ms)][part], strict=True
            )
        ]
    return answer


def premium_index(market: ReplayMarket, params: Params, now_ms: int) -> Json:
    """Return mark price, last funding rate and when the next is due."""

    def one(pair: str) -> Json:
        funding, price = market.fundings[pair], number_text(market.price(pair, now_ms))
        paid = funding.n_paid(now_ms)
        return {
            "symbol": symbol_of(pair),
            "markPrice": price,
            "indexPrice": price,
            "estimatedSettlePrice": price,
            "lastFundingRate": number_text(funding.rates[paid - 1]) if paid else "0",
            "interestRate": "0.0001",
            "nextFundingTime": funding.next_ms(now_ms),
            "time": now_ms,
        }

    return _each(market, params, one)


def depth(market: ReplayMarket, params: Params, now_ms: int) -> Json:
    """Return an order book around the last price: one tick wide, a tick between levels."""
    pair = _pair(market, params)
    limit = _limit(params, 500, _DEPTHS[-1])
    if limit not in _DEPTHS:
        raise RefusedError(-4021, f"{limit} is not valid depth limit")
    bid, ask, quantity = _top_of_book(market, pair, now_ms)
    tick, decimals = 10.0 ** -market.decimals(pair), market.decimals(pair)

    def side(top: float, direction: int) -> list[list[str]]:
        levels = [round(top + direction * i * tick, decimals) for i in range(limit)]
        return [
            [number_text(price), number_text(round(quantity * (1 + i % 7), 8))]
            for i, price in enumerate(levels)
            if price > 0
        ]

    return {
        "lastUpdateId": now_ms, "E": now_ms, "T": now_ms, "bids": side(bid, -1), "asks": side(ask, 1)
    }  # fmt: skip


def _top_of_book(market: ReplayMarket, pair: str, now_ms: int) -> tuple[float, float, float]:
    """Return best bid, best ask and the quantity at each; 1/100 of the last candle's volume."""
    series, decimals = market.series[pair], market.decimals(pair)
    bid, tick = market.price(pair, now_ms), 10.0**-decimals
    traded = float(series.rows[max(0, series.n_closed(now_ms) - 1), VOLUME])
    return bid, round(bid + tick, decimals), round(max(traded / 100, 1000 / bid), 3)


def book_ticker(market: ReplayMarket, params: Params, now_ms: int) -> Json:
    """Return best bid and ask."""

    def one(pair: str) -> Json:
        bid, ask, quantity = _top_of_book(market, pair, now_ms)
        return {
            "symbol": symbol_of(pair),
            "bidPrice": number_text(bid),
            "bidQty": number_text(quantity),
            "askPrice": number_text(ask),
            "askQty": number_text(quantity),
            "time": now_ms,
        }

    return _each(market, params, one)


def price_ticker(market: ReplayMarket, params: Params, now_ms: int) -> Json:
    """Return the last price."""

    def one(pair: str) -> Json:
        price = number_text(market.price(pair, now_ms))
        return {"symbol": symbol_of(pair), "price": price, "time": now_ms}

    return _each(market, params, one)


def day_ticker(market: ReplayMarket, params: Params, now_ms: int) -> Json:
    """Return the last 24 hours in figures."""

    def one(pair: str) -> Json:
        candles = market.klines(pair, market.series[pair].step_ms, now_ms)
        rows = candles.rows[window(candles.opens_ms, now_ms - DAY_MS, None, len(candles))]
        rows = rows if len(rows) else candles.rows[-1:]
        first, last = float(rows[0, OPEN]), float(rows[-1, CLOSE])
        volume = float(rows[:, VOLUME].sum())
        turnover = float((rows[:, VOLUME] * rows[:, CLOSE]).sum())
        figures = {
            "priceChange": last - first,
            "priceChangePercent": 100 * (last / first - 1),
            "weightedAvgPrice": turnover / volume if volume else last,
            "lastPrice": last,
            "lastQty": 1.0,
            "openPrice": first,
            "highPrice": float(rows[:, HIGH].max()),
            "lowPrice": float(rows[:, LOW].min()),
            "volume": volume,
            "quoteVolume": turnover,
        }
        texts = {key: number_text(round(value, 8)) for key, value in figures.items()}
        times = {"openTime": now_ms - DAY_MS, "closeTime": now_ms}
        return {"symbol": symbol_of(pair), **texts, **times, "firstId": 1, "lastId": 2, "count": 2}

    return _each(market, params, one)


ANSWERS: Final[Mapping[str, Answer]] = {
    "/fapi/v1/ping": ping,
    "/fapi/v1/time": server_time,
    "/fapi/v1/exchangeInfo": exchange_info,
    "/fapi/v1/klines": klines,
    "/fapi/v1/markPriceKlines": mark_price_klines,
    "/fapi/v1/fundingRate": funding_rate,
    "/fapi/v1/premiumIndex": premium_index,
    "/fapi/v1/depth": depth,
    "/fapi/v1/ticker/bookTicker": book_ticker,
    "/fapi/v1/ticker/price": price_ticker,
    "/fapi/v2/ticker/price": price_ticker,
    "/fapi/v1/ticker/24hr": day_ticker,
}
"""Path -> what answers it; everything else is 404 and named in the log."""
