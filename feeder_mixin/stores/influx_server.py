"""One InfluxDB 2 server as the store asks it: in bounded time, tried again, errors as ours.

Used by `feeder_mixin.stores.influx`, which knows what is asked. What must stay true: an error inside
a 200 is raised; no message repeats the token; whoever reads a message knows what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import urllib3
from influxdb_client import InfluxDBClient, Point
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from feeder_mixin.errors import (
    SettingsError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
)
from feeder_mixin.stores.influx_errors import (
    INACTIVE,
    LINES_STATUS,
    UNAVAILABLE_STATUS,
    LinesRefusedError,
    advise,
    count_dropped,
    server_text,
    unreachable_text,
)
from feeder_mixin.stores.transport import POOLS


class InfluxServer:
    """A server with an organisation and a token.

    Parameters
    ----------
    url
        ``http://host:8086`` or ``https://...``, with the proxy's path when there is one.
    org, token
        InfluxDB organisation and API token.
    timeout_s
        Longest time for all requests inside one `in_time`: tries, waits and the last byte of the
        answer.
    attempts
        How often a request is tried within that while the server can't be reached or is overloaded.
    """

    def __init__(self, url: str, *, org: str, token: str, timeout_s: float, attempts: int) -> None:
        if not token.isascii() or not token.isprintable() or " " in token:
            # http.client would refuse it as a header, and repeat it in its message.
            raise SettingsError("the store token has a space or a character that no token has")
        self.description = f"influxdb {url} org={org}"
        self.org = org
        self.client = InfluxDBClient(url, token, org=org)
        self.client.api_client.rest_client.pool_manager.pool_classes_by_scheme = POOLS
        self._timeout_s, self._attempts = timeout_s, attempts
        self._ends = 0.0
        self.retrying = Retrying(
            retry=retry_if_exception_type(StoreUnavailableError),
            wait=wait_random_exponential(multiplier=0.2, max=2.0),
            reraise=True,
        )

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Give the requests made inside `timeout_s` seconds in all."""
        self._ends = time.monotonic() + self._timeout_s
        yield

    def ping(self) -> Mapping[str, str]:
        """Return the headers of an answer, whatever their case; needs no right."""
        headers: Mapping[str, str]
        _, _, headers = self.call(
            lambda: self.client.api_client.call_api(
                "/ping", "GET", _return_http_data_only=False, _preload_content=True
            ),
            bucket="",
        )
        return headers

    def find_org_id(self) -> str:
        """Return the organisation's id."""
        organizations = self.client.organizations_api()
        found = self.call(lambda: organizations.find_organizations(org=self.org), "")
        if not found:
            # A deactivated token sees none; only this question tells.
            if self._is_inactive():
                raise StoreError(f"{self.description}: {advise(401, INACTIVE, '')}")
            raise StoreError(self._org_missing)
        return str(found[0].id)

    def may_write(self, bucket: str) -> bool:
        """Return whether the token may write a bucket; raise when there is none.

        By a write of nothing: the server looks at the bucket, then at the right, then at the points.
        """
        target = {"org": self.org, "bucket": bucket, "precision": "ns"}

        def write_nothing() -> bool:
            try:
                self.client.api_client.call_api(
                    "/api/v2/write",
                    "POST",
                    query_params=list(target.items()),
                    # Else the client makes JSON of it: two quotes, which is no write of nothing.
                    header_params={"Content-Type": "text/plain"},
                    body="",
                )
            except ApiException as error:
                text = server_text(error)
                if error.status == 400 and "requires points" in text:
                    return True  # other versions refuse an empty body after all else was right
                if error.status == 403 and INACTIVE not in text:
                    return False
                if error.status == 404 and "organization" in text:
                    raise StoreError(
                        f"{self.description}: the server has no organisation {self.org!r}: correct "
                        "org=NAME in the store's URL"
                    ) from None
                raise
            return True

        return bool(self.call(write_nothing, bucket))

    def query(self, bucket: str, statement: str, values: str) -> dict[str, Any]:
        """Return the one result of a statement; raise the error that a 200 can hold."""
        parameters = {"db": bucket, "q": statement, "params": values, "epoch": "ns"}
        answer = self.call(
            lambda: self.client.api_client.call_api(
                "/query",
                "GET",
                query_params=list(parameters.items()),
                header_params={"Accept": "application/json"},
                response_type="object",
                _return_http_data_only=True,
            ),
            bucket,
        )
        match answer:
            case {"results": [{"error": text}]}:
                raise self._query_error(str(text), bucket)
            case {"results": [dict() as result]}:
                return result
        raise StoreCorruptError(f"{self.description}: the answer to /query is not InfluxQL's JSON")

    def send(self, bucket: str, points: Sequence[Point]) -> None:
        """Write points in one request."""
        writer = self.client.write_api(write_options=SYNCHRONOUS)
        self.call(lambda: writer.write(bucket, self.org, list(points)), bucket)

    def call(self, request: Callable[[], Any], bucket: str) -> Any:  # noqa: ANN401  (the client has no types)
        """Return what `request` does, tried again while the server is unavailable and time left."""
        left_s = self._ends - time.monotonic()
        stop = stop_after_attempt(self._attempts) | stop_before_delay(left_s)
        return self.retrying.copy(stop=stop)(self._call_once, request, bucket)

    def masked(self, text: object) -> str:
        """Return a foreign text on one line, cut, and without the token that a server may echo."""
        shown = " ".join(str(text).split()).replace(self.client.token, "***")
        return shown[:500]

    def close(self) -> None:
        """Close connections; calling again does nothing."""
        self.client.close()

    def _call_once(self, request: Callable[[], Any], bucket: str) -> Any:  # noqa: ANN401
        # Raised without their causes: those repeat all that the server said, a token as well.
        left_s = self._ends - time.monotonic()
        if left_s <= 0:
            raise StoreUnavailableError(f"{self.description}: {self._too_slow}")
        self.client.api_client.configuration.timeout = left_s * 1000
        try:
            return request()
        except ApiException as error:
            raise self._api_error(error, bucket) from None
        except urllib3.exceptions.ReadTimeoutError:
            raise StoreUnavailableError(f"{self.description}: {self._too_slow}") from None
        except urllib3.exceptions.HTTPError as error:
            text = self.masked(unreachable_text(error))
            raise StoreUnavailableError(
                f"{self.description}: can't be reached: {text} (is the server running?)"
            ) from None
        except UnicodeDecodeError:
            raise StoreCorruptError(f"{self.description}: the answer is not UTF-8") from None

    @property
    def _too_slow(self) -> str:
        return (
            f"timed out: no whole answer within {self._timeout_s:g} s (is the server overloaded?)"
        )

    def _query_error(self, text: str, bucket: str) -> StoreError:
        if text.startswith("database not found"):
            return StoreError(self._bucket_missing(bucket))
        return StoreError(f"{self.description}: bucket {bucket}: {self.masked(text)}")

    @property
    def _org_missing(self) -> str:
        return (
            f"{self.description}: organisation {self.org} does not exist, or the token may not see "
            "it: check org in the store's URL; making buckets needs a token with all of the "
            "organisation's rights"
        )

    def _bucket_missing(self, bucket: str) -> str:
        return (
            f"{self.description}: bucket {bucket} is missing, or the token has no right to read "
            "it: `feeder init-store` makes it"
        )

    def _api_error(self, error: ApiException, bucket: str) -> StoreError:
        """Return our error for a refused request, saying what to do."""
        status: int | None = error.status
        text = self.masked(server_text(error))
        if status == 401 and text == "Unauthorized" and self._is_inactive():
            text = INACTIVE
        if status == 404:
            is_org = text.startswith("organization")
            return StoreError(self._org_missing if is_org else self._bucket_missing(bucket))
        message = f"{self.description}: {advise(status, text, bucket)}"
        if status in LINES_STATUS:
            # Of the whole text: what is shown of it is cut.
            return LinesRefusedError(message, count_dropped(server_text(error)))
        kind = StoreUnavailableError if status in UNAVAILABLE_STATUS else StoreError
        return kind(message)

    def _is_inactive(self) -> bool:
        """Return whether the token is a deactivated one: ``/query`` answers as to a wrong one."""
        try:
            self.client.api_client.call_api("/api/v2/me", "GET")
        except ApiException as error:
            return INACTIVE in server_text(error)
        except urllib3.exceptions.HTTPError:
            pass
        return False
