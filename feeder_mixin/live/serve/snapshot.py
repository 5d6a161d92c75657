"""What a bot runs on now, as one immutable snapshot that is swapped by one assignment.

From the outside in::

    ParameterSnapshot    all pairs at one moment, with the generation of the last load
      PairSnapshot       one pair: the parameters it shall run on, and the models that serve it
        LoadedPair       what the last load said of the pair (`live.reload.loader`)
        Serving, ...     a model in force from a candle on, with the `LoadedPair` it was trained from

A pair has both because a model comes minutes after its parameters: until then the old `Serving`,
with its own `LoadedPair`, answers. A candle's reader takes the snapshot once and uses nothing else,
so it never sees parameters of one generation with the model of another. Writers (start, reload,
trainer) take a lock, which no reader ever waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.live.reload.loader import LoadedPair
from feeder_mixin.live.train.models import TrainedModel
from feeder_mixin.market.blackouts import NO_BLACKOUTS, Blackouts


@dataclass(frozen=True, slots=True)
class Serving:
    """A model in force, with the parameters it was trained from.

    Attributes
    ----------
    first_candle_s
        Open of the first candle it serves, in seconds since the epoch.
    generation
        Generation that loaded the record; 0 when a process before this one did.
    """

    loaded: LoadedPair
    model: TrainedModel
    first_candle_s: int
    generation: int


@dataclass(frozen=True, slots=True)
class PairSnapshot:
    """One pair: what was loaded, and the models in force, oldest first."""

    loaded: LoadedPair
    generation: int
    servings: tuple[Serving, ...] = ()

    @property
    def newest(self) -> Serving | None:
        """Return the serving that newer candles get, or None without a model."""
        return self.servings[-1] if self.servings else None

    def numbers_at(self, opens_s: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return which of the servings is in force at each candle; -1 before the first."""
        first_s = np.array([s.first_candle_s for s in self.servings], np.int64)
        return np.searchsorted(first_s, opens_s, "right") - 1


@dataclass(frozen=True, slots=True)
class ParameterSnapshot:
    """All pairs at one moment, and when nothing is safe; never changed."""

    generation: int
    loaded_at_ns: int
    pairs: Mapping[str, PairSnapshot]
    blackouts: Blackouts = NO_BLACKOUTS


class ParameterCache:
    """Holds the snapshot in force; readers take `snapshot`, writers swap it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot = ParameterSnapshot(0, 0, MappingProxyType({}))

    @property
    def snapshot(self) -> ParameterSnapshot:
        """Return the snapshot in force: one reference, read without a lock."""
        return self._snapshot

    def swap_parameters(
        self,
        loaded: Mapping[str, LoadedPair],
        generation: int,
        now_ns: int,
        next_candle_s: int,
        blackouts: Blackouts = NO_BLACKOUTS,
    ) -> ParameterSnapshot:
        """Put newly loaded parameters in force and return the snapshot.

        A pair whose ten values did not change keeps its model, which from the next candle on stands
        for the new record; a pair whose values did change keeps its old serving until `put_model`.
        """
        with self._lock:
            pairs = {}
            for pair, now in loaded.items():
                before = self._snapshot.pairs.get(pair)
                pairs[pair] = _take_over(before, now, generation, next_candle_s)
            self._snapshot = ParameterSnapshot(
                generation, now_ns, MappingProxyType(pairs), blackouts
            )
            return self._snapshot

    def replace_loaded(self, loaded: LoadedPair) -> None:
        """Let a pair run on something else than the last load gave it, in the same generation."""
        with self._lock:
            self._replace(replace(self._snapshot.pairs[loaded.pair], loaded=loaded))

    def put_servings(self, pair: str, servings: Sequence[Serving], next_candle_s: int) -> None:
        """Restore what an earlier process had in force; later candles go by what is loaded now."""
        with self._lock:
            known = self._snapshot.pairs[pair]
            before = PairSnapshot(servings[-1].loaded, servings[-1].generation, tuple(servings))
            self._replace(_take_over(before, known.loaded, known.generation, next_candle_s))

    def put_model(self, model: TrainedModel, next_candle_s: int) -> bool:
        """Put a trained model in force from a candle on; False when its parameters are outdated.

        A model of parameters that were replaced while it was trained never serves: the operator may
        have gone back because they were bad.
        """
        with self._lock:
            pair = self._snapshot.pairs.get(model.pair)
            if pair is None or pair.loaded.parameters != model.parameters:
                return False
            serving = Serving(pair.loaded, model, next_candle_s, pair.generation)
            self._replace(replace(pair, servings=_append(pair.servings, serving)))
            return True

    def forget_before(self, pair: str, open_s: int) -> None:
        """Drop servings that no candle from `open_s` on can ask for."""
        with self._lock:
            known = self._snapshot.pairs[pair]
            first = int(known.numbers_at(np.array([open_s]))[0])
            if first > 0:
                self._replace(replace(known, servings=known.servings[first:]))

    def _replace(self, pair: PairSnapshot) -> None:
        pairs = MappingProxyType({**self._snapshot.pairs, pair.loaded.pair: pair})
        self._snapshot = replace(self._snapshot, pairs=pairs)


def _take_over(
    before: PairSnapshot | None, now: LoadedPair, generation: int, next_candle_s: int
) -> PairSnapshot:
    if before is None:
        return PairSnapshot(now, generation)
    if now.version == before.loaded.version and now.parameters == before.loaded.parameters:
        return replace(before, loaded=now)  # the same record: at most `rejected` changed
    newest = before.newest
    servings = before.servings
    if newest is not None and newest.model.parameters == now.parameters:
        servings = _append(servings, Serving(now, newest.model, next_candle_s, generation))
    return PairSnapshot(now, generation, servings)


def _append(servings: tuple[Serving, ...], new: Serving) -> tuple[Serving, ...]:
    """Return the servings with `new` last; it replaces one that has not served yet."""
    kept = tuple(s for s in servings if s.first_candle_s < new.first_candle_s)
    return (*kept, new)
