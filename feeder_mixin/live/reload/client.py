"""A reload asked for from outside the bot: signal it, wait for its answer in the status file.

``feeder reload`` and ``feeder optimize --reload`` call this. What must stay true: no process is
signalled that would not survive it, and an answer counts only when it is to this request.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feeder_mixin.errors import StateError
from feeder_mixin.live.state.lock import running_bot_pid
from feeder_mixin.live.state.stand_in import newest_status_path
from feeder_mixin.live.state.status import Status, read_status
from feeder_mixin.schema import parse_time_ns
from feeder_mixin.settings import BotSettings

RELOAD_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """What a requested reload did.

    Attributes
    ----------
    pid
        The bot that was asked; None when none was found.
    before, after
        Its status before the signal and when the reload was completed.
    error
        Why the reload failed or was not asked for; None when it succeeded.
    is_running
        False when no process has the feeder's bot lock.
    """

    feeder_id: str
    pid: int | None = None
    before: Status | None = None
    after: Status | None = None
    error: str | None = None
    is_running: bool = True

    @property
    def accepted(self) -> list[str]:
        """Return the pairs that now run on the store's record."""
        pairs = {} if self.after is None else self.after["pairs"]
        return [p for p, f in pairs.items() if f["source"] == "store" and f["rejected"] is None]

    @property
    def rejected(self) -> dict[str, str]:
        """Return pair -> why its record in the store was refused."""
        pairs = {} if self.after is None else self.after["pairs"]
        return {p: f["rejected"] for p, f in pairs.items() if f["rejected"] is not None}

    @property
    def passed_over(self) -> dict[str, str]:
        """Return pair -> newest point that was passed over for an older one, and why."""
        pairs = {} if self.after is None else self.after["pairs"]
        return {p: text for p, f in pairs.items() if (text := f["passed_over"]) is not None}

    @property
    def unanswered(self) -> dict[str, str]:
        """Return pair -> source of what it runs, where the store had no record."""
        pairs = {} if self.after is None else self.after["pairs"]
        return {
            p: f["source"]
            for p, f in pairs.items()
            if f["source"] != "store" and f["rejected"] is None
        }

    @property
    def changed(self) -> list[str]:
        """Return the pairs whose version is another one than before."""
        if self.before is None or self.after is None:
            return []
        old = {pair: facts["version"] for pair, facts in self.before["pairs"].items()}
        new = {pair: facts["version"] for pair, facts in self.after["pairs"].items()}
        return [pair for pair in new if new[pair] != old.get(pair)]

    def to_dict(self) -> dict[str, object]:
        """Return the form that ``--json`` prints."""
        return {
            "feeder_id": self.feeder_id,
            "ok": self.error is None,
            "pid": self.pid,
            "generation_before": None if self.before is None else self.before["generation"],
            "generation_after": None if self.after is None else self.after["generation"],
            "accepted": self.accepted,
            "rejected": self.rejected,
            "passed_over": self.passed_over,
            "unanswered": self.unanswered,
            "changed": self.changed,
            "error": self.error,
        }


def reload_bot(settings: BotSettings, timeout_s: float = RELOAD_TIMEOUT_S) -> ReloadOutcome:
    """Make a feeder's running bot load its parameters anew, and return what came of it.

    A bot that is still starting is waited for. The signal goes only to a process that has the bot
    lock and catches SIGUSR1: it would end any other. Nothing is raised: every failure is an outcome.

    Parameters
    ----------
    timeout_s
        Seconds for everything together, from now on.
    """
    pid, before = None, None
    try:
        pid = running_bot_pid(settings)
        if pid is None:
            return ReloadOutcome(settings.feeder_id, error=_not_running(settings), is_running=False)
        request = _Request(settings, pid, time.monotonic() + timeout_s)
        before = request.await_start()
        sent_ns = request.send()
        after = request.await_answer(before, sent_ns)
    except StateError as error:
        return ReloadOutcome(settings.feeder_id, pid, before, error=str(error))
    failure = after["reload"]["last_error"]
    if failure is not None:
        failure = f"the reload failed, the bot keeps its parameters: {failure}"
    return ReloadOutcome(settings.feeder_id, pid, before, after, failure)


