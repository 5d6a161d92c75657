"""The seam between what is to be done and where: tasks by key, results as they come.

A task is a function of its arguments. It opens no store and no journal, and what it returns is all
that comes of it: so it may run in any process on any machine, and again after its worker died.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self


@dataclass(frozen=True, slots=True)
class Shared:
    """Stands for a value among a task's arguments; made by `Executor.share`.

    The value travels to a worker once, with the first task there that names it, and stays until it
    is released. So what a task computes from it may be kept on it.
    """

    name: str


class Executor(Protocol):
    """Runs tasks on workers; made for one run, used by one thread, closed by its ``with`` block.

    A task whose worker dies is tried again, then fails with a `WorkerError`; the others go on.
    """

    @property
    def n_workers(self) -> int:
        """Return how many tasks run at a time."""

    def share(self, value: object) -> Shared:
        """Return what stands for a value in the arguments of tasks."""

    def release(self, shared: Shared) -> None:
        """Free a shared value, here and on the workers; no task names it any more."""

    def submit(
        self, key: str, function: Callable[..., Any], *arguments: object, home: str = ""
    ) -> None:
        """Add a task; also while results come in.

        Parameters
        ----------
        key
            Names the task in its result and in messages; of no other task in hand.
        function
            Importable by name.
        arguments
            Pickled; each `Shared` among them arrives as its value.
        home
            Tasks of one home go to one worker where that costs no waiting: what an earlier one
            prepared is still in memory there.
        """

    def outcomes(
        self, while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, Any]]:
        """Yield key and result, or the exception raised instead, until no task is left.

        Parameters
        ----------
        while_waiting
            Called about twice a second; may raise to end the wait.
        """

    def close(self) -> None:
        """End all tasks at once; what has not come back is lost."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_error: object) -> None: ...


def run_tasks(
    executor: Executor,
    function: Callable[..., Any],
    tasks: Mapping[str, tuple[object, ...]],
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, Any]]:
    """Yield key and outcome of each task, given as key -> arguments of one function."""
    for key, arguments in tasks.items():
        executor.submit(key, function, *arguments)
    yield from executor.outcomes(while_waiting)


def run_in_turn(
    executor: Executor,
    submit: Callable[[str], None],
    keys: Iterable[str],
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, Any]]:
    """Yield key and outcome of each task, handed out only as workers have room for it.

    For tasks whose arguments are large: two a worker are on their way, not all at once. Workers that
    join meanwhile get theirs.

    Parameters
    ----------
    submit
        Called with a key when its task is to be submitted, under that key.
    """
    waiting = deque(keys)
    n_in_hand = 0

    def fill() -> None:
        nonlocal n_in_hand
        while waiting and n_in_hand < 2 * max(1, executor.n_workers):
            submit(waiting.popleft())
            n_in_hand += 1

    def look() -> None:
        fill()
        while_waiting()

    fill()
    for key, outcome in executor.outcomes(look):
        n_in_hand -= 1
        fill()
        yield key, outcome
