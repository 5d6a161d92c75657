"""Files of a feeder's state folder: written whole or not at all, damage noticed.

The bot writes here; ``feeder status`` and ``feeder reload`` read. What must stay true: a reader sees
the old content or the new, never a part, whatever dies in between; and a file that was cut or edited is
refused, not half believed. Who may write is `live.state.lock`'s.

A file's content is flushed to the disk before its name is taken; the name itself is not, so a power
cut may bring back the previous content, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from feeder_mixin.errors import StateError

_HEAD: Final = re.compile(rb'\{"sha256":"([0-9a-f]{64})","document":')
_TAIL: Final = b"}\n"


def write_private(path: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` to `path`, whole or not at all, readable by the owner only.

    Not `durable`: a power cut may leave the file empty. For what is written anew at once anyway.

    The folder is made (mode 0700) where it is missing. On failure the previous file stands and no
    temporary file is left; only a kill can leave one, which the next bot's `BotLock` removes.

    Raises
    ------
    StateError
        When the disk is full, the folder is read-only, or `text` has no UTF-8 form.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise StateError(
            f"{path} is not written: its content can't be encoded as UTF-8: {error}"
        ) from error
    write_bytes(path, content, durable=durable)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write `content` as `write_private` writes a text; raises the same."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StateError(
            f"{path} can't be written: {error.strerror or error}. Free disk space or make the folder "
            "writable for the user who runs the bot"
        ) from error


def write_checked(path: Path, document: Mapping[str, object]) -> None:
    """Write `document` as JSON with a SHA-256 over its text, so that `read_checked` sees damage.

    Raises
    ------
    StateError
        When it can't be written, or holds something that JSON does not (NaN, infinity, an object).
    """
    try:
        body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise StateError(f"{path} is not written: its content is not JSON: {error}") from error
    digest = hashlib.sha256(body).hexdigest().encode()
    write_bytes(path, b'{"sha256":"%b","document":%b%b' % (digest, body, _TAIL))


def read_checked(path: Path) -> dict[str, Any] | None:
    """Return the document that `write_checked` wrote, or None when there is no such file.

    Raises
    ------
    StateError
        When the file is empty, cut or edited, or can't be read; it names the file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(
            f"{path} can't be read: {error.strerror or error}. Make it readable for the user who "
            "runs this, or move it away"
        ) from error
    head = _HEAD.match(content)
    if head is None or not content.endswith(_TAIL):
        problem = "is truncated or not a file of this kind" if content else "is empty"
        raise _damaged(path, problem)
    # A view: a file may hold megabytes of model text.
    body = memoryview(content)[head.end() : -len(_TAIL)]
    if hashlib.sha256(body).hexdigest().encode() != head[1]:
        raise _damaged(path, "was cut, edited or damaged: its SHA-256 does not match its content")
    try:
        document = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:  # only where the digest was made to fit
        raise _damaged(path, f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _damaged(path, "is not a JSON object")
    return document


def _damaged(path: Path, problem: str) -> StateError:
    return StateError(f"{path} {problem}. Delete it, the bot writes it anew; or restore a copy")
