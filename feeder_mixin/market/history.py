"""Candles that are not on disk yet: fetched by freqtrade's own downloader."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from freqtrade.data.history import get_datahandler
from freqtrade.data.history.datahandlers.idatahandler import IDataHandler
from freqtrade.enums import CandleType

from feeder_mixin.errors import CandleError
from feeder_mixin.market.candles import candle_path, find_candle_file, timeframe_seconds
from feeder_mixin.market.features import warmup_candles
from feeder_mixin.market.formats import describe_other_forms
from feeder_mixin.processes import tied
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 1800
_POLL_S: Final = 0.2
_DAY_S: Final = 86_400
_ERROR: Final = " - ERROR - "
"""Level of a line in freqtrade's log."""

_STALE_S: Final = _DAY_S
"""Age of the newest candle from which a file is brought up to date."""

_BEGUN: Final = re.compile(r"About to download pairs: \[([^\]]*)\]")
_NONE_LISTED: Final = "No pairs available for download"
"""What freqtrade logs of the pairs that it found among the exchange's markets."""
_WIDE: Final = "1000"
"""Terminal width of the download: freqtrade breaks its log lines at it, elsewhere too."""


def download_arguments(
    settings: FeederSettings,
    pairs: Sequence[str],
    days: float,
    datadir: Path | None = None,
    *,
    is_older: bool = False,
) -> list[str]:
    """Return freqtrade's arguments that fetch `days` of labelled candles and their warm-up.

    Parameters
    ----------
    datadir
        None is freqtrade's own folder of the exchange.
    is_older
        Fetch what comes before the candles on disk; freqtrade goes on behind them otherwise.
    """
    warmup_days = (
        warmup_candles(settings.horizon_candles) * timeframe_seconds(settings.timeframe) / _DAY_S
    )
    folder = [] if datadir is None else ["--datadir", str(datadir)]
    return [
        "download-data",
        *(part for path in settings.config_paths for part in ("--config", str(path))),
        "--userdir",
        str(settings.user_data_dir),
        *folder,
        "--pairs",
        *pairs,
        "--timeframes",
        settings.timeframe,
        "--days",
        str(math.ceil(days + warmup_days)),
        *(["--prepend"] if is_older else []),
    ]


def download_command(
    settings: FeederSettings,
    pairs: Sequence[str],
    days: float,
    datadir: Path | None = None,
    *,
    is_older: bool = False,
) -> str:
    """Return the same as a command line to paste."""
    arguments = download_arguments(settings, pairs, days, datadir, is_older=is_older)
    return shlex.join(["freqtrade", *arguments])


def download_missing(
    settings: FeederSettings, pairs: Sequence[str], *, days: float
) -> dict[str, str]:
    """Download candles of pairs and context pairs into freqtrade's data folder, where they lack.

    Only that folder is ever downloaded into. Files that end more than a day ago are brought up to
    date; when that fails, they are used as they are, with a warning.

    Returns
    -------
    dict
        Pair -> why it has no candles, where the others can go on: mostly that the exchange does not
        list it.

    Raises
    ------
    CandleError
        When the exchange gave no answer and none of the pairs, or not the whole context, is there:
        the message names the command to try.
    """
    datadir = settings.default_datadir
    datadir.mkdir(parents=True, exist_ok=True)
    handler = get_datahandler(datadir, settings.data_format)
    kind = CandleType.from_string(settings.candle_type)
    wanted = dict.fromkeys([*pairs, *settings.context_pairs])

    def find_missing() -> list[str]:
        paths = {p: candle_path(handler, datadir, p, settings.timeframe, kind) for p in wanted}
        return [pair for pair, path in paths.items() if not path.exists()]

    missing = find_missing()
    stale = [
        pair
        for pair in wanted
        if pair not in missing and _is_stale(handler, pair, settings.timeframe, kind)
    ]
    if stale:
        try:
            download_newer(settings, stale, datadir)
        except CandleError as error:
            logger.warning("Candles could not be updated pairs=%d: %s", len(stale), error)
    if short := _short_files(settings, [pair for pair in wanted if pair not in missing], days):
        try:
            download_older(settings, short, datadir, days=days)
        except CandleError as error:
            logger.warning("Older candles could not be downloaded pairs=%d: %s", len(short), error)
    if not missing:
        return {}
    _say_other_forms(settings, missing, datadir)
    logger.info("Candles are missing, downloading them pairs=%d", len(missing))
    answer = run_download(settings, missing, days)
    still = find_missing()
    if not still or answer.is_answered:
        return {pair: _reason(settings, pair, answer) for pair in still}
    problem = (
        f"{settings.exchange} gave no answer (no network, or it is down, or refuses this address). Try it "
        f"by hand: {download_command(settings, still, days)}\nor name a folder that has the candles with "
        f"--datadir. Last lines of the download:\n{answer.tail}"
    )
    if set(pairs) <= set(still) or not set(still).isdisjoint(settings.context_pairs):
        raise CandleError(f"no candles for {', '.join(still)} in {datadir}, and {problem}")
    return dict.fromkeys(still, f"no candles in {datadir}, and {problem}")


