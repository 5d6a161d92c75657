"""What stands in for `ProcessExecutor` where a test wants no process of its own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

from feeder_mixin.executors.base import Shared


class InlineExecutor:
    """The same calls in this process, one task after the other.

    Attributes
    ----------
    before
        Called with a task's key before the task.
    fits
        Arguments of every task so far, without shared ones; set anew by every test.
    """

    before: Callable[[str], None] = staticmethod(lambda _key: None)
    fits: ClassVar[list[tuple[Any, ...]]] = []
    n_workers = 1

    def __init__(self, *_arguments: object) -> None:
        self._tasks: deque[tuple[str, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._shared: dict[str, object] = {}

    def share(self, value: object) -> Shared:
        """See `Executor`."""
        shared = Shared(str(len(self._shared)))
        self._shared[shared.name] = value
        return shared

    def release(self, _shared: Shared) -> None:
        """Keep what is released: names are counted."""

    def submit(self, key, function, *arguments, home="") -> None:
        """Add a task; those of a home come first."""
        (self._tasks.appendleft if home else self._tasks.append)((key, function, arguments))

    def outcomes(self, while_waiting=lambda: None) -> Iterator[tuple[str, Any]]:
        """Yield each task's result or error."""
        while self._tasks:
            key, function, arguments = self._tasks.popleft()
            self.fits.append(tuple(a for a in arguments if not isinstance(a, Shared)))
            type(self).before(key)
            outcome = self._outcome(function, arguments)
            while_waiting()
            yield key, outcome

    def _outcome(self, function, arguments):
        values = [self._shared[a.name] if isinstance(a, Shared) else a for a in arguments]
        log = logging.getLogger("feeder_mixin")
        handlers, propagate = log.handlers[:], log.propagate
        try:
            return function(*values)
        except Exception as error:  # noqa: BLE001 - as a real executor hands it on
            return error
        finally:  # a task may silence the logging of its process: that is ours here
            log.handlers[:], log.propagate = handlers, propagate

    def close(self) -> None:
        """Have no worker to end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._tasks.clear()
