"""What other ``train_period_days`` would be worth to a FreqAI bot: advice, for all of its pairs together.

The window is FreqAI's, and one for all pairs: nothing here changes it. It is measured with the set that the
search gave the feeder, on the search's folds; the test window stays untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError, FeederError
from feeder_mixin.executors.base import Executor, run_tasks
from feeder_mixin.freqai.dataset import moment_of
from feeder_mixin.model.folds import Layout
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.tune.freqai.folds import FreqaiFold
from feeder_mixin.tune.freqai.tasks import Site
from feeder_mixin.tune.freqai.work import FreqaiWork
from feeder_mixin.tune.judge.evaluate import finite
from feeder_mixin.tune.judge.result import PairResult
from feeder_mixin.tune.pooling import DayLosses, pool
from feeder_mixin.tune.run.options import Progress, RunOptions, RunSummary, WindowGain
from feeder_mixin.tune.run.run import make_executor
from feeder_mixin.tune.run.work import named
from feeder_mixin.tune.search.kept import SEARCHED_DRAW
from feeder_mixin.tune.search.space import derive_seed, key_of, set_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WindowsTask:
    """One pair's folds, to be trained on other windows with one set."""

    pair: str
    layout: Layout
    windows: Sequence[int]
    key: tuple[float, ...]
    seed: int


def measure_windows(site: Site, task: WindowsTask) -> dict[int, dict[int, float]]:
    """Return window -> day -> loss of the set, in units of the config's own values on the config's window."""
    host, folds = site.host, task.layout.folds
    settings = host.settings
    start = key_of(settings.config_parameters)
    seed = derive_seed(task.seed, settings.feeder_id, task.pair)
    more_s = (max(task.windows) - host.train_days) * DAY_S
    found: dict[int, dict[int, float]] = {days: {} for days in task.windows}
    with named(task.pair), host.data(folds[0].cut_s - max(0, more_s), folds[-1].end_s) as data:
        dataset = data.pair(task.pair)
        for window in folds:
            unit: NDArray[np.float64] | None = None
            for days in task.windows:
                cut = dataset.cut(moment_of(window.cut_s), moment_of(window.end_s), days)
                block = settings.model_training_parameters
                fold = FreqaiFold(cut, block, start, host.horizon, seed, n_draws=1)
                unit = fold.unit(SEARCHED_DRAW) if unit is None else unit
                measured = fold.measure(SEARCHED_DRAW, set_of(task.key), task.key, unit)
                sums = found[days]
                for day, loss in zip(measured.days, measured.sums, strict=True):
                    sums[day] = sums.get(day, 0.0) + loss
    return found


def advise_windows(
    work: FreqaiWork,
    options: RunOptions,
    summary: RunSummary,
    windows: Sequence[int],
    progress: Progress,
) -> None:
    """Add what each window would be worth against the config's, over all pairs that were tuned.

    The tuning stands whatever comes of this: what keeps it from being measured is said and nothing more.
    """
    if not summary.results:
        return
    try:
        with make_executor(options, len(summary.results)) as executor:
            summary.windows = _advise(work, executor, summary.results, windows, progress)
    except FeederError as error:
        logger.error("Windows were not measured windows=%s: %s", list(windows), error)  # noqa: TRY400


def _advise(
    work: FreqaiWork,
    executor: Executor,
    results: Mapping[str, PairResult],
    windows: Sequence[int],
    progress: Progress,
) -> list[WindowGain]:
    own = work.host.train_days
    prepared = work.prepare(executor, list(results), {}, progress, lambda _pair, _error: None)
    for pair, layout in prepared.layouts.items():
        there = work.days_before(pair, layout)
        if max(windows) > there:
            raise CandleError(
                f"--windows {max(windows)}: {pair} has {there:.0f} days of candles before the first fold; "
                "expected fewer days, or get older candles"
            )
    study = next(iter(results.values())).study
    all_windows = [own, *(days for days in dict.fromkeys(windows) if days != own)]
    key, seed = key_of(study.parameters), work.study.seed
    tasks = {
        pair: (prepared.site, WindowsTask(pair, layout, all_windows, key, seed))
        for pair, layout in prepared.layouts.items()
    }
    by_pair: dict[str, dict[int, dict[int, float]]] = {}
    for number, (pair, outcome) in enumerate(run_tasks(executor, measure_windows, tasks), 1):
        progress.stage("measuring windows", number, len(tasks))
        if isinstance(outcome, Exception):
            raise outcome
        by_pair[pair] = outcome
    return [_gain(days, own, by_pair) for days in all_windows[1:]]


def _gain(
    days: int, own: int, by_pair: Mapping[str, Mapping[int, Mapping[int, float]]]
) -> WindowGain:
    losses = {}
    for pair, found in by_pair.items():
        common = sorted(found[own].keys() & found[days].keys())
        base = np.array([found[own][day] for day in common])
        saved = base - np.array([found[days][day] for day in common])
        losses[pair] = DayLosses(np.array(common), saved, base)
    together = pool(losses).together
    return WindowGain(days, together.value, finite(together.error))
