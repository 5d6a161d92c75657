"""Where lock and status of a bot go while its state folder can't be written.

A full or read-only disk, or a folder of another user, must not hide a running bot from ``feeder status``
and ``feeder reload``. Bot and command find the stand-in by the state folder's path alone. What must
stay true: only a folder of the bot's or the asking user is trusted, in which nobody else can write,
because anybody may make one of that name.

2026-11: in shared memory where there is any. It is not on the disk that is full, and a service with
a ``/tmp`` of its own (systemd's PrivateTmp) is still found from outside.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from feeder_mixin.errors import StateError
from feeder_mixin.settings import BotSettings

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - made safe by `_is_trusted`


def find_stand_in(state_dir: Path) -> Path | None:
    """Return the stand-in of a state folder, where there is one that can be believed."""
    for folder in candidate_places(state_dir):
        if _is_trusted(folder, state_dir):
            return folder
    return None


def make_stand_in(state_dir: Path) -> Path:
    """Return the stand-in of a state folder, made where it is missing.

    Raises
    ------
    StateError
        When none can be made.
    """
    problem = "no usable folder"
    for folder in candidate_places(state_dir):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.touch()  # a full or read-only one does not serve
        except OSError as error:
            problem = f"{error.strerror or error}: {folder}"
        else:
            if _is_trusted(folder, state_dir):
                return folder
            problem = f"{folder} belongs to another user"
    raise StateError(f"no substitute for {state_dir}: {problem}")


def remove_stand_in(state_dir: Path) -> None:
    """Remove what this process's user has made, if anything."""
    for folder in candidate_places(state_dir):
        if _is_trusted(folder, state_dir):
            shutil.rmtree(folder, ignore_errors=True)


def newest_status_path(settings: BotSettings) -> Path:
    """Return the status file that was written last: the state folder's or its stand-in's."""
    folder = find_stand_in(settings.state_dir)
    paths = [settings.status_path] + (
        [] if folder is None else [folder / settings.status_path.name]
    )
    return max(paths, key=_written_ns)


def _written_ns(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return -1


def candidate_places(state_dir: Path) -> list[Path]:
    """Return where a stand-in for a state folder may be, the first choice first."""
    digest = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()
    places = [SHARED_MEMORY] if SHARED_MEMORY.is_dir() else []
    places.append(Path(tempfile.gettempdir()))
    return [place / f"feeder-state-{digest[:24]}" for place in places]


def _is_trusted(folder: Path, state_dir: Path) -> bool:
    """Return whether a folder is of this user, or of whoever has the user_data folder, and closed."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    owners = {os.geteuid()} if hasattr(os, "geteuid") else {found.st_uid}
    with suppress(OSError):
        owners.add(state_dir.parents[1].stat().st_uid)  # user_data
    is_closed = not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and is_closed and found.st_uid in owners
