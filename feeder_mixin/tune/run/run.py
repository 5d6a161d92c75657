"""One optimizer run over a feeder: candles in, a decision per pair, its record in the store.

Order of things: lock the feeder; deliver what earlier runs left in the outbox; read what the store
holds (it is kept as the run's start); load and check candles; plan every pair; fit the models that
pairs share; search the feeder's set over all pairs together (`tune.search.study`); judge what that gives
each pair; decide over all of them (`tune.judge.promotion`); write. Every measured cell and every finished
pair is in the journal at once. Interrupted, the pairs finished so far are decided among themselves
and written; the same command later decides over all of them. One pair that fails does not stop the
others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from feeder_mixin.errors import FeederError, StoreError
from feeder_mixin.executors.base import Executor, run_in_turn
from feeder_mixin.executors.cluster import ClusterExecutor
from feeder_mixin.executors.processes import ProcessExecutor
from feeder_mixin.schema import CANDIDATES
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.base import Latest, ParameterStore
from feeder_mixin.stores.notes import describe_unused, some
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.tune.judge.contenders import TUNED
from feeder_mixin.tune.judge.decision import Champion, Decision
from feeder_mixin.tune.judge.evaluate import finite
from feeder_mixin.tune.judge.promotion import decide, record_of
from feeder_mixin.tune.judge.result import (
    RESULT_VERSION,
    ChosenLevel,
    OwnEvidence,
    PairResult,
    Redrawn,
    StudyFacts,
)
from feeder_mixin.tune.judge.risk import choose_level
from feeder_mixin.tune.run import _tasks as worker
from feeder_mixin.tune.run._measuring import Measuring
from feeder_mixin.tune.run.feeder import FeederWork
from feeder_mixin.tune.run.journal import FEEDER, Journal, Run, WarmStart
from feeder_mixin.tune.run.lock import feeder_lock
from feeder_mixin.tune.run.options import Progress, RunOptions, RunSummary, check_options
from feeder_mixin.tune.run.work import CountsRisk, Found, PlannedPairs, Work
from feeder_mixin.tune.search.finalists import OwnChoice, RedrawGain
from feeder_mixin.tune.search.kept import RISKS, TRIALS, KeptRisk, KeptTrial
from feeder_mixin.tune.search.space import ALPHA, key_of, start_sets
from feeder_mixin.tune.search.study import SearchResult, Study, choose_sets

logger = logging.getLogger(__name__)

SEARCHING: Final = "searching the feeder's set"
COMPARING: Final = "comparing the best sets"
CHOOSING: Final = "choosing the level"
JUDGING: Final = "judging pairs"


def run_feeder(
    settings: FeederSettings, options: RunOptions, store: ParameterStore, progress: Progress
) -> RunSummary:
    """Tune a feeder's pairs and return what came of it.

    Raises
    ------
    SettingsError, BusyError, TuningError
        When nothing could be begun. Failures of single pairs are in the summary.
    """
    check_options(settings, options)
    return run_work(FeederWork(settings, options), options, store, progress)


def run_work(
    work: Work, options: RunOptions, store: ParameterStore, progress: Progress
) -> RunSummary:
    """Tune the pairs of a work and return what came of it; see `run_feeder`."""
    with feeder_lock(work.settings):
        pairs = work.settings.chosen_pairs(options.pairs)
        return _Runner(work, options, store, progress).run(pairs)


def make_executor(options: RunOptions, n_pairs: int) -> Executor:
    """Return what runs tasks: processes on this machine, or a cluster's workers."""
    if options.scheduler is None:
        return ProcessExecutor(min(options.jobs, n_pairs))
    return ClusterExecutor(options.scheduler, worker.DECISIVE_PACKAGES)


