"""What a worker of either kind does with a task: unpickle, call, pickle what came of it."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping

from feeder_mixin.errors import WorkerError
from feeder_mixin.executors.base import Shared


def answer(task: bytes, held: Mapping[str, object]) -> bytes:
    """Return a task's pickled result, or the exception that it raised.

    Parameters
    ----------
    task
        Pickled function and arguments.
    held
        Name -> value of the shared ones among them.
    """
    try:
        function, arguments = pickle.loads(task)  # noqa: S301  (written by the command)
        values = [held[a.name] if isinstance(a, Shared) else a for a in arguments]
        return pickle.dumps(function(*values))
    except Exception as error:  # noqa: BLE001  (the command decides what becomes of it)
        return _pickled_error(error)


def _pickled_error(error: Exception) -> bytes:
    told: Exception = error
    if isinstance(error, MemoryError):  # has no text of its own
        told = WorkerError(f"its worker is out of memory {error}".rstrip())
    told.add_note("".join(traceback.format_exception(error)))
    try:
        pickled = pickle.dumps(told)
        pickle.loads(pickled)  # noqa: S301  (an error's constructor may want other arguments)
    except Exception:  # noqa: BLE001  (whatever another package's errors do)
        pickled = pickle.dumps(WorkerError(f"{type(error).__name__}: {error}"))
    return pickled
