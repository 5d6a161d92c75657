"""Parameter store in InfluxDB 2: writes by line protocol, reads by InfluxQL, both by its client.

Opened by `feeder_mixin.stores.url`, imported only there. What must stay true: all fields of a
record are one point; a read goes to ``/query`` as JSON, because Flux loses newer floats without an
error where an older shard holds integers (measured 2026-11-22; Flux is also ten times slower);
identifiers in a query are the schema's, all else is a bound value.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Final

from feeder_mixin.errors import (
    StoreConflictError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
)
from feeder_mixin.schema import (
    MEASUREMENT,
    PROVENANCE_MEASUREMENTS,
    Measurement,
    ParameterRecord,
    bucket_name,
    format_time_ns,
    missing_parameters,
)
from feeder_mixin.settings import MODEL_TYPE, ModelType
from feeder_mixin.stores import influxql
from feeder_mixin.stores.base import (
    MAX_AGE_DAYS,
    PASSED_OVER_LIMIT,
    Latest,
    ParameterStore,
    StoredPoint,
    check_known_fields,
    describe_key,
    now_ns,
    select_latest,
)
from feeder_mixin.stores.influx_buckets import Bucket, find_bucket, make_bucket
from feeder_mixin.stores.influx_errors import LinesRefusedError
from feeder_mixin.stores.influx_points import (
    check_repeated_keys,
    check_tags,
    make_metric_points,
    make_parameter_point,
    make_provenance_point,
)
from feeder_mixin.stores.influx_server import InfluxServer

DEFAULT_TIMEOUT_S: Final = 10.0
DEFAULT_ATTEMPTS: Final = 3

_Key = tuple[str, str, int]
"""Pair, model type and time: what tells the points of a feeder apart."""

_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Waits for lines that the server may still be writing when it has refused others."""