class _Runner:
    """The steps of one run, sharing work, store and summary."""

    def __init__(
        self, work: Work, options: RunOptions, store: ParameterStore, progress: Progress
    ) -> None:
        self._work, self._settings, self._options = work, work.settings, options
        self._store, self._progress = store, progress
        self._outbox = Outbox(work.settings.outbox_path)
        self._summary = RunSummary(work.settings.feeder_id)
        self._runs: dict[str, Run] = {}
        self._study: Run
        self._n_pairs = 0

    def run(self, pairs: Sequence[str]) -> RunSummary:
        self._n_pairs = len(pairs)
        latest = self._ask_store()
        for pair, error in self._work.load(pairs, self._progress).items():
            self._fail(pair, error)
        runnable = [pair for pair in pairs if pair not in self._summary.failures]
        if runnable:
            with Journal(self._settings.journal_path) as journal:
                try:
                    self._tune(runnable, latest, journal)
                except KeyboardInterrupt:
                    self._write_interrupted(journal)
                    raise
                self._write(journal)
                # The command has ended for these pairs: asked again, they start anew.
                journal.close_runs([run.run_id for run in (*self._runs.values(), self._study)])
        self._deliver()
        self._outbox.close()
        return self._summary

    def _ask_store(self) -> Latest:
        """Deliver what earlier runs left, and return what the store holds for all pairs."""
        feeder_id, pairs = self._settings.feeder_id, self._settings.pairs
        model_type = self._settings.model_type
        try:
            self._outbox.deliver(self._store).check()
            latest = self._store.latest(feeder_id, pairs, model_type=model_type)
        except StoreError as error:
            self._summary.store_error = error
            logger.warning(
                "Store can't be used, comparing with the records last written from this host; "
                "results will wait in the outbox feeder=%s error=%s",
                feeder_id,
                error,
            )
            return self._outbox.latest_entered(feeder_id, pairs, model_type=model_type)
        for line in describe_unused(latest):
            logger.warning("Stored record %s", line)
        return latest

    def _tune(
        self,
        pairs: Sequence[str],
        latest: Latest,
        journal: Journal,
    ) -> None:
        study_identity = self._study_identity(pairs)
        # A pair's result depends on all that the study does, and on which pair it is.
        shared = {
            "fixes": study_identity["fixes"],
            "study": hashlib.sha256(
                json.dumps(study_identity, sort_keys=True).encode()
            ).hexdigest(),
        }
        identities = {pair: {"pair": pair, **shared} for pair in pairs}
        if self._options.fresh:
            journal.drop_unclosed(pairs, study_identity)
        warm_starts = {pair: self._warm_start(pair, latest) for pair in pairs}
        stored = tuple(dict(record.parameters) for _, record in sorted(latest.records.items()))
        begun = journal.begin(
            {**identities, FEEDER: study_identity}, {**warm_starts, FEEDER: WarmStart(sets=stored)}
        )
        self._study = begun.pop(FEEDER)
        self._runs = begun
        self._take_finished(journal)
        if any(pair not in self._summary.results for pair in pairs):
            with make_executor(self._options, len(pairs)) as executor:
                self._tune_on(executor, pairs, journal)

    def _tune_on(self, executor: Executor, pairs: Sequence[str], journal: Journal) -> None:
        """Plan, search, and judge the pairs that have no result yet."""
        champions = {
            pair: champion.parameters
            for pair in pairs
            if (champion := self._runs[pair].warm_start.champion) and champion.parameters
        }
        prepared = self._work.prepare(executor, pairs, champions, self._progress, self._fail)
        if not prepared.layouts:
            return
        measuring = Measuring(
            executor,
            prepared,
            journal=journal,
            run_id=self._study.run_id,
            failed=self._fail,
        )
        results, facts = self._search(measuring, prepared, journal)
        level = self._choose_level(executor, prepared, results.choices, journal)
        # What is chosen by a risk is no part of the search: every set is judged and served at it.
        at_level = {} if level is None else {ALPHA: level.level}
        facts = replace(facts, parameters={**facts.parameters, **at_level})
        found = {
            pair: Found(
                tuned={**choice.winner.parameters, **at_level},
                champion={**champions[pair], **at_level} if pair in champions else None,
                study=facts,
                own=_own_evidence(choice),
                provenance=self._provenance(prepared, pair, facts),
                spent_s=measuring.spent_s[pair],
                chosen_level=level,
            )
            for pair, choice in results.choices.items()
            if pair not in self._summary.failures and pair not in self._summary.results
        }
        self._judge(executor, prepared, found, journal)

    def _search(
        self, measuring: Measuring, prepared: PlannedPairs, journal: Journal
    ) -> tuple[SearchResult, StudyFacts]:
        """Return the feeder's set, what serves each pair, and how the study went."""
        options, started = self._options, time.monotonic()
        n_folds = {pair: len(layout.folds) for pair, layout in prepared.layouts.items()}
        starts = start_sets(self._work.study, self._study.warm_start.sets)
        study = Study(self._work.study, n_folds, starts, measuring)

        def show() -> None:
            best = min((t.value for t in study.trials if not t.pruned), default=0.0)
            note = f"{measuring.n_cells} fits, best {100 * best:+.2f} % loss"
            self._progress.stage(SEARCHING, len(study.trials), options.n_trials, note)

        def keep(trials: Mapping[int, KeptTrial]) -> None:
            documents = {number: trial.to_json() for number, trial in trials.items()}
            journal.save_trials(self._study.run_id, TRIALS, documents)
            show()

        def is_over() -> bool:
            return time.monotonic() - started > (options.timeout_s or math.inf)

        measuring.told = lambda _done, _total: show()
        study.run(options.n_trials, is_over, keep)
        n_cells = measuring.n_cells
        measuring.free()
        measuring.told = lambda done, total: self._progress.stage(COMPARING, done, total)
        left = {p: n for p, n in n_folds.items() if p not in self._summary.failures}
        found = choose_sets(study, left, measuring)
        facts = StudyFacts(
            parameters=dict(found.winner.parameters),
            winner=found.winner.number,
            n_pairs=len(left),
            n_raced=len(study.raced),
            n_trials=len(study.trials),
            n_pruned=sum(trial.pruned for trial in study.trials),
            n_cells=n_cells,
            importances=study.importances(),
            redrawn=tuple(_redrawn(one) for one in found.evidence),
            took_s=time.monotonic() - started,
        )
        return found, facts

    def _choose_level(
        self,
        executor: Executor,
        prepared: PlannedPairs,
        choices: Mapping[str, OwnChoice],
        journal: Journal,
    ) -> ChosenLevel | None:
        """Return the level of the feeder by the risk that was asked for, over all pairs; None: not asked."""
        asked = self._settings.asked_unsafe_share
        if asked is None or not isinstance(prepared, CountsRisk):
            return None
        counted = prepared
        sets = {pair: choice.winner.parameters for pair, choice in choices.items()}
        kept = journal.trials(self._study.run_id, RISKS, KeptRisk).values()
        tables = {one.pair: one.table for one in kept if one.key == key_of(sets[one.pair])}
        n_kept, missing = len(kept), [pair for pair in sets if pair not in tables]

        def submit(pair: str) -> None:
            call = counted.risk(pair, sets[pair])
            executor.submit(pair, call.function, *call.arguments)

        def show() -> None:
            self._progress.stage(CHOOSING, len(tables), len(sets))

        for pair, outcome in run_in_turn(executor, submit, missing, show):
            prepared.free(pair)
            if isinstance(outcome, Exception):
                self._fail(pair, outcome)
                continue
            one = KeptRisk(pair, key_of(sets[pair]), outcome)
            journal.save_trials(self._study.run_id, RISKS, {n_kept: one.to_json()})
            tables[pair], n_kept = outcome, n_kept + 1
            show()
        if not tables:
            return None
        chosen = choose_level(tables, asked)
        if not chosen.is_kept:
            logger.warning(
                "No level keeps the share of unsafe candles within feeder.max_unsafe_share=%g, the least "
                "one is taken: quantile_alpha=%g unsafe_share=%s unsafe_share_upper=%s feeder=%s",
                asked,
                chosen.level,
                chosen.share,
                chosen.upper,
                self._settings.feeder_id,
            )
        return chosen

    def _study_identity(self, pairs: Sequence[str]) -> dict[str, object]:
        """Return everything that decides what a study finds, beside the store's content.

        The store is part of it: a run goes on from what its own store held, and ends there.
        """
        settings, options = self._settings, self._options
        return {
            **self._work.identity(pairs),
            "feeder_id": settings.feeder_id,
            "market": [settings.exchange, settings.candle_type],
            "store": self._store.description,
            "timeframe": settings.timeframe,
            "days_back": options.days_back,
            "seed": options.seed,
            "fixes": dict(sorted(options.fixes.items())),
            "pairs": sorted(pairs),
            "versions": worker.library_versions(),
            "result_version": RESULT_VERSION,
        }

    def _warm_start(self, pair: str, latest: Latest) -> WarmStart:
        """Return what the store held for a pair, as the journal keeps it: its champion.

        A record that bots reject (another horizon) may start the study, and is no champion.
        """
        own = latest.records.get(pair)
        champion: Champion | None = None
        if own is not None and not self._work.refusal(own):
            beats_rule = own.metrics.get("beats_rule") != 0.0
            champion = Champion(own.time_ns, dict(own.parameters), beats_rule)
        elif pair in latest.expired:
            champion = Champion(latest.expired[pair], None)
        return WarmStart(champion=champion)

    def _earlier_decision(self, pair: str) -> Decision | None:
        """Return what an interrupted command of this run decided: bots may read it now."""
        run = self._runs[pair]
        decided = None if run.result is None else run.result.decision
        return decided or run.warm_start.decision

    def _take_finished(self, journal: Journal) -> None:
        """Take over results that an interrupted command had finished, if no more trials are asked."""
        for pair, run in list(self._runs.items()):
            if run.result is None:
                continue
            if run.result.metrics["optimization_trials"] < self._options.n_trials:
                self._runs[pair] = journal.reopen(run.run_id)
            else:
                self._accept(pair, run.result)
        if self._summary.results:
            logger.info(
                "Pairs were finished by the interrupted run pairs=%s", some(self._summary.results)
            )

    def _provenance(
        self, prepared: PlannedPairs, pair: str, facts: StudyFacts
    ) -> dict[str, object]:
        """Return what a record says of its making, whatever was tuned."""
        settings, options = self._settings, self._options
        return {
            "exchange": settings.exchange,
            "candle_type": settings.candle_type,
            "versions": worker.library_versions(),
            "seed": options.seed,
            "fixes": dict(options.fixes),
            "host": platform.node(),
            "days_back": options.days_back,
            "labelled_days": round(prepared.layouts[pair].labelled_days, 3),
            "study_pairs": facts.n_pairs,
        }

    def _judge(
        self,
        executor: Executor,
        prepared: PlannedPairs,
        found: Mapping[str, Found],
        journal: Journal,
    ) -> None:
        """Say what the search gives each pair is worth; each result is in the journal at once."""

        def submit(pair: str) -> None:
            call = prepared.judge(pair, found[pair])
            executor.submit(pair, call.function, *call.arguments)

        def show() -> None:
            n_ended = len(self._summary.results) + len(self._summary.failures)
            self._progress.stage(JUDGING, n_ended, self._n_pairs)

        for pair, outcome in run_in_turn(executor, submit, found, show):
            prepared.free(pair)
            if isinstance(outcome, Exception):
                self._fail(pair, outcome)
            else:
                journal.finish(self._runs[pair].run_id, outcome)
                self._accept(pair, outcome)
            show()

    def _accept(self, pair: str, result: PairResult) -> None:
        # The journal has the whole: in memory, all pairs' charts and curves would be most of what a pair costs.
        self._summary.results[pair] = result.without_curves
        self._progress.finished(pair, result, None)

    def _write(self, journal: Journal) -> None:
        """Decide over the finished pairs, and put what is to be stored on its way."""
        results = self._summary.results
        champions, earlier = {}, {}
        for pair in results:
            if (champion := self._runs[pair].warm_start.champion) is not None:
                champions[pair] = champion
            if (decision := self._earlier_decision(pair)) is not None:
                earlier[pair] = decision
        evidence = {pair: result.evidence for pair, result in results.items()}
        renewed = {pair for pair in results if self._settings.is_renewed(pair)}
        decisions = decide(evidence, champions, self._options.promote, earlier, renewed)
        for pair, decision in decisions.items():
            result = results[pair] = replace(results[pair], decision=decision)
            # In the journal before it is in the outbox: the next command must know what this wrote.
            journal.amend(self._runs[pair].run_id, decision)
            if decision.written is not None:
                record = record_of(self._settings.feeder_id, result, decision, decision.written)
                self._summary.records[pair] = self._outbox.put(record)
            if decision.candidate:
                record = record_of(self._settings.feeder_id, result, decision, TUNED)
                self._summary.candidates[pair] = self._outbox.put(record, CANDIDATES)

    def _write_interrupted(self, journal: Journal) -> None:
        """Write what is decided among the finished pairs; their runs stay unclosed."""
        self._write(journal)
        self._deliver()
        for pair, result in self._summary.results.items():
            logger.info(
                "Decided without the unfinished pairs pair=%s outcome=%s written=%s",
                pair,
                result.decided.outcome,
                result.decided.written,
            )
        if self._summary.store_error is not None:
            logger.warning("%s", self._summary.store_error)

    def _fail(self, pair: str, error: Exception) -> None:
        if not isinstance(error, FeederError):  # a defect: the other pairs go on, but it is shown
            logger.error("Pair failed unexpectedly pair=%s", pair, exc_info=error)
        self._summary.failures[pair] = error
        self._progress.finished(pair, None, error)

    def _deliver(self) -> None:
        """Hand the outbox to the store."""
        self._summary.store_error = self._outbox.deliver(self._store).error
        waiting = self._outbox.newest_waiting(self._settings.feeder_id)
        records = self._summary.records.values()
        self._summary.undelivered = frozenset(r.pair for r in records if r == waiting.get(r.pair))


def _redrawn(one: RedrawGain) -> Redrawn:
    return Redrawn(
        trial=one.trial.number,
        gain=one.gain,
        error=finite(one.error),
        parameters=dict(one.trial.parameters),
        windows_needed=one.windows_needed,
    )


def _own_evidence(choice: OwnChoice) -> OwnEvidence:
    has_other = choice.other is not None
    return OwnEvidence(
        winner=choice.winner.number,
        other=choice.other.number if choice.other is not None else None,
        gain=choice.gain if has_other else None,
        error=finite(choice.error) if has_other else None,
        shrunk=choice.shrunk if has_other else None,
        shrunk_error=finite(choice.shrunk_error) if has_other else None,
        windows_needed=choice.windows_needed,
    )
