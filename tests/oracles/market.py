"""Features and labels, candle by candle."""

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

Numbers = list[float]
NEW_YORK = ZoneInfo("America/New_York")


def excursion(candles: pd.DataFrame, i: int, horizon: int, side: str) -> float:
    """Return the adverse excursion of candle `i`, NaN where it is not known."""
    ahead = candles.iloc[i + 1 : i + 1 + horizon]
    close = candles["close"].iloc[i]
    if len(ahead) < horizon or ahead["low"].isna().any() or math.isnan(close):
        return math.nan
    if side == "long":
        return min(ahead["low"]) / close - 1
    return 1 - max(ahead["high"]) / close


def atr(candles: pd.DataFrame, period: int = 14) -> Numbers:
    """Return Wilder's ATR: mean of the first true ranges, then a recursion; restarts at a gap."""
    out: Numbers = []
    ranges: Numbers = []
    previous: float | None = None
    level = math.nan
    for high, low, close in candles[["high", "low", "close"]].itertuples(index=False):
        if math.isnan(close):
            ranges, previous, level = [], None, math.nan
        else:
            if previous is not None:
                true_range = max(high - low, abs(high - previous), abs(low - previous))
                ranges.append(true_range)
                if len(ranges) == period:
                    level = sum(ranges) / period
                elif len(ranges) > period:
                    level = (level * (period - 1) + true_range) / period
            previous = close
        out.append(level)
    return out


def log_realised_volatility(candles: pd.DataFrame, i: int, window: int) -> float:
    """Return the log of the root mean square of the last `window` log returns at candle `i`."""
    close = candles["close"].to_numpy()
    squares = [math.log(close[k] / close[k - 1]) ** 2 for k in range(i - window + 1, i + 1)]
    return math.log(max(math.sqrt(sum(squares) / window), 1e-7))


def log_range_volatility(candles: pd.DataFrame, i: int, window: int) -> float:
    """Return the log of Parkinson's volatility over the last `window` candles at candle `i`."""
    high, low = candles["high"].to_numpy(), candles["low"].to_numpy()
    squares = [math.log(high[k] / low[k]) ** 2 for k in range(i - window + 1, i + 1)]
    variance = sum(squares) / window / (4 * math.log(2))
    return 0.5 * math.log(max(variance, 1e-12))


def momentum(candles: pd.DataFrame, atrs: Numbers, i: int, window: int) -> float:
    """Return the log return over `window` candles in units of ATR14/close x sqrt(window)."""
    close = candles["close"].to_numpy()
    change = math.log(close[i] / close[i - window])
    return change / (atrs[i] / close[i]) / math.sqrt(window)


def distance_to_low(candles: pd.DataFrame, atrs: Numbers, i: int, window: int) -> float:
    """Return how far the close stands above the window's low, as a number <= 0."""
    close = candles["close"].iloc[i]
    lowest = min(candles["low"].iloc[i - window + 1 : i + 1])
    return math.log(lowest / close) / (atrs[i] / close) / math.sqrt(window)


def season(candles: pd.DataFrame, i: int, horizon: int, days: list[int]) -> float:
    """Return the mean log volatility of what followed candle `i`'s time of day, `days` ago."""
    followed = [log_range_volatility(candles, i - day * 288 + horizon, horizon) for day in days]
    return sum(followed) / len(followed)


def season_before(candles: pd.DataFrame, i: int, window: int, days: list[int]) -> float:
    """Return the mean log volatility of the `window` candles up to this time of day, `days` ago."""
    before = [log_range_volatility(candles, i - day * 288, window) for day in days]
    return sum(before) / len(before)


def log_volume(candles: pd.DataFrame, i: int, window: int) -> float:
    """Return the log of the window's mean volume in units of the week's, a thousandth added."""
    volume = candles["volume"].to_numpy()
    week = sum(volume[i - 2015 : i + 1]) / 2016
    return math.log(sum(volume[i - window + 1 : i + 1]) / window / week + 1e-3)


