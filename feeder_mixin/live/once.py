"""Warnings that are said once, and again only when their text changes."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


class OnceLog:
    """Remembers what was warned of, by subject; any thread."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def warn(self, about: str, message: str) -> None:
        """Log a warning, not again while it stays the same."""
        if self.is_new(about, message):
            logger.warning("%s", message)

    def is_new(self, about: str, message: str) -> bool:
        """Return whether this was not the last thing said of its subject; from now on it is."""
        is_new = self._said.get(about) != message
        self._said[about] = message
        return is_new

    def forget(self, about: str) -> bool:
        """Take back what was warned of, and return whether anything was."""
        return self._said.pop(about, None) is not None
