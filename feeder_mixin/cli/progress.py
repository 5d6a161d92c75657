"""How a tuning run looks while it works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from feeder_mixin.reports.records import percent
from feeder_mixin.schema import default_parameters
from feeder_mixin.tune.judge.contenders import TUNED
from feeder_mixin.tune.judge.result import PairResult

_LINE_EVERY_S: Final = 5.0


class Rate:
    """Trials per second since the first look, and the time left at that rate."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def text(self, done: int, total: int, now: float) -> str:
        """Return for example ``8.1 trials/s, ETA 0:42``; empty before there is a rate."""
        if self._start is None:
            self._start = now, done
        started, first = self._start
        if done <= first or now <= started:
            return "ETA -"
        rate = (done - first) / (now - started)
        minutes, seconds = divmod(round((total - done) / rate), 60)
        return f"{rate:.1f} trials/s, ETA {minutes}:{seconds:02d}"


def outcome_text(pair: str, result: PairResult | None, error: Exception | None) -> str:
    """Return the line that says how a pair ended."""
    if result is None:
        return f"failed: {error}" if pair in str(error) else f"{pair} failed: {error}"
    winner = "defaults" if result.parameters == default_parameters() else "tuned parameters"
    skill = percent(result.scores[TUNED].skill)
    trials = int(result.metrics["optimization_trials"])
    return (
        f"{pair} done: {winner} won after {trials} trial{'' if trials == 1 else 's'} "
        f"({result.search.n_pruned} pruned), test skill {skill} % over the ATR rule"
    )


class PlainProgress:
    """Lines for logs and pipes, at most one every few seconds."""

    def __init__(self, console: Console, feeder_id: str) -> None:
        self._console, self._feeder_id = console, feeder_id
        self._rate, self._last_s, self._last_done, self._last_text = Rate(), 0.0, -1, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def _say(self, text: str) -> None:
        self._console.print(f"{self._feeder_id}: {text}", markup=False)

    def stage(self, text: str, done: int, total: int) -> None:
        """See `tune.run.options.Progress`."""
        if text != self._last_text or done == total:
            self._last_text = text
            self._say(f"{text} {done}/{total}")

    def trials(self, done: Mapping[str, int], total: int) -> None:
        """See `tune.run.options.Progress`."""
        now = time.monotonic()
        n_done, n_all = sum(done.values()), total * len(done)
        too_soon = now - self._last_s < _LINE_EVERY_S and n_done < n_all
        if too_soon or n_done == self._last_done:
            return
        self._last_s, self._last_done = now, n_done
        pairs = " ".join(f"{pair}={count}" for pair, count in done.items())
        self._say(f"trials {n_done}/{n_all} ({self._rate.text(n_done, n_all, now)}) {pairs}")

    def finished(self, pair: str, result: PairResult | None, error: Exception | None) -> None:
        """See `tune.run.options.Progress`."""
        self._say(outcome_text(pair, result, error))


class BarProgress:
    """One bar for the preparation, one for each pair, on a terminal."""

    def __init__(self, console: Console, feeder_id: str) -> None:
        self._feeder_id, self._rate = feeder_id, Rate()
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def _bar(self, name: str, done: int, total: int, note: str = "") -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._bars[name], completed=done, total=total, note=note)

    def stage(self, text: str, done: int, total: int) -> None:
        """See `tune.run.options.Progress`."""
        self._bar(f"{self._feeder_id} {text}", done, total)

    def trials(self, done: Mapping[str, int], total: int) -> None:
        """See `tune.run.options.Progress`."""
        n_done, n_all = sum(done.values()), total * len(done)
        note = self._rate.text(n_done, n_all, time.monotonic())
        self._bar(f"{self._feeder_id} all trials", n_done, n_all, note)
        for pair, count in done.items():
            self._bar(f"  {pair}", min(count, total), total)

    def finished(self, pair: str, result: PairResult | None, error: Exception | None) -> None:
        """See `tune.run.options.Progress`."""
        self._progress.console.print(outcome_text(pair, result, error), markup=False)


def make_progress(console: Console, feeder_id: str) -> PlainProgress | BarProgress:
    """Return bars on a terminal, lines elsewhere."""
    return (BarProgress if console.is_terminal else PlainProgress)(console, feeder_id)
