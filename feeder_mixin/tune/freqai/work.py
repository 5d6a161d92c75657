"""A FreqAI strategy's own model, as a run tunes it (`tune.run.work.Work`)."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from feeder_mixin.errors import CandleError, FeederError, MissingCandlesError, SettingsError
from feeder_mixin.executors.base import Executor, Shared
from feeder_mixin.freqai.parameters import BY_TARGET_ALPHA
from feeder_mixin.freqai.settings import FreqaiSettings
from feeder_mixin.freqai.targets import TunedOn
from feeder_mixin.market.candles import Candles, load_candles, timeframe_seconds
from feeder_mixin.model.folds import Layout, plan_layout
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.schema import ParameterRecord, default_parameters, hash48
from feeder_mixin.settings import LabelSpec
from feeder_mixin.stores.notes import some
from feeder_mixin.tune.freqai import tasks
from feeder_mixin.tune.freqai.host import Host
from feeder_mixin.tune.freqai.judge import FreqaiJudgeTask
from feeder_mixin.tune.run.feeder import warn_few_days
from feeder_mixin.tune.run.options import Progress, RunOptions
from feeder_mixin.tune.run.work import Call, Fail, Found
from feeder_mixin.tune.search.kept import Cell
from feeder_mixin.tune.search.space import ALPHA, WHOLE_SCHEMA, ParameterSet, Searched

logger = logging.getLogger(__name__)

_OTHERS: Final = "*"
"""Stands for all pairs that are no correlated pair: their features have the same names."""


@dataclass(frozen=True, slots=True)
class FreqaiStudy:
    """What decides a FreqAI bot's study, beside its strategy and candles.

    Attributes
    ----------
    start
        The config's own values: they may lie outside of the schema's ranges.
    promising
        The schema's defaults: few, slow, small trees. Of raw excursions (BTC SOL DOGE ZEC long, cut
        2026-02-01, 30 trials, `benchmarks/freqai.py cells`) the search without them found nothing that
        beats the config's values beyond noise in all pairs; with them skill behind the cut is -24.9 %
        instead of -37.3.
    """

    feeder_id: str
    seed: int
    start: ParameterSet
    fixes: Mapping[str, float] = field(default_factory=dict)
    promising: Sequence[ParameterSet] = field(default_factory=lambda: (default_parameters(),))
    table_alpha: float = BY_TARGET_ALPHA
    searched: Searched = WHOLE_SCHEMA


@dataclass(frozen=True, slots=True)
class _PairFiles:
    """The pair's own candles, and what identifies those of all timeframes."""

    first_s: int
    last_s: int
    hashes: tuple[str, ...]


