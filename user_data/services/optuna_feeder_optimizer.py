"""The optimizer under the owner's path: ``feeder optimize``."""

from __future__ import annotations

from collections.abc import Sequence

from feeder_mixin.cli.main import main


def optimize(arguments: Sequence[str]) -> int:
    """Run ``feeder optimize`` with these arguments and return its exit code."""
    return main(["optimize", *arguments])
