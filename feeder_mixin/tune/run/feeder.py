"""A feeder's built-in model, as a run tunes it: candles, context, shared models (`work.Work`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from feeder_mixin.errors import FeederError
from feeder_mixin.executors.base import Executor, Shared, run_tasks
from feeder_mixin.market.blackouts import load_blackouts
from feeder_mixin.market.candles import timeframe_seconds
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.model.folds import ADVISED_DAYS, Layout
from feeder_mixin.model.quantile import POOLED_ALPHAS, pooled_weights
from feeder_mixin.schema import ParameterRecord, hash48, mismatch_reason
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.notes import some
from feeder_mixin.tune.run import _tasks as worker
from feeder_mixin.tune.run._market import Market, PairCandles
from feeder_mixin.tune.run.candles import RunCandles, load_run_candles
from feeder_mixin.tune.run.options import Progress, RunOptions
from feeder_mixin.tune.run.work import Call, Fail, Found
from feeder_mixin.tune.search.kept import Cell
from feeder_mixin.tune.search.space import ALPHA, ParameterSet, StudySettings

logger = logging.getLogger(__name__)


class FeederWork:
    """What a run tunes where the config has a ``feeder.side``."""

    def __init__(self, settings: FeederSettings, options: RunOptions) -> None:
        self.settings, self._options = settings, options
        self._blackouts = load_blackouts(settings)
        self._candles: dict[str, RunCandles] = {}

    @property
    def study(self) -> StudySettings:
        """Return what decides the search beside candles and store content."""
        settings, options = self.settings, self._options
        return StudySettings(
            settings.feeder_id,
            settings.label(timeframe_seconds(settings.timeframe)),
            settings.max_adverse_ratio,
            settings.train_days,
            options.seed,
            dict(options.fixes),
            self._blackouts,
        )

    def load(self, pairs: Sequence[str], progress: Progress) -> Mapping[str, FeederError]:
        """Load the candles of pairs and context; return pair -> why it has none."""
        self._candles, failures = load_run_candles(self.settings, self._options, pairs, progress)
        return failures

    @property
    def context(self) -> list[str]:
        """Return the context pairs that have candles, in the settings' order."""
        return [pair for pair in self.settings.context_pairs if pair in self._candles]

    def identity(self, pairs: Sequence[str]) -> dict[str, object]:
        """Return what of settings and candles decides what a study finds."""
        settings, context = self.settings, self.context
        hashes = {p: self._candles[p].content_hash for p in sorted({*pairs, *context})}
        return {
            "side": settings.side,
            "horizon": settings.horizon_candles,
            "max_adverse_ratio": settings.max_adverse_ratio,
            "max_unsafe_share": settings.max_unsafe_share,
            "blackouts": [repr(window) for window in self._blackouts.windows],
            "train_days": settings.train_days,
            "candles": hashes,
            "context": context,
            "feature_hash": FEATURE_HASH,
        }

    def refusal(self, record: ParameterRecord) -> str | None:
        """Return why bots reject a record: another side, horizon or timeframe."""
        return mismatch_reason(record, self.study.label)

    def prepare(
        self,
        executor: Executor,
        pairs: Sequence[str],
        champions: Mapping[str, Mapping[str, float]],
        progress: Progress,
        failed: Fail,
    ) -> PreparedFeeder:
        """Plan the folds of pairs, and fit the models that all pairs share at every cut."""
        candles = {pair: one.candles for pair, one in self._candles.items()}
        context = {pair: candles[pair] for pair in self.context}
        until = pd.Timestamp(max(c.last_s for c in self._candles.values()), unit="s", tz="UTC")
        market = executor.share(Market(context, self.study.label, until))
        outside = {pair: candles[pair] for pair in pairs if pair not in context}
        layouts = self._plan(executor, market, pairs, outside, progress, failed)
        models = self._fit_shared(executor, market, layouts, champions, progress)
        settings = self.settings
        return PreparedFeeder(
            executor,
            market,
            self.study,
            layouts,
            outside,
            models,
            market_hash=hash48(settings.exchange, settings.candle_type),
            provenance={"side": settings.side, "context_pairs": sorted(self.context)},
        )

    def _plan(
        self,
        executor: Executor,
        market: Shared,
        pairs: Sequence[str],
        outside: Mapping[str, PairCandles],
        progress: Progress,
        failed: Fail,
    ) -> dict[str, Layout]:
        """Return the layouts of pairs; those without have failed."""
        days_back, layouts = self._options.days_back, dict[str, Layout]()
        tasks = {pair: (market, pair, outside.get(pair), days_back) for pair in pairs}
        progress.stage("building features", 0, len(tasks))
        for number, (pair, outcome) in enumerate(run_tasks(executor, worker.plan_pair, tasks), 1):
            progress.stage("building features", number, len(tasks))
            if isinstance(outcome, Exception):
                failed(pair, outcome)
                continue
            layouts[pair] = outcome
        warn_few_days(layouts)
        return {pair: layouts[pair] for pair in pairs if pair in layouts}

    def _fit_shared(
        self,
        executor: Executor,
        market: Shared,
        layouts: Mapping[str, Layout],
        champions: Mapping[str, Mapping[str, float]],
        progress: Progress,
    ) -> dict[int, Shared]:
        """Return cut -> models that all pairs share, each fitted once on the context pairs."""
        cuts = sorted({cut_s for layout in layouts.values() for cut_s in layout.cuts_s})
        alphas = {self.study.table_alpha, *(one[ALPHA] for one in champions.values())}
        if self.settings.max_unsafe_share is not None:
            alphas |= set(POOLED_ALPHAS)  # the level is chosen among all of them
        levels = sorted({level for alpha in alphas for level in pooled_weights(alpha)})
        shared: dict[int, Shared] = {}
        tasks = {str(cut_s): (market, cut_s, levels) for cut_s in cuts}
        for number, (key, outcome) in enumerate(run_tasks(executor, worker.fit_cut, tasks), 1):
            progress.stage("fitting shared models", number, len(tasks))
            if isinstance(outcome, Exception):
                raise outcome
            shared[int(key)] = executor.share(outcome)
        return shared


