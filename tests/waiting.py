"""The one way in which tests wait for what another thread or process does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")


def wait_until(
    condition: Callable[[], _Answer | None],
    what: str | Callable[[], str],
    timeout_s: float = 60.0,
    *,
    process: subprocess.Popen[Any] | None = None,
    pause_s: float = 0.01,
) -> _Answer:
    """Return the condition's first true answer; fail after `timeout_s` and say what was waited for.

    Parameters
    ----------
    condition
        Asked again and again.
    what
        What the test waits for, or a function that tells how things stand when the wait has failed.
    timeout_s
        Generous: a passing test never waits for it.
    process
        Fail as soon as this process has ended and the condition does not hold.
    pause_s
        Between two questions.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        # Looked up before the condition: what a process did before it ended still counts.
        is_over = process is not None and process.poll() is not None
        if answer := condition():
            return answer
        if is_over or time.monotonic() >= deadline:
            outcome = "its process has ended" if is_over else f"not in {timeout_s:g} s"
            raise AssertionError(
                f"waited for {what if isinstance(what, str) else what()}: {outcome}"
            )
        time.sleep(pause_s)
