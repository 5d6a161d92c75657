"""What a bot tells its operator's phone: reload done, reload failed, pair rejected.

The host sends it on (Telegram, webhook, Discord, websocket), from its own loop: `send` only queues. What
must stay true: a message never breaks a reload, holds no secret, and is said once per event; the
same refused record is not said again at every reload; there is at most one message a minute, and what
comes meanwhile is in the next one, a failure always.

Names and reasons stand in code spans: Telegram reads Markdown, where a lone underscore (every other
name of ours) makes it refuse the whole message.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from feeder_mixin.live.reload.loader import Loaded, LoadedPair

logger = logging.getLogger(__name__)

PAUSE_S: Final = 60.0
"""Least time between two messages."""

_MOST_CHARACTERS: Final = 3_900
"""Telegram takes 4,096."""
_MOST_PAIRS: Final = 10
_MOST_FAILURES: Final = 3
_LONGEST_REASON: Final = 250


@dataclass(slots=True)
class _Waiting:
    """What happened since the last message; all of it goes into the next one."""

    start_error: str | None = None
    n_reloads: int = 0
    reload: str = ""
    changed: dict[str, None] = field(default_factory=dict)
    took_s: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    last_failed: bool = False
    rejected: dict[str, str] = field(default_factory=dict)

    def compose(self) -> str:
        """Return the text of one message, empty when nothing happened."""
        lines = []
        if self.start_error is not None:
            lines.append(f"started without the store: {_code(self.start_error)}")
        if self.n_reloads:
            lines.append(self._reloads_text())
        if self.failures:
            lines.append(self._failures_text())
        if self.n_reloads and self.failures:
            lines.append(f"the last one {'failed' if self.last_failed else 'succeeded'}")
        if self.rejected:
            left = _MOST_CHARACTERS - len("\n".join(lines))
            parts = [f"{_code(pair)} {text}" for pair, text in self.rejected.items()]
            lines.append("rejected " + _listed(parts, "\n", _MOST_PAIRS, left))
        return "\n".join(lines)

    def _reloads_text(self) -> str:
        changed = _listed(map(_code, self.changed), ", ", _MOST_PAIRS, _MOST_CHARACTERS // 4)
        counted = f"{len(self.changed)} changed" if self.changed else "changed"
        if self.n_reloads == 1:
            return f"reloaded, {self.reload}, {counted}: {changed}, took {self.took_s:.2f} s"
        return (
            f"reloaded {self.n_reloads} times, last {self.reload}, {counted}: {changed}, took up to "
            f"{self.took_s:.2f} s"
        )

    def _failures_text(self) -> str:
        times = self.failures.total()
        reasons = [
            _code(reason) + (f" ({n} times)" if 1 < n < times else "")
            for reason, n in self.failures.most_common()
        ]
        shown = _listed(reasons, ", ", _MOST_FAILURES, _MOST_CHARACTERS // 4)
        often = "" if times == 1 else f" {times} times"
        return f"reload failed{often}, generation {self.kept} stays in use: {shown}"


class Messages:
    """Composes and sends; any thread.

    Parameters
    ----------
    send
        The host's ``dp.send_msg``: it drops what it was given in the same candle already.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        feeder_id: str,
        send: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feeder = f"Feeder {_code(feeder_id)}"
        self._send, self._clock = send, clock
        self._lock = threading.Lock()
        self._waiting = _Waiting()
        self._sent_s = -math.inf
        self._rejected: dict[str, str] = {}
        """Pair -> the reason that was said."""

    def started(self, loaded: Loaded) -> None:
        """Say what of a start an operator should know: no answer of the store, rejected pairs."""
        with self._lock:
            self._waiting.start_error = loaded.error
            self._note_rejected(loaded.pairs)
        self.send_due()

    def reloaded(
        self,
        before: Mapping[str, LoadedPair],
        loaded: Loaded,
        generation: int,
        took_s: float,
    ) -> None:
        """Say that a reload is done, and which pairs it changed or refused."""
        with self._lock:
            waiting = self._waiting
            waiting.n_reloads += 1
            waiting.last_failed = False
            waiting.took_s = max(waiting.took_s, took_s)
            waiting.reload = f"generation {generation}, {_summary(loaded)}"
            for pair, now in loaded.pairs.items():
                if pair not in before or now.parameters != before[pair].parameters:
                    waiting.changed[pair] = None
            self._note_rejected(loaded.pairs)
        self.send_due()

    def failed(self, generation: int, reason: str) -> None:
        """Say that a reload failed and which generation stays."""
        with self._lock:
            self._waiting.failures[reason] += 1
            self._waiting.kept, self._waiting.last_failed = generation, True
        self.send_due()

    def send_due(self, pause_s: float = PAUSE_S) -> None:
        """Send what waits, unless the last message is younger than `pause_s`; call it often."""
        with self._lock:
            text = self._waiting.compose() if self._clock() - self._sent_s >= pause_s else ""
            if not text:
                return
            self._waiting, self._sent_s = _Waiting(), self._clock()
        message = f"{self._feeder}: {text}"
        try:
            self._send(message)
        except Exception as error:  # noqa: BLE001  (the host's code: no reload may fail by it)
            logger.warning("Message is not sent error=%r message=%s", error, message)

    def _note_rejected(self, pairs: Mapping[str, LoadedPair]) -> None:
        reasons = {p: now.rejected for p, now in pairs.items() if now.rejected is not None}
        for pair, reason in reasons.items():
            if self._rejected.get(pair) != reason:
                text = f"(runs on {_code(pairs[pair].source)}): {_code(reason)}"
                self._waiting.rejected[pair] = text
        self._rejected = reasons


def _summary(loaded: Loaded) -> str:
    """Return on what the pairs of a load run, in numbers: a phone shows the beginning."""
    counts = {
        "on the last good copy": sum(p.source == "last_good" for p in loaded.pairs.values()),
        "on defaults": loaded.n_defaulted,
    }
    parts = [f"{len(loaded.records)} of {len(loaded.pairs)} pairs accepted"]
    return ", ".join([*parts, *(f"{n} {what}" for what, n in counts.items() if n)])


def _code(text: str) -> str:
    """Return text as Markdown shows it literally, on one line and not too long.

    Examples
    --------
    >>> _code("num_leaves is `x`")
    "`num_leaves is 'x'`"
    """
    line = " ".join(text.split()).replace("`", "'")
    return f"`{line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + '…'}`"


def _listed(parts: Iterable[str], separator: str, most: int, characters: int) -> str:
    """Return the first parts, as many as fit, and how many more there are.

    Examples
    --------
    >>> _listed(["a", "b"], ", ", 2, 100), _listed([], ", ", 2, 100), _listed("abc", ", ", 2, 100)
    ('a, b', 'none', 'a, b, and 1 more')
    """
    every = list(parts)
    shown: list[str] = []
    for part in every[:most]:
        characters -= len(part) + len(separator)
        if characters < 0:
            break
        shown.append(part)
    more = [f"and {len(every) - len(shown)} more"] if len(every) > len(shown) else []
    return separator.join([*shown, *more]) or "none"
