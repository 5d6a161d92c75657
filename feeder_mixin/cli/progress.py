"""How a tuning run looks while it works: one screen on a terminal, a line now and then elsewhere.

What must stay true: neither grows with the number of pairs. A feeder of three pairs is told pair by
pair; of a large one, a line for each of the first failures. What is left out here stands in the closing
table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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

from feeder_mixin.reports.records import FEW_PAIRS, percent
from feeder_mixin.stores.notes import bare_reason
from feeder_mixin.tune.judge.contenders import CALLED, DEFAULTS, TUNED
from feeder_mixin.tune.judge.result import PairResult

Clock = Callable[[], float]
"""Seconds that never go back."""

_MOST_FAILURES: Final = 20
"""Of more than a few pairs only so many ends are told one by one: those of the first failures."""

_NAME_WIDTH: Final = 36
_REFRESHES_PER_S: Final = 4

_LINE_EVERY_S: Final = 5.0
_LINE_EVERY_SHARE: Final = 0.05
_LINE_AT_LEAST_EVERY_S: Final = 300.0


class Pace:
    """Time left of a stage, from what was done since its first look.

    What an interrupted run had done counts as done, not as pace.
    """

    def __init__(self) -> None:
        self._text, self._since_s, self._done = "", 0.0, 0

    def left_s(self, text: str, done: int, total: int, now: float) -> float | None:
        """Return the seconds that a stage still takes, None before anything was done.

        Parameters
        ----------
        now
            By a `Clock`.
        """
        if text != self._text:
            self._text, self._since_s, self._done = text, now, done
        if done <= self._done or now <= self._since_s:
            return None
        return (now - self._since_s) / (done - self._done) * (total - done)


def duration_text(seconds: float) -> str:
    """Return a duration as a clock shows it.

    Examples
    --------
    >>> duration_text(15), duration_text(3605)
    ('0:15', '1:00:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def outcome_text(pair: str, result: PairResult | None, error: Exception | None) -> str:
    """Return the line that says how a pair ended."""
    if result is None:
        return f"{pair} failed: {bare_reason(pair, str(error))}"
    start = result.evidence.start
    is_start = result.parameters == result.evidence.sets[start].parameters
    winner = CALLED[start] if is_start else "tuned"
    over = "the ATR rule" if start == DEFAULTS else CALLED[start]
    skill = percent(result.scores[TUNED].skill)
    whose = "the feeder's" if result.evidence.is_feeders else "its own"
    return f"{pair} done: {whose} set, {winner}, test skill {skill} % over {over}"


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


def _tell(note: str, n_failed: int, left_s: float | None) -> str:
    """Return failures, what a stage says of itself, and time left in a few words."""
    parts = [f"{n_failed} failed"] if n_failed else []
    parts += [note] if note else []
    parts += [f"ETA {duration_text(left_s)}"] if left_s else []
    return ", ".join(parts)


class PlainProgress:
    """Lines for logs and pipes: often at first, later each when a twentieth more time has gone by."""

    def __init__(
        self, console: Console, feeder_id: str, n_pairs: int, clock: Clock = time.monotonic
    ) -> None:
        self._console, self._feeder_id, self._clock = console, feeder_id, clock
        self._pace, self._ends = Pace(), _Ends(n_pairs)
        self._started_s = clock()
        self._last_s, self._last = self._started_s, ("", -1)

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

    def stage(self, text: str, done: int, total: int, note: str = "") -> None:
        """See `tune.run.options.Progress`."""
        left_s = self._pace.left_s(text, done, total, self._clock())  # at every look: it measures
        if (text, done) == self._last:
            return
        if text == self._last[0] and done < total and not self._is_time():
            return
        self._last = text, done
        told = _tell(note, self._ends.n_failed, left_s)
        self._say(f"{text} {done}/{total}{f' ({told})' if told else ''}")

    def finished(self, pair: str, result: PairResult | None, error: Exception | None) -> None:
        """See `tune.run.options.Progress`."""
        line = self._ends.line(pair, result, error)
        if line is not None:
            self._say(line)


class BarProgress:
    """On a terminal: a bar for each stage."""

    def __init__(
        self, console: Console, feeder_id: str, n_pairs: int, clock: Clock = time.monotonic
    ) -> None:
        self._feeder_id, self._clock = feeder_id, clock
        self._pace, self._ends = Pace(), _Ends(n_pairs)
        self.screen = Progress(
            TextColumn(f"{{task.description:<{_NAME_WIDTH}}}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            refresh_per_second=_REFRESHES_PER_S,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.screen.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.screen.stop()

    def stage(self, text: str, done: int, total: int, note: str = "") -> None:
        """See `tune.run.options.Progress`."""
        name = f"{self._feeder_id} {text}"
        if name not in self._bars:
            self._bars[name] = self.screen.add_task(name, total=total, note="")
        left_s = self._pace.left_s(text, done, total, self._clock())
        told = _tell(note, self._ends.n_failed, left_s)
        self.screen.update(self._bars[name], completed=done, total=total, note=told)

    def finished(self, pair: str, result: PairResult | None, error: Exception | None) -> None:
        """See `tune.run.options.Progress`."""
        line = self._ends.line(pair, result, error)
        if line is not None:
            self.screen.console.print(line, markup=False)


def make_progress(console: Console, feeder_id: str, n_pairs: int) -> PlainProgress | BarProgress:
    """Return a screen on a terminal, lines elsewhere."""
    shown = BarProgress if console.is_terminal else PlainProgress
    return shown(console, feeder_id, n_pairs)
