"""Record what a real InfluxDB server answers to a test, and answer the same test from that.

Between store and server stands a local proxy. It forwards and keeps every exchange, or, without a
server, gives the kept answer to a request equal in method, address and body. Equal requests get
their answers in the order of recording. Tokens are in no recording: headers of requests are not
kept, and tests make buckets and tokens past the proxy. What is recorded is what a real server does: the
measure for `tests/faults/influx_model.py`; answers made up are in `tests/fake_influx.py`.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

FOLDER = Path(__file__).parent / "stores" / "recorded"


class Exchange(NamedTuple):
    """A request and its answer, as text."""

    method: str
    path: str
    request: str
    status: int
    content_type: str
    response: str


@contextmanager
def recording(server: str, module: str, test: str) -> Iterator[str]:
    """Run a proxy to a real server and give its URL; keep the exchanges as those of `test`."""
    upstream = urlsplit(server)
    kept: list[Exchange] = []

    def forward(handler: BaseHTTPRequestHandler, body: str) -> Exchange:
        headers = {k: v for k, v in handler.headers.items() if k not in ("Host", "Content-Length")}
        connection = HTTPConnection(upstream.hostname, upstream.port, timeout=60)
        connection.request(handler.command, handler.path, body.encode() or None, headers)
        answer = connection.getresponse()
        content_type, response = answer.headers["Content-Type"] or "", answer.read().decode()
        connection.close()
        exchange = Exchange(
            handler.command, handler.path, body, answer.status, content_type, response
        )
        kept.append(exchange)
        return exchange

    with _running(forward) as url:
        yield url
    path = FOLDER / f"{module}.json"
    tests = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tests[test] = kept
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(dict(sorted(tests.items())), indent=0, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def replaying(module: str, test: str) -> Iterator[str]:
    """Run a server that gives the recorded answers of `test`, and give its URL.

    A request that was not recorded is answered with status 418, which no store retries.
    """
    answers: dict[tuple[str, str, str], deque[Exchange]] = defaultdict(deque)
    path = FOLDER / f"{module}.json"
    tests = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if test not in tests:
        pytest.fail(f"no recording of {test}: CONTRIBUTING.md says how to make one")
    for exchange in map(Exchange._make, tests[test]):
        answers[exchange[:3]].append(exchange)
    lock = threading.Lock()

    def replay(handler: BaseHTTPRequestHandler, body: str) -> Exchange:
        key = (handler.command, handler.path, body)
        with lock:
            if answers[key]:
                return answers[key].popleft()
        return Exchange(*key, 418, "text/plain", f"not recorded, record anew: {key}")

    with _running(replay) as url:
        yield url


@contextmanager
def _running(answer: Callable[[BaseHTTPRequestHandler, str], Exchange]) -> Iterator[str]:
    """Run a local server that answers by a function; give its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            given = answer(self, body)
            response = given.response.encode()
            self.send_response(given.status)
            if given.content_type:
                self.send_header("Content-Type", given.content_type)
            if given.status != 204:
                self.send_header("Content-Length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815  (the base class's names)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True  # a client that keeps its connection open holds up no end

    with Server(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()
