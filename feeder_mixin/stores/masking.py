"""How a store URL is shown: without its password and without its query values."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit, urlunsplit


def masked_store_url(url: str) -> str:
    """Return `url` as it may be shown: password and query values masked whole.

    Examples
    --------
    >>> masked_store_url("postgresql+psycopg://bot:secret@db/feeder")
    'postgresql+psycopg://bot:***@db/feeder'
    """
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return "***"
    user_info, at, host = parts.netloc.rpartition("@")
    user, colon, _password = user_info.partition(":")
    netloc = f"{user}{':***' if colon else ''}{at}{host}"
    shown = "&".join(f"{name}={value if name == 'org' else '***'}" for name, value in pairs)
    if not parts.netloc and parts.scheme == "sqlite":
        return url
    return urlunsplit((parts.scheme, netloc, parts.path, shown, ""))
