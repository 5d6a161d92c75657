"""Two parameter sets of a pair side by side: what differs, and where each comes from.

``feeder diff`` calls this; nothing here reads or writes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from feeder_mixin.schema import PARAMETER_NAMES, ParameterRecord, format_time_ns

COMPARED_METRICS: Final = (
    "skill",
    "pooled_skill",
    "gain",
    "exceedance",
    "predicted_safe_share",
    "safety_accuracy",
    "false_positive_rate",
    "defaults_won",
    "beats_rule",
    "optimization_trials",
    "side",
    "horizon_candles",
    "timeframe_s",
    "max_adverse_ratio",
    "auto_tolerance",
    "unsafe_share",
    "unsafe_share_upper",
    "context_hash",
    "feature_hash",
    "market_hash",
    "target_hash",
)
"""Metrics that say how good a set is and what it was tuned for; of the others any two sets differ."""


@dataclass(frozen=True, slots=True)
class DiffSource:
    """One side of a comparison.

    Attributes
    ----------
    where
        For example ``bot`` or ``store``.
    time_ns
        The record's time; None for defaults.
    metrics
        None where they are not known: a bot's record that the store does not hold.
    facts
        What the record says of its origin, as one line.
    """

    where: str
    time_ns: int | None
    parameters: Mapping[str, float]
    metrics: Mapping[str, float] | None
    facts: str = ""

    @classmethod
    def of_record(cls, record: ParameterRecord, where: str) -> Self:
        """Return the side that a stored record is."""
        facts = describe_origin(record)
        return cls(where, record.time_ns, record.parameters, record.metrics, facts)

    @property
    def time_text(self) -> str | None:
        """Return the record's time as shown, None for defaults."""
        return None if self.time_ns is None else format_time_ns(self.time_ns)

    def __str__(self) -> str:
        facts = f" ({self.facts})" if self.facts else ""
        return f"{self.where} {self.time_text or 'defaults'}{facts}"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that two sides do not share; None where a side lacks it."""

    name: str
    old: float | None
    new: float | None


def find_differences(old: DiffSource, new: DiffSource) -> list[Difference]:
    """Return the fields that differ, parameters first; metrics only where both sides know them."""
    found = [Difference(n, old.parameters[n], new.parameters[n]) for n in PARAMETER_NAMES]
    if old.metrics is not None and new.metrics is not None:
        found += [Difference(n, old.metrics.get(n), new.metrics.get(n)) for n in COMPARED_METRICS]
    return [one for one in found if one.old != one.new]


def describe_origin(record: ParameterRecord) -> str:
    """Return where a record comes from, in a few words: trials, seed, host, decision, rollback."""
    trials, told = record.metrics.get("optimization_trials"), record.provenance
    parts = [] if trials is None else [f"{trials:.0f} trials"]
    parts += [f"{name} {told[name]}" for name in ("seed", "host") if name in told]
    promotion = told.get("promotion")
    if isinstance(promotion, Mapping) and "outcome" in promotion:
        parts.append(str(promotion["outcome"]))
    if "rolled_back_from" in told:
        parts.append(f"rolled back from {told['rolled_back_from']}")
    return ", ".join(parts)
