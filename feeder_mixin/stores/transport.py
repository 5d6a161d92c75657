"""HTTP of the InfluxDB store: answers in bounded time, and without the token that they repeat.

Used by `feeder_mixin.stores.influx_server`, as pools of urllib3. A socket's time-out begins anew
with every byte that arrives, so a server (or a proxy) that trickles would hold a starting bot for as
long as it likes. And a proxy's error page may show the request's headers, which the client hands to
its logs.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import BaseHTTPResponse

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class _UntilDeadline(io.RawIOBase):
    """A socket's raw reader with one deadline for all reads: the socket's time-out from now on."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock
        patience_s = sock.gettimeout()
        self._ends = None if patience_s is None else time.monotonic() + patience_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if self._ends is not None:
            left_s = self._ends - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()  # frees the socket, which http.client may have closed before
        super().close()


class _WholeAnswer(http.client.HTTPResponse):
    """An answer of which head and body must have arrived when the read time-out ends."""

    def __init__(self, sock: socket.socket, *args: object, **options: object) -> None:
        super().__init__(sock, *args, **options)  # type: ignore[arg-type]
        self.fp = io.BufferedReader(_UntilDeadline(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _WholeAnswer


class _SecureConnection(HTTPSConnection):
    response_class = _WholeAnswer


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection

    def urlopen(  # type: ignore[override]
        self,
        method: str,
        url: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,  # noqa: ANN401  (handed on)
    ) -> BaseHTTPResponse:
        answer = super().urlopen(method, url, body, headers, **options)
        token = (headers or {}).get("Authorization", "").rpartition(" ")[2].encode()
        if not options.get("preload_content", True) or not token or token not in answer.data:
            return answer
        return urllib3.HTTPResponse(
            answer.data.replace(token, b"***"), answer.headers, answer.status, reason=answer.reason
        )


class _SecurePool(_Pool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection  # type: ignore[assignment]


POOLS: Final = {"http": _Pool, "https": _SecurePool}
"""What `urllib3.PoolManager.pool_classes_by_scheme` takes."""
