"""InfluxDB 2 in memory, as far as our store asks it: line protocol in, InfluxQL's JSON out.

It follows what a real server was recorded to do (`tests/stores/recorded_influx.json`): equal tags and
time merge, fields that are absent read as null, a row stands wherever one field is. Served in this
process (`attach`) or over HTTP (`serve`), for clients that are killed. It keeps what is written, which
neither the scripted server (`tests/fake_influx.py`) nor recorded answers (`tests/recording.py`) do.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import tenacity
import urllib3

from feeder_mixin.stores.influx import InfluxStore

Answer = tuple[int, bytes]
Key = tuple[str, str, int]

_SPACE, _COMMA = re.compile(r"(?<!\\) "), re.compile(r"(?<!\\),")


class InfluxModel:
    """Bucket and measurement -> (pair, model type, time) -> fields."""

    def __init__(self) -> None:
        self.points: dict[tuple[str, str], dict[Key, dict[str, float | str]]] = defaultdict(dict)

    def answer(self, path: str, query: Mapping[str, str], body: bytes) -> Answer:
        """Do what a request asks and return status and body."""
        if path == "/api/v2/write":
            for line in body.decode().splitlines():
                self._write(query["bucket"], line)
            return 204, b""
        values = json.loads(query["params"])
        result = {"statement_id": 0, "series": self._series(query["db"], query["q"], values)}
        return 200, json.dumps({"results": [result]}).encode()

    def _write(self, bucket: str, line: str) -> None:
        head, rest = _SPACE.split(line, maxsplit=1)
        text, time = rest.rsplit(" ", 1)
        measurement, *pairs = _COMMA.split(head)
        tags = dict(_plain(pair).split("=", 1) for pair in pairs)
        if text.startswith("provenance="):
            quoted = text.removeprefix('provenance="').removesuffix('"')
            fields: dict[str, float | str] = {"provenance": re.sub(r"\\(.)", r"\1", quoted)}
        else:
            fields = {n: float(v) for n, v in (f.split("=") for f in text.split(","))}
        key = (tags["pair"], tags["model_type"], int(time))
        self.points[bucket, measurement].setdefault(key, {}).update(fields)

    def _series(
        self, bucket: str, statement: str, values: Mapping[str, object]
    ) -> list[dict[str, object]]:
        columns, measurements, condition, limit = re.fullmatch(
            r"SELECT (\S+) FROM (\S+) WHERE (.*?) GROUP BY pair ORDER BY time DESC(?: LIMIT (\d+))?",
            statement,
        ).groups()
        first = int(m[1]) if (m := re.search(r"time >= (\d+)", condition)) else 0
        last = int(m[1]) if (m := re.search(r"time <= (\d+)", condition)) else 2**63
        needed = re.findall(r"(\w+) >= \$lowest", condition)
        wanted = {value for name, value in values.items() if name.startswith("pair")}
        series = []
        for measurement in measurements.split(","):
            rows = defaultdict(list)
            for (pair, model_type, time), fields in self.points[bucket, measurement].items():
                is_asked = first <= time <= last and (not wanted or pair in wanted)
                if is_asked and all(name in fields for name in needed):
                    row = {**fields, "model_type": model_type}
                    rows[pair].append([time, *(row.get(name) for name in columns.split(","))])
            series += [
                {
                    "name": measurement,
                    "tags": {"pair": pair},
                    "columns": ["time", *columns.split(",")],
                    "values": sorted(found, key=lambda r: -r[0])[: int(limit) if limit else None],
                }
                for pair, found in sorted(rows.items())
            ]
        return series


def _plain(text: str) -> str:
    return re.sub(r"\\([ ,=])", r"\1", text)


class _Pool:
    """Stands for urllib3's pool of connections: asks the model in this process."""

    def __init__(self, answer) -> None:
        self._answer = answer

    def request(self, _method, url, body=b"", fields=None, **_options):
        parts = urlsplit(url)
        query = {**dict(parse_qsl(parts.query)), **dict(fields or {})}
        content = body if isinstance(body, bytes) else (body or "").encode()
        status, data = self._answer(parts.path, query, content)
        return urllib3.HTTPResponse(
            io.BytesIO(data), {"Content-Type": "application/json"}, status, preload_content=True
        )

    def clear(self) -> None:
        """Have nothing to close."""


def attach(answer, token: str = "token", **options) -> InfluxStore:  # noqa: S107  (of no server)
    """Return a store whose client asks `answer` in this process, and waits for nothing."""
    store = InfluxStore("http://influx.invalid:8086", org="ArtiSky", token=token, **options)
    store.server.client.api_client.rest_client.pool_manager = _Pool(answer)
    store.server.retrying.wait = tenacity.wait_none()
    return store


@contextmanager
def serve(model: InfluxModel) -> Iterator[str]:
    """Give the URL of a local HTTP server that answers by `model`."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            status, data = model.answer(parts.path, dict(parse_qsl(parts.query)), body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any  # noqa: N815  (the base class's names)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing when a client has gone: they are killed here."""

    with Server(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()
