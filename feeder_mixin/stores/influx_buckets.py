"""A feeder's bucket in InfluxDB: found, made, and how long it keeps points.

Used by `feeder_mixin.stores.influx`, inside its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from influxdb_client import PostBucketRequest

from feeder_mixin.stores.influx_server import InfluxServer


@dataclass(frozen=True, slots=True)
class Bucket:
    """A feeder's bucket as the server has it; `keeps_s` is None when it keeps points for ever."""

    name: str
    id: str
    is_new: bool
    keeps_s: int | None

    @property
    def keeps_text(self) -> str:
        """Return how long it keeps points, in whole days or in hours.

        Examples
        --------
        >>> [Bucket("B", "1", False, s).keeps_text for s in (3_600, 129_600, 2_592_000, None)]
        ['1 hour', '36 hours', '30 days', 'for ever']
        """
        if self.keeps_s is None:
            return "for ever"
        size, unit = (86_400, "day") if self.keeps_s % 86_400 == 0 else (3_600, "hour")
        number = self.keeps_s / size
        return f"{number:g} {unit}{'' if number == 1 else 's'}"

    @classmethod
    def of_answer(cls, name: str, found: Any, *, is_new: bool = False) -> Bucket:  # noqa: ANN401  (the client has no types)
        """Return the bucket that the server describes."""
        keeps_s = sum(rule.every_seconds for rule in found.retention_rules)
        return cls(name, found.id, is_new, keeps_s or None)


def make_bucket(server: InfluxServer, name: str) -> Bucket:
    """Return the bucket of the organisation, made without retention where it was not there."""
    org_id = server.find_org_id()
    # Without the organisation in the question: with it, a missing bucket is an error.
    found = [bucket for bucket in _find(server, name) if bucket.org_id == org_id]
    if found:
        return Bucket.of_answer(name, found[0])
    wanted = PostBucketRequest(org_id=org_id, name=name, retention_rules=[])
    made = server.call(lambda: server.client.buckets_api().create_bucket(wanted), name)
    return Bucket.of_answer(name, made, is_new=True)


def find_bucket(server: InfluxServer, name: str) -> Bucket | None:
    """Return the bucket; None when the token sees none, or several (one per organisation)."""
    found = _find(server, name)
    return Bucket.of_answer(name, found[0]) if len(found) == 1 else None


def _find(server: InfluxServer, name: str) -> list[Any]:
    api = server.client.buckets_api()
    found: list[Any] = server.call(lambda: api.find_buckets(name=name), name).buckets
    return found
