"""What InfluxDB 2 refuses and how, in words that say what to do.

Used by `feeder_mixin.stores.influx_server`. What must stay true: pure text in, text out; the texts it
looks for are the server's own (asked 2026-11-28).
"""

from __future__ import annotations

import json
import re
from typing import Final

from influxdb_client.rest import ApiException
from urllib3.exceptions import HTTPError

from feeder_mixin.errors import StoreError

INACTIVE: Final = "is inactive"
"""What the server says of a deactivated token, and of a deactivated user's."""
UNAVAILABLE_STATUS: Final = (429, 502, 503, 504)
LINES_STATUS: Final = (422, 500)

_DROPPED: Final = re.compile(r"dropped=(\d+)")
_TYPE_CONFLICT: Final = re.compile(
    r'input field \\*"(\w+)\\*" on measurement \\*"\w+\\*" is type (\w+), already exists as type (\w+)'
)
_NAMELESS_CLIENT: Final = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>: ")
"""What urllib3 before 2.6 says in place of host and port, which stand in the store's URL anyway."""
_CLIENT_NAME: Final = re.compile(r"\w*(?:Connection|Pool)\(host='([^']+)', port=(\d+)\)")


class LinesRefusedError(StoreError):
    """The server refused lines of a write, not the request: the other lines may be written.

    `n_dropped` is how many lines it says are lost, 0 where it says nothing of that.
    """

    def __init__(self, message: str, n_dropped: int = 0) -> None:
        super().__init__(message)
        self.n_dropped = n_dropped


def server_text(error: ApiException) -> str:
    """Return the message in a refusal's body, which is JSON or plain text."""
    try:
        body = json.loads(error.body)
        text = body.get("message") or body.get("error") or error.body
    except (TypeError, ValueError, AttributeError):
        text = error.body or error.reason
    return str(text)


def count_dropped(text: str) -> int:
    """Return how many lines the server says it dropped, 0 where it does not say."""
    found = _DROPPED.search(text)
    return int(found[1]) if found else 0


def advise(status: int | None, text: str, bucket: str) -> str:
    """Return what a refusal means and what to do, for one that is about neither place nor organisation."""
    if status in (401, 403):
        return _advise_on_token(status, text, bucket)
    if not status:
        return (
            "no secure connection: check the URL, and name the file of your own authority's "
            f"certificate in SSL_CERT_FILE: {text}"
        )
    if conflict := _TYPE_CONFLICT.search(text):
        name, ours, theirs = conflict.groups()
        return (
            f"bucket {bucket}: field {name} is {theirs} there, ours is {ours}: stop the foreign "
            "writer; float writes work again in the bucket's next shard"
        )
    if "previously failed" in text:  # tried on a full disk: with space again, it still refuses
        return (
            f"bucket {bucket}: the server opens a part of it only after a restart: free space on its "
            f"disk, then restart the server: {text}"
        )
    if "no space left" in text:
        return f"bucket {bucket}: the server's disk is full: free space there: {text}"
    return f"bucket {bucket}: status {status}: {text}"


def _advise_on_token(status: int, text: str, bucket: str) -> str:
    if INACTIVE in text:
        whose = "the token's user" if text.startswith("User") else "the token"
        return (
            f"{whose} is deactivated: activate it on the server, or name another token in "
            "FEEDER_STORE_TOKEN or FEEDER_STORE_TOKEN_FILE"
        )
    if status == 403:
        return f"the token has no right to do this in bucket {bucket}"
    if "is unauthorized" in text:
        return f"the token has no right to make bucket {bucket}: {text}"
    return "the token is wrong: check FEEDER_STORE_TOKEN or FEEDER_STORE_TOKEN_FILE"


def unreachable_text(error: BaseException) -> str:
    """Return why no answer came, in the innermost error's words, its client's names as HOST:PORT.

    Examples
    --------
    >>> from urllib3.exceptions import ProtocolError
    >>> unreachable_text(ProtocolError("Connection aborted.", ConnectionResetError(104, "reset")))
    'ConnectionResetError: [Errno 104] reset'
    """
    inner = getattr(error, "reason", None)
    if not isinstance(inner, BaseException):
        inner = next((part for part in error.args[1:] if isinstance(part, BaseException)), None)
    if inner is not None:
        return unreachable_text(inner)
    text = _CLIENT_NAME.sub(_address, _NAMELESS_CLIENT.sub("", str(error)))
    name = type(error).__name__
    return text if isinstance(error, HTTPError) or text.startswith(name) else f"{name}: {text}"


def _address(found: re.Match[str]) -> str:
    host, port = found.groups()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
