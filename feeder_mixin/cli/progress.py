"""How a tuning run looks while it works: one screen on a terminal, a line now and then elsewhere.

What must stay true: neither grows with the number of pairs. A feeder of three pairs is told pair by
pair; of a large one the screen has the pairs in work, and a line for each of the first failures. What
is left out here stands in the closing table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from feeder_mixin.cli.common import count
from feeder_mixin.reports.records import FEW_PAIRS, percent
from feeder_mixin.schema import default_parameters
from feeder_mixin.stores.notes import bare_reason
from feeder_mixin.tune.judge.contenders import TUNED
from feeder_mixin.tune.judge.result import PairResult
from feeder_mixin.tune.run.options import SearchState

Clock = Callable[[], float]
"""Seconds that never go back."""

_MOST_FAILURES: Final = 20
"""Of more than a few pairs only so many ends are told one by one: those of the first failures."""

_MOST_BARS: Final = 8
_NAME_WIDTH: Final = 32
_REFRESHES_PER_S: Final = 4

_LINE_EVERY_S: Final = 5.0
_LINE_EVERY_SHARE: Final = 0.05
_LINE_AT_LEAST_EVERY_S: Final = 300.0

_SEARCH_SHARE: Final = 0.6
"""Part of a pair's time up to its last trial, measured at 100 trials of 180 days (23 of 40 s)."""