def _reason(settings: FeederSettings, pair: str, answer: _Answer) -> str:
    """Return why a download that was answered left no file of a pair."""
    if answer.listed is None or pair in answer.listed:
        return (
            f"{settings.exchange} answered, but sent no candles of this pair. Last lines:\n"
            f"{answer.tail}"
        )
    return (
        f"{settings.exchange} lists no active {settings.candle_type} pair of that name (freqtrade "
        "list-pairs shows them); leave it out of exchange.pair_whitelist and feeder.context_pairs"
    )


def _say_other_forms(settings: FeederSettings, pairs: Sequence[str], datadir: Path) -> None:
    """Say that candles are there in another form before they are downloaded anew."""
    source = (settings.timeframe, settings.candle_type, settings.data_format)
    for pair in pairs:
        path = find_candle_file(datadir, pair, *source)
        other = describe_other_forms(path, pair, settings.data_format)
        if other:
            logger.warning("Candles are downloaded anew, %s does not exist%s", path, other)
            return  # one stands for all: they were downloaded alike


def _short_files(settings: FeederSettings, pairs: Sequence[str], days: float) -> list[str]:
    """Return the pairs whose files begin later than asked for: young ones, too, at every run."""
    warmup_s = warmup_candles(settings.horizon_candles) * timeframe_seconds(settings.timeframe)
    latest_s = time.time() - (days - 1) * _DAY_S - warmup_s
    first = {pair: first_candle_s(settings, pair, settings.default_datadir) for pair in pairs}
    return [pair for pair, first_s in first.items() if first_s is not None and first_s > latest_s]


def _is_stale(handler: IDataHandler, pair: str, timeframe: str, kind: CandleType) -> bool:
    """Return whether a file's newest candle is over a day old; False where it can't be read."""
    try:
        _, newest, n_candles = handler.ohlcv_data_min_max(pair, timeframe, kind)
    except (ValueError, TypeError, OSError):
        return False  # damaged: whoever loads it says so
    return bool(n_candles > 0 and time.time() - newest.timestamp() > _STALE_S)


def download_newer(
    settings: FeederSettings,
    pairs: Sequence[str],
    datadir: Path,
    while_waiting: Callable[[], None] = lambda: None,
) -> None:
    """Bring the pairs' files up to the exchange's newest candle.

    Parameters
    ----------
    while_waiting
        Called a few times a second; what it raises ends the download.

    Raises
    ------
    CandleError
        When the download fails, or `datadir` is not freqtrade's own folder: no other is ever
        downloaded into.
    """
    _check_own_folder(settings, pairs, datadir)
    logger.info("Downloading newer candles pairs=%d", len(pairs))
    run_download(settings, pairs, settings.train_days, while_waiting, check=True)


