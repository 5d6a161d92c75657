"""How often a process was asked to reload and asked the store, as the status file has it."""

from __future__ import annotations

from feeder_mixin.live.state.status import LoadStatus, ReloadStatus


class ReloadCounts:
    """Counts requests and loads; one writer at a time, any thread reads `status`.

    Attributes
    ----------
    status
        Replaced whole, never changed in place.
    """

    def __init__(self) -> None:
        loads = LoadStatus(succeeded=0, failed=0, last_success_at=None, last_duration_s=None)
        self.status = ReloadStatus(
            requested=0,
            completed=0,
            last_attempt_at=None,
            last_success_at=None,
            last_error=None,
            loads=loads,
        )

    @property
    def has_loaded(self) -> bool:
        """Return whether this process has asked the store before."""
        loads = self.status["loads"]
        return loads["succeeded"] + loads["failed"] > 0

    def count_request(self) -> None:
        """Count a request, before the store is asked: a slow one can be seen at work."""
        self.status = {**self.status, "requested": self.status["requested"] + 1}

    def count_load(self, at: str, error: str | None, took_s: float) -> None:
        """Count an answer of the store, or none.

        Parameters
        ----------
        at
            When it was asked.
        took_s
            Seconds up to the swap; of a success alone.
        """
        before = self.status["loads"]
        if error is None:
            loads = LoadStatus(
                succeeded=before["succeeded"] + 1,
                failed=before["failed"],
                last_success_at=at,
                last_duration_s=took_s,
            )
        else:
            loads = LoadStatus({**before, "failed": before["failed"] + 1})
        self.status = {**self.status, "loads": loads}

    def note_error(self, error: str | None) -> None:
        """Note how the load at start went, which nobody requested."""
        self.status = {**self.status, "last_error": error}

    def complete(self, at: str, error: str | None) -> None:
        """Count all requests so far as completed, by a load that succeeded or failed."""
        self.status = ReloadStatus(
            requested=self.status["requested"],
            completed=self.status["requested"],
            last_attempt_at=at,
            last_success_at=self.status["last_success_at"] if error else at,
            last_error=error,
            loads=self.status["loads"],
        )
