"""What a run looks like while it works."""

from __future__ import annotations

import io

from rich.console import Console

from feeder_mixin.cli.progress import PlainProgress, Rate, make_progress


def test_rate_gives_trials_per_second_and_time_left():
    """After ten trials in five seconds, the other thirty take fifteen."""
    rate = Rate()
    assert rate.text(10, 50, now=100.0) == "ETA -"
    assert rate.text(20, 50, now=105.0) == "2.0 trials/s, ETA 0:15"


def test_rate_counts_from_where_a_resumed_run_stands():
    """Trials of the interrupted run are not credited to this one."""
    rate = Rate()
    rate.text(90, 100, now=0.0)
    assert rate.text(95, 100, now=5.0) == "1.0 trials/s, ETA 0:05"


def test_plain_progress_says_the_end_once():
    """Polling twice a second does not repeat a line in a log."""
    out = io.StringIO()
    progress = make_progress(Console(file=out, width=200), "feeder75a")
    assert isinstance(progress, PlainProgress)
    with progress:
        for done in (0, 1, 1, 2, 2, 2):
            progress.trials({"BTC/USDT:USDT": done}, 2)
    lines = out.getvalue().splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "feeder75a: trials 0/2",
        "feeder75a: trials 2/2",
    ]


def test_bars_on_a_terminal_show_every_pair():
    """On a terminal each pair has its bar."""
    out = io.StringIO()
    with make_progress(Console(file=out, force_terminal=True, width=120), "feeder75a") as progress:
        progress.stage("loading candles", 1, 1)
        progress.trials({"BTC/USDT:USDT": 1, "ETH/USDT:USDT": 0}, 2)
    assert "BTC/USDT:USDT" in out.getvalue()
    assert "ETH/USDT:USDT" in out.getvalue()
