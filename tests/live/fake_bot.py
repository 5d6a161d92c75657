"""A small process that behaves like a bot towards its operator: lock, status file, SIGUSR1.

Run as ``python -m tests.live.fake_bot USERDIR FEEDER MODE``; tests start it by `fake_bot`. Modes: `answer`
reloads, `reject` reloads with a refused record, `fail` fails to reload, `hang` takes the request and
never ends it, `mute` catches the signal only, `deaf` has no handler, `die` ends at the signal, `late`
writes its status when stdin says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feeder_mixin.live.state.lock import bot_lock
from feeder_mixin.live.state.status import PairStatus, Status, keep_status
from feeder_mixin.schema import default_parameters, format_time_ns
from feeder_mixin.settings import FeederSettings
from tests.builders import FEEDER, PAIRS, make_settings


def make_pair(version_ns: int | None = None) -> PairStatus:
    """Return a pair on a store record of that time, else on defaults without a model."""
    version = None if version_ns is None else format_time_ns(version_ns)
    return {
        "source": "default" if version is None else "store",
        "version": version,
        "parameters": default_parameters(),
        "rejected": None,
        "model": {
            "state": "none" if version is None else "ready",
            "version": version,
            "generation": None if version is None else 1,
            "trained_until": version,
            "rows": None if version is None else 4310,
            "expected_rows": None if version is None else 4320,
            "context_share": None if version is None else 1.0,
            "error": None,
            "calibration": 1.0,
        },
        "exceedance": None if version is None else {"share": 0.125, "nominal": 0.1, "candles": 288},
        "last_good_at": None,
        "passed_over": None,
        "last_candle": format_time_ns(time.time_ns()),
        "last_served": None if version is None else format_time_ns(time.time_ns()),
        "last_q": None if version is None else -0.00812,
        "last_safe": None if version is None else True,
        "tolerance": {
            "max_adverse_ratio": 0.01,
            "origin": "fallback" if version is None else "config",
        },
    }


def make_status(feeder_id: str = FEEDER, pid: int | None = None) -> Status:
    """Return what a bot writes after its start: two pairs on records, the last on defaults."""
    now = time.time_ns()
    return {
        "feeder_id": feeder_id,
        "pid": pid or os.getpid(),
        "generation": 1,
        "loaded_at": format_time_ns(now),
        "reload": {
            "requested": 0,
            "completed": 0,
            "last_attempt_at": None,
            "last_success_at": None,
            "last_error": None,
            "loads": {
                "succeeded": 1,
                "failed": 0,
                "last_success_at": format_time_ns(now),
                "last_duration_s": 0.25,
            },
        },
        "pairs": {
            PAIRS[0]: make_pair(now - 1),
            PAIRS[1]: make_pair(now - 2),
            PAIRS[2]: make_pair(),
        },
    }


@contextmanager
def fake_bot(
    userdir: Path, mode: str = "answer", feeder_id: str = FEEDER
) -> Iterator[subprocess.Popen[str]]:
    """Run the process, ready when this gives it; end it afterwards."""
    process = subprocess.Popen(  # noqa: S603 - this very file
        [sys.executable, "-m", "tests.live.fake_bot", str(userdir), feeder_id, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _answer(status: Status, settings: FeederSettings, mode: str) -> None:
    """Do with one request what the bot does."""
    reload = status["reload"]
    reload["requested"] += 1
    reload["last_attempt_at"] = format_time_ns(time.time_ns())
    keep_status(settings, status)
    if mode == "hang":
        return
    reload["completed"] += 1
    if mode == "fail":
        reload["last_error"] = "StoreUnavailableError: influx is down"
    else:
        status["generation"] += 1
        reload["last_success_at"] = reload["last_attempt_at"]
        status["pairs"][PAIRS[0]]["version"] = format_time_ns(time.time_ns())
    if mode == "reject":
        status["pairs"][PAIRS[1]]["rejected"] = "num_leaves=99 is outside 15 to 63"
    keep_status(settings, status)


def _main(userdir: str, feeder_id: str, mode: str) -> None:
    settings = make_settings(Path(userdir), feeder_id)
    bot_lock(settings).acquire()
    requests, wakeup = os.pipe()
    if mode == "die":
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(1))
    elif mode != "deaf":
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGUSR1, lambda *_: None)
    if mode == "late":
        os.write(sys.stdout.fileno(), b"ready\n")
        sys.stdin.readline()
    status = make_status(feeder_id)
    keep_status(settings, status)
    if mode != "late":
        os.write(sys.stdout.fileno(), b"ready\n")
    while True:
        os.read(requests, 1)
        if mode != "mute":
            _answer(status, settings, mode)


if __name__ == "__main__":
    _main(*sys.argv[1:])
