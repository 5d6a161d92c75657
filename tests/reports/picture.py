"""Makes the README's picture anew: ``python -m tests.reports.picture FILE`` (80 CPU-seconds).

The top of the report of a real tuning: feeder75a, 20 trials a pair, on real candles.
"""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tests.chromium import Tab, running_browser

FEEDER: Final = "feeder75a"
CANDLES: Final = Path("../shared/data/binance")
WIDTH, HEIGHT = 1000, 985  # down to the end of the first figure


def tune(user_data: Path) -> Path:
    """Tune the feeder beside everything else; return its report."""
    command = ["feeder", "optimize", "--feeder", FEEDER, "--n-trials", "20"]
    folders = ["--datadir", str(CANDLES), "--userdir", str(user_data)]
    script = Path(sys.executable).with_name(command[0])
    subprocess.run([str(script), *command[1:], *folders], check=True)  # noqa: S603 - our own arguments
    return user_data / "feeder_state" / FEEDER / "report.html"


def picture_of(page: Path) -> Callable[[Tab], Awaitable[bytes]]:
    """Return a visit that gives what a reader sees first of a page, as WebP."""

    async def visit(tab: Tab) -> bytes:
        await tab.open(page, WIDTH)
        await asyncio.sleep(1)  # the figures' last frame
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
        how = {"format": "webp", "quality": 80, "clip": clip, "captureBeyondViewport": True}
        answer = await tab.call("Page.captureScreenshot", **how)
        return base64.b64decode(answer["data"])

    return visit


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, running_browser() as browse:
        report = tune(Path(folder) / "user_data")
        Path(sys.argv[1]).write_bytes(browse(picture_of(report)))