def _not_running(settings: BotSettings) -> str:
    ran = "" if settings.status_path.exists() else ", and none ever ran here"
    return (
        f"no bot runs on {settings.state_dir}{ran}; nothing was sent. A bot loads the newest records "
        "when it starts"
    )


@dataclass(frozen=True, slots=True)
class _Request:
    """One reload request to one process; every method raises `StateError` when it can't go on."""

    settings: BotSettings
    pid: int
    deadline: float

    def await_start(self) -> Status:
        """Return the process's own status as soon as there is one."""
        status = self._poll(self._read_own)
        if status is None:
            raise StateError(
                f"the bot (pid {self.pid}) runs, but {self.settings.status_path} is not from it yet: it "
                "is still starting, or can't write there (see its log). Nothing was sent; at its start it "
                f"loads the newest records by itself; later, kill -USR1 {self.pid} and see its log"
            )
        return status

    def _read_own(self) -> Status | None:
        """Return the process's own status; before its first there is none, or an earlier process's."""
        path = newest_status_path(self.settings)
        status = read_status(path) if path.exists() else None
        return status if status is not None and status["pid"] == self.pid else None

    def send(self) -> int:
        """Send SIGUSR1, unless that would end the process; return when, in ns since the epoch."""
        with _PinnedProcess(self.pid) as process:
            if running_bot_pid(self.settings) != self.pid:
                raise StateError(f"the bot (pid {self.pid}) has just ended; nothing was sent")
            if not catches_sigusr1(self.pid):
                raise StateError(
                    f"process {self.pid} ({_command_of(self.pid)}) has the bot lock, but does not "
                    "catch SIGUSR1: the signal would kill it; nothing was sent. It may just be rebuilding "
                    "(/reload_config): try again. Otherwise restart that bot, with a "
                    "strategy that has the OptunaParamsMixin"
                )
            sent_ns = time.time_ns()
            process.send(signal.SIGUSR1)
        return sent_ns

    def await_answer(self, before: Status, sent_ns: int) -> Status:
        """Return the status in which this request is completed.

        A reload that had begun before the signal may have asked the store too early: the one that
        counts began after it.
        """
        wanted = before["reload"]["requested"] + 1

        def answer() -> Status | None:
            status = self._read_own()
            if status is None or status["reload"]["completed"] < wanted:
                return None
            reload = status["reload"]
            attempt = reload["last_attempt_at"]
            return status if attempt is not None and parse_time_ns(attempt) >= sent_ns else None

        status = self._poll(answer)
        if status is not None:
            return status
        last = self._read_own()
        if last is not None and last["reload"]["requested"] >= wanted:
            state = "it received the request and is still loading (a slow store?)"
        else:
            state = "it has not received the request yet (is the process stopped or overloaded?)"
        raise StateError(
            f"no answer from the bot (pid {self.pid}) in time: {state}. See its log, then feeder "
            f"status --feeder {self.settings.feeder_id}; the request stays pending; or wait longer with "
            "--timeout"
        )

    def _poll(self, ask: Callable[[], Status | None]) -> Status | None:
        """Return the first answer of `ask`, None after the deadline; raise when the bot ends."""
        while True:
            if (answer := ask()) is not None:
                return answer
            if running_bot_pid(self.settings) != self.pid:
                raise StateError(
                    f"the bot (pid {self.pid}) ended meanwhile: see its log. A bot loads the newest "
                    "records when it starts"
                )
            if time.monotonic() >= self.deadline:
                return None
            time.sleep(_POLL_S)


class _PinnedProcess:
    """A process to signal; when it has ended and its pid was reused, no process gets the signal."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor: int | None = None

    def __enter__(self) -> _PinnedProcess:
        with suppress(OSError, AttributeError):  # old kernels, other systems
            self._descriptor = os.pidfd_open(self._pid)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        try:
            if self._descriptor is None:
                os.kill(self._pid, number)
            else:
                signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError as error:
            raise StateError(f"the bot (pid {self._pid}) has just ended") from error
        except PermissionError as error:
            raise StateError(
                f"the bot (pid {self._pid}) belongs to another user; nothing was sent. Run as that user"
            ) from error


def catches_sigusr1(pid: int) -> bool:
    """Return whether a process has a handler for SIGUSR1; where there is no ``/proc``, True."""
    if not Path("/proc/self/status").exists():
        return True
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) & 1 << (signal.SIGUSR1 - 1))


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return "ended"
