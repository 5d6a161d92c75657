"""A pair's training set on disk, so that a reload fits trees and nothing else.

After a reload only the ten values are new; candles, features, label scale and rows are those of the last
fit at the same cut. To make them takes 0.35 CPU-s a pair, to read them 2 ms (2026-11). One file a pair
(0.7 MB at 150 training days), replaced at the next cut; one that is missing, damaged or made from other
candles costs that time, nothing else.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from feeder_mixin.live.state.files import write_bytes
from feeder_mixin.model.ordinary import MEASURES, OrdinaryRange
from feeder_mixin.model.training_set import TrainingRows, TrainingSet
from feeder_mixin.settings import Side

_UNREADABLE: Final = (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile)
"""What reading a missing, damaged or foreign file raises; the archive has a checksum of each array."""

_ROWS: Final = ("x", "z", "weight", "rows")


@dataclass(frozen=True, slots=True)
class KeptTrainingSet:
    """A training set, and what tells whether it would be made the same again.

    Attributes
    ----------
    made_from
        Equal where candles, cut, context, side and training days are.
    last_on_disk_s
        Open of the newest candle on disk; newer ones came from the host. 0 without a file.
    data_hash
        See `Trainer.data_hash`.
    n_missing
        Candles missing in the training window.
    """

    made_from: str
    last_on_disk_s: int
    data_hash: str
    n_missing: int
    learned_from: TrainingSet


def write_prepared(path: Path, prepared: KeptTrainingSet) -> None:
    """Keep a training set.

    Raises
    ------
    StateError
        When it can't be written.
    """
    learned_from, content = prepared.learned_from, io.BytesIO()
    bounds = [learned_from.ordinary.bounds[one.name] for one in MEASURES]
    np.savez(
        content,
        **{name: getattr(learned_from.trees, name) for name in _ROWS},
        scale_weights=learned_from.scale_weights,
        rule_ratios=learned_from.rule_ratios,
        bounds=np.array(bounds),
        numbers=np.array([prepared.last_on_disk_s, prepared.n_missing]),
        texts=np.array([prepared.made_from, prepared.data_hash]),
    )
    # Not flushed to the disk: what a power cut leaves of it is damaged at worst.
    write_bytes(path, content.getvalue(), durable=False)


def read_prepared(path: Path, pair: str, side: Side) -> KeptTrainingSet | None:
    """Return what is kept of a pair and side; None where there is nothing usable."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            made_from, data_hash = kept["texts"].tolist()
            last_on_disk_s, n_missing = kept["numbers"].tolist()
            bounds = dict(zip((m.name for m in MEASURES), kept["bounds"].tolist(), strict=True))
            learned_from = TrainingSet(
                pair,
                side,
                TrainingRows(*(kept[name] for name in _ROWS)),
                kept["scale_weights"],
                kept["rule_ratios"],
                OrdinaryRange(bounds),
            )
    except _UNREADABLE:
        return None
    return KeptTrainingSet(made_from, last_on_disk_s, data_hash, n_missing, learned_from)
