"""Pairs as freqtrade spells them, and which lists of them a feeder can have.

``ETH/USDC:USDC`` is a futures pair: base, quote and, behind the colon, settle currency. ``ETH/USDC`` is
a spot pair. A feeder's pairs are spelled out in its config: each has a record and a model of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from feeder_mixin.errors import SettingsError

_SPELLINGS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "futures": (re.compile(r"[\w-]+/[\w-]+:[\w-]+"), "BTC/USDT:USDT"),
    "spot": (re.compile(r"[\w-]+/[\w-]+"), "BTC/USDT"),
}
"""Trading mode, which is the candle type as well -> spelling of its pairs, and an example."""

TRADING_MODES: Final = tuple(_SPELLINGS)

_STATIC: Final = "StaticPairList"
_PAIRLIST_ADVICE: Final = (
    "A feeder has a record and a model for each pair of exchange.pair_whitelist and no others. Begin "
    "pairlists with StaticPairList; pairlists that only sort or filter may follow it"
)


def base_of(pair: str) -> str:
    """Return what a pair trades.

    >>> base_of("ETH/USDC:USDC"), base_of("ETH/USDT")
    ('ETH', 'ETH')
    """
    return pair.partition("/")[0]


def btc_beside(pair: str) -> str:
    """Return BTC against the same quote and settle currency.

    >>> btc_beside("ETH/USDC:USDC"), btc_beside("ETH/USDT")
    ('BTC/USDC:USDC', 'BTC/USDT')
    """
    return f"BTC/{pair.partition('/')[2]}"


def btc_among(pairs: Iterable[str]) -> str | None:
    """Return the BTC of a context, None without: of several the one priced as most other pairs are.

    >>> btc_among(["ETH/USDC:USDC", "BTC/USDC:USDC", "SOL/USDC:USDC", "BTC/USDT:USDT"])
    'BTC/USDC:USDC'
    """
    pairs = list(pairs)
    n_priced = Counter(pair.partition("/")[2] for pair in pairs)
    found = [pair for pair in pairs if base_of(pair) == "BTC"]
    return max(found, key=lambda pair: (n_priced[pair.partition("/")[2]], pair), default=None)


def check_spelling(where: str, pairs: Sequence[str], trading_mode: str) -> None:
    """Raise `SettingsError` for a pattern, or for a pair of another market than `trading_mode`."""
    spelling, example = _SPELLINGS[trading_mode]
    for pair in pairs:
        if spelling.fullmatch(pair):
            continue
        other = next((m for m, (form, _) in _SPELLINGS.items() if form.fullmatch(pair)), None)
        hint = f" (that is a {other} pair, and trading_mode is {trading_mode!r})" if other else ""
        raise SettingsError(
            f"{where} has {pair!r}{hint}; a feeder needs each {trading_mode} pair spelled out, such as "
            f"{example!r}"
        )


def check_pairlists(where: str, pairlists: object) -> None:
    """Raise `SettingsError` for ``pairlists`` that bring in pairs which the config does not name.

    freqtrade asks the first for pairs, and the others to filter them; a RemotePairList that appends, and
    every ProducerPairList, add pairs in that place, too.
    """
    if not pairlists:
        return
    if not isinstance(pairlists, list) or not all(isinstance(one, dict) for one in pairlists):
        raise SettingsError(f"{where}: pairlists={pairlists!r}, expected a list of objects")
    first, *others = pairlists
    adding = [
        one.get("method")
        for one in others
        if one.get("method") == "ProducerPairList" or one.get("processing_mode") == "append"
    ]
    if first.get("method") != _STATIC:
        adding.insert(0, first.get("method"))
    if adding:
        raise SettingsError(
            f"{where}: {adding[0]!r} in pairlists picks pairs while the bot runs. {_PAIRLIST_ADVICE}"
        )
