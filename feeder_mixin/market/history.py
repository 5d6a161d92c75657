"""Candles that are not on disk yet: fetched by freqtrade's own downloader."""

from __future__ import annotations

import logging
import math
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from freqtrade.data.history import get_datahandler
from freqtrade.data.history.datahandlers.idatahandler import IDataHandler
from freqtrade.enums import CandleType

from feeder_mixin.errors import CandleError
from feeder_mixin.market.candles import candle_path, timeframe_seconds
from feeder_mixin.market.features import warmup_candles
from feeder_mixin.processes import tied
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 1800
_POLL_S: Final = 0.2
_DAY_S: Final = 86_400
_STALE_S: Final = _DAY_S
"""Age of the newest candle from which a file is brought up to date."""


def download_arguments(
    settings: FeederSettings, pairs: Sequence[str], days: float, datadir: Path | None = None
) -> list[str]:
    """Return freqtrade's arguments that fetch `days` of labelled candles and their warm-up.

    `datadir` None is freqtrade's own folder of the exchange.
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
    ]


def download_command(
    settings: FeederSettings, pairs: Sequence[str], days: float, datadir: Path | None = None
) -> str:
    """Return the same as a command line to paste."""
    return shlex.join(["freqtrade", *download_arguments(settings, pairs, days, datadir)])


def download_missing(settings: FeederSettings, pairs: Sequence[str], *, days: float) -> None:
    """Download candles of pairs and context pairs into freqtrade's data folder, where they lack.

    Only that folder is ever downloaded into. Files that end more than a day ago are brought up to
    date; when that fails, they are used as they are, with a warning.

    Raises
    ------
    CandleError
        When the download fails (no network, unknown pair); the message names the command to try.
    """
    datadir = settings.default_datadir
    datadir.mkdir(parents=True, exist_ok=True)
    handler = get_datahandler(datadir, settings.data_format)
    kind = CandleType.from_string(settings.candle_type)
    wanted = dict.fromkeys([*pairs, *settings.context_pairs])
    missing = [
        pair
        for pair in wanted
        if not candle_path(handler, datadir, pair, settings.timeframe, kind).exists()
    ]
    stale = [
        pair
        for pair in wanted
        if pair not in missing and _is_stale(handler, pair, settings.timeframe, kind)
    ]
    if stale:
        try:
            download_newer(settings, stale, datadir)
        except CandleError as error:
            logger.warning("Candles are not brought up to date pairs=%d: %s", len(stale), error)
    if not missing:
        return
    logger.info("Candles are missing, downloading them pairs=%d", len(missing))
    tail = _download(settings, missing, days)
    still = [
        pair
        for pair in missing
        if not candle_path(handler, datadir, pair, settings.timeframe, kind).exists()
    ]
    if still:
        shown = download_command(settings, missing, days)
        raise CandleError(
            f"no candles for {', '.join(still)} in {datadir}, and the download failed "
            f"(no network?). Try it by hand: {shown}\nor name a folder that has them with --datadir. "
            f"Last lines of the download:\n{tail}"
        )


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
    days = settings.train_days
    if datadir.resolve() != settings.default_datadir.resolve():
        command = download_command(settings, pairs, days, datadir)
        raise CandleError(
            f"{datadir} is not freqtrade's own folder {settings.default_datadir}, so nothing is "
            f"downloaded into it. By hand: {command}"
        )
    logger.info("Downloading newer candles pairs=%d", len(pairs))
    _download(settings, pairs, days, while_waiting, check=True)


def _download(
    settings: FeederSettings,
    pairs: Sequence[str],
    days: float,
    while_waiting: Callable[[], None] = lambda: None,
    *,
    check: bool = False,
) -> str:
    """Run freqtrade's downloader and return the last lines it printed.

    Raises
    ------
    CandleError
        When it takes too long, and with `check` when it fails.
    """
    shown = download_command(settings, pairs, days)
    logger.info("Download command=%s", shown)
    command = [sys.executable, "-m", "freqtrade", *download_arguments(settings, pairs, days)]
    deadline = time.monotonic() + _TIMEOUT_S
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        subprocess.Popen(tied(command), stdout=output, stderr=output) as process,  # noqa: S603
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
        tail = "\n".join(output.read().strip().splitlines()[-3:])
    if check and process.returncode != 0:
        raise CandleError(
            f"download failed (exit {process.returncode}). Try it by hand: {shown}\n"
            f"Last lines of the download:\n{tail}"
        )
    return tail
