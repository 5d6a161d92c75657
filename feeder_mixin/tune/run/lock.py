"""The optimizer's lock: one process at a time tunes or rolls back a feeder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import filelock

from feeder_mixin.errors import BusyError, TuningError
from feeder_mixin.settings import BotSettings


@contextmanager
def feeder_lock(settings: BotSettings) -> Iterator[None]:
    """Hold the feeder's optimizer lock, or raise `BusyError` that says who holds it.

    The kernel releases it when the process dies, however it dies.
    """
    folder = settings.state_dir
    owner = folder / "optimize.pid"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = filelock.FileLock(folder / "optimize.lock", timeout=0)
        lock.acquire()
        owner.write_text(f"{os.getpid()}\n", encoding="utf-8")
    except filelock.Timeout as error:
        who = owner.read_text(encoding="utf-8").strip() if owner.exists() else "unknown"
        raise BusyError(
            f"another optimizer works on {settings.feeder_id} (process {who}): wait for it to end; "
            "this one did nothing"
        ) from error
    except OSError as error:
        raise TuningError(
            f"state folder {folder} can't be used: {error}. Make it writable, or free disk space"
        ) from error
    try:
        yield
    finally:
        lock.release()
