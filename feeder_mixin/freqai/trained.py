"""What FreqAI's saved models were trained with: kept beside them, because they do not say.

What must stay true: a model is told by FreqAI's own name for it, which holds the time of its training; an
entry whose name is not the one that FreqAI serves says nothing of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import TypedDict

from feeder_mixin.documents import Count, Numbers, checked
from feeder_mixin.errors import StateError
from feeder_mixin.freqai.targets import TunedOn
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.live.state.status import Source

FILE_NAME: Final = "freqai_models.json"


@dataclass(frozen=True, slots=True)
class TrainedWith:
    """What one model of FreqAI's was trained with.

    Attributes
    ----------
    name
        FreqAI's file name of the model.
    version
        The record's time, None without one.
    generation
        Generation that loaded the record; 0 when a process before this one did.
    until_s, rows
        The end of its training window; rows it learned from, those of the early stopping aside.
    """

    name: str
    parameters: Mapping[str, float]
    source: Source
    version: int | None
    generation: int
    tuned_on: TunedOn
    until_s: int
    rows: int


class _Entry(TypedDict):
    """A model as it is kept."""

    name: str
    parameters: Numbers
    source: Source
    version: Count | None
    feature_hash: Count
    target_hash: Count
    until_s: Count
    rows: Count


class _Kept(TypedDict):
    pairs: dict[str, _Entry]


class TrainedModels:
    """Pair -> what its serving model was trained with; any thread reads, one at a time writes.

    Parameters
    ----------
    path
        Where it is kept for a restart.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.pairs: Mapping[str, TrainedWith] = {}
        """Replaced whole, never changed in place."""

    def put(self, pair: str, model: TrainedWith) -> None:
        """Note what a pair's model was trained with; it serves from now on."""
        with self._lock:
            self.pairs = {**self.pairs, pair: model}

    def forget_old(self) -> None:
        """Do nothing: a pair has one model."""

    def save(self) -> None:
        """Write the file.

        Raises
        ------
        StateError
            When it can't be written.
        """
        kept = {
            pair: {
                "name": model.name,
                "parameters": dict(model.parameters),
                "source": model.source,
                "version": model.version,
                "feature_hash": model.tuned_on.feature_hash,
                "target_hash": model.tuned_on.target_hash,
                "until_s": model.until_s,
                "rows": model.rows,
            }
            for pair, model in self.pairs.items()
        }
        write_checked(self._path, {"pairs": kept})

    def restore(self, served: Mapping[str, str]) -> None:
        """Take over what the file says of the models that FreqAI serves.

        Parameters
        ----------
        served
            Pair -> FreqAI's file name of the model that serves it.

        Raises
        ------
        StateError
            When the file is damaged; nothing is taken over then.
        """
        document = read_checked(self._path)
        if document is None:
            return
        kept = checked(_Kept, document, self._damaged)["pairs"]
        own = {pair: entry for pair, entry in kept.items() if served.get(pair) == entry["name"]}
        with self._lock:
            restored = {pair: _trained_with(entry) for pair, entry in own.items()}
            self.pairs = {**restored, **self.pairs}

    def _damaged(self, problem: str) -> StateError:
        return StateError(f"{self._path} is readable but not what a bot writes: {problem}")


def _trained_with(entry: _Entry) -> TrainedWith:
    return TrainedWith(
        entry["name"],
        entry["parameters"],
        entry["source"],
        entry["version"],
        0,
        TunedOn(entry["feature_hash"], entry["target_hash"]),
        entry["until_s"],
        entry["rows"],
    )
