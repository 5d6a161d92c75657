"""What a run looks like while it works: bounded, whatever the number of pairs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from feeder_mixin.cli.progress import BarProgress, Pace, PlainProgress, make_progress
from feeder_mixin.errors import CandleError
from feeder_mixin.tune.run.options import SearchState
from tests.reports import builder

MANY = tuple(f"{number}PEPE/USDT:USDT" for number in range(163))
PAIR_S = 8.0
N_TRIALS = 100
RESULT = builder.make_result()


def state(ended=0, running=(), n_pairs=10, kept=None, workers=None):
    """Return where a run of 100 trials a pair stands; `running` are trials of the pairs in hand."""
    in_hand = {f"P{number}": n for number, n in enumerate(running)}
    n_kept = N_TRIALS * ended + sum(running) if kept is None else kept
    return SearchState(n_pairs, ended, in_hand, n_kept, N_TRIALS, workers or max(1, len(running)))


def test_pace_gives_trials_per_second_and_the_time_of_the_pairs_left():
    """One worker, two of ten pairs in 20 seconds: the other eight take 80."""
    pace = Pace()
    assert pace.look(state(0, [0]), 100.0) is None
    assert pace.look(state(1, [0]), 110.0) == pytest.approx((10.0, 90.0))
    assert pace.look(state(2, [0]), 120.0) == pytest.approx((10.0, 80.0))


def test_pace_counts_from_where_a_resumed_run_stands():
    """Pairs and trials of the interrupted run are not credited to this one."""
    pace = Pace()
    pace.look(state(8, [0]), 0.0)
    assert pace.look(state(9, [0]), 50.0) == pytest.approx((2.0, 50.0))


def test_pace_counts_what_comes_after_the_last_trial():
    """A pair whose trials are all there is still redrawn and evaluated: it is not ready."""
    pace = Pace()
    pace.look(state(0, [0], n_pairs=1), 0.0)
    _, left_s = pace.look(state(0, [100], n_pairs=1), 80.0)
    assert 30.0 < left_s < 80.0


def test_pace_never_promises_less_than_the_pair_in_hand_needs():
    """Fifteen idle workers do not help the last pair."""
    pace = Pace()
    pace.look(state(0, [0] * 16, n_pairs=16), 0.0)
    pace.look(state(15, [50], n_pairs=16, workers=16), 10.0)
    _, left_s = pace.look(state(15, [50], n_pairs=16, workers=16), 10.0)
    assert left_s > 5.0


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return its time."""
        return self.now


def run_many(progress, clock, *, workers=2, failing=()):
    """Tell a run over many pairs that takes minutes, looked at twice a second."""
    for number in range(len(MANY) + 1):
        progress.stage("loading candles", number, len(MANY))
    ended, kept = 0, 0
    while ended < len(MANY):
        for step in range(int(2 * PAIR_S)):
            clock.now += 0.5
            running = dict.fromkeys(MANY[ended : ended + workers], 6 * step)
            progress.searches(
                SearchState(len(MANY), ended, running, kept + 6 * step, N_TRIALS, workers)
            )
        for pair in MANY[ended : ended + workers]:
            if pair in failing:
                progress.finished(pair, None, CandleError(f"{pair}: too few candles"))
            else:
                progress.finished(pair, RESULT, None)
        ended, kept = min(ended + workers, len(MANY)), kept + N_TRIALS * workers
    progress.searches(SearchState(len(MANY), ended, {}, kept, N_TRIALS, workers))


@pytest.mark.parametrize("n_failing", [0, 3, 163])
def test_log_of_many_pairs_is_bounded_and_names_failures(n_failing):
    """Eleven minutes of 163 pairs are a few dozen lines, however many pairs fail."""
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
    assert lines[-1].startswith("f: pairs 163/163, trials ")
    assert (f"{n_failing} failed" in lines[-1]) is bool(n_failing)


def test_log_of_few_pairs_tells_each_pair_and_says_the_end_once():
    """Polling twice a second does not repeat a line in a log."""
    out = io.StringIO()
    progress = make_progress(Console(file=out, width=200), "feeder75a", 1)
    assert isinstance(progress, PlainProgress)
    with progress:
        for done in (0, 0, 50, 50, 100):
            progress.searches(state(0, [done], n_pairs=1))
        progress.finished("P0", RESULT, None)
        progress.searches(state(1, n_pairs=1))
    told = [line.split(" (")[0] for line in out.getvalue().splitlines()]
    assert told == [
        "feeder75a: pairs 0/1, trials 0",
        "feeder75a: P0 done: defaults won after 20 trials",
        "feeder75a: pairs 1/1, trials 100",
    ]


def test_screen_of_many_pairs_and_workers_stays_one_screen():
    """Forty workers on 163 pairs: the stages, one line of facts, eight pairs, how many more."""
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=80, height=24)
    progress = BarProgress(console, "feeder120b", len(MANY), clock)
    run_many(progress, clock, workers=40, failing=MANY[:1])
    running = dict.fromkeys(MANY[:40], 50)
    progress.searches(SearchState(len(MANY), 3, running, 20_000, N_TRIALS, 40))
    with console.capture() as screen:
        console.print(progress.screen)
    lines = screen.get().splitlines()
    assert len(lines) == 2 + 1 + 8
    assert "32 more in work" in lines[2]
    assert "1 failed" in lines[2]
    assert "163PEPE" not in screen.get()
    assert out.getvalue().count("failed: ") == 1


def test_screen_shows_the_pairs_in_work_and_tells_each_end_of_few():
    """On a terminal each pair in work has its bar, and none stays when the run has ended."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with make_progress(console, "feeder75a", 2) as progress:
        progress.stage("loading candles", 1, 1)
        progress.searches(state(0, [1, 0], n_pairs=2))
        progress.finished("P0", RESULT, None)
        progress.searches(state(1, [1], n_pairs=2))
    assert "P0 done" in out.getvalue()
    assert "P1" in out.getvalue()
    with console.capture() as screen:
        console.print(progress.screen)
    assert "tuning pairs" in screen.get()
    assert "P1" not in screen.get()
