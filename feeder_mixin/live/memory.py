"""What a process keeps of a feeder over ``/reload_config``, which builds a new live side.

Generations and reload counts go on: the process is the same. So do the columns that were served: with
other context pairs the same candles would get other values, and consumers would see the past change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from feeder_mixin.live.reload.counts import ReloadCounts
from feeder_mixin.live.serve.columns import SafetyColumns


@dataclass(slots=True)
class FeederMemory:
    """One feeder in this process.

    Attributes
    ----------
    generation
        Of the parameters in force; counts loads that were put in force.
    served
        Pair -> what it was served by the live side that was stopped.
    served_identity
        The schedule's identity there: columns of another one are not gone on with.
    """

    generation: int = 0
    reloads: ReloadCounts = field(default_factory=ReloadCounts)
    served: Mapping[str, SafetyColumns] = field(default_factory=dict)
    served_identity: Mapping[str, Any] | None = None


memories: Final[dict[str, FeederMemory]] = {}


def memory_of(feeder_id: str) -> FeederMemory:
    """Return what this process knows of a feeder; always the same object."""
    return memories.setdefault(feeder_id, FeederMemory())
