"""Which models serve from which candle: ``schedule.json``, so that a restart goes on with them.

Written after every change of what serves, by the state keeper; read once, at start. A candle that was
served before the restart gets the value it had: by the model in force at it, not by the newest one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final, NotRequired

from typing_extensions import TypedDict

from feeder_mixin.documents import CandleOpen, Count, Factor, checked
from feeder_mixin.errors import ModelError, StateError
from feeder_mixin.live.reload.loader import LoadedPair
from feeder_mixin.live.serve.candles import forming_candle_s
from feeder_mixin.live.serve.snapshot import PairSnapshot, ParameterCache, Serving
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.live.state.folder import StateFolder
from feeder_mixin.live.state.status import Source
from feeder_mixin.live.train.models import ModelStore
from feeder_mixin.market.candles import CLOCK_SLACK_S
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.schema import open_text
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.notes import some

logger = logging.getLogger(__name__)

_FORMAT: Final = 2
"""Raise it when the schedule's content changes: models are then trained anew."""


class _Entry(TypedDict):
    """A serving as it is kept."""

    model: str
    first_candle_s: CandleOpen
    source: Source
    version: Count | None
    beats_rule: bool
    auto_tolerance: NotRequired[Factor | None]  # absent in what an earlier version wrote


class _Kept(TypedDict):
    """The file; a pair's entries are checked one pair at a time, a bad one costs its own pair."""

    pairs: dict[str, object]


def schedule_identity(settings: FeederSettings) -> dict[str, Any]:
    """Return the settings that a restored model must share: with others it can't serve.

    Context pairs and training window are not here: a model of others serves until the new one is ready.
    """
    return {
        "format": _FORMAT,
        "side": settings.side,
        "horizon_candles": settings.horizon_candles,
        "timeframe": settings.timeframe,
        "feature_hash": FEATURE_HASH,
    }


