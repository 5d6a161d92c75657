"""What a report is made of: result documents, search trials, stored records; read, never changed.

A result document is what `tune.run._tasks.tune_pair` returns and the journal keeps. Later versions add
keys, so every key that came after the first version is asked for with ``get``: a section that lacks
one says so. A pair that was tuned elsewhere has only its stored record, from which the part of a
document that a record holds is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from feeder_mixin.schema import NANOSECONDS, ParameterRecord
from feeder_mixin.settings import Side
from feeder_mixin.tune.judge.evaluate import RUNNING, TUNED, Score

Document = Mapping[str, Any]

Z95: Final = 1.96
"""Standard errors to either side of a 95 % interval."""

OUTCOMES: Final[Mapping[str, str]] = {
    "promoted": "the tuned set replaced what ran",
    "kept": "what runs stays",
    "refused": "the tuned set was not let through, what runs stays",
    "first": "nothing ran before, a first record was written",
    "expired_replaced": "what ran was too old and was replaced",
}
"""Outcome of a promotion decision -> what it means."""


@dataclass(frozen=True, slots=True)
class PairResult:
    """What is known of one pair.

    Attributes
    ----------
    document
        The result document of its newest finished run, or the part of one that a record holds.
    trials
        Number -> document of each trial of the search; empty where there is no journal.
    is_from_store
        Whether only the stored record was there.
    """

    document: Document
    trials: Mapping[int, Document] = field(default_factory=dict)
    is_from_store: bool = False

    @property
    def scores(self) -> Mapping[str, Document]:
        """Return contender -> its score; those without a skill are left out."""
        scores: Mapping[str, Document] = self.document.get("scores", {})
        return {name: score for name, score in scores.items() if score.get("skill") is not None}

    @property
    def decision(self) -> Document:
        """Return the promotion decision, empty where the run made none."""
        return self.document.get("decision") or {}

    @property
    def served(self) -> str:
        """Return the contender that bots read after this run."""
        written = self.decision.get("written")
        if written in self.scores:
            return str(written)
        return RUNNING if self.decision and RUNNING in self.scores else TUNED

    @property
    def served_score(self) -> Document:
        """Return the score of what bots read after this run, empty where it has none."""
        return self.scores.get(self.served, {})

    @property
    def beats_rule(self) -> bool:
        """Return whether anything beat the ATR rule for this pair; True where nobody asked."""
        decided = self.decision.get("beats_rule")
        return bool(self.document["metrics"].get("beats_rule", 1.0) if decided is None else decided)

    @property
    def tolerance(self) -> float | None:
        """Return the adverse ratio up to which a candle is safe."""
        return self.document.get("max_adverse_ratio")


@dataclass(frozen=True, slots=True)
class Stored:
    """What the parameter store holds for a feeder now.

    Attributes
    ----------
    name
        The store as messages show it, without secrets.
    counts
        Pair -> how many records are stored.
    notes
        What was passed over, rejected or has expired.
    n_waiting
        Results that wait in the outbox.
    error
        Why the store could not be read; None when it was.
    """

    name: str
    records: Mapping[str, ParameterRecord] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    n_waiting: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FeederReport:
    """Everything one page is made of; `results` in the order of `pairs`, not every pair has one."""

    feeder_id: str
    side: Side
    pairs: tuple[str, ...]
    made_at: datetime
    results: Mapping[str, PairResult]
    stored: Stored
    journal_error: str | None = None


def from_record(record: ParameterRecord) -> PairResult:
    """Return the part of a result document that a stored record holds."""
    metrics = record.metrics
    document = {
        "pair": record.pair,
        "time_ns": record.time_ns,
        "parameters": dict(record.parameters),
        "metrics": dict(metrics),
        "provenance": dict(record.provenance),
        "alpha": record.parameters["quantile_alpha"],
        "scores": {TUNED: {name: metrics.get(name) for name in Score.__dataclass_fields__}},
    }
    if "max_adverse_ratio" in metrics:
        document["max_adverse_ratio"] = metrics["max_adverse_ratio"]
    return PairResult(document, is_from_store=True)


def merge_results(
    pairs: Iterable[str], tuned: Mapping[str, PairResult], stored: Stored
) -> dict[str, PairResult]:
    """Return pair -> what is known of it: its run in the journal, else its stored record."""
    elsewhere = {pair: from_record(record) for pair, record in stored.records.items()}
    known = {**elsewhere, **tuned}
    return {pair: known[pair] for pair in pairs if pair in known}


def short_names(pairs: Sequence[str]) -> dict[str, str]:
    """Return pair -> how figures name it: without the quote currency where all share it.

    Examples
    --------
    >>> short_names(["BTC/USDT:USDT", "ETH/USDT:USDT"])
    {'BTC/USDT:USDT': 'BTC', 'ETH/USDT:USDT': 'ETH'}
    """
    if len({pair.partition("/")[2] for pair in pairs}) > 1:
        return {pair: pair for pair in pairs}
    return {pair: pair.partition("/")[0] for pair in pairs}


def utc(seconds: float, *, with_time: bool = True) -> str:
    """Return seconds since the epoch as UTC, to the minute or the day.

    Examples
    --------
    >>> utc(1_767_225_600), utc(1_767_225_600, with_time=False)
    ('2026-01-01 00:00', '2026-01-01')
    """
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%d %H:%M}" if with_time else f"{moment:%Y-%m-%d}"


def record_time(document: Document) -> str:
    """Return when a result was made, UTC to the minute."""
    return utc(document["time_ns"] / NANOSECONDS)


def interval(value: float, error: float | None) -> tuple[float, float] | None:
    """Return the 95 % interval of a value, None where its standard error is unknown."""
    return None if error is None else (value - Z95 * error, value + Z95 * error)
