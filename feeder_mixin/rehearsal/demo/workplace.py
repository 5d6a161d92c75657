"""What the demo runs on: a folder, processes and a bot's API of its own, all gone afterwards.

`feeder demo` (`cli.demo`) tells the story; here stands what must stay true whenever it ends. A signal
only leaves a note (`Interrupts`), which every wait looks at. So none can come between the start of a
process and the note that it runs, and none can cut a clean-up short.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self, TypeVar

from feeder_mixin.errors import FeederError
from feeder_mixin.processes import ScratchFolder, ending_signals, tied

Answer = TypeVar("Answer")

_POLL_S: Final = 0.2
STOP_S: Final = 10.0
"""How long a process may take to end by itself."""
_TAIL_LINES: Final = 15


class DemoError(FeederError):
    """The demo did not come to its end: the message names the step and shows the log's last lines."""


class DemoInterrupted(Exception):  # noqa: N818 - not an error: somebody wanted it
    """Somebody wants the demo to end: Ctrl-C, SIGTERM, or its terminal was closed."""


class Interrupts:
    """While open, the signals that end a command are noted; `check` raises what was noted."""

    def __init__(self) -> None:
        self._noted: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in ending_signals()}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted = signal.Signals(number)

    def check(self) -> None:
        """Raise `DemoInterrupted` when a signal came."""
        if self._noted is not None:
            raise DemoInterrupted(self._noted.name)


class Child:
    """A process of the demo, in a session of its own: a terminal's Ctrl-C reaches the demo only.

    The demo then ends its processes in order, helpers of theirs included.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.log, self._process = name, log, process
        self._n_echoed = 0
        self._is_over = False

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return its exit code, None while it runs; helpers that outlive it are killed."""
        code = self._process.poll()
        if code is not None:
            self._kill_helpers()
        return code

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL for all of its session when that is not enough."""
        if self.exit_code() is not None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._kill_helpers()
        self._process.wait()

    def _kill_helpers(self) -> None:
        """Kill what is left of its session; once, because later its id may be another's."""
        if not self._is_over:
            self._is_over = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def log_lines(self) -> list[str]:
        """Return what it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def tail(self) -> str:
        """Return the last lines of its log, for an error message."""
        lines = [line for line in self.log_lines() if line.strip()][-_TAIL_LINES:]
        return "\n".join([f"last lines of {self.log.name}:", *(f"  {line}" for line in lines)])

    def new_lines(self) -> list[str]:
        """Return what it has printed since the last call."""
        lines = self.log_lines()
        new, self._n_echoed = lines[self._n_echoed :], len(lines)
        return new


class Workplace:
    """A temporary folder and the processes started in it; on leaving, all of them are gone.

    Parameters
    ----------
    keep
        Leave the folder where it is.
    while_waiting
        Called several times a second while something is waited for.
    """

    def __init__(self, *, keep: bool, while_waiting: Callable[[], None] = lambda: None) -> None:
        self._keep, self.while_waiting = keep, while_waiting
        self._interrupts = Interrupts()
        self.children: list[Child] = []
        self._scratch: ScratchFolder | None = None
        self.root = Path()

    def __enter__(self) -> Self:
        self._interrupts.__enter__()
        self._scratch = ScratchFolder("demo")
        self.root = self._scratch.path
        self.log_dir.mkdir()
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self.stop_all()
            if self._scratch is not None:
                (self._scratch.keep if self._keep else self._scratch.remove)()
        finally:
            self._interrupts.__exit__()

    @property
    def log_dir(self) -> Path:
        """Return the folder of what the processes print."""
        return self.root / "logs"

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        extra: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> Child:
        """Start a command in the folder; what it prints goes to ``logs/<name>.log``.

        Parameters
        ----------
        extra
            Environment variables beside those of this process.
        output
            Where its standard output goes instead.
        """
        self._interrupts.check()
        log = self.log_dir / f"{name}.log"
        with log.open("ab") as errors, (output or log).open("ab") as out:
            process = subprocess.Popen(  # noqa: S603 - commands of this environment
                tied(command),
                cwd=self.root,
                env={**clean_environment(os.environ), **(extra or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def stop_all(self) -> None:
        """Stop every process, the last started first."""
        for child in reversed(self.children):
            child.stop()

    def wait(
        self, what: str, child: Child, ask: Callable[[], Answer | None], timeout_s: float
    ) -> Answer:
        """Return the first answer of `ask` that is not None, which is the work of `child`.

        Raises
        ------
        DemoError
            When `child` ended without, any process failed, or there is no answer in time.
        DemoInterrupted
            When a signal came.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self._interrupts.check()
            self.while_waiting()
            if (answer := ask()) is not None:
                return answer
            for one in self.children:
                code = one.exit_code()
                if code not in {None, 0} or (one is child and code == 0):
                    raise DemoError(f"{one.name} ended with exit code {code}\n{one.tail()}")
            if time.monotonic() > deadline:
                raise DemoError(f"no {what} within {timeout_s:.0f} s\n{child.tail()}")
            time.sleep(_POLL_S)

    def finish(self, child: Child, timeout_s: float) -> None:
        """Return once a process has ended well; raises like `wait`."""
        self.wait(
            f"end of {child.name}",
            child,
            lambda: True if child.exit_code() == 0 else None,
            timeout_s,
        )


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` without what would lead the demo elsewhere.

    A user's store, freqtrade settings or proxy are not the demo's: it must write to its own store
    only, and its exchange is on this machine.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(("FEEDER_", "FREQTRADE_"))
        and name.lower() not in {"http_proxy", "https_proxy", "all_proxy"}
    }
    return {**kept, "PYTHONUNBUFFERED": "1"}


def cpu_seconds() -> float:
    """Return the CPU seconds of all processes that were waited for, helpers included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(used.ru_utime + used.ru_stime, 2)


def script(name: str) -> str:
    """Return the path of a command that was installed beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise DemoError(f"{path} is missing: run make setup, or install the package anew")
    return str(path)
