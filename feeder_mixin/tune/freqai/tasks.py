"""What runs on a worker for a FreqAI strategy: build a pair's folds, measure cells, judge a pair.

What must stay true: candles and features of one pair at a time are in memory; of the others a worker keeps the
thinned rows of their folds alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from feeder_mixin.errors import ModelError
from feeder_mixin.freqai.dataset import Cut, moment_of
from feeder_mixin.model.folds import Layout, Window
from feeder_mixin.tune.freqai.folds import FreqaiFold
from feeder_mixin.tune.freqai.host import Host
from feeder_mixin.tune.freqai.judge import FreqaiJudgeTask, judge
from feeder_mixin.tune.judge.result import PairResult
from feeder_mixin.tune.run.work import CellsAnswer, named
from feeder_mixin.tune.search.space import derive_seed, key_of, set_of

_MOST_KEPT: Final = 16
"""Pairs whose folds a worker keeps: 10 MB each with windows of 30 days and 280 features, 25 with 150."""


@dataclass(frozen=True, slots=True)
class FreqaiCellsTask:
    """Some cells of one pair, all of one draw.

    Attributes
    ----------
    wanted
        Fold and parameter set of each.
    """

    pair: str
    layout: Layout
    seed: int
    draw: int
    wanted: Sequence[tuple[int, tuple[float, ...]]]


class Site:
    """What all tasks of a run share: the strategy and its config.

    A worker gets it once. The folds that are built from it there stay with it.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._folds: OrderedDict[tuple[str, int], list[FreqaiFold]] = OrderedDict()

    def __reduce__(self) -> tuple[Callable[..., Site], tuple[object, ...]]:
        """Travel without what was computed."""
        return Site, (self.host,)

    def folds(self, task: FreqaiCellsTask) -> list[FreqaiFold]:
        """Return a pair's folds, those of the last pairs without building them again."""
        key = task.pair, task.seed
        kept = self._folds.pop(key, None)
        if kept is None:
            while len(self._folds) >= _MOST_KEPT:
                self._folds.popitem(last=False)
            kept = self._build(task)
        self._folds[key] = kept
        return kept

    def _build(self, task: FreqaiCellsTask) -> list[FreqaiFold]:
        host, folds = self.host, task.layout.folds
        settings = host.settings
        start = key_of(settings.config_parameters)
        seed = derive_seed(task.seed, settings.feeder_id, task.pair)
        with host.data(folds[0].cut_s, folds[-1].end_s) as data:
            dataset = data.pair(task.pair)
            return [
                FreqaiFold(
                    dataset.cut(moment_of(fold.cut_s), moment_of(fold.end_s)),
                    settings.model_training_parameters,
                    start,
                    host.horizon,
                    seed,
                )
                for fold in folds
            ]

    def cut(self, pair: str, window: Window, train_days: int | None = None) -> Cut:
        """Return the data of one window's model."""
        more_s = max(0, (train_days or 0) - self.host.train_days) * 86_400
        with self.host.data(window.cut_s - more_s, window.end_s) as data:
            return data.pair(pair).cut(moment_of(window.cut_s), moment_of(window.end_s), train_days)


def measure_freqai_cells(site: Site, task: FreqaiCellsTask) -> CellsAnswer:
    """Return the losses of some cells of a pair, in the order in which they are wanted."""
    started = time.monotonic()
    with named(task.pair):
        folds = site.folds(task)
        found = [folds[fold].measure(task.draw, set_of(key), key) for fold, key in task.wanted]
    return CellsAnswer(found, time.monotonic() - started)


def judge_freqai_pair(site: Site, task: FreqaiJudgeTask) -> PairResult:
    """Compare what the search gives a pair with the other contenders, and return what came of it."""
    settings = site.host.settings
    with named(task.pair):
        cut = site.cut(task.pair, task.layout.test)
        if not len(cut.train):
            raise ModelError(f"{task.pair}: no row is left to train on before the test window")
        return judge(cut, task, settings.model_training_parameters, settings.config_parameters)
