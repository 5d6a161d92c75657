"""What runs on a worker of a Dask cluster: tasks as bytes, by the command's versions only."""

from __future__ import annotations

import pickle
import platform
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from feeder_mixin.errors import ClusterError
from feeder_mixin.executors._answer import answer


@cache
def versions_here(packages: tuple[str, ...]) -> Mapping[str, str]:
    """Return the versions of Python and of packages in this process."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def check_versions(wanted: Mapping[str, str]) -> None:
    """Raise `ClusterError` where this worker has other versions than the command."""
    there = versions_here(tuple(name for name in wanted if name != "python"))
    if there != wanted:
        parts = [
            f"{name} {there[name]} (here {wanted[name]})"
            for name in wanted
            if there[name] != wanted[name]
        ]
        raise ClusterError(f"has {', '.join(parts)}: install the same versions on both")


def arrive(versions: Mapping[str, str], packed: bytes) -> object:
    """Return a shared value; Dask keeps it."""
    check_versions(versions)
    return pickle.loads(packed)  # noqa: S301  (written by the command)


def keep(value: object) -> object:
    """Return a shared value; the worker that this task is for keeps it."""
    return value


def do_tasks(
    versions: Mapping[str, str], tasks: Sequence[bytes], names: Sequence[str], *values: object
) -> tuple[float, list[bytes]]:
    """Return the seconds that tasks took, and what came of each.

    Their errors are answers, so that those of Dask are told apart.
    """
    check_versions(versions)
    held = dict(zip(names, values, strict=True))
    started = time.monotonic()
    outcomes = [answer(task, held) for task in tasks]
    return time.monotonic() - started, outcomes