def volume_season(candles: pd.DataFrame, i: int, horizon: int, ahead: int) -> float:
    """Return the log of the usual volume over the horizon, `ahead` candles on, against the week's."""
    volume = candles["volume"].to_numpy()
    usual = []
    for day in range(1, 22):
        end = i - day * 288 + ahead + 1
        usual.append(sum(volume[end - horizon : end]) / horizon)
    return math.log(sum(usual) / 21 / (sum(volume[i - 2015 : i + 1]) / 2016) + 1e-3)


def log_range(candles: pd.DataFrame, i: int, window: int) -> float:
    """Return the log of the log distance of the window's high and low."""
    part = candles.iloc[i - window + 1 : i + 1]
    return math.log(math.log(max(part["high"]) / min(part["low"])))


def down_up(candles: pd.DataFrame, i: int, window: int) -> float:
    """Return half the log ratio of downward to upward mean squares, a squared basis point added."""
    close = candles["close"].to_numpy()
    moves = [math.log(close[k] / close[k - 1]) for k in range(i - window + 1, i + 1)]
    down = sum(x * x for x in moves if x < 0) / window + 1e-8
    up = sum(x * x for x in moves if x > 0) / window + 1e-8
    return 0.5 * math.log(down / up)


def largest_return(candles: pd.DataFrame, i: int, window: int) -> float:
    """Return the log of the largest absolute return of the window, a basis point added."""
    close = candles["close"].to_numpy()
    moves = [abs(math.log(close[k] / close[k - 1])) for k in range(i - window + 1, i + 1)]
    return math.log(max(moves) + 1e-4)


def trend(candles: pd.DataFrame, atrs: Numbers, i: int, window: int) -> float:
    """Return how far the log close lies from its mean, in units of ATR14/close x sqrt(window)."""
    logs = [math.log(x) for x in candles["close"].iloc[i - window + 1 : i + 1]]
    away = abs(logs[-1] - sum(logs) / window)
    return away / (atrs[i] / candles["close"].iloc[i]) / math.sqrt(window)


def profile(
    first_s: int,
    volatility: Numbers,
    i: int,
    *,
    horizon: int,
    timeframe_s: int,
    n_days: int,
    at_least: int,
    by_weekday: bool,
) -> float:
    """Return the New York profile of candle `i`: mean excess volatility after its slot before.

    Parameters
    ----------
    volatility
        The market's log volatility over the last `horizon` candles, by candle; NaN where unknown.
    n_days, at_least
        How many earlier days of the slot are averaged at most, and at least (else 0).
    by_weekday
        Whether only the same weekday counts, or all working days (all weekend days).
    """

    def local(k: int) -> datetime:
        return datetime.fromtimestamp(first_s + k * timeframe_s, UTC).astimezone(NEW_YORK)

    def kind(k: int) -> object:
        moment = local(k)
        return moment.weekday() if by_weekday else moment.weekday() >= 5

    now = local(i)
    excesses: Numbers = []
    for k in range(i - 1, -1, -1):
        then = local(k)
        if (then.hour, then.minute) != (now.hour, now.minute) or kind(k) != kind(i):
            continue
        if then.date() == now.date():
            continue  # New York repeats an hour
        week = [x for x in volatility[max(0, k - 2015) : k + 1] if not math.isnan(x)]
        known = len(week) >= 500 and k + horizon < len(volatility)
        later = k + 3600 // timeframe_s
        is_repeated = (local(later).hour, local(later).minute) == (then.hour, then.minute)
        known = known and not is_repeated
        excess = volatility[k + horizon] - sum(week) / len(week) if known else math.nan
        excesses.append(excess)
        if len(excesses) == n_days:
            break
    there = [x for x in excesses if not math.isnan(x)]
    return float(np.mean(there)) if len(there) >= at_least else 0.0
