"""What a report is made of: pairs' results, search trials, stored records; read, never changed.

A pair that was tuned here has a `PairResult` in the journal. One that was tuned elsewhere is known
from its stored record only, which holds less: a section that lacks a part says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Final, TypeVar

from feeder_mixin.schema import ParameterRecord
from feeder_mixin.settings import FREQAI_MODEL_TYPE, Side
from feeder_mixin.tune.judge.contenders import CONFIG, RUNNING, TUNED, Contender
from feeder_mixin.tune.judge.decision import Decision, Outcome
from feeder_mixin.tune.judge.result import PairResult, Score, StudyFacts
from feeder_mixin.tune.search.kept import KeptTrial

Z95: Final = 1.96
"""Standard errors to either side of a 95 % interval."""

OUTCOME_MEANINGS: Final[Mapping[Outcome, str]] = {
    "promoted": "the tuned set replaced the previous one",
    "kept": "the running set stays",
    "refused": "the tuned set was refused, the running set stays",
    "first": "there was no record before, a first one was written",
    "expired_replaced": "the previous record had expired and was replaced",
}
"""Outcome of a promotion decision -> what it means."""


@dataclass(frozen=True, slots=True)
class TunedPair:
    """A pair that was tuned here: its newest result."""

    result: PairResult

    @property
    def time_ns(self) -> int:
        """Return when it was tuned."""
        return self.result.time_ns

    @property
    def parameters(self) -> Mapping[str, float]:
        """Return the tuned set."""
        return self.result.parameters

    @property
    def metrics(self) -> Mapping[str, float]:
        """Return the tuned set's metrics."""
        return self.result.metrics

    @property
    def provenance(self) -> Mapping[str, object]:
        """Return what it was made from."""
        return self.result.provenance

    @property
    def alpha(self) -> float | None:
        """Return the quantile level that contenders are compared at; None where targets have others."""
        return self.result.alpha

    @property
    def tolerance(self) -> float | None:
        """Return the adverse ratio up to which a candle is safe."""
        return self.result.max_adverse_ratio

    @property
    def labelled_days(self) -> float:
        """Return the days of folds and test window."""
        return self.result.labelled_days

    @property
    def scores(self) -> Mapping[str, Score]:
        """Return contender -> its score."""
        return self.result.scores

    @property
    def decision(self) -> Decision | None:
        """Return the promotion decision; None where the run was stopped before it decided."""
        return self.result.decision

    @property
    def served(self) -> Contender:
        """Return the contender that bots read after this run."""
        if self.decision is None:
            return TUNED
        stays: tuple[Contender, ...] = (RUNNING, CONFIG)
        unwritten: Contender = next((one for one in stays if one in self.scores), TUNED)
        return self.decision.written or unwritten

    @property
    def beats_rule(self) -> bool:
        """Return whether anything beat the ATR rule for this pair; True where nobody asked."""
        return self.decision is None or self.decision.beats_rule is not False


@dataclass(frozen=True, slots=True)
class StoredPair:
    """A pair that was tuned elsewhere: only its stored record is here, and may lack any metric."""

    record: ParameterRecord

    @property
    def time_ns(self) -> int:
        """Return when it was tuned."""
        return self.record.time_ns

    @property
    def parameters(self) -> Mapping[str, float]:
        """Return the stored set."""
        return self.record.parameters

    @property
    def metrics(self) -> Mapping[str, float]:
        """Return the stored set's metrics."""
        return self.record.metrics

    @property
    def provenance(self) -> Mapping[str, object]:
        """Return what it was made from."""
        return self.record.provenance

    @property
    def alpha(self) -> float | None:
        """Return the quantile level of the stored set; None where targets have their own."""
        if self.record.model_type == FREQAI_MODEL_TYPE:
            return None
        return self.record.parameters["quantile_alpha"]

    @property
    def tolerance(self) -> float | None:
        """Return the adverse ratio up to which a candle is safe."""
        return self.record.metrics.get("max_adverse_ratio")

    @property
    def labelled_days(self) -> float | None:
        """Return the days of folds and test window."""
        days = self.record.provenance.get("labelled_days")
        return days if isinstance(days, int | float) else None

    @property
    def scores(self) -> Mapping[str, Score]:
        """Return the score of the stored set; empty where the record holds no skill."""
        skill, *others = (one.name for one in fields(Score))
        metrics = self.record.metrics
        if skill not in metrics:
            return {}
        return {TUNED: Score(metrics[skill], *(metrics.get(name) for name in others))}

    @property
    def decision(self) -> None:
        """Return None: a record does not tell what else was tried."""
        return None

    @property
    def served(self) -> Contender:
        """Return whose score the record has."""
        return TUNED

    @property
    def beats_rule(self) -> bool:
        """Return whether anything beat the ATR rule for this pair; True where nobody asked."""
        return bool(self.record.metrics.get("beats_rule", 1.0))


