"""Disks that can't be written: full, small, read-only, for root as well. Skips where none can be mounted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*arguments: str) -> None:
    command = ["mount", *arguments]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603
        pytest.skip("needs the right to mount")


@contextmanager
def tmpfs(folder: Path, *options: str) -> Iterator[Path]:
    """Have an empty disk of its own at a folder, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S603, S607


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Have a folder read-only, with what is in it, for the length of the block."""
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,bind,ro", str(folder))
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S603, S607


@contextmanager
def full(folder: Path) -> Iterator[Path]:
    """Have a disk at a folder on which files can be made, but nothing can be written."""
    with tmpfs(folder, "size=64k"):
        fill(folder)
        yield folder


def fill(folder: Path) -> None:
    """Fill the disk of a folder to the last byte; removing ``filler`` makes space again."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
