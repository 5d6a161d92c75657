"""What tests give executors to do: importable by name, so that any worker finds it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from feeder_mixin.errors import CandleError


def double(value: int) -> int:
    """Return twice the value."""
    return 2 * value


def where() -> int:
    """Return the id of the process."""
    return os.getpid()


def identity(*values: object) -> tuple[int, ...]:
    """Return what tells values of one process apart."""
    return (os.getpid(), *(id(value) for value in values))


def refuse() -> None:
    """Fail with an error of ours."""
    raise CandleError("BTC: no candles")


class OddError(Exception):
    """Can be pickled and not be read again."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} is not {other}")


def fail_oddly() -> None:
    """Fail with an error that can't travel."""
    raise OddError(1, 2)


def run_out_of_memory() -> None:
    """Fail as an allocation does."""
    raise MemoryError


def die() -> None:
    """Kill this worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: Path) -> str:
    """Kill this worker on the first call only."""
    if not path.exists():
        path.touch()
        die()
    return "done"


def sleep(seconds: float) -> float:
    """Return after a while."""
    time.sleep(seconds)
    return seconds


def wait_for_ever(path: Path) -> None:
    """Say which process this is, then block."""
    path.write_text(str(os.getpid()), encoding="utf-8")
    signal.pause()


class Big:
    """Counts in a folder how often it was unpickled, and where."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Path]) -> None:
        """Leave a file for this arrival."""
        self.__dict__.update(state)
        (self.folder / f"{os.getpid()}-{time.time_ns()}").touch()


def use(_big: Big, seconds: float = 0.0) -> int:
    """Return the id of the process that has it."""
    time.sleep(seconds)
    return os.getpid()


def fill_memory(n_bytes: int) -> int:
    """Take memory until there is no more, slowly enough to be seen."""
    taken = []
    for _ in range(n_bytes // 10_000_000):
        taken.append(b"x" * 10_000_000)
        time.sleep(0.02)
    return len(taken)
