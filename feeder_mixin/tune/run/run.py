"""One optimizer run over a feeder: candles in, a decision per pair, its record in the store.

Order of things: lock the feeder; deliver what earlier runs left in the outbox; read what the store
holds (it is kept as each run's start); load and check candles; plan every pair; fit the models that
pairs share; tune pairs in parallel; decide over all of them (`tune.judge.promotion`); write. Each finished
pair is in the journal at once. Interrupted, the pairs finished so far are decided among themselves
and written; the same command later decides over all of them. One pair that fails does not stop the
others.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from feeder_mixin.errors import FeederError, StoreError
from feeder_mixin.executors.base import Executor, Shared, run_tasks
from feeder_mixin.executors.cluster import ClusterExecutor
from feeder_mixin.executors.processes import ProcessExecutor
from feeder_mixin.market.candles import timeframe_seconds
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.model.folds import ADVISED_DAYS, Layout
from feeder_mixin.schema import CANDIDATES, hash48, mismatch_reason
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.base import Latest, ParameterStore
from feeder_mixin.stores.notes import describe_unused, some
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.tune.judge.contenders import TUNED
from feeder_mixin.tune.judge.decision import Champion, Decision
from feeder_mixin.tune.judge.promotion import build_record, decide
from feeder_mixin.tune.judge.result import RESULT_VERSION, PairResult
from feeder_mixin.tune.run import _tasks as worker
from feeder_mixin.tune.run._market import Market, PairCandles
from feeder_mixin.tune.run._searches import PairWork, Searches
from feeder_mixin.tune.run.candles import RunCandles, load_run_candles
from feeder_mixin.tune.run.journal import Journal, Run, WarmStart
from feeder_mixin.tune.run.lock import feeder_lock
from feeder_mixin.tune.run.options import (
    Progress,
    RunOptions,
    RunSummary,
    SearchState,
    check_options,
)
from feeder_mixin.tune.search.space import StudySettings
from feeder_mixin.tune.search.study import Budget

logger = logging.getLogger(__name__)


def run_feeder(
    settings: FeederSettings, options: RunOptions, store: ParameterStore, progress: Progress
) -> RunSummary:
    """Tune a feeder's pairs and return what came of it.

    Raises
    ------
    SettingsError, BusyError, TuningError
        When nothing could be begun. Failures of single pairs are in the summary.
    """
    pairs = check_options(settings, options)
    with feeder_lock(settings):
        return _Runner(settings, options, store, progress).run(pairs)


class _Runner:
    """The steps of one run, sharing settings, store and summary."""

    def __init__(
        self,
        settings: FeederSettings,
        options: RunOptions,
        store: ParameterStore,
        progress: Progress,
    ) -> None:
        self._settings, self._options = settings, options
        self._store, self._progress = store, progress
        self._label = settings.label(timeframe_seconds(settings.timeframe))
        self._outbox = Outbox(settings.outbox_path)
        self._summary = RunSummary(settings.feeder_id)
        self._runs: dict[str, Run] = {}
        self._n_pairs = 0

    def run(self, pairs: Sequence[str]) -> RunSummary:
        self._n_pairs = len(pairs)
        latest = self._ask_store()
        candles = self._load(pairs)
        runnable = [pair for pair in pairs if pair in candles]
        if runnable:
            with Journal(self._settings.journal_path) as journal:
                try:
                    self._tune(runnable, candles, latest, journal)
                except KeyboardInterrupt:
                    self._write_interrupted(journal)
                    raise
                self._write(journal)
                # The command has ended for these pairs: asked again, they start anew.
                journal.close_runs([run.run_id for run in self._runs.values()])
        self._deliver()
        self._outbox.close()
        return self._summary

    def _ask_store(self) -> Latest:
        """Deliver what earlier runs left, and return what the store holds for all pairs."""
        try:
            self._outbox.deliver(self._store).check()
            latest = self._store.latest(self._settings.feeder_id, self._settings.pairs)
        except StoreError as error:
            self._summary.store_error = error
            logger.warning(
                "Store can't be used, comparing with the records last written from this host; "
                "results will wait in the outbox feeder=%s error=%s",
                self._settings.feeder_id,
                error,
            )
            return self._outbox.latest_entered(self._settings.feeder_id, self._settings.pairs)
        for line in describe_unused(latest):
            logger.warning("Stored record %s", line)
        return latest

    def _load(self, pairs: Sequence[str]) -> dict[str, RunCandles]:
        """Return the candles of pairs and context; pairs without go to the failures."""
        loaded, failures = load_run_candles(self._settings, self._options, pairs, self._progress)
        for pair, error in failures.items():
            self._fail(pair, error)
        return loaded

    def _tune(
        self,
        pairs: Sequence[str],
        candles: Mapping[str, RunCandles],
        latest: Latest,
        journal: Journal,
    ) -> None:
        settings, options = self._settings, self._options
        if options.fresh:
            journal.drop_unclosed(pairs)
        identities = {pair: self._identity(pair, candles) for pair in pairs}
        warm_starts = {pair: self._warm_start(pair, latest) for pair in pairs}
        self._runs = journal.begin(identities, warm_starts)
        self._take_finished(journal)
        left = [pair for pair in pairs if pair not in self._summary.results]
        context = {p: candles[p].candles for p in settings.context_pairs if p in candles}
        if left:
            until = pd.Timestamp(max(c.last_s for c in candles.values()), unit="s", tz="UTC")
            with self._make_executor(len(left)) as executor:
                market = executor.share(Market(context, self._label, until))
                outside = {p: candles[p].candles for p in left if p not in context}
                layouts = self._plan(executor, market, left, outside)
                models = self._fit_shared(executor, market, layouts)
                work = {
                    pair: PairWork(
                        run_id=self._runs[pair].run_id,
                        task=self._task(pair, layout, sorted(context), executor.n_workers),
                        candles=outside.get(pair),
                        models=[models[cut_s] for cut_s in layout.cuts_s],
                    )
                    for pair, layout in layouts.items()
                }
                self._collect(executor, Searches(executor, market, journal, work))

    def _make_executor(self, n_pairs: int) -> Executor:
        options = self._options
        if options.scheduler is None:
            return ProcessExecutor(min(options.jobs, n_pairs))
        return ClusterExecutor(options.scheduler, worker.DECISIVE_PACKAGES)

    def _identity(self, pair: str, candles: Mapping[str, RunCandles]) -> dict[str, object]:
        """Return everything that decides a pair's result, beside the store's content.

        The store is part of it: a run goes on from what its own store held, and ends there.
        """
        settings, options = self._settings, self._options
        context = [p for p in settings.context_pairs if p in candles]
        return {
            "feeder_id": settings.feeder_id,
            "market": [settings.exchange, settings.candle_type],
            "store": self._store.description,
            "pair": pair,
            "side": settings.side,
            "timeframe": settings.timeframe,
            "horizon": settings.horizon_candles,
            "max_adverse_ratio": settings.max_adverse_ratio,
            "train_days": settings.train_days,
            "days_back": options.days_back,
            "seed": options.seed,
            "fixes": dict(sorted(options.fixes.items())),
            "candles": {p: candles[p].content_hash for p in sorted({pair, *context})},
            "context": context,
            "feature_hash": FEATURE_HASH,
            "versions": worker.library_versions(),
            "result_version": RESULT_VERSION,
        }

    def _warm_start(self, pair: str, latest: Latest) -> WarmStart:
        """Return what the store held for a pair, as the journal keeps it: start and champion.

        A record that bots reject (another horizon) may start the search, and is no champion.
        """
        own = latest.records.get(pair)
        champion: Champion | None = None
        if own is not None and not mismatch_reason(own, self._label):
            beats_rule = own.metrics.get("beats_rule") != 0.0
            champion = Champion(own.time_ns, dict(own.parameters), beats_rule)
        elif pair in latest.expired:
            champion = Champion(latest.expired[pair], None)
        return WarmStart(
            own=None if own is None else dict(own.parameters),
            others=tuple(
                dict(r.parameters) for p, r in sorted(latest.records.items()) if p != pair
            ),
            champion=champion,
        )

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

    def _plan(
        self,
        executor: Executor,
        market: Shared,
        pairs: Sequence[str],
        outside: Mapping[str, PairCandles],
    ) -> dict[str, Layout]:
        """Return the layouts of pairs; those without go to the failures."""
        days_back, layouts = self._options.days_back, dict[str, Layout]()
        tasks = {pair: (market, pair, outside.get(pair), days_back) for pair in pairs}
        self._progress.stage("building features", 0, len(tasks))
        for number, (pair, outcome) in enumerate(run_tasks(executor, worker.plan_pair, tasks), 1):
            self._progress.stage("building features", number, len(tasks))
            if isinstance(outcome, Exception):
                self._fail(pair, outcome)
                continue
            layouts[pair] = outcome
        few = {p: o.labelled_days for p, o in layouts.items() if o.labelled_days < ADVISED_DAYS}
        if few:
            logger.warning(
                "Few labelled days: windows under %g days were measured to lose pairs=%s "
                "fewest_days=%.1f",
                ADVISED_DAYS,
                some(few),
                min(few.values()),
            )
        return {pair: layouts[pair] for pair in pairs if pair in layouts}

    def _fit_shared(
        self, executor: Executor, market: Shared, layouts: Mapping[str, Layout]
    ) -> dict[int, Shared]:
        """Return cut -> models that all pairs share, each fitted once on the context pairs."""
        cuts = sorted({cut_s for layout in layouts.values() for cut_s in layout.cuts_s})
        shared: dict[int, Shared] = {}
        tasks = {str(cut_s): (market, cut_s) for cut_s in cuts}
        for number, (key, outcome) in enumerate(run_tasks(executor, worker.fit_cut, tasks), 1):
            self._progress.stage("fitting shared models", number, len(tasks))
            if isinstance(outcome, Exception):
                raise outcome
            shared[int(key)] = executor.share(outcome)
        return shared

    def _task(
        self, pair: str, layout: Layout, context: Sequence[str], n_workers: int
    ) -> worker.PairTask:
        settings, options = self._settings, self._options
        study = StudySettings(
            settings.feeder_id,
            pair,
            self._label,
            settings.max_adverse_ratio,
            settings.train_days,
            options.seed,
            dict(options.fixes),
        )
        run = self._runs[pair]
        champion = run.warm_start.champion
        n_left = len(self._settings.pairs if not options.pairs else options.pairs)
        waves = max(1.0, n_left / n_workers)
        return worker.PairTask(
            settings=study,
            layout=layout,
            budget=Budget(options.n_trials, (options.timeout_s or math.inf) / waves),
            own=run.warm_start.own,
            others=run.warm_start.others,
            champion=None if champion is None else champion.parameters,
            market_hash=hash48(settings.exchange, settings.candle_type),
            provenance={
                "side": settings.side,
                "exchange": settings.exchange,
                "candle_type": settings.candle_type,
                "context_pairs": list(context),
                "versions": worker.library_versions(),
                "seed": options.seed,
                "fixes": dict(options.fixes),
                "host": os.uname().nodename,
                "days_back": options.days_back,
                "labelled_days": round(layout.labelled_days, 3),
            },
        )

    def _collect(self, executor: Executor, searches: Searches) -> None:
        """Take what the searches give, pair by pair; tell how far they are."""
        n_before = sum(
            int(result.metrics["optimization_trials"]) for result in self._summary.results.values()
        )

        def show() -> None:
            state = SearchState(
                n_pairs=self._n_pairs,
                n_ended=len(self._summary.results) + len(self._summary.failures),
                running=searches.running,
                n_kept=n_before + searches.n_kept,
                n_trials=self._options.n_trials,
                n_workers=executor.n_workers,
            )
            self._progress.searches(state)

        show()
        for pair, outcome in searches.outcomes(show):
            if isinstance(outcome, Exception):
                self._fail(pair, outcome)
            else:
                self._accept(pair, outcome)
        show()

    def _accept(self, pair: str, result: PairResult) -> None:
        self._summary.results[pair] = result
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
        decisions = decide(evidence, champions, self._options.promote, earlier)
        for pair, decision in decisions.items():
            result = results[pair] = replace(results[pair], decision=decision)
            # In the journal before it is in the outbox: the next command must know what this wrote.
            journal.amend(self._runs[pair].run_id, result)
            if decision.written is not None:
                record = build_record(self._settings.feeder_id, result, decision, decision.written)
                self._summary.records[pair] = self._outbox.put(record)
            if decision.candidate:
                record = build_record(self._settings.feeder_id, result, decision, TUNED)
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
