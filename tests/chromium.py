"""A headless Chromium, driven over its own protocol by the HTTP library that is here anyway.

What a page does is seen as a reader's browser sees it: console messages, exceptions, requests, widths.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE_S = 90
_NUMBERS = itertools.count(1)
"""Of the commands to any browser: an answer has its command's."""
READY = "document.documentElement?.dataset.ready ?? (document.getElementById('undrawn')?.hidden === false)"
"""The report answers and draws what is in sight, or has a word about the absence of figures."""
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the browser's path, None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


_DRAW_ALL = """
(async () => {
  for (const plot of document.querySelectorAll('.plot')) {
    if (!plot.offsetParent) continue;
    plot.scrollIntoView();
    while (!plot.querySelector('svg.main-svg')) await new Promise(r => setTimeout(r, 10));
  }
})()
"""


@dataclass
class Tab:
    """One page of the browser, and what it complained of."""

    socket: aiohttp.ClientWebSocketResponse
    session_id: str = ""
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer; events that come before it are kept."""
        number = next(_NUMBERS)
        message = {"id": number, "method": method, "params": parameters}
        if self.session_id:
            message["sessionId"] = self.session_id
        await self.socket.send_json(message)
        while True:
            answer = await self.socket.receive_json(timeout=PATIENCE_S)
            if answer.get("sessionId", "") != self.session_id:  # the last words of another tab
                continue
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = facts["exceptionDetails"]
            self.complaints.append(str(details.get("exception", details)))
        elif event == "Runtime.consoleAPICalled" and facts["type"] in {"error", "warning"}:
            self.complaints.append(str(facts["args"]))
        elif event == "Log.entryAdded" and facts["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def open(self, path: Path, width: int, *, dark: bool = False, until: str = READY) -> None:
        """Open a file at a width and wait until a JavaScript expression is true of it."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=path.absolute().as_uri())
        for _ in range(PATIENCE_S * 10):
            if await self.evaluate(until):
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{path} is not as awaited in {PATIENCE_S} s: {until} {self.complaints}")

    async def draw_all(self) -> None:
        """Scroll over the report until every figure that is not hidden is drawn."""
        await self.evaluate(_DRAW_ALL)

    async def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


Visit = Callable[[Tab], Awaitable[Any]]


@contextmanager
def running_browser() -> Iterator[Callable[[Visit], Any]]:
    """Run a browser for the length of the block, and give a function that visits it with a new tab."""
    with asyncio.Runner() as runner:
        ends = AsyncExitStack()
        try:
            socket = runner.run(_start(ends))
            yield lambda visit: runner.run(_browse(socket, visit))
        finally:
            runner.run(ends.aclose())


async def _start(ends: AsyncExitStack) -> aiohttp.ClientWebSocketResponse:
    profile = ends.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    process = await asyncio.create_subprocess_exec(
        str(find_chromium()),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    ends.push_async_callback(_kill, process)
    url = await _debugger_url(Path(profile) / "DevToolsActivePort")
    session = await ends.enter_async_context(aiohttp.ClientSession())
    return await ends.enter_async_context(session.ws_connect(url, max_msg_size=0))


async def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _browse(socket: aiohttp.ClientWebSocketResponse, visit: Visit) -> Any:
    browser = Tab(socket)
    target = await browser.call("Target.createTarget", url="about:blank")
    attached = await browser.call(
        "Target.attachToTarget", targetId=target["targetId"], flatten=True
    )
    tab = Tab(socket, attached["sessionId"])
    for domain in ("Page", "Runtime", "Log", "Network"):
        await tab.call(f"{domain}.enable")
    try:
        return await visit(tab)
    finally:
        await browser.call("Target.closeTarget", targetId=target["targetId"])


async def _debugger_url(file: Path) -> str:
    for _ in range(PATIENCE_S * 10):
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        await asyncio.sleep(0.1)
    raise TimeoutError(f"Chromium did not start in {PATIENCE_S} s")
