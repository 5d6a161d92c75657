"""What stands in for `WorkerPool` where a test wants no process of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar, Self


class InlinePool:
    """The same calls in this process, one task after the other.

    Attributes
    ----------
    before
        Called with a task's key before the task.
    fits
        Arguments of every task so far; set anew by every test.
    """

    before: Callable[[str], None] = staticmethod(lambda _key: None)
    fits: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, _jobs: int, initializer: Callable[..., None], arguments: tuple) -> None:
        log = logging.getLogger("feeder_mixin")
        handlers, propagate = log.handlers[:], log.propagate
        initializer(*arguments)  # may silence the logging of its process: that is ours here
        log.handlers[:], log.propagate = handlers, propagate

        self.in_hand: tuple[str, ...] = ()

    n_workers = 1

    def run(self, function, tasks, while_waiting=lambda: None):
        """Yield each task's result or error."""
        for key, task in tasks.items():
            self.fits.append(task)
            type(self).before(key)
            try:
                outcome = function(*task)
            except Exception as error:  # noqa: BLE001 - as a real pool hands it on
                outcome = error
            self.in_hand = (key,)
            while_waiting()
            self.in_hand = ()
            yield key, outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Have no worker to end."""
