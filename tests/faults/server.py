"""A parameter store that outlives every process here, and fails as told at a given moment.

Two kinds: InfluxDB's model behind the real client, so that faults are answers on the wire; and the
real SQLite store, where faults are errors of a database that can't be reached or refuses.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import urllib3

from feeder_mixin.errors import StoreError, StoreUnavailableError
from feeder_mixin.schema import MEASUREMENT, PROVENANCE_MEASUREMENTS
from feeder_mixin.stores.base import ParameterStore
from feeder_mixin.stores.sql import SqlStore
from tests.faults.influx_model import Answer, InfluxModel, attach

Kind = Literal["influxdb", "sql"]

TYPE_CONFLICT: Final = (
    'partial write: field type conflict: input field "num_leaves" on measurement '
    '"optimized_parameters" is type float, already exists as type integer dropped=1'
)
_REFUSALS: Final = {
    "refusing": (422, TYPE_CONFLICT),
    "wrong token": (401, "unauthorized access"),
    "disk full": (500, "no space left on device"),
}


class Killed(BaseException):
    """The process ends here; nobody catches it but who started it."""


@contextmanager
def no_space() -> Iterator[None]:
    """Let every write of this process fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Server:
    """The store's content, and the fault that it has from a moment on.

    Moments: ``request`` before anything is done, ``write`` while a record is written (in InfluxDB
    between its two points), ``commit`` after it is stored and before the answer.
    """

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self._path = kind, folder / "store.sqlite"
        self._model = InfluxModel()
        self._client: ParameterStore | None = None
        self._late: list[Callable[[], object]] = []
        self._fault: str | None = None
        self._moment: str | None = None
        self.meanwhile: Callable[[], object] = lambda: None
        """What a second writer does at the moment."""

    def break_at(self, moment: str, fault: str) -> None:
        """Have `fault` from the next `moment` on."""
        self._moment, self._fault = moment, fault

    def mend(self) -> None:
        """Have no fault any more; what was on its way arrives now, late."""
        self._moment = self._fault = None
        late, self._late = self._late, []
        for write in late:
            write()

    def open(self) -> ParameterStore:
        """Return a client."""
        if self.kind == "influxdb":
            if self._client is None:  # one for all: making it costs more than a request
                self._client = attach(self._answer)
                self._client.close = lambda: None  # type: ignore[method-assign]
            return self._client
        return _FaultySql(self._path, self)

    def failing(self, moment: str) -> str | None:
        """Return the fault that is on at a moment, once it has come."""
        if self._moment == moment:
            self._moment = "on"
            if self._fault == "two writers":
                self.meanwhile()
            if self._fault == "process killed":
                raise Killed
        return self._fault if self._moment == "on" else None

    # ------------------------------------------------------------------ on the wire

    def _answer(self, path: str, query: Mapping[str, str], body: bytes) -> Answer:
        is_write = path == "/api/v2/write"
        is_record = is_write and body.split(b",", 1)[0].decode() not in (
            PROVENANCE_MEASUREMENTS.values()
        )
        fault = self.failing("request")
        if is_record:
            fault = self.failing("write") or fault
        if fault in ("down", "slow"):
            if fault == "slow" and is_write:
                self._late.append(lambda: self._model.answer(path, query, body))
            raise _lost(fault)
        if fault in _REFUSALS and (is_write or fault == "wrong token"):
            status, text = _REFUSALS[fault]
            return status, json.dumps({"code": "error", "message": text}).encode()
        if fault == "half answer" and is_write:
            body = b"\n".join(body.splitlines()[::2])
        status, data = self._model.answer(path, query, body)
        if is_record and (later := self.failing("commit")) in ("down", "slow", "half answer"):
            raise _lost(later)
        return status, data[: len(data) // 2] if fault == "half answer" else data


class _FaultySql(SqlStore):
    def __init__(self, path: Path, server: Server) -> None:
        super().__init__(path, timeout_s=0.1)
        self._server = server

    def write(self, records, measurement=MEASUREMENT) -> None:
        fault = self._server.failing("request")
        fault = self._server.failing("write") or fault
        if fault == "slow":
            late = super().write
            self._server._late.append(lambda: late(records, measurement))
        if fault == "disk full":
            with no_space():
                super().write(records, measurement)
        self._fail(fault)
        super().write(records, measurement)
        self._fail(self._server.failing("commit"))

    def latest(self, *arguments, **options):
        fault = self._server.failing("request")
        if fault != "refusing":
            self._fail(fault)
        return super().latest(*arguments, **options)

    def _fail(self, fault: str | None) -> None:
        if fault in ("down", "slow", "half answer"):
            raise StoreUnavailableError(f"{self.description}: {_lost(fault)}")
        if fault in ("refusing", "wrong token"):
            raise StoreError(f"{self.description}: {_REFUSALS[fault][1]}")


def _lost(fault: str) -> urllib3.exceptions.HTTPError:
    texts = {"slow": "Read timed out.", "half answer": "Connection broken: IncompleteRead"}
    return urllib3.exceptions.ProtocolError(texts.get(fault, "Connection refused"))
