"""A local HTTP server that plays InfluxDB: it answers what a test tells it to.

For answers that no healthy server gives, and for what the client sends. What a server makes of writes
and queries is `tests/faults/influx_model.py`; what a real one said is `tests/recording.py`.
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class FakeServer:
    """Answers in order with what a test puts in `answers`, and keeps what it was asked.

    An answer is status and body, and may have headers as a third. A body that is a function is
    called for the text.
    """

    url: str
    answers: deque = field(default_factory=deque)
    always: tuple | None = None
    asked: list[tuple[str, dict, str]] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)


@contextmanager
def running_server(certificate: tuple[str, str] | None = None) -> Iterator[FakeServer]:
    """Run a server, over TLS when files of a certificate and its key are given."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self):
            length = int(self.headers.get("Content-Length", 0))
            parts = urlsplit(self.path)
            fake.asked.append((parts.path, parse_qs(parts.query), self.rfile.read(length).decode()))
            fake.headers.append(dict(self.headers))
            status, body, *more = fake.always or fake.answers.popleft()
            if isinstance(body, Callable):
                body = body()
            self.send_response(status)
            for name, text in more[0].items() if more else ():
                self.send_header(name, text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = handle_any  # noqa: N815  (the base class's names)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_):
            """Say nothing when a client has gone: it gave up waiting, or refused a certificate."""

    with Server(("127.0.0.1", 0), Handler) as http:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            http.socket = context.wrap_socket(http.socket, server_side=True)
        scheme = "https" if certificate else "http"
        fake = FakeServer(f"{scheme}://127.0.0.1:{http.server_port}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        http.shutdown()
        thread.join()
