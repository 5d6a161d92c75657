"""The seam between a run and what it tunes: the built-in model of a feeder, or a FreqAI strategy's own.

A run (`run`) locks, asks the store, keeps the journal, searches, decides and writes. What prepares a
pair, measures a cell and judges a pair is a `Work`. Two inhabitants: `tune.run.feeder` and
`tune.freqai.work`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from feeder_mixin.errors import FeederError
from feeder_mixin.executors.base import Executor
from feeder_mixin.model.folds import Layout
from feeder_mixin.schema import ParameterRecord
from feeder_mixin.settings import BotSettings
from feeder_mixin.tune.judge.result import ChosenLevel, OwnEvidence, StudyFacts
from feeder_mixin.tune.run.options import Progress
from feeder_mixin.tune.search.kept import Cell, Measured
from feeder_mixin.tune.search.space import ParameterSet, SearchSettings

Fail = Callable[[str, Exception], None]
"""Called with a pair and why nothing more can come of it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A task, as `Executor.submit` takes it."""

    function: Callable[..., Any]
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What the search gives one pair, to be judged.

    Attributes
    ----------
    tuned
        The set.
    champion
        What bots take now; None where there is no such record.
    study, own
        How the feeder's study went, and what the pair's own evidence was.
    provenance
        What the run knows of it; a `Work` adds its own.
    spent_s
        Worker seconds that the pair's cells took.
    chosen_level
        The level that all sets here are at, where it was chosen (`judge.risk`).
    """

    tuned: ParameterSet
    champion: Mapping[str, float] | None
    study: StudyFacts
    own: OwnEvidence
    provenance: Mapping[str, object]
    spent_s: float
    chosen_level: ChosenLevel | None = None


@dataclass(frozen=True, slots=True)
class CellsAnswer:
    """What was measured, in the order in which it was wanted, and the wall seconds that it took."""

    measured: Sequence[Measured]
    took_s: float


@contextmanager
def named(pair: str) -> Iterator[None]:
    """Name the pair in errors that do not."""
    try:
        yield
    except FeederError as error:
        if pair in str(error):
            raise
        raise type(error)(f"{pair}: {error}") from error


class PlannedPairs(Protocol):
    """Pairs whose folds are planned, and the tasks on them."""

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Return pair -> folds and test window, of the pairs that can be tuned."""

    def cells(self, pair: str, draw: int, cells: Sequence[Cell]) -> Call:
        """Return the task that measures cells of one pair and draw: its result is a `CellsAnswer`."""

    def judge(self, pair: str, found: Found) -> Call:
        """Return the task that says what the search gives a pair is worth: a `PairResult`."""

    def free(self, pair: str) -> None:
        """Free what workers were sent for a pair alone; its next task sends it again."""


@runtime_checkable
class CountsRisk(Protocol):
    """Planned pairs whose level can be chosen by a risk (`BotSettings.asked_unsafe_share`)."""

    def risk(self, pair: str, tuned: ParameterSet) -> Call:
        """Return the task that counts what is called safe with a set, by level: a `RiskTable`."""


class Work(Protocol):
    """What a run tunes."""

    @property
    def settings(self) -> BotSettings:
        """Return the bot's settings."""

    @property
    def study(self) -> SearchSettings:
        """Return what decides the search beside what is measured."""

    def load(self, pairs: Sequence[str], progress: Progress) -> Mapping[str, FeederError]:
        """Read and check what is on disk; return pair -> why it can't be tuned."""

    def identity(self, pairs: Sequence[str]) -> dict[str, object]:
        """Return what of settings and data decides a study's result."""

    def refusal(self, record: ParameterRecord) -> str | None:
        """Return why a stored record is no champion here."""

    def prepare(
        self,
        executor: Executor,
        pairs: Sequence[str],
        champions: Mapping[str, Mapping[str, float]],
        progress: Progress,
        failed: Fail,
    ) -> PlannedPairs:
        """Plan the folds of pairs, and make what their tasks share.

        Parameters
        ----------
        champions
            Pair -> the set that bots take now.
        """
