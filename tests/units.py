"""What systemd says of unit files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def verify_units(units: Sequence[Path], manager: str, runtime_dir: Path) -> str:
    """Return what `systemd-analyze verify` complains of; skip the test where there is none."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    done = subprocess.run(  # noqa: S603
        ["systemd-analyze", manager, "verify", *units],  # noqa: S607
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    return said or ("" if done.returncode == 0 else f"exit code {done.returncode}")