KnownPair = TunedPair | StoredPair
"""What is known of one pair."""


@dataclass(frozen=True, slots=True)
class StoreContent:
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
    """Everything one page is made of.

    Attributes
    ----------
    side
        None for a FreqAI bot.
    pairs
        The feeder's, in its order.
    results
        Of the pairs that have one, in the order of what matters.
    failures
        Pair -> why the run that wrote this page has no result of it.
    trials
        Number -> trial of the feeder's newest study here.
    """

    feeder_id: str
    side: Side | None
    pairs: tuple[str, ...]
    made_at: datetime
    results: Mapping[str, KnownPair]
    stored: StoreContent
    journal_error: str | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    trials: Mapping[int, KeptTrial] = field(default_factory=dict)

    @property
    def yardstick(self) -> str:
        """Return what skill is over."""
        return "the ATR rule" if self.side else "the config's own values"

    @property
    def kind(self) -> str:
        """Return the side, or what the bot is."""
        return self.side or "freqai"

    @property
    def study(self) -> StudyFacts | None:
        """Return how the newest study went that a pair's result is of; None where none was tuned here."""
        newest = max(self.tuned.values(), key=lambda one: one.time_ns, default=None)
        return None if newest is None else newest.result.study

    @property
    def tuned(self) -> dict[str, TunedPair]:
        """Return the pairs that were tuned here."""
        return {pair: one for pair, one in self.results.items() if isinstance(one, TunedPair)}


def merge_results(
    pairs: Iterable[str], tuned: Mapping[str, TunedPair], stored: StoreContent
) -> dict[str, KnownPair]:
    """Return pair -> what is known of it: its run in the journal, else its stored record.

    In the order of what matters (`by_weight`).
    """
    elsewhere = {pair: StoredPair(record) for pair, record in stored.records.items()}
    known: dict[str, KnownPair] = {**elsewhere, **tuned}
    return by_weight({pair: known[pair] for pair in pairs if pair in known})


_Decided = TypeVar("_Decided", PairResult, KnownPair)


def by_weight(results: Mapping[str, _Decided]) -> dict[str, _Decided]:
    """Return results in the order of what matters: sets that changed, then by gain, largest first.

    Pairs that are alike stay in the order that they have.
    """

    def weight(item: tuple[str, _Decided]) -> tuple[bool, float]:
        decision = item[1].decision
        if decision is None:
            return True, math.inf
        return not decision.is_change, math.inf if decision.gain is None else -decision.gain

    return dict(sorted(results.items(), key=weight))


def served_score(known: KnownPair) -> Score | None:
    """Return the score of what bots read after the run, None where it has none."""
    return known.scores.get(known.served)


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


def utc_text(seconds: float, *, with_time: bool = True) -> str:
    """Return seconds since the epoch as UTC, to the minute or the day.

    Examples
    --------
    >>> utc_text(1_767_225_600), utc_text(1_767_225_600, with_time=False)
    ('2026-01-01 00:00', '2026-01-01')
    """
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%d %H:%M}" if with_time else f"{moment:%Y-%m-%d}"


def interval(value: float, error: float | None) -> tuple[float, float] | None:
    """Return the 95 % interval of a value, None where its standard error is unknown."""
    return None if error is None else (value - Z95 * error, value + Z95 * error)
