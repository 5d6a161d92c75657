"""Candles that are not on disk yet: fetched by freqtrade's own downloader."""

from __future__ import annotations

import logging
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType

from feeder_mixin.errors import CandleError
from feeder_mixin.market.candles import candle_path, timeframe_seconds
from feeder_mixin.market.features import WARMUP_CANDLES
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 1800
_DAY_S: Final = 86_400


def download_arguments(
    settings: FeederSettings, pairs: Sequence[str], days: float, datadir: Path | None = None
) -> list[str]:
    """Return freqtrade's arguments that fetch `days` of labelled candles and their warm-up.

    `datadir` None is freqtrade's own folder of the exchange.
    """
    warmup_days = WARMUP_CANDLES * timeframe_seconds(settings.timeframe) / _DAY_S
    folder = [] if datadir is None else ["--datadir", str(datadir)]
    return [
        "download-data",
        "--config",
        str(settings.config_path),
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
    """Download candles of pairs and context pairs that have no file in freqtrade's data folder.

    Only that folder is ever downloaded into. Files that are there are left as they are.

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
    if not missing:
        return
    command = download_arguments(settings, missing, days)
    shown = download_command(settings, missing, days)
    logger.info("Candles are missing, downloading them pairs=%d command=%s", len(missing), shown)
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, arguments from checked settings
            [sys.executable, "-m", "freqtrade", *command],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CandleError(f"download took over {_TIMEOUT_S} s; try it by hand: {shown}") from error
    still = [
        pair
        for pair in missing
        if not candle_path(handler, datadir, pair, settings.timeframe, kind).exists()
    ]
    if still:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise CandleError(
            f"no candles for {', '.join(still)} in {datadir}, and the download failed (exit "
            f"{done.returncode}; no network?). Try it by hand: {shown}\nor name a folder that has "
            f"them with --datadir. Last lines of the download:\n{tail}"
        )