class Schedule:
    """Writes what serves, and puts it back in force at the next start.

    Parameters
    ----------
    timeframe_s
        Length of a candle.
    keep_s
        How long a serving is kept after another one took over: candles of the host's frame need it.
    """

    def __init__(
        self,
        folder: StateFolder,
        settings: FeederSettings,
        cache: ParameterCache,
        timeframe_s: int,
        keep_s: int,
    ) -> None:
        self._folder, self._settings = folder, settings
        self._cache = cache
        self._timeframe_s, self._keep_s = timeframe_s, keep_s

    def forget_old(self) -> None:
        """Drop servings that no candle of the host's frame can ask for."""
        oldest_s = int(time.time()) - self._keep_s
        for pair in self._cache.snapshot.pairs:
            self._cache.forget_before(pair, oldest_s)

    def save(self) -> None:
        """Write what serves now.

        Raises
        ------
        StateError
            When it can't be written.
        """
        pairs = self._cache.snapshot.pairs
        document = {
            "identity": schedule_identity(self._settings),
            "pairs": {pair: [_entry(s) for s in known.servings] for pair, known in pairs.items()},
        }
        write_checked(self._folder.schedule_path, document)

    def restore(self, models: ModelStore) -> None:
        """Put back in force what served before this process, as far as its files are whole."""
        kept = self._read()
        if kept is None:
            return
        ahead: dict[str, int] = {}
        for pair, known in self._cache.snapshot.pairs.items():
            servings = self._restore_pair(known, kept.get(pair, []), models, ahead)
            if servings:
                self._put_in_force(pair, servings)
        if ahead:  # the clock's fault, not a pair's: said once for all
            logger.error(
                "Saved model can't serve %s: it was put in force at %s, which is in the future "
                "(was the clock wrong?); a new one is trained",
                some(ahead),
                open_text(max(ahead.values())),
            )

    def _read(self) -> Mapping[str, object] | None:
        """Return what was kept for this config, None without; what can't be used is said."""
        if not self._folder.is_kept:
            return None
        try:
            document = read_checked(self._folder.schedule_path)
        except StateError as error:
            logger.error("Schedule of models is lost, models are trained anew: %s", error)  # noqa: TRY400
            return None
        if document is None:
            return None
        if document.get("identity") != (now := schedule_identity(self._settings)):
            logger.warning(
                "Saved models do not match this config, new ones are trained: %s",
                _changes(document.get("identity"), now),
            )
            return None
        try:
            return checked(_Kept, document, self._not_ours)["pairs"]
        except StateError as error:
            logger.error("Schedule of models is lost, models are trained anew: %s", error)  # noqa: TRY400
            return None

    def _not_ours(self, problem: str) -> StateError:
        return StateError(
            f"{self._folder.schedule_path} is readable but not what a bot writes: {problem}"
        )

    def _restore_pair(
        self, pair: PairSnapshot, kept: object, models: ModelStore, ahead: dict[str, int]
    ) -> list[Serving]:
        """Return a pair's servings; those of a time still to come are noted in `ahead`."""
        name = pair.loaded.pair
        try:
            entries = checked(list[_Entry], kept, self._not_ours)
        except StateError as error:
            logger.error(  # noqa: TRY400
                "Schedule of models is lost, models of %s are trained anew: %s", name, error
            )
            return []
        servings = []
        for entry in entries:
            first_s = entry["first_candle_s"]
            if first_s > time.time() + CLOCK_SLACK_S:
                ahead[name] = max(first_s, ahead.get(name, 0))
            elif (serving := _serving(pair, entry, models)) is not None:
                servings.append(serving)
        return servings

    def _put_in_force(self, pair: str, servings: list[Serving]) -> None:
        self._cache.put_servings(pair, servings, forming_candle_s(self._timeframe_s))
        newest = servings[-1]
        if keys := newest.model.misfits(self._settings):
            logger.warning(
                "Model was trained with other %s, it serves until the new one is ready pair=%s",
                " and ".join(keys),
                pair,
            )
        logger.info(
            "Saved model serves %s again version=%s trained_until=%s first_candle=%s",
            pair,
            newest.loaded.version_text,
            open_text(newest.model.cut_s),
            open_text(newest.first_candle_s),
        )


def _entry(serving: Serving) -> _Entry:
    return {
        "model": serving.model.name,
        "first_candle_s": serving.first_candle_s,
        "source": serving.loaded.source,
        "version": serving.loaded.version,
        "beats_rule": serving.loaded.beats_rule,
        "auto_tolerance": serving.loaded.auto_tolerance,
    }


def _serving(pair: PairSnapshot, entry: _Entry, models: ModelStore) -> Serving | None:
    """Return what an entry says; None, which is said, when its model can't be read."""
    try:
        model = models.load(entry["model"])
    except ModelError as error:
        logger.error("Saved model can't serve %s: %s", pair.loaded.pair, error)  # noqa: TRY400
        return None
    loaded, generation = pair.loaded, pair.generation
    if entry["version"] != loaded.version or model.parameters != loaded.parameters:
        loaded, generation = _loaded_then(pair, entry, model.parameters), 0
    return Serving(loaded, model, entry["first_candle_s"], generation)


def _loaded_then(pair: PairSnapshot, entry: _Entry, parameters: Mapping[str, float]) -> LoadedPair:
    """Return what a pair ran on when the entry was written."""
    return LoadedPair(
        pair.loaded.pair,
        parameters,
        entry["source"],
        entry["version"],
        beats_rule=entry["beats_rule"],
        auto_tolerance=entry.get("auto_tolerance"),
    )


def _changes(before: object, now: Mapping[str, Any]) -> str:
    """Return what differs in an identity, for example ``side=long, now short``."""
    known = before if isinstance(before, dict) else {}
    return ", ".join(
        f"{key}={known.get(key)}, now {value}"
        for key, value in now.items()
        if known.get(key) != value
    )
