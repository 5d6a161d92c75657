"""HTTP connections of urllib3 whose read time-out bounds the whole answer, not each byte of it.

Used by `feeder_mixin.stores.influx`. A socket's time-out begins anew with every byte that arrives,
so a server (or a proxy) that trickles would hold a starting bot for as long as it likes.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import TYPE_CHECKING, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

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


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


POOLS: Final = {"http": _Pool, "https": _SecurePool}
"""What `urllib3.PoolManager.pool_classes_by_scheme` takes."""