@dataclass(frozen=True, slots=True)
class PreparedFeeder:
    """A feeder's pairs, planned, with what their tasks share (`work.PlannedPairs`).

    Attributes
    ----------
    outside
        Pair -> its candles, where it is no context pair.
    models
        Cut -> models that all pairs share.
    market_hash
        Identity of exchange and kind of candles.
    provenance
        What records say beside what is known of every run.
    """

    executor: Executor
    market: Shared
    study: StudySettings
    layouts: Mapping[str, Layout]
    outside: Mapping[str, PairCandles]
    models: Mapping[int, Shared]
    market_hash: int = 0
    provenance: Mapping[str, object] = field(default_factory=dict)
    _sent: dict[str, Shared] = field(default_factory=dict)

    def cells(self, pair: str, draw: int, cells: Sequence[Cell]) -> Call:
        """Return the task that measures cells of one pair and draw."""
        wanted = [(cell.fold, cell.key) for cell in cells]
        task = worker.CellsTask(pair, self.study, self.layouts[pair], draw, wanted)
        return Call(worker.measure_cells, self._arguments(pair, task))

    def judge(self, pair: str, found: Found) -> Call:
        """Return the task that judges a pair, at the level of the set that it was given."""
        provenance = {**found.provenance, **self.provenance}
        study = self.study
        if found.chosen_level is not None:
            study = replace(study, fixes={**study.fixes, ALPHA: found.chosen_level.level})
        task = worker.JudgeTask(
            pair, study, self.layouts[pair], found, self.market_hash, provenance
        )
        return Call(worker.judge_pair, self._arguments(pair, task))

    def risk(self, pair: str, tuned: ParameterSet) -> Call:
        """Return the task that counts what is called safe with a set, by level."""
        task = worker.RiskTask(pair, self.study, self.layouts[pair], tuned)
        return Call(worker.count_pair_risk, self._arguments(pair, task))

    def free(self, pair: str) -> None:
        """Free the candles that workers were sent for a pair."""
        if pair in self._sent:
            self.executor.release(self._sent.pop(pair))

    def _arguments(self, pair: str, task: object) -> tuple[object, ...]:
        # None for a context pair: all tasks share its candles.
        if pair not in self._sent and pair in self.outside:
            self._sent[pair] = self.executor.share(self.outside[pair])
        models = [self.models[cut_s] for cut_s in self.layouts[pair].cuts_s]
        return (self.market, self._sent.get(pair), task, *models)


def warn_few_days(layouts: Mapping[str, Layout]) -> None:
    """Say which pairs have fewer labelled days than were measured to do."""
    few = {p: o.labelled_days for p, o in layouts.items() if o.labelled_days < ADVISED_DAYS}
    if few:
        logger.warning(
            "Few labelled days: windows under %g days were measured to lose pairs=%s "
            "fewest_days=%.1f",
            ADVISED_DAYS,
            some(few),
            min(few.values()),
        )
