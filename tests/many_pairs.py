"""A feeder as large as the owner's, made from one real form of result: names and values vary."""

from __future__ import annotations

from dataclasses import replace

from feeder_mixin.reports.documents import TunedPair
from feeder_mixin.tune.judge.result import PairResult
from tests.reports import builder

_PREFIXES = (
    "",
    "1000",
    "10",
    "Q",
    "R",
    "S",
    "T",
    "V",
    "W",
    "X",
    "Y",
    "Z",
    "1000000",
    "A",
    "B",
    "C",
)
_BASES = ("BTC", "ETH", "SOL", "PEPE", "SHIB", "FLOKI", "FARTCOIN", "MOG", "BONK", "AI", "PENDLE")

MANY_PAIRS = tuple(f"{a}{b}/USDT:USDT" for a in _PREFIXES for b in _BASES)[:163]


def make_many_results(pairs=MANY_PAIRS) -> dict[str, PairResult]:
    """Return a result of each pair: every outcome, and gains all over."""
    made = [
        builder.make_result(seed=seed, outcome=one) for seed, one in enumerate(builder.OUTCOMES)
    ]
    results = {}
    for number, pair in enumerate(pairs):
        one = made[number % len(made)]
        gain = None if one.decided.gain is None else 0.0001 * (number % 37 - 18)
        decision = replace(one.decided, gain=gain)
        results[pair] = replace(one, pair=pair, time_ns=one.time_ns + number, decision=decision)
    return results


def make_many_tuned(pairs=MANY_PAIRS) -> dict[str, TunedPair]:
    """Return pairs as the report has them, each with candles of its own."""
    return {
        pair: TunedPair(builder.make_result(pair, seed, outcome=builder.OUTCOMES[seed % 5]))
        for seed, pair in enumerate(pairs)
    }