def download_older(
    settings: FeederSettings,
    pairs: Sequence[str],
    datadir: Path,
    while_waiting: Callable[[], None] = lambda: None,
    *,
    days: float | None = None,
) -> None:
    """Fetch the candles before those on disk that a training window reads, where they are missing.

    When this raises nothing, the exchange was asked and gave all that it has.

    Parameters
    ----------
    while_waiting
        Called a few times a second; what it raises ends the download.
    days
        Back from now, the warm-up aside; `train_days` by default.

    Raises
    ------
    CandleError
        When the download fails, or `datadir` is not freqtrade's own folder.
    """
    _check_own_folder(settings, pairs, datadir, is_older=True)
    logger.info("Downloading older candles pairs=%d", len(pairs))
    wanted_days = settings.train_days if days is None else days
    run_download(settings, pairs, wanted_days, while_waiting, check=True, is_older=True)


def first_candle_s(settings: FeederSettings, pair: str, datadir: Path) -> int | None:
    """Return the open of the first candle on disk; None without a file, or where it can't be read."""
    handler = get_datahandler(datadir, settings.data_format)
    kind = CandleType.from_string(settings.candle_type)
    try:
        first, _, n_candles = handler.ohlcv_data_min_max(pair, settings.timeframe, kind)
    except (ValueError, TypeError, OSError):
        return None  # damaged: whoever loads it says so
    return int(first.timestamp()) if n_candles else None


def _check_own_folder(
    settings: FeederSettings, pairs: Sequence[str], datadir: Path, *, is_older: bool = False
) -> None:
    if datadir.resolve() != settings.default_datadir.resolve():
        command = download_command(settings, pairs, settings.train_days, datadir, is_older=is_older)
        raise CandleError(
            f"{datadir} is not freqtrade's own folder {settings.default_datadir}, so nothing is "
            f"downloaded into it. By hand: {command}"
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of a download.

    Attributes
    ----------
    is_answered
        Whether the exchange was reached.
    listed
        The pairs that it lists, of those that were asked for; None where that is not known.
    tail
        The last lines that freqtrade printed.
    has_errors
        Whether it logged one: it goes on after a pair that failed, and ends with 0.
    """

    is_answered: bool
    listed: frozenset[str] | None
    tail: str
    has_errors: bool


def read_answer(returncode: int, output: str) -> _Answer:
    """Return what freqtrade's downloader says in its exit code and its log.

    Pairs that the exchange does not list are left out there without a word of their own.
    """
    tail = "\n".join(output.strip().splitlines()[-3:])
    has_errors = _ERROR in output
    if returncode != 0:
        return _Answer(is_answered=False, listed=None, tail=tail, has_errors=has_errors)
    words, listed = " ".join(output.split()), None
    if _NONE_LISTED in words:
        listed = frozenset[str]()
    elif begun := _BEGUN.search(words):
        listed = frozenset(re.findall(r"'([^']+)'", begun[1]))
    return _Answer(is_answered=True, listed=listed, tail=tail, has_errors=has_errors)


def run_download(
    settings: FeederSettings,
    pairs: Sequence[str],
    days: float,
    while_waiting: Callable[[], None] = lambda: None,
    *,
    check: bool = False,
    is_older: bool = False,
) -> _Answer:
    """Run freqtrade's downloader and return what came of it.

    Raises
    ------
    CandleError
        When it takes too long, and with `check` when it fails.
    """
    shown = download_command(settings, pairs, days, is_older=is_older)
    logger.info("Download command=%s", shown)
    arguments = download_arguments(settings, pairs, days, is_older=is_older)
    command = [sys.executable, "-m", "freqtrade", *arguments]
    environment = {**os.environ, "COLUMNS": _WIDE}
    deadline = time.monotonic() + _TIMEOUT_S
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        subprocess.Popen(  # noqa: S603
            tied(command), stdout=output, stderr=output, env=environment
        ) as process,
    ):
        try:
            while process.poll() is None and time.monotonic() < deadline:
                while_waiting()
                time.sleep(_POLL_S)
        finally:
            is_late = process.poll() is None
            process.terminate()
        if is_late:
            raise CandleError(f"download took over {_TIMEOUT_S} s; try it by hand: {shown}")
        output.seek(0)
        answer = read_answer(process.returncode, output.read())
    if check and (process.returncode != 0 or (is_older and answer.has_errors)):
        raise CandleError(
            f"download failed (exit {process.returncode}). Try it by hand: {shown}\n"
            f"Last lines of the download:\n{answer.tail}"
        )
    return answer
