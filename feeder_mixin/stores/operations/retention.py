"""What may be deleted from a store: old points that are not in use.

``feeder prune`` calls this; nothing else ever deletes. What must stay true: of each model type
a pair keeps its newest complete point, whatever its age, and its newest valid one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from feeder_mixin.schema import Measurement, missing_parameters, parameter_problems
from feeder_mixin.settings import MODEL_TYPES, ModelType
from feeder_mixin.stores.base import ParameterStore, StoredPoint, load_stored_pairs
from feeder_mixin.stores.operations.transfer import MEASUREMENTS


@dataclass(frozen=True, slots=True)
class PrunablePoints:
    """The points of one pair and model type that may go, oldest first."""

    measurement: Measurement
    model_type: ModelType
    pair: str
    times_ns: tuple[int, ...]


def find_prunable(
    store: ParameterStore,
    feeder_id: str,
    before_ns: int,
    in_use: Mapping[str, Collection[int]],
    now: int,
) -> list[PrunablePoints]:
    """Return what may be deleted from `store`, records before candidates.

    Parameters
    ----------
    before_ns
        Points of this time or later stay.
    in_use
        Pair -> times that stay, too.
    """
    found = []
    for measurement in MEASUREMENTS:
        for pair in load_stored_pairs(store, feeder_id, measurement, now=now):
            for model_type in MODEL_TYPES:
                points = store.history(
                    feeder_id, pair, measurement=measurement, model_type=model_type
                )
                kept = _newest(points, now).union(in_use.get(pair, ()))
                times = sorted({p.time_ns for p in points if p.time_ns < before_ns} - kept)
                if times:
                    found.append(PrunablePoints(measurement, model_type, pair, tuple(times)))
    return found


def _newest(points: Sequence[StoredPoint], now: int) -> set[int]:
    """Return the times of the newest complete point and of the newest valid one."""
    past = [point for point in points if point.time_ns <= now]
    complete = [p.time_ns for p in past if not missing_parameters(p.fields)]
    valid = [p.time_ns for p in past if not parameter_problems(p.fields)]
    return {max(times) for times in (complete, valid) if times}
