"""Tasks that wait for a worker, and where they would rather go; the same on either executor."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from feeder_mixin.executors.base import Shared

Worker = TypeVar("Worker", bound=Hashable)


@dataclass(slots=True)
class Task:
    """A task as it was submitted (`Executor.submit`), and how many workers died of it."""

    key: str
    function: Callable[..., Any]
    arguments: tuple[object, ...]
    home: str
    deaths: int = 0

    @property
    def shared_names(self) -> list[str]:
        """Return the names of shared values among the arguments, each once."""
        return list(dict.fromkeys(a.name for a in self.arguments if isinstance(a, Shared)))


class TaskQueue(Generic[Worker]):
    """Tasks in the order in which they came; those of a home wait for its worker."""

    def __init__(self) -> None:
        self._homeless: deque[Task] = deque()
        self._at: defaultdict[Worker, deque[Task]] = defaultdict(deque)
        self._homes: dict[str, Worker] = {}

    def __len__(self) -> int:
        return len(self._homeless) + sum(map(len, self._at.values()))

    def add(self, task: Task) -> None:
        """Put a task behind the others."""
        worker = self._homes.get(task.home)
        (self._homeless if worker is None else self._at[worker]).append(task)

    def try_again(self, task: Task, tries: int) -> bool:
        """Put a task whose worker died before all that have no home; return False to give it up.

        Parameters
        ----------
        tries
            Deaths behind which a task is given up.
        """
        task.deaths += 1
        is_tried = task.deaths < tries
        if is_tried:
            self._homeless.appendleft(task)
        return is_tried

    def take_for(self, worker: Worker) -> Task | None:
        """Return an idle worker's next task: of a home here, of none, else another worker's.

        From now on tasks of the same home go to this worker.
        """
        for queue in (self._at[worker], self._homeless, *self._at.values()):
            if queue:
                task = queue.popleft()
                if task.home:
                    self._homes[task.home] = worker
                return task
        return None

    def forget(self, worker: Worker) -> None:
        """Leave the tasks of a worker that is gone to any other."""
        self._homes = {home: at for home, at in self._homes.items() if at != worker}
        self._homeless.extendleft(reversed(self._at.pop(worker, deque())))

    def clear(self) -> None:
        """Drop all tasks."""
        self._homeless.clear()
        self._at.clear()
