"""What a run looks like while it works: bounded, whatever the number of pairs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from feeder_mixin.cli.progress import BarProgress, Pace, PlainProgress, make_progress
from feeder_mixin.errors import CandleError
from feeder_mixin.reports.records import percent
from tests.reports import builder

MANY = tuple(f"{number}PEPE/USDT:USDT" for number in range(163))
N_TRIALS = 100
RESULT = builder.make_result()


def test_pace_gives_the_time_left_of_a_stage():
    """Two of ten pairs in 20 seconds: the other eight take 80."""
    pace = Pace()
    assert pace.left_s("judging", 0, 10, 100.0) is None
    assert pace.left_s("judging", 1, 10, 110.0) == pytest.approx(90.0)
    assert pace.left_s("judging", 2, 10, 120.0) == pytest.approx(80.0)


def test_pace_counts_from_where_a_resumed_run_stands():
    """What the interrupted run did is not credited to this one; each stage has its own pace."""
    pace = Pace()
    pace.left_s("judging", 8, 10, 0.0)
    assert pace.left_s("judging", 9, 10, 50.0) == pytest.approx(50.0)
    assert pace.left_s("writing", 5, 10, 60.0) is None


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return its time."""
        return self.now


def run_many(progress, clock, *, failing=()):
    """Tell a run over many pairs that takes minutes, looked at twice a second."""
    for number in range(len(MANY) + 1):
        progress.stage("loading candles", number, len(MANY))
    for number in range(N_TRIALS + 1):
        for _ in range(8):
            clock.now += 0.5
            progress.stage("searching the feeder's set", number, N_TRIALS, f"{8 * number} fits")
    for number, pair in enumerate(MANY, 1):
        for _ in range(4):
            clock.now += 0.5
            progress.stage("judging pairs", number - 1, len(MANY))
        if pair in failing:
            progress.finished(pair, None, CandleError(f"{pair}: too few candles"))
        else:
            progress.finished(pair, RESULT, None)
    progress.stage("judging pairs", len(MANY), len(MANY))


@pytest.mark.parametrize("n_failing", [0, 3, 163])
def test_log_of_many_pairs_is_bounded_and_names_failures(n_failing):
    """Twelve minutes of 163 pairs are a few dozen lines, however many pairs fail."""
    out, clock = io.StringIO(), Clock()
    progress = PlainProgress(Console(file=out, width=150, soft_wrap=True), "f", len(MANY), clock)
    with progress:
        run_many(progress, clock, failing=MANY[:n_failing])
    lines = out.getvalue().splitlines()
    failures = [line for line in lines if " failed: " in line]
    assert len(failures) == min(n_failing, 20)
    assert all("too few candles" in line for line in failures)
    assert len(lines) - len(failures) <= 70
    assert max(map(len, lines)) < 400
    assert lines[-1].startswith("f: judging pairs 163/163")
    assert (f"{n_failing} failed" in lines[-1]) is bool(n_failing)
    assert any("ETA" in line and "fits" in line for line in lines)


def test_log_of_few_pairs_tells_each_pair_and_says_the_end_once():
    """Polling twice a second does not repeat a line in a log."""
    out = io.StringIO()
    progress = make_progress(Console(file=out, width=200), "feeder75a", 1)
    assert isinstance(progress, PlainProgress)
    with progress:
        for done in (0, 0, 50, 50, 100, 100):
            progress.stage("searching the feeder's set", done, 100)
        progress.finished("P0", RESULT, None)
    skill = percent(RESULT.scores["tuned"].skill)
    told = [line.split(" (")[0] for line in out.getvalue().splitlines()]
    assert told == [
        "feeder75a: searching the feeder's set 0/100",
        "feeder75a: searching the feeder's set 100/100",
        f"feeder75a: P0 done: the feeder's set, the defaults, test skill {skill} % over the ATR rule",
    ]


def test_screen_of_many_pairs_stays_one_screen():
    """A line a stage, whatever the pairs; of the failures one line each on top."""
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=110, height=24)
    progress = BarProgress(console, "feeder120b", len(MANY), clock)
    run_many(progress, clock, failing=MANY[:1])
    with console.capture() as screen:
        console.print(progress.screen)
    lines = screen.get().splitlines()
    assert len(lines) == 3
    assert "1 failed" in lines[2]
    assert "163PEPE" not in screen.get()
    assert out.getvalue().count("failed: ") == 1


def test_screen_tells_each_end_of_few_pairs():
    """On a terminal, above the stages."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with make_progress(console, "feeder75a", 2) as progress:
        progress.stage("loading candles", 1, 1)
        progress.finished("P0", RESULT, None)
    assert "P0 done" in out.getvalue()
    assert "loading candles" in out.getvalue()
