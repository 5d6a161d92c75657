"""Prints fault x moment as docs/operate/faults.md has it: ``python -m tests.faults``."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from tests.faults.schedules import make_header, make_row
from tests.faults.site import FAULTS

logging.getLogger("feeder_mixin").propagate = False
logging.getLogger("feeder_mixin").addHandler(logging.NullHandler())
memory = Path("/dev/shm")  # noqa: S108  (a folder of its own in there, without waits for a disk)
with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
    rows = [make_row(Path(name) / fault, fault) for fault in FAULTS]
sys.stdout.write("\n".join([*make_header(), *rows]) + "\n")