class InfluxStore(ParameterStore):
    """Records and candidates in one bucket per feeder; see `ParameterStore` for the contract.

    Parameters
    ----------
    server
        ``http://host:8086`` or ``https://...``, with the proxy's path when there is one.
    org, token
        InfluxDB organisation and API token. A bot's token needs to read its feeder's bucket, an
        optimizer's to read and write it.
    feeder_ids
        Whose buckets `ping` reads; without any it only asks whether the server is there.
    timeout_s
        Longest time for one question with all its requests, tries, waits and the last byte of the
        answer: for `ping`, `latest`, `history`, `make_bucket`, and each batch of `write`.
    attempts
        How often a request is tried within that when the server can't be reached or is overloaded;
        random waits of at most two seconds lie between.

    Notes
    -----
    InfluxDB has no transaction: of two writers with the same feeder, pair and time at the same
    instant, the later wins, and the earlier's read-back says so. Text that a foreign writer put in
    a field beside floats reads as absent. A certificate is checked against the system's and those
    in the file that ``SSL_CERT_FILE`` names. Looking up the server's name takes the resolver's own
    time.
    """

    def __init__(
        self,
        server: str,
        *,
        org: str,
        token: str,
        feeder_ids: Sequence[str] = (),
        timeout_s: float = DEFAULT_TIMEOUT_S,
        attempts: int = DEFAULT_ATTEMPTS,
    ) -> None:
        self.server = InfluxServer(
            server, org=org, token=token, timeout_s=timeout_s, attempts=attempts
        )
        self.description = self.server.description
        self.org = org
        self._feeder_ids = tuple(feeder_ids)

    def ping(self) -> None:
        """Return when every feeder's bucket can be read, or the server is there without feeders."""
        with self.server.in_time():
            if not self._feeder_ids:
                self.server.ping()
            for feeder_id in self._feeder_ids:
                self._ask(feeder_id, influxql.ask_any(feeder_id))

    def make_bucket(self, feeder_id: str) -> Bucket:
        """Return the feeder's bucket, made without retention where it was not there.

        Needs a token with the organisation's rights. A bucket found is left as it is.
        """
        with self.server.in_time():
            return make_bucket(self.server, bucket_name(feeder_id))

    def find_bucket(self, feeder_id: str) -> Bucket | None:
        """Return the feeder's bucket; None when the token sees none, or several (one per organisation).

        Needs the right to read the bucket.
        """
        with self.server.in_time():
            return find_bucket(self.server, bucket_name(feeder_id))

    def write(
        self, records: Sequence[ParameterRecord], measurement: Measurement = MEASUREMENT
    ) -> None:
        """Append `records` as one point each, in requests of a few; see `ParameterStore.write`."""
        check_known_fields(records)
        check_tags(self.description, records)
        by_feeder: dict[str, list[ParameterRecord]] = defaultdict(list)
        # By time, so that one range read per batch finds little else.
        for record in sorted(records, key=lambda r: r.time_ns):
            by_feeder[record.feeder_id].append(record)
        for feeder_id, own in by_feeder.items():
            for start in range(0, len(own), influxql.BATCH):
                with self.server.in_time():
                    self._write_batch(feeder_id, own[start : start + influxql.BATCH], measurement)

    def latest(
        self,
        feeder_id: str,
        pairs: Sequence[str] | None = None,
        *,
        max_age_days: float = MAX_AGE_DAYS,
        now: int | None = None,
        measurement: Measurement = MEASUREMENT,
        model_type: ModelType = MODEL_TYPE,
    ) -> Latest:
        """Return the latest record of every pair; see `ParameterStore.latest`.

        One request where every pair asked for has a complete record of the last days; the others
        are looked for further back.
        """
        now = now_ns() if now is None else now
        with self.server.in_time():
            answer = self._find_latest(feeder_id, pairs, now, measurement, model_type)
            points = self._with_provenance(feeder_id, answer, PASSED_OVER_LIMIT, measurement)
        return select_latest(
            feeder_id, points, now=now, max_age_days=max_age_days, model_type=model_type
        )

    def _find_latest(
        self,
        feeder_id: str,
        pairs: Sequence[str] | None,
        now: int,
        measurement: Measurement,
        model_type: ModelType,
    ) -> influxql.Answer:
        """Return each pair's newest points down to a complete one; no pair is asked for in vain."""
        found = influxql.Answer()

        def look(question: influxql.Question) -> None:
            found.add(self._ask(feeder_id, question), pairs)

        def without_complete(some: Iterable[str]) -> list[str]:
            return sorted(set(some) - found.complete_pairs(now))

        left = pairs
        if pairs is not None:
            since_ns = now - influxql.RECENT_NS
            look(influxql.ask_newest(feeder_id, pairs, measurement, model_type, since_ns=since_ns))
            left = without_complete(pairs)
        if left is None or left:
            look(influxql.ask_newest(feeder_id, left, measurement, model_type))
            left = without_complete(point.pair for point in found.points)
        if left:
            look(influxql.ask_complete(feeder_id, left, now, measurement, model_type))
        return found

    def history(
        self,
        feeder_id: str,
        pair: str,
        limit: int | None = None,
        *,
        measurement: Measurement = MEASUREMENT,
        model_type: ModelType = MODEL_TYPE,
    ) -> list[StoredPoint]:
        """Return a pair's stored points of a type, newest first; an unknown pair gives an empty list."""
        question = influxql.ask_history(feeder_id, pair, limit, measurement, model_type)
        with self.server.in_time():
            answer = self._ask(feeder_id, question)
            points = self._with_provenance(feeder_id, answer, limit, measurement)
        return sorted(points, key=lambda point: -point.time_ns)

    def ask_time_s(self) -> float | None:
        """Return the server's time by its Date header (whole seconds), None when it says none."""
        with self.server.in_time():
            headers = self.server.ping()
        try:
            return parsedate_to_datetime(headers["Date"]).timestamp()
        except (KeyError, TypeError, ValueError):
            return None

    def may_write(self, feeder_id: str) -> bool:
        """Return whether the token may write the feeder's bucket; raise when there is none."""
        with self.server.in_time():
            return self.server.may_write(bucket_name(feeder_id))

    def field_types(self, feeder_id: str) -> dict[str, set[str]]:
        """Return field name -> its types: more than one where shards differ."""
        statement = f"SHOW FIELD KEYS FROM {MEASUREMENT}"
        with self.server.in_time():
            result = self.server.query(bucket_name(feeder_id), statement, "{}")
        types: dict[str, set[str]] = defaultdict(set)
        try:
            for series in result.get("series", ()):
                for name, kind in series["values"]:
                    types[str(name)].add(str(kind))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreCorruptError(
                f"{self.description}: the answer to {statement} can't be read: {error!r}"
            ) from error
        return dict(types)

    def delete(
        self,
        feeder_id: str,
        pair: str,
        times_ns: Sequence[int],
        measurement: Measurement = MEASUREMENT,
        model_type: ModelType = MODEL_TYPE,
    ) -> None:
        """Remove points of exactly these times, by two requests each; see `ParameterStore.delete`.

        The token needs to read and write the bucket.
        """
        bucket, deleter = bucket_name(feeder_id), self.server.client.delete_api()
        doomed = set(times_ns)
        stored = self.history(feeder_id, pair, measurement=measurement, model_type=model_type)
        for point in (one for one in stored if one.time_ns in doomed):
            moment = format_time_ns(point.time_ns)  # text: a datetime holds only microseconds
            # The text first: when only one of the two gets through, what is left is still found.
            for name in (PROVENANCE_MEASUREMENTS[measurement], measurement):
                predicate = influxql.delete_predicate(name, feeder_id, pair, point.model_type)
                request = partial(deleter.delete, moment, moment, predicate, bucket, self.org)
                with self.server.in_time():
                    self.server.call(request, bucket)

    def write_metrics(
        self, feeder_id: str, samples: Iterable[tuple[str, Mapping[str, str], float]]
    ) -> int:
        """Write metrics of now beside the records, and return how many points that took.

        Name, tags and value each. They are a measurement of their own, which no read of records
        touches.
        """
        points = make_metric_points(samples, now_ns())
        with self.server.in_time():
            self.server.send(bucket_name(feeder_id), points)
        return len(points)

    def close(self) -> None:
        """Close connections; calling again does nothing."""
        self.server.close()

    def _write_batch(
        self, feeder_id: str, records: Sequence[ParameterRecord], measurement: Measurement
    ) -> None:
        """Write what is not stored yet and read it back; records of one feeder, by time."""
        bucket = bucket_name(feeder_id)
        check_repeated_keys(self.description, records)
        stored = self._stored(feeder_id, records, measurement)
        new = [record for record in records if not self._is_delivered(record, stored)]
        if not new:
            return
        # Provenance first: when only one of the two gets through, no reader sees a record.
        texts = [make_provenance_point(measurement, record) for record in new]
        points = [make_parameter_point(measurement, record) for record in new]
        has_texts = False
        try:
            self.server.send(bucket, texts)
            has_texts = True
            self.server.send(bucket, points)
        except StoreUnavailableError:
            raise
        except LinesRefusedError as error:
            if has_texts or len(new) == 1:
                lost = self._find_lost(feeder_id, new, measurement, error.n_dropped)
            else:  # which texts got through is not said, and no record was tried
                lost = [r for r in new if not self._is_written(feeder_id, r, measurement)]
            self._raise_lost(error, lost)
        except StoreError as error:
            self._raise_lost(error, self._find_lost(feeder_id, new, measurement, len(new)))
        stored = self._stored(feeder_id, new, measurement)
        for record in new:
            if not self._is_delivered(record, stored):
                raise StoreError(
                    f"{self.description}: {describe_key(record)} was accepted but can't be read "
                    f"back from {bucket}"
                )

    def _is_written(
        self, feeder_id: str, record: ParameterRecord, measurement: Measurement
    ) -> bool:
        """Write one record alone; return False when the server refuses it."""
        try:
            self._write_batch(feeder_id, [record], measurement)
        except StoreUnavailableError:
            raise
        except StoreError:
            return False
        return True

    def _raise_lost(self, error: StoreError, lost: Sequence[ParameterRecord]) -> None:
        names = ", ".join(map(describe_key, lost)) or "their provenance"
        raise type(error)(f"{error}; not stored: {names}") from error

    def _find_lost(
        self,
        feeder_id: str,
        records: Sequence[ParameterRecord],
        measurement: Measurement,
        n_dropped: int,
    ) -> list[ParameterRecord]:
        """Return which of `records` are not stored after a refusal.

        The server answers at the first shard that refuses, while others may still be written to:
        while more are missing than it dropped (at least one), they are looked for again, a bounded
        time.
        """
        pauses = iter(_PAUSES_S)
        while True:
            stored = self._stored(feeder_id, records, measurement)
            lost = [record for record in records if not self._is_delivered(record, stored)]
            pause_s = next(pauses, None)
            if len(lost) <= max(n_dropped, 1) or pause_s is None:
                return lost
            time.sleep(pause_s)

    def _stored(
        self, feeder_id: str, records: Sequence[ParameterRecord], measurement: Measurement
    ) -> dict[_Key, StoredPoint]:
        """Return what is stored under the keys of `records`."""
        pairs, times = [r.pair for r in records], [r.time_ns for r in records]
        question = influxql.ask_between(feeder_id, pairs, min(times), max(times), measurement)
        answer = self._ask(feeder_id, question)
        return {
            (point.pair, point.model_type, point.time_ns): point
            for point in self._with_provenance(feeder_id, answer, None, measurement)
        }

    def _is_delivered(self, record: ParameterRecord, stored: Mapping[_Key, StoredPoint]) -> bool:
        """Return whether `record` is stored whole; raise when its key holds other content."""
        point = stored.get((record.pair, record.model_type, record.time_ns))
        if point is None:
            return False
        if point.holds(record):
            return True
        text = record.provenance_json
        if point.provenance is None and replace(point, provenance=text).holds(record):
            return False  # a writer died between the two; writing again completes it
        raise StoreConflictError(
            f"{self.description}: {describe_key(record)} is already stored with other content "
            "(is a second writer at work?)"
        )

    def _with_provenance(
        self,
        feeder_id: str,
        answer: influxql.Answer,
        limit: int | None,
        measurement: Measurement,
    ) -> list[StoredPoint]:
        """Return the points with their documents; ask again where `limit` cut one off."""
        points = []
        for point in answer.points:
            documents = answer.provenance.get(point.pair, {})
            key = (point.time_ns, point.model_type)
            text = documents.get(key)
            is_cut = text is None and limit is not None and len(documents) >= limit
            if is_cut and not missing_parameters(point.fields):
                question = influxql.ask_between(
                    feeder_id, [point.pair], point.time_ns, point.time_ns, measurement
                )
                found = self._ask(feeder_id, question).provenance
                text = found.get(point.pair, {}).get(key)
            points.append(replace(point, provenance=text))
        return points

    def _ask(self, feeder_id: str, question: influxql.Question) -> influxql.Answer:
        """Return the answer to a question about one feeder.

        One request per statement: to several at once in a missing bucket the server only says
        "not executed".
        """
        bucket = bucket_name(feeder_id)
        values = json.dumps(question.values)
        results = [self.server.query(bucket, text, values) for text in question.statements]
        try:
            return influxql.read_results(results)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreCorruptError(
                f"{self.description}: the answer to /query can't be read: {self.server.masked(repr(error))}"
            ) from None
