"""One optimizer run over a feeder: candles in, one record per pair in the store.

Order of things: lock the feeder; deliver what earlier runs left in the outbox; read what the store
holds (it is kept as each run's start); load and check candles; plan every pair; fit the models that
pairs share; tune pairs in parallel. Each finished pair is on disk before the store is tried. One
pair that fails does not stop the others.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import filelock

from feeder_mixin.errors import (
    BusyError,
    CandleError,
    FeederError,
    MissingCandlesError,
    StoreError,
    TuningError,
)
from feeder_mixin.market.candles import Candles, load_candles, timeframe_seconds
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.market.history import download_command
from feeder_mixin.model.folds import ADVISED_DAYS, Layout
from feeder_mixin.model.quantile import SharedModels
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.schema import ParameterRecord
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.base import Latest, ParameterStore
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.tune import worker
from feeder_mixin.tune.journal import Journal, Run
from feeder_mixin.tune.options import Progress, RunOptions, RunSummary, check_options
from feeder_mixin.tune.space import StudySettings
from feeder_mixin.tune.study import SEARCH
from feeder_mixin.workers import WorkerPool

logger = logging.getLogger(__name__)

STALE_DAYS: Final = 2.0
"""Candles that end longer ago than this get a warning."""

_CONTEXT_LAG_DAYS: Final = 1.0


@contextmanager
def feeder_lock(settings: FeederSettings) -> Iterator[None]:
    """Hold the feeder's optimizer lock, or raise `BusyError` that says who holds it.

    The kernel releases it when the process dies, however it dies.
    """
    folder = settings.state_dir
    owner = folder / "optimize.pid"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = filelock.FileLock(folder / "optimize.lock", timeout=0)
        lock.acquire()
        owner.write_text(f"{os.getpid()}\n", encoding="utf-8")
    except filelock.Timeout as error:
        who = owner.read_text(encoding="utf-8").strip() if owner.exists() else "unknown"
        raise BusyError(
            f"another optimizer works on {settings.feeder_id} (process {who}): wait for it to end; "
            "this one did nothing"
        ) from error
    except OSError as error:
        raise TuningError(
            f"state folder {folder} can't be used: {error}. Make it writable, or free disk space"
        ) from error
    try:
        yield
    finally:
        lock.release()


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
        self._timeframe_s = timeframe_seconds(settings.timeframe)
        self._outbox = Outbox(settings.outbox_path)
        self._summary = RunSummary(settings.feeder_id)

    def run(self, pairs: Sequence[str]) -> RunSummary:
        latest = self._ask_store()
        candles = self._load(pairs)
        runnable = [pair for pair in pairs if pair in candles]
        if runnable:
            with Journal(self._settings.journal_path) as journal:
                self._tune(runnable, candles, latest, journal)
        self._deliver(last=True)
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
                "Store can't be used, tuning without its records as a start; results will wait in "
                "the outbox feeder=%s error=%s",
                self._settings.feeder_id,
                error,
            )
            return Latest()
        for note in (*latest.notes, *latest.rejected.values()):
            logger.warning("Stored record passed over: %s", note)
        return latest

    def _load(self, pairs: Sequence[str]) -> dict[str, Candles]:
        """Return the candles of pairs and context; pairs without go to the failures."""
        settings = self._settings
        wanted = [*pairs, *(p for p in settings.context_pairs if p not in pairs)]
        loaded: dict[str, Candles] = {}
        missing: list[str] = []
        for number, pair in enumerate(wanted):
            self._progress.stage("loading candles", number, len(wanted))
            try:
                loaded[pair] = load_candles(
                    self._options.datadir or settings.default_datadir,
                    pair,
                    settings.timeframe,
                    settings.candle_type,
                    settings.data_format,
                )
            except CandleError as error:
                if isinstance(error, MissingCandlesError):
                    missing.append(pair)
                if pair in pairs:
                    self._fail(pair, error)
                else:
                    logger.warning("Context pair is missing, features go without it: %s", error)
        self._progress.stage("loading candles", len(wanted), len(wanted))
        if missing:
            days = self._options.days_back + settings.train_days
            command = download_command(settings, missing, days, self._options.datadir)
            logger.warning(
                "Candles of %d pairs are missing; get them with: %s", len(missing), command
            )
        self._say_stale(pairs, loaded)
        return loaded

    def _say_stale(self, pairs: Sequence[str], loaded: Mapping[str, Candles]) -> None:
        for pair in pairs:
            if pair in loaded:
                age_days = (time.time() - loaded[pair].last_s) / DAY_S
                if age_days > STALE_DAYS:
                    logger.warning(
                        "Candles are old, the record will describe that time pair=%s age_days=%.1f",
                        pair,
                        age_days,
                    )
        newest = max((c.last_s for c in loaded.values()), default=0)
        for pair in self._settings.context_pairs:
            if pair in loaded and newest - loaded[pair].last_s > _CONTEXT_LAG_DAYS * DAY_S:
                logger.warning(
                    "Context pair is stale, later features go without it pair=%s lag_days=%.1f",
                    pair,
                    (newest - loaded[pair].last_s) / DAY_S,
                )

    def _tune(
        self,
        pairs: Sequence[str],
        candles: Mapping[str, Candles],
        latest: Latest,
        journal: Journal,
    ) -> None:
        settings, options = self._settings, self._options
        if options.fresh:
            journal.drop_unclosed(pairs)
        identities = {pair: self._identity(pair, candles) for pair in pairs}
        runs = journal.begin(identities, {pair: _warm_start(pair, latest) for pair in pairs})
        self._take_finished(runs, journal)
        left = [pair for pair in pairs if pair not in self._summary.results]
        context = {p: candles[p].frame for p in settings.context_pairs if p in candles}
        if left:
            jobs = min(options.jobs, len(left))
            until = max(c.frame.index[-1] for c in candles.values())
            setup = (context, settings.horizon_candles, self._timeframe_s, until)
            with WorkerPool(jobs, worker.start, setup) as pool:
                layouts = self._plan(pool, left, candles, context)
                shared = self._fit_shared(pool, layouts, context)
                tasks = {
                    pair: (self._task(pair, runs[pair], layout, candles, context, shared, jobs),)
                    for pair, layout in layouts.items()
                }
                self._collect(pool, tasks, runs, journal)
        # The command has ended for these pairs: asked again, they start anew.
        journal.close_runs([run.run_id for run in runs.values()])

    def _identity(self, pair: str, candles: Mapping[str, Candles]) -> dict[str, Any]:
        """Return everything that decides a pair's result, beside the store's content.

        The store is part of it: a run goes on from what its own store held, and ends there.
        """
        settings, options = self._settings, self._options
        context = [p for p in settings.context_pairs if p in candles]
        return {
            "feeder_id": settings.feeder_id,
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
            "candles": {p: candles[p].content_hash() for p in sorted({pair, *context})},
            "context": context,
            "feature_hash": FEATURE_HASH,
            "versions": worker.library_versions(),
        }

    def _take_finished(self, runs: Mapping[str, Run], journal: Journal) -> None:
        """Take over results that an interrupted command had finished, if no more trials are asked."""
        for pair, run in runs.items():
            if run.result is None:
                continue
            if run.result["metrics"]["optimization_trials"] < self._options.n_trials:
                journal.reopen(run.run_id)
            else:
                logger.info("Pair was finished by the interrupted run pair=%s", pair)
                self._accept(pair, run.result)

    def _plan(
        self,
        pool: WorkerPool,
        pairs: Sequence[str],
        candles: Mapping[str, Candles],
        context: Mapping[str, Any],
    ) -> dict[str, Layout]:
        options = self._options
        layouts: dict[str, Layout] = {}
        tasks = {
            pair: (pair, None if pair in context else candles[pair].frame, options.days_back)
            for pair in pairs
        }
        self._progress.stage("building features", 0, len(tasks))
        for number, (pair, outcome) in enumerate(pool.run(worker.plan_pair, tasks), 1):
            self._progress.stage("building features", number, len(tasks))
            if isinstance(outcome, Exception):
                self._fail(pair, outcome)
                continue
            layouts[pair] = outcome
            if outcome.labelled_days < ADVISED_DAYS:
                logger.warning(
                    "Few labelled days: windows under %g days were measured to lose pair=%s "
                    "labelled_days=%.1f",
                    ADVISED_DAYS,
                    pair,
                    outcome.labelled_days,
                )
        return {pair: layouts[pair] for pair in pairs if pair in layouts}

    def _fit_shared(
        self, pool: WorkerPool, layouts: Mapping[str, Layout], context: Mapping[str, Any]
    ) -> dict[int, SharedModels]:
        """Return cut -> models that all context pairs share, each fitted once."""
        cuts = sorted({c for pair, x in layouts.items() if pair in context for c in x.cuts_s})
        shared: dict[int, SharedModels] = {}
        tasks = {str(cut_s): (cut_s,) for cut_s in cuts}
        for number, (key, outcome) in enumerate(pool.run(worker.fit_cut, tasks), 1):
            self._progress.stage("fitting shared models", number, len(tasks))
            if isinstance(outcome, Exception):
                raise outcome
            shared[int(key)] = outcome
        return shared

    def _task(
        self,
        pair: str,
        run: Run,
        layout: Layout,
        candles: Mapping[str, Candles],
        context: Mapping[str, Any],
        shared: Mapping[int, SharedModels],
        jobs: int,
    ) -> worker.PairTask:
        settings, options = self._settings, self._options
        study = StudySettings(
            settings.feeder_id,
            pair,
            settings.side,
            settings.horizon_candles,
            self._timeframe_s,
            settings.max_adverse_ratio,
            settings.train_days,
            options.seed,
            dict(options.fixes),
        )
        n_left = len(self._settings.pairs if not options.pairs else options.pairs)
        waves = max(1.0, n_left / jobs)
        return worker.PairTask(
            settings=study,
            layout=layout,
            candles=None if pair in context else candles[pair].frame,
            shared={cut_s: shared[cut_s] for cut_s in layout.cuts_s} if pair in context else None,
            journal_path=self._settings.journal_path,
            run_id=run.run_id,
            n_trials=options.n_trials,
            own=run.warm_start.get("own"),
            others=run.warm_start.get("others", []),
            budget_s=None if options.timeout_s is None else options.timeout_s / waves,
            provenance={
                "context_pairs": sorted(context),
                "versions": worker.library_versions(),
                "seed": options.seed,
                "fixes": dict(options.fixes),
                "host": os.uname().nodename,
                "days_back": options.days_back,
                "labelled_days": round(layout.labelled_days, 3),
            },
        )

    def _collect(
        self,
        pool: WorkerPool,
        tasks: Mapping[str, tuple[worker.PairTask]],
        runs: Mapping[str, Run],
        journal: Journal,
    ) -> None:
        pair_of = {runs[pair].run_id: pair for pair in tasks}

        def show() -> None:
            counts = journal.progress(list(pair_of), SEARCH)
            self._progress.trials(
                {pair: counts.get(run_id, 0) for run_id, pair in pair_of.items()},
                self._options.n_trials,
            )

        show()
        for pair, outcome in pool.run(worker.tune_pair, tasks, show):
            if isinstance(outcome, Exception):
                self._fail(pair, outcome)
            else:
                self._accept(pair, outcome)
                self._deliver(last=False)

    def _accept(self, pair: str, result: dict[str, Any]) -> None:
        record = ParameterRecord(
            self._settings.feeder_id,
            pair,
            result["time_ns"],
            result["parameters"],
            result["metrics"],
            result["provenance"],
        )
        self._summary.results[pair] = result
        self._summary.records[pair] = self._outbox.put(record)
        self._progress.finished(pair, result, None)

    def _fail(self, pair: str, error: Exception) -> None:
        if not isinstance(error, FeederError):  # a defect: the other pairs go on, but it is shown
            logger.error("Pair failed unexpectedly pair=%s", pair, exc_info=error)
        self._summary.failures[pair] = error
        self._progress.finished(pair, None, error)

    def _deliver(self, *, last: bool) -> None:
        """Hand the outbox to the store; after a failure wait for the end of the run."""
        if self._summary.store_error is not None and not last:
            return
        delivered = self._outbox.deliver(self._store)
        self._summary.store_error = delivered.error
        self._summary.n_undelivered = delivered.remaining


def _warm_start(pair: str, latest: Latest) -> dict[str, Any]:
    own = latest.records.get(pair)
    others = [dict(r.parameters) for p, r in sorted(latest.records.items()) if p != pair]
    return {"own": None if own is None else dict(own.parameters), "others": others}
