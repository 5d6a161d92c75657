"""The candles that models learn from: what a fit needs, what the data folder lacks, and the download.

Used by the training thread; what it says of a model's rows, by the state keeper's, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import filelock

from feeder_mixin.errors import CandleError
from feeder_mixin.live.serve.candles import DataFolder, LiveTails
from feeder_mixin.market.history import download_newer, download_older, first_candle_s
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.schema import open_text
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)

RETRY_S: Final = 900.0
"""Pause before what failed (a fit, a download) is tried again, where nothing about it changed."""

_GRACE_CANDLES: Final = 2
"""How long a cut waits for a pair's last candle before it goes without."""


class TrainingHistory:
    """Candles of the data folder and the host, as training needs them.

    Parameters
    ----------
    tails
        What the host brought of every pair followed.
    """

    def __init__(self, folder: DataFolder, tails: LiveTails) -> None:
        self.settings: FeederSettings = folder.settings
        self.folder = folder
        """With the listings known by now; replaced whole when the exchange tells one."""
        self.tails = tails
        self._first_on_disk: dict[str, tuple[str, int | None]] = {}
        self._retry_download: dict[str, float] = {}
        self._said_gaps: dict[str, str] = {}
        self._said_download: str | None = None

    def stamp(self, pair: str) -> str:
        """Return what changes when candle files of a pair or of its context change."""
        return "|".join(self.folder.stamp(p) for p in (pair, *self.settings.context_pairs))

    def has_candles(self, pair: str, cut_s: int, now_s: float) -> bool:
        """Return whether the candles before a cut are there, or were waited for long enough."""
        timeframe_s, tails = self.folder.timeframe_s, self.tails.tails
        if pair not in tails:
            return False  # the host has not come to this pair yet
        if now_s > cut_s + _GRACE_CANDLES * timeframe_s:
            return True
        wanted = (pair, *self.settings.context_pairs)
        return all(p in tails and tails[p].last_s >= cut_s - timeframe_s for p in wanted)

    def gap(self, pair: str) -> str | None:
        """Return what a pair lacks between data folder and host, unless that was tried just now."""
        if time.monotonic() < self._retry_download.get(pair, 0.0):
            return None
        return self.tails.gap(pair)

    def close_gaps(self, cut_s: int, check_stopping: Callable[[], None]) -> None:
        """Fill what is missing on disk by freqtrade's downloader: up to the host, and before.

        Parameters
        ----------
        cut_s
            What a fit at this cut reads is wanted.
        check_stopping
            Called while the downloader runs; what it raises ends the download.
        """
        wanted = dict.fromkeys((*self.settings.pairs, *self.settings.context_pairs))
        if not any(self.gap(pair) or self._older_gap(pair, cut_s) for pair in wanted):
            return
        with self._only_download() as is_alone:
            if not is_alone:
                return  # a neighbour downloads: look again at the next turn
            for pair in wanted:
                if self.gap(pair):
                    self.tails.repair(pair)  # the neighbour may have filled it
            gaps = {pair: gap for pair in wanted if (gap := self.gap(pair))}
            older = {p: gap for p in wanted if (gap := self._older_gap(p, cut_s))}
            if gaps:
                self._download(gaps, download_newer, check_stopping)
            if older and self._download(older, download_older, check_stopping):
                self._note_listings(older, cut_s)

    @contextmanager
    def _only_download(self) -> Iterator[bool]:
        """Give whether this bot may download now.

        One bot of a user_data folder at a time: they share the data folder, mostly BTC as well, and
        freqtrade writes a file in place.
        """
        lock = filelock.FileLock(self.settings.state_dir.parent / "download.lock", timeout=0)
        try:
            lock.acquire()
        except (filelock.Timeout, OSError):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _older_gap(self, pair: str, cut_s: int) -> str | None:
        """Return which older candles a pair's file lacks, unless they were asked for just now."""
        if time.monotonic() < self._retry_download.get(pair, 0.0) or pair not in self.tails.tails:
            return None
        if self.tails.disk_last_s.get(pair) is None:
            return None  # `gap` tells that
        first_s = self._read_first_s(pair)
        wanted_s = self.folder.wanted_from_s(pair, cut_s)
        if first_s is None:
            return f"its candles are gone from {self.folder.datadir}"
        if first_s <= wanted_s + DAY_S:
            return None
        return f"candles from {open_text(wanted_s)} to {open_text(first_s)}"

    def _read_first_s(self, pair: str) -> int | None:
        """Return the open of the first candle on disk; read again only when the file changed."""
        stamp = self.folder.stamp(pair)
        known = self._first_on_disk.get(pair)
        if known is None or known[0] != stamp:
            known = stamp, first_candle_s(self.settings, pair, self.folder.datadir)
            self._first_on_disk[pair] = known
        return known[1]

    def _download(
        self,
        gaps: Mapping[str, str],
        download: Callable[..., None],
        check_stopping: Callable[[], None],
    ) -> bool:
        """Fill gaps and return whether the downloader met no error."""
        for pair, gap in gaps.items():
            self._retry_download[pair] = time.monotonic() + RETRY_S
            if self._said_gaps.get(pair) != gap:
                self._said_gaps[pair] = gap
                logger.warning(
                    "Candles are missing between disk and exchange pair=%s gap=%s", pair, gap
                )
        is_done = True
        try:
            download(self.settings, list(gaps), self.folder.datadir, check_stopping)
        except CandleError as error:
            if (text := str(error)) != self._said_download:
                self._said_download = text
                logger.error("Gap is not filled: %s", text)  # noqa: TRY400
            is_done = False
        for pair in gaps:
            self.tails.repair(pair)
        return is_done

    def _note_listings(self, pairs: Iterable[str], cut_s: int) -> None:
        """Take a file's first candle for the listing where the exchange had nothing older to give."""
        listed_s = dict(self.folder.listed_s)
        for pair in pairs:
            first_s = self._read_first_s(pair)
            if first_s is not None and first_s > self.folder.wanted_from_s(pair, cut_s) + DAY_S:
                listed_s[pair] = first_s
                logger.info(
                    "The exchange has no older candles, expected rows count from the first one "
                    "pair=%s first_candle=%s",
                    pair,
                    open_text(first_s),
                )
        self.folder = replace(self.folder, listed_s=listed_s)