class FreqaiWork:
    """What a run tunes where the config has a ``freqai`` block.

    Raises
    ------
    SettingsError
        When freqtrade can't load config or strategy, FreqAI's packages are missing, or a level is
        fixed: levels are the targets' own.
    """

    def __init__(self, settings: FreqaiSettings, options: RunOptions, strategy: str) -> None:
        if ALPHA in options.fixes:
            raise SettingsError(
                f"--fix {ALPHA}={options.fixes[ALPHA]:g}: a FreqAI bot has a level for every target; set it "
                "in feeder.freqai_targets"
            )
        self.settings, self._options, self._strategy = settings, options, strategy
        self._datadir = (options.datadir or settings.default_datadir).absolute()
        self.host = Host.load(settings, strategy, self._datadir)
        self._timeframe_s = timeframe_seconds(settings.timeframe)
        self._files: dict[str, _PairFiles] = {}
        self._others: tuple[str, ...] = ()
        self._known: dict[str, TunedOn] = {}

    @property
    def study(self) -> FreqaiStudy:
        """Return what decides the search."""
        fixes = dict(self._options.fixes)
        start: ParameterSet = self.settings.config_parameters
        return FreqaiStudy(self.settings.feeder_id, self._options.seed, start, fixes)

    @property
    def label(self) -> LabelSpec:
        """Return horizon and timeframe; of a FreqAI strategy nobody asks the side."""
        return LabelSpec("long", self.host.horizon, self._timeframe_s)

    # ------------------------------------------------------------------ data

    def load(self, pairs: Sequence[str], progress: Progress) -> Mapping[str, FeederError]:
        """Look at all candle files, and at the strategy's features and targets on one pair."""
        failures: dict[str, FeederError] = {}
        try:
            self._others = tuple(
                one.content_hash()
                for pair in self.settings.correlated
                for one in self._read(pair, "its correlated pair's")
            )
        except CandleError as error:
            return {pair: type(error)(f"{pair}: {error}") for pair in pairs}
        for number, pair in enumerate(pairs):
            progress.stage("loading candles", number, len(pairs))
            try:
                own = self._read(pair, "its own")
            except CandleError as error:
                failures[pair] = error
                continue
            hashes = tuple(one.content_hash() for one in own)
            self._files[pair] = _PairFiles(own[0].first_s, own[0].last_s, hashes)
        progress.stage("loading candles", len(pairs), len(pairs))
        if self._files:
            self.tuned_on(next(iter(self._files)))  # wrong targets are wrong for all pairs
        return failures

    def _read(self, pair: str, whose: str) -> list[Candles]:
        """Return a pair's candles of all timeframes, the strategy's own first."""
        settings, found = self.settings, list[Candles]()
        for timeframe in self.settings.market_timeframes:
            try:
                found.append(
                    load_candles(
                        self._datadir, pair, timeframe, settings.candle_type, settings.data_format
                    )
                )
            except MissingCandlesError as error:
                raise MissingCandlesError(
                    f"{error}; {whose} {timeframe} candles are features. Download them, with the days of "
                    f"training before: {self._download_command(pair)}"
                ) from error
        return found

    def _download_command(self, pair: str) -> str:
        days = self._options.days_back + self.host.train_days + 5  # for what features look back
        files = [part for path in self.settings.config_paths for part in ("--config", str(path))]
        timeframes = self.settings.market_timeframes
        words = [
            *("freqtrade", "download-data", *files, "--datadir", str(self._datadir)),
            *("--pairs", pair, "--timeframes", *timeframes, "--days", f"{days:.0f}"),
        ]
        return shlex.join(words)

    def tuned_on(self, pair: str) -> TunedOn:
        """Return the identity of a pair's features and targets, from its newest candles."""
        like = pair if pair in self.settings.correlated else _OTHERS
        if like not in self._known:
            end_s = self._files[pair].last_s
            begin_s = max(self._files[pair].first_s, end_s - DAY_S)
            with self.host.data(begin_s, end_s) as data:
                self._known[like] = data.pair(pair).tuned_on()
        return self._known[like]

    def refusal(self, record: ParameterRecord) -> str | None:
        """Return why a bot of this strategy refuses a record: other features or targets."""
        if record.pair not in self._files:
            return None
        return self.tuned_on(record.pair).refusal(record.pair, record.metrics)

    def identity(self, pairs: Sequence[str]) -> dict[str, object]:
        """Return what of strategy, config and candles decides what a study finds."""
        # `inspect` can't tell: freqtrade loads a strategy without entering its module anywhere.
        code = Path(self.host.strategy().__file__).read_bytes()
        return {
            "strategy": [self._strategy, hashlib.sha256(code).hexdigest()],
            "freqai": json.dumps(self.host.block, sort_keys=True, default=str),
            "targets": [str(target) for target in self.settings.targets],
            "candles": {pair: list(self._files[pair].hashes) for pair in sorted(pairs)},
            "correlated": list(self._others),
        }

    # ------------------------------------------------------------------ tasks

    def prepare(
        self,
        executor: Executor,
        pairs: Sequence[str],
        champions: Mapping[str, Mapping[str, float]],  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
        failed: Fail,
    ) -> PreparedFreqai:
        """Plan the folds of pairs: of their candles alone, features are built where cells are measured."""
        newest_s = max(self._files[pair].last_s for pair in pairs)
        layouts: dict[str, Layout] = {}
        for pair in pairs:
            try:
                layouts[pair] = self._plan(pair, newest_s)
            except CandleError as error:
                failed(pair, CandleError(f"{pair}: {error}"))
        warn_few_days(layouts)
        self._say_short_training(layouts)
        return PreparedFreqai(self, executor.share(tasks.Site(self.host)), layouts)

    def _plan(self, pair: str, newest_s: int) -> Layout:
        files = self._files[pair]
        return plan_layout(
            files.first_s + self._warmup_s,
            files.last_s,
            self.label,
            newest_candle_s=newest_s,
            days_back=self._options.days_back,
            needed_warmup_days=self._warmup_s / DAY_S,
        )

    @property
    def _warmup_s(self) -> int:
        """Return what features look back on the longest timeframe, as freqtrade loads it."""
        parameters = self.host.block["feature_parameters"]
        candles: int = max(
            int(self.host.config.get("startup_candle_count") or 0),
            *parameters.get("indicator_periods_candles", [0]),
        )
        longest_s: int = max(map(timeframe_seconds, self.settings.market_timeframes))
        return candles * longest_s

    def _say_short_training(self, layouts: Mapping[str, Layout]) -> None:
        short = {pair: self.days_before(pair, layout) for pair, layout in layouts.items()}
        short = {pair: days for pair, days in short.items() if days < self.host.train_days}
        if short:
            logger.warning(
                "Candles begin late: the first folds train on less than freqai.train_period_days=%d "
                "pairs=%s fewest_days=%.1f",
                self.host.train_days,
                some(short),
                min(short.values()),
            )

    def days_before(self, pair: str, layout: Layout) -> float:
        """Return how many days of a pair's candles there are to train for its first fold."""
        return (layout.folds[0].cut_s - self._files[pair].first_s - self._warmup_s) / DAY_S

    def facts(self, pair: str) -> dict[str, float]:
        """Return what a record says of a pair's data."""
        settings, files = self.settings, self._files[pair]
        return {
            "horizon_candles": float(self.host.horizon),
            "timeframe_s": float(self._timeframe_s),
            "candles_from_s": float(files.first_s),
            "candles_to_s": float(files.last_s),
            "market_hash": float(hash48(settings.exchange, settings.candle_type)),
        }

    @property
    def provenance(self) -> dict[str, object]:
        """Return what a record says of its strategy."""
        return {
            "strategy": self._strategy,
            "identifier": self.settings.identifier,
            "train_period_days": self.host.train_days,
        }


@dataclass(frozen=True, slots=True)
class PreparedFreqai:
    """A FreqAI bot's pairs, planned (`tune.run.work.PlannedPairs`)."""

    work: FreqaiWork
    site: Shared
    layouts: Mapping[str, Layout]

    def cells(self, pair: str, draw: int, cells: Sequence[Cell]) -> Call:
        """Return the task that measures cells of one pair and draw."""
        wanted = [(cell.fold, cell.key) for cell in cells]
        task = tasks.FreqaiCellsTask(pair, self.layouts[pair], self.work.study.seed, draw, wanted)
        return Call(tasks.measure_freqai_cells, (self.site, task))

    def judge(self, pair: str, found: Found) -> Call:
        """Return the task that judges a pair."""
        task = FreqaiJudgeTask(
            pair=pair,
            layout=self.layouts[pair],
            label=self.work.label,
            found=found,
            facts=self.work.facts(pair),
            provenance={**found.provenance, **self.work.provenance},
        )
        return Call(tasks.judge_freqai_pair, (self.site, task))

    def free(self, pair: str) -> None:
        """Free nothing: a task brings no candles, its worker reads them."""
