"""The searches of a run's pairs: batches go out, and what comes back is in the journal first.

This process alone writes the journal. A pair is in hand from its first batch to its last; as many
are in hand as there are workers, so that pairs end one after the other, not all at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from feeder_mixin.executors.base import Executor, Shared
from feeder_mixin.tune.judge.result import PairResult
from feeder_mixin.tune.run._market import PairCandles
from feeder_mixin.tune.run._tasks import Batch, PairTask, tune_pair
from feeder_mixin.tune.run.journal import Journal
from feeder_mixin.tune.search.kept import REDRAW, SEARCH, KeptRedraw, KeptSearch, KeptTrial


@dataclass(frozen=True, slots=True)
class PairWork:
    """A pair that is to be tuned.

    Attributes
    ----------
    run_id
        Of its run in the journal.
    task
        Of a search that has nothing yet: what is kept is read when the pair begins.
    candles
        None for a context pair.
    models
        Shared models at each cut of its layout.
    """

    run_id: int
    task: PairTask
    candles: PairCandles | None
    models: Sequence[Shared]


@dataclass(slots=True)
class _InHand:
    work: PairWork
    task: PairTask
    candles: Shared | None


class Searches:
    """The searches of some pairs, whichever executor does the work.

    Attributes
    ----------
    n_kept
        Trials that are kept, of all these pairs.
    """

    def __init__(
        self, executor: Executor, market: Shared, journal: Journal, work: Mapping[str, PairWork]
    ) -> None:
        self._executor, self._market, self._journal = executor, market, journal
        self._waiting = deque(work.items())
        self._in_hand: dict[str, _InHand] = {}
        self.n_kept = sum(journal.progress([one.run_id for one in work.values()], SEARCH).values())

    @property
    def running(self) -> dict[str, int]:
        """Return pair in hand -> its trials that are kept, the longest in hand first."""
        return {pair: len(one.task.kept.trials) for pair, one in self._in_hand.items()}

    def outcomes(
        self, while_waiting: Callable[[], None]
    ) -> Iterator[tuple[str, PairResult | Exception]]:
        """Yield each pair's result, or why it has none, as pairs end; results are kept by then."""

        def look() -> None:
            self._begin_pairs()  # workers may have joined
            while_waiting()

        self._begin_pairs()
        for pair, answer in self._executor.outcomes(look):
            one = self._in_hand[pair]
            outcome = self._take(one, answer) if isinstance(answer, Batch) else answer
            if outcome is None:
                self._submit(pair, one)
                continue
            del self._in_hand[pair]
            if one.candles is not None:
                self._executor.release(one.candles)
            self._begin_pairs()
            yield pair, outcome

    def _begin_pairs(self) -> None:
        while self._waiting and len(self._in_hand) < max(1, self._executor.n_workers):
            pair, work = self._waiting.popleft()
            kept = KeptSearch(
                self._journal.trials(work.run_id, SEARCH, KeptTrial),
                self._journal.trials(work.run_id, REDRAW, KeptRedraw),
            )
            candles = None if work.candles is None else self._executor.share(work.candles)
            self._in_hand[pair] = _InHand(work, replace(work.task, kept=kept), candles)
            self._submit(pair, self._in_hand[pair])

    def _submit(self, pair: str, one: _InHand) -> None:
        arguments = (self._market, one.candles, one.task, *one.work.models)
        self._executor.submit(pair, tune_pair, *arguments, home=pair)

    def _take(self, one: _InHand, batch: Batch) -> PairResult | Exception | None:
        """Keep what a batch gave; return how the pair ended, None while it goes on."""
        run_id = one.work.run_id
        for stage, kept in ((SEARCH, batch.added.trials), (REDRAW, batch.added.redraws)):
            documents = {number: document.to_json() for number, document in kept.items()}
            self._journal.save_trials(run_id, stage, documents)
        self.n_kept += len(batch.added.trials)
        one.task = one.task.after(batch)
        if isinstance(batch.outcome, PairResult):
            self._journal.finish(run_id, batch.outcome)
        return batch.outcome
