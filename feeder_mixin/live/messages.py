"""What a bot tells its operator's phone: reload done, reload failed, pair rejected.

The host sends it on (Telegram, webhook, Discord, websocket), from its own loop: `send` only queues. What
must stay true: a message never breaks a reload, holds no secret, and is said once per event; the
same refused record is not said again at every reload.

Names and reasons stand in code spans: Telegram reads Markdown, where a lone underscore (every other
name of ours) makes it refuse the whole message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from feeder_mixin.live.loader import Loaded, LoadedPair
from feeder_mixin.stores.notes import group_pairs, some

logger = logging.getLogger(__name__)

_MOST_PAIRS: Final = 10
_LONGEST_REASON: Final = 250
"""Together they keep a message below Telegram's 4,096 characters."""


class Messages:
    """Composes and sends; on the main thread at start, then on the reload thread only.

    Parameters
    ----------
    send
        The host's ``dp.send_msg``: it drops what it was given in the same candle already.
    """

    def __init__(self, feeder_id: str, send: Callable[[str], None]) -> None:
        self._feeder = f"Feeder {_code(feeder_id)}"
        self._send = send
        self._rejected: dict[str, str] = {}
        """Pair -> the reason that was said."""

    def started(self, loaded: Loaded) -> None:
        """Say what of a start an operator should know: no answer of the store, rejected pairs."""
        if loaded.error is not None:
            self._say(f"{self._feeder}: started without the store: {_code(loaded.error)}")
        self._say_rejected(loaded.pairs)

    def reloaded(
        self,
        before: Mapping[str, LoadedPair],
        loaded: Loaded,
        generation: int,
        took_s: float,
    ) -> None:
        """Say that a reload is done, and which pairs it changed or refused."""
        changed = [
            pair
            for pair, now in loaded.pairs.items()
            if pair not in before or now.parameters != before[pair].parameters
        ]
        self._say(
            f"{self._feeder}: reloaded, generation {generation}, {len(loaded.records)} of "
            f"{len(loaded.pairs)} pairs accepted, changed: {_listed(list(map(_code, changed)))}, "
            f"took {took_s:.2f} s"
        )
        self._say_rejected(loaded.pairs)

    def failed(self, generation: int, reason: str) -> None:
        """Say that a reload failed and what goes on."""
        self._say(
            f"{self._feeder}: reload failed, generation {generation} goes on: {_code(reason)}"
        )

    def _say_rejected(self, pairs: Mapping[str, LoadedPair]) -> None:
        reasons = {p: now.rejected for p, now in pairs.items() if now.rejected is not None}
        by_source: dict[str, dict[str, str]] = {}
        for pair, reason in reasons.items():
            if self._rejected.get(pair) != reason:
                by_source.setdefault(pairs[pair].source, {})[pair] = reason
        new = [
            f"{some(map(_code, same))} (runs on {_code(source)}): {_code(reason)}"
            for source, refused in by_source.items()
            for same, reason in group_pairs(refused)
        ]
        self._rejected = reasons
        if new:
            self._say(f"{self._feeder}: rejected " + _listed(new, separator="\n"))

    def _say(self, message: str) -> None:
        try:
            self._send(message)
        except Exception as error:  # noqa: BLE001  (the host's code: no reload may fail by it)
            logger.warning("Message is not sent error=%r message=%s", error, message)


def _code(text: str) -> str:
    """Return text as Markdown shows it literally, on one line and not too long.

    Examples
    --------
    >>> _code("num_leaves is `x`")
    "`num_leaves is 'x'`"
    """
    line = " ".join(text.split()).replace("`", "'")
    return f"`{line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + '…'}`"


def _listed(parts: list[str], separator: str = ", ") -> str:
    """Return the first parts and how many more there are.

    Examples
    --------
    >>> _listed(["a", "b"]), _listed([])
    ('a, b', 'none')
    """
    more = [f"and {len(parts) - _MOST_PAIRS} more"] if len(parts) > _MOST_PAIRS else []
    return separator.join([*parts[:_MOST_PAIRS], *more]) or "none"
