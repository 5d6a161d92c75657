"""Which store to use, and opening it: the URL picks the backend.

The CLI and the bot call `choose_store_url`, then `open_store`. No message here repeats a token or
a password. The backend's module is imported only when a URL asks for it.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from feeder_mixin.errors import SettingsError
from feeder_mixin.settings import BotSettings
from feeder_mixin.stores.base import ParameterStore

DEFAULT_STORE_FILE: Final = "feeder_params.sqlite"
"""Name of the default store, in the `user_data_dir` in force."""

STORE_URL_VARIABLE: Final = "FEEDER_STORE_URL"
TOKEN_VARIABLE: Final = "FEEDER_STORE_TOKEN"  # noqa: S105  (the variable's name)
TOKEN_FILE_VARIABLE: Final = "FEEDER_STORE_TOKEN_FILE"  # noqa: S105  (the variable's name)
DEFAULT_TIMEOUT_S: Final = 10.0

_SQLITE: Final = "sqlite"
_POSTGRESQL: Final = "postgresql+psycopg"
_INFLUX: Final = ("influxdb+http", "influxdb+https")
KNOWN_KINDS: Final = (_SQLITE, _POSTGRESQL, *_INFLUX)
_OPTION: Final = re.compile(r"\?\w+=")
_INFLUX_EXAMPLE: Final = "influxdb+http://host:8086?org=NAME"


def choose_store_url(
    option: str | None, environ: Mapping[str, str], settings: BotSettings
) -> tuple[str, str]:
    """Return the store's URL and where it came from, as shown in messages.

    The first of these that is set and not empty wins: ``--store``, ``FEEDER_STORE_URL``, the
    config's ``feeder.store_url``, the file `DEFAULT_STORE_FILE` in the user folder in force. The path
    of an SQLite file is made absolute, so that messages name one file wherever they are read.

    Raises
    ------
    SettingsError
        When an SQLite URL names no file.
    """
    sources = (
        (option, "--store"),
        (environ.get(STORE_URL_VARIABLE), STORE_URL_VARIABLE),
        (settings.store_url, "config feeder.store_url"),
        (f"{_SQLITE}:///{settings.user_data_dir / DEFAULT_STORE_FILE}", "default"),
    )
    url, origin = next((url, origin) for url, origin in sources if url)
    if url.startswith(f"{_SQLITE}:"):
        url = f"{_SQLITE}:///{settings.root / _sqlite_path(url)}"
    return url, origin


def open_store(
    url: str,
    *,
    root: Path,
    feeder_ids: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> ParameterStore:
    """Return the store that `url` names; nothing is contacted or created yet.

    Parameters
    ----------
    url
        ``sqlite:///relative``, ``sqlite:////absolute``, ``postgresql+psycopg://...``,
        ``influxdb+http://host:8086?org=NAME`` or ``influxdb+https://...``.
    root
        Parent of ``user_data``: where relative paths begin.
    feeder_ids
        Whose places in the store `ParameterStore.ping` asks for (InfluxDB has a bucket for each).
    environ
        Where the token is looked up; the process's environment by default.
    timeout_s
        Longest wait: of one question in all with InfluxDB, of each statement with SQL.

    Raises
    ------
    SettingsError
        When the URL or the token can't be used; a secret is never repeated.
    """
    kind, separator, _rest = url.partition("://")
    if not separator or kind not in KNOWN_KINDS:
        # Without separator the text may be anything, a pasted token as well: not repeated.
        shown = f"kind {kind!r}" if separator else "text without ://"
        raise SettingsError(f"store URL of unknown {shown}: use one of {', '.join(KNOWN_KINDS)}")
    if kind in _INFLUX:
        token = load_token(os.environ if environ is None else environ)
        return _open_influx(url, token, feeder_ids, timeout_s)
    from feeder_mixin.stores.sql import SqlStore

    target = root / _sqlite_path(url) if kind == _SQLITE else url
    return SqlStore(target, timeout_s=timeout_s)


def needs_token(url: str) -> bool:
    """Return whether the store that `url` names is asked with a token."""
    return url.partition("://")[0] in _INFLUX


def load_token(environ: Mapping[str, str]) -> str | None:
    """Return the store's token from the environment or the file it names, or None without either.

    Raises
    ------
    SettingsError
        When both are set, or the file can't be read, is empty, or others may read it.
    """
    token, file_name = environ.get(TOKEN_VARIABLE), environ.get(TOKEN_FILE_VARIABLE)
    if token and file_name:
        raise SettingsError(f"set {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE}, not both")
    if not file_name:
        return token or None
    try:
        with Path(file_name).open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise SettingsError(
                    f"{TOKEN_FILE_VARIABLE}={file_name}: mode {mode:04o} gives others access: "
                    f"chmod 600 {shlex.quote(file_name)}"
                )
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        # Without the cause: a decoding error's text holds part of the content.
        raise SettingsError(f"{TOKEN_FILE_VARIABLE}={file_name}: {reason}") from None
    if not token:
        raise SettingsError(f"{TOKEN_FILE_VARIABLE}={file_name}: the file is empty")
    return token


def _sqlite_path(url: str) -> str:
    """Return the path in an SQLite URL: three slashes begin a relative one, four an absolute."""
    path = url.removeprefix(f"{_SQLITE}:///")
    if path == url or path in ("", ":memory:") or _OPTION.search(path):
        raise SettingsError(
            f"store URL {url!r} names no SQLite file: use sqlite:///relative/path or "
            "sqlite:////absolute/path, without options"
        )
    return path


def _open_influx(
    url: str, token: str | None, feeder_ids: Sequence[str], timeout_s: float
) -> ParameterStore:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname and parts.port is not False)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:
        raise SettingsError(
            f"the InfluxDB store URL can't be read: use {_INFLUX_EXAMPLE}"
        ) from None
    if "@" in parts.netloc or any("token" in name.lower() for name in options):
        raise SettingsError(
            f"the InfluxDB store URL holds a secret: take it out and set {TOKEN_VARIABLE}"
        )
    if unknown := sorted(set(options) - {"org"}):
        raise SettingsError(
            f"the InfluxDB store URL has unknown option {', '.join(unknown)} (expected: org)"
        )
    if not has_host or not options.get("org"):
        missing = "org" if has_host else "host"
        raise SettingsError(f"the InfluxDB store URL lacks {missing}: use {_INFLUX_EXAMPLE}")
    if token is None:
        raise SettingsError(
            f"InfluxDB needs a token: set {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE}"
        )
    from feeder_mixin.stores.influx import InfluxStore

    scheme = parts.scheme.removeprefix("influxdb+")
    server = urlunsplit((scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    return InfluxStore(
        server, org=options["org"], token=token, feeder_ids=feeder_ids, timeout_s=timeout_s
    )
