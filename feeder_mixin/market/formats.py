"""The same candles in another form than the config asks for: what is there instead of a missing file.

freqtrade keeps a file per pair, timeframe and candle type, ``ETH_USDT_USDT-5m-futures.feather``; futures
candles lie in a folder of their own, spot candles beside it and without a type in their names.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_FUTURES: Final = "futures"
_FORMATS: Final[Mapping[str, str]] = {
    "feather": "feather",
    "parquet": "parquet",
    "json": "json",
    "json.gz": "jsongz",
    "h5": "hdf5",
}
"""Ending of a file -> freqtrade's name of the format."""

_UNREADABLE: Final = frozenset({"hdf5"})
"""Formats that this freqtrade has no handler for any more."""

_NAME: Final = re.compile(
    rf"([\w-]+)-(\d+[A-Za-z]{{1,2}})(?:-([A-Za-z]\w*))?\.({'|'.join(map(re.escape, _FORMATS))})"
)
_SHOWN: Final = 4


def describe_other_forms(path: Path, pair: str, data_format: str) -> str:
    """Return what of a pair is there where `path` is not, and what to set; empty without anything.

    Parameters
    ----------
    path
        Where freqtrade would keep the candles.
    data_format
        ``dataformat_ohlcv`` in force.
    """
    wanted = _NAME.fullmatch(path.name)
    datadir = path.parent.parent if path.parent.name == _FUTURES else path.parent
    slugs = _slugs(pair)
    found: dict[Path, tuple[str, str | None, str]] = {}
    for folder in (datadir / _FUTURES, datadir):
        for file in sorted(folder.glob("*.*")):
            name = _NAME.fullmatch(file.name)
            if name is not None and name[1] in slugs:
                found[file] = name[2], name[3], _FORMATS[name[4]]
    if not found or wanted is None:
        return ""
    same = {
        f: form for f, (step, kind, form) in found.items() if (step, kind) == wanted.group(2, 3)
    }
    if not same:
        names = ", ".join(str(file.relative_to(datadir)) for file in list(found)[:_SHOWN])
        return f"; of this pair there is {names} (another timeframe or candle type)"
    file, form = next(iter(same.items()))
    if form in _UNREADABLE:
        return (
            f"; there is {file}, but freqtrade no longer reads {form}: download the candles again"
        )
    return (
        f"; there is {file}: set dataformat_ohlcv to {form!r} in the config, or convert them: freqtrade "
        f"convert-data --format-from {form} --format-to {data_format} --datadir "
        f"{shlex.quote(str(datadir))}"
    )


def formats_in(folder: Path) -> list[str]:
    """Return freqtrade's names of the formats in which a folder holds candles, sorted."""
    names = (_NAME.fullmatch(file.name) for file in folder.glob("*.*"))
    return sorted({_FORMATS[name[4]] for name in names if name is not None})


def _slugs(pair: str) -> set[str]:
    """Return how files of a pair begin, as futures and as spot."""
    spot = pair.partition(":")[0]
    settled = f"{spot}:{spot.partition('/')[2]}"
    return {re.sub(r"[/:. @$+]", "_", name) for name in (pair, spot, settled)}