class Pace:
    """Trials a second and time left, from what was done since the first look.

    Time left is that of the pairs left at the mean worker's time per pair, and never less than the
    slowest pair in hand needs: at the end workers are idle. What an interrupted run had done counts
    as done, not as pace.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float, int] | None = None
        self._last_s, self._n_working, self._worked_s = 0.0, 0, 0.0

    def look(self, state: SearchState, now: float) -> tuple[float, float] | None:
        """Return trials a second and seconds left, None before anything was done.

        Parameters
        ----------
        now
            By a `Clock`.
        """
        left = {pair: 1.0 - _share_done(n, state) for pair, n in state.running.items()}
        done = state.n_ended + len(left) - sum(left.values())
        if self._first is None:
            self._first = now, done, state.n_kept
            self._last_s = now
        started, first_done, first_kept = self._first
        self._worked_s += (now - self._last_s) * self._n_working
        self._last_s, self._n_working = now, len(left)
        if done <= first_done or now <= started:
            return None
        pair_s = self._worked_s / (done - first_done)
        together_s = pair_s * (state.n_pairs - done) / max(1, state.n_workers)
        alone_s = pair_s * max(left.values(), default=0.0)
        return (state.n_kept - first_kept) / (now - started), max(together_s, alone_s)


def _share_done(n_trials: int, state: SearchState) -> float:
    """Return how much of a pair in hand is done."""
    return _SEARCH_SHARE * min(1.0, n_trials / state.n_trials)


def time_text(seconds: float) -> str:
    """Return a duration as a clock shows it.

    Examples
    --------
    >>> time_text(15), time_text(3605)
    ('0:15', '1:00:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def outcome_text(pair: str, result: PairResult | None, error: Exception | None) -> str:
    """Return the line that says how a pair ended."""
    if result is None:
        return f"{pair} failed: {bare_reason(pair, str(error))}"
    winner = "defaults" if result.parameters == default_parameters() else "tuned parameters"
    skill = percent(result.scores[TUNED].skill)
    trials = int(result.metrics["optimization_trials"])
    return (
        f"{pair} done: {winner} won after {count(trials, 'trial')} "
        f"({result.search.n_pruned} pruned), test skill {skill} % over the ATR rule"
    )


class _Ends:
    """Counts how pairs ended, and says which ends are told one by one."""

    def __init__(self, n_pairs: int) -> None:
        self._n_pairs = n_pairs
        self.n_failed = 0

    def line(self, pair: str, result: PairResult | None, error: Exception | None) -> str | None:
        """Return the line that tells a pair's end, None where it is only counted."""
        self.n_failed += result is None
        if self._n_pairs <= FEW_PAIRS:
            return outcome_text(pair, result, error)
        if result is not None or self.n_failed > _MOST_FAILURES:
            return None
        text = outcome_text(pair, result, error)
        if self.n_failed == _MOST_FAILURES:
            text += " (further failures are counted here, and told at the end)"
        return text


def _note(state: SearchState, pace: tuple[float, float] | None, n_failed: int) -> str:
    """Return failures, pace and time left in a few words."""
    parts = [f"{n_failed} failed"] if n_failed else []
    parts += [f"{pace[0]:.1f} trials/s"] if pace else []
    parts += [count(state.n_workers, "worker"), f"ETA {time_text(pace[1])}" if pace else "ETA -"]
    return ", ".join(parts)


class PlainProgress:
    """Lines for logs and pipes: often at first, later each when a twentieth more time has gone by."""

    def __init__(
        self, console: Console, feeder_id: str, n_pairs: int, clock: Clock = time.monotonic
    ) -> None:
        self._console, self._feeder_id, self._clock = console, feeder_id, clock
        self._pace, self._ends = Pace(), _Ends(n_pairs)
        self._started_s = clock()
        self._last_s, self._last_text, self._last_kept = self._started_s, "", -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def _say(self, text: str) -> None:
        self._console.print(f"{self._feeder_id}: {text}", markup=False)

    def _is_time(self) -> bool:
        """Return whether the last line is long enough ago for another one; it then is the last."""
        now = self._clock()
        elapsed_s = now - self._started_s
        pause_s = min(max(_LINE_EVERY_S, _LINE_EVERY_SHARE * elapsed_s), _LINE_AT_LEAST_EVERY_S)
        if now - self._last_s < pause_s:
            return False
        self._last_s = now
        return True

    def stage(self, text: str, done: int, total: int) -> None:
        """See `tune.run.options.Progress`."""
        if text != self._last_text or done == total or self._is_time():
            self._last_text = text
            self._say(f"{text} {done}/{total}")

    def searches(self, state: SearchState) -> None:
        """See `tune.run.options.Progress`."""
        pace = self._pace.look(state, self._clock())  # at every look: it measures
        is_end = state.n_ended == state.n_pairs
        if state.n_kept == self._last_kept and not is_end:
            return
        if not (is_end or self._last_kept < 0 or self._is_time()):
            return
        self._last_kept = state.n_kept
        note = _note(state, pace, self._ends.n_failed)
        pairs = f"pairs {state.n_ended}/{state.n_pairs}, trials {state.n_kept}"
        in_work = ", ".join(f"{pair} {n}/{state.n_trials}" for pair, n in _first(state.running))
        self._say(f"{pairs} ({note}){f'; in work: {in_work}' if in_work else ''}")

    def finished(self, pair: str, result: PairResult | None, error: Exception | None) -> None:
        """See `tune.run.options.Progress`."""
        line = self._ends.line(pair, result, error)
        if line is not None:
            self._say(line)


def _first(running: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the pairs in work that there is room for, those first that workers have longest."""
    return list(running.items())[:_MOST_BARS]


class BarProgress:
    """On a terminal: a bar for each stage and for the pairs together, and one for each pair in work."""

    def __init__(
        self, console: Console, feeder_id: str, n_pairs: int, clock: Clock = time.monotonic
    ) -> None:
        self._feeder_id, self._clock = feeder_id, clock
        self._pace, self._ends = Pace(), _Ends(n_pairs)
        self._note = Text("")
        name = TextColumn(f"{{task.description:<{_NAME_WIDTH}}}", markup=False)
        self._stages = Progress(
            name, BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._pairs = Progress(name, BarColumn(20), MofNCompleteColumn(), console=console)
        self._stage_bars: dict[str, TaskID] = {}
        self._pair_bars: dict[str, TaskID] = {}
        self.screen = Group(self._stages, self._note, self._pairs)
        self._live = Live(self.screen, console=console, refresh_per_second=_REFRESHES_PER_S)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._show_in_work({}, 0)
        self._live.stop()

    def stage(self, text: str, done: int, total: int) -> None:
        """See `tune.run.options.Progress`."""
        name = f"{self._feeder_id} {text}"
        if name not in self._stage_bars:
            self._stage_bars[name] = self._stages.add_task(name, total=total)
        self._stages.update(self._stage_bars[name], completed=done, total=total)

    def searches(self, state: SearchState) -> None:
        """See `tune.run.options.Progress`."""
        self.stage("tuning pairs", state.n_ended, state.n_pairs)
        n_more = len(state.running) - len(_first(state.running))
        more = f"; {n_more} more in work" if n_more else ""
        pace = self._pace.look(state, self._clock())
        note = _note(state, pace, self._ends.n_failed)
        self._note.plain = f"  {state.n_kept} trials, {note}{more}"
        self._show_in_work(dict(_first(state.running)), state.n_trials)

    def _show_in_work(self, running: Mapping[str, int], n_trials: int) -> None:
        for pair in [pair for pair in self._pair_bars if pair not in running]:
            self._pairs.remove_task(self._pair_bars.pop(pair))
        for pair, done in running.items():
            if pair not in self._pair_bars:
                self._pair_bars[pair] = self._pairs.add_task(f"  {pair}", total=n_trials)
            self._pairs.update(self._pair_bars[pair], completed=min(done, n_trials))

    def finished(self, pair: str, result: PairResult | None, error: Exception | None) -> None:
        """See `tune.run.options.Progress`."""
        line = self._ends.line(pair, result, error)
        if line is not None:
            self._live.console.print(line, markup=False)


def make_progress(console: Console, feeder_id: str, n_pairs: int) -> PlainProgress | BarProgress:
    """Return a screen on a terminal, lines elsewhere."""
    shown = BarProgress if console.is_terminal else PlainProgress
    return shown(console, feeder_id, n_pairs)
