"""One `store` fixture over every backend; servers are used when the environment names them."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
import tenacity
from influxdb_client import BucketRetentionRules, Permission, PermissionResource
from influxdb_client.client.write_api import SYNCHRONOUS

from feeder_mixin.schema import (
    MEASUREMENT,
    bucket_name,
)
from feeder_mixin.stores.base import ParameterStore
from feeder_mixin.stores.influx import InfluxStore
from feeder_mixin.stores.sql import TABLE, SqlStore
from tests.builders import FEEDER, NOW_NS
from tests.fake_influx import FakeServer, running_server
from tests.recording import recording, replaying

POSTGRES_VARIABLE = "FEEDER_TEST_POSTGRES_URL"
RECORD_VARIABLE = "FEEDER_TEST_INFLUX_RECORD"


@dataclass
class Backend:
    """A store under test, a feeder with a place in it, and what tests need to get around it."""

    name: str
    feeder: str
    open: Callable[[], ParameterStore]
    write_raw: Callable[[str, str, int, Mapping[str, object]], None]
    """Write a point as a foreign writer would: any fields, of any type."""
    environ: Mapping[str, str]
    """The environment that makes a bot open this store."""
    break_queries: Callable[[], str]
    """Make the store refuse a query; return the feeder to ask about."""
    is_recorded: bool = False
    """Whether answers are recorded, or being recorded: only requests that never change."""


def write_sql_row(store: SqlStore, feeder: str, pair: str, time_ns: int, fields: Mapping) -> None:
    """Insert a row with any values, past all checks of the store."""
    tags = {"feeder_id": feeder, "pair": pair, "optimized_for": feeder, "model_type": "foreign"}
    row = {"time_ns": time_ns, **tags, **fields}
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    with store.write_connection() as connection:
        known = {column["name"] for column in sa.inspect(connection).get_columns(TABLE.name)}
        for name in sorted(set(row) - known):
            connection.execute(sa.text(f"ALTER TABLE {TABLE.name} ADD COLUMN {name} FLOAT"))
        connection.execute(sa.text(f"INSERT INTO {TABLE.name} ({names}) VALUES ({values})"), row)  # noqa: S608


def rename_sql_column(store: SqlStore, feeder: str) -> str:
    """Rename a column that every query names, and return the feeder."""
    with store.write_connection() as connection:
        connection.execute(sa.text(f"ALTER TABLE {TABLE.name} RENAME COLUMN pair TO symbol"))
    return feeder


def line_value(value: object) -> str:
    """Return a field's value in line protocol: integers keep their type, text its quotes."""
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value}i" if isinstance(value, int) else repr(value)


def write_influx_point(
    store: InfluxStore, feeder: str, pair: str, time_ns: int, fields: Mapping
) -> None:
    """Write a point with any values, past all checks of the store."""
    body = ",".join(f"{name}={line_value(value)}" for name, value in fields.items())
    tags = f"feeder_id={feeder},optimized_for={feeder},model_type=foreign,pair={pair}"
    writer = store.server.client.write_api(write_options=SYNCHRONOUS)
    writer.write(bucket_name(feeder), store.org, f"{MEASUREMENT},{tags} {body} {time_ns}")


@pytest.fixture
def sqlite_backend(tmp_path: Path) -> Iterator[Backend]:
    """Give an SQLite file that does not exist yet."""
    path = tmp_path / "folder" / "feeder_params.sqlite"
    with SqlStore(path) as store:
        yield Backend(
            "sqlite",
            FEEDER,
            lambda: SqlStore(path),
            lambda *row: write_sql_row(store, *row),
            {"FEEDER_STORE_URL": f"sqlite:///{path}"},
            lambda: rename_sql_column(store, FEEDER),
        )


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """Give a PostgreSQL URL that sees a schema of its own, dropped afterwards."""
    if not (text := os.environ.get(POSTGRES_VARIABLE)):
        pytest.skip(f"{POSTGRES_VARIABLE} is not set")
    schema = f"test_{uuid.uuid4().hex}"
    admin = sa.create_engine(text, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    url = sa.make_url(text).update_query_dict({"options": f"-csearch_path={schema}"})
    yield url.render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True))
    admin.dispose()


@pytest.fixture
def postgresql_backend(postgres_url: str) -> Iterator[Backend]:
    """Give an empty PostgreSQL schema."""
    with SqlStore(postgres_url) as store:
        yield Backend(
            "postgresql",
            FEEDER,
            lambda: SqlStore(postgres_url),
            lambda *row: write_sql_row(store, *row),
            {"FEEDER_STORE_URL": postgres_url},
            lambda: rename_sql_column(store, FEEDER),
        )


@dataclass
class InfluxBackend(Backend):
    """InfluxDB, real or recorded, with what only tests of its own answers need."""

    open_as: Callable[[str], ParameterStore] = field(kw_only=True)
    """Open a store with another token."""
    make_token: Callable[..., str] = field(kw_only=True)
    """Make a token that may `read` or `write` the feeder's bucket."""
    deactivate_token: Callable[[str], None] = field(kw_only=True)
    """Deactivate a token that `make_token` made."""
    limit_retention: Callable[[], None] = field(kw_only=True)
    """Let the feeder's bucket drop what is older than 30 days."""


def make_influx_backend(
    url: str, org: str, token: str, feeder: str, *, is_recorded: bool, **admin: Callable
) -> InfluxBackend:
    """Return the backend of a feeder on a server, or on what stands for one."""

    def open_as(other: str) -> InfluxStore:
        return InfluxStore(url, org=org, token=other, feeder_ids=[feeder])

    def write_raw(*point: object) -> None:
        with open_as(token) as store:
            write_influx_point(store, *point)

    return InfluxBackend(
        "influxdb",
        feeder,
        lambda: open_as(token),
        write_raw,
        {"FEEDER_STORE_URL": f"influxdb+{url}?org={org}", "FEEDER_STORE_TOKEN": token},
        lambda: "nobody",  # has no bucket: an error inside a 200
        is_recorded=is_recorded,
        open_as=open_as,
        **admin,
    )


@pytest.fixture
def influxdb_backend(
    request: pytest.FixtureRequest, influx_server: tuple[str, str, str]
) -> Iterator[InfluxBackend]:
    """Give a feeder with an empty bucket on a real server, deleted afterwards.

    With `RECORD_VARIABLE` set, the exchanges of the test are recorded.
    """
    url, token, org = influx_server
    records = bool(os.environ.get(RECORD_VARIABLE))
    feeder = "recorded" if records else f"test-{uuid.uuid4().hex}"
    tokens = []
    with InfluxStore(url, org=org, token=token) as admin:
        bucket = admin.make_bucket(feeder)
        buckets, authorizations = (
            admin.server.client.buckets_api(),
            admin.server.client.authorizations_api(),
        )

        def make_token(**rights: bool) -> str:
            org_id = buckets.find_bucket_by_id(bucket.id).org_id
            resource = PermissionResource(type="buckets", id=bucket.id, org_id=org_id)
            permissions = [Permission(action=right, resource=resource) for right in rights]
            made = authorizations.create_authorization(org_id, permissions)
            tokens.append(made)
            return made.token

        def deactivate_token(token: str) -> None:
            (made,) = (one for one in tokens if one.token == token)
            made.status = "inactive"
            authorizations.update_authorization(made)

        def limit_retention() -> None:
            found = buckets.find_bucket_by_id(bucket.id)
            found.retention_rules = [BucketRetentionRules("expire", every_seconds=30 * 86_400)]
            buckets.update_bucket(found)

        key = (request.path.stem, request.node.name)
        try:
            with recording(url, *key) if records else nullcontext(url) as asked:
                yield make_influx_backend(
                    asked,
                    org,
                    token,
                    feeder,
                    is_recorded=records,
                    make_token=make_token,
                    deactivate_token=deactivate_token,
                    limit_retention=limit_retention,
                )
        finally:
            buckets.delete_bucket(bucket.id)
            for made in tokens:
                authorizations.delete_authorization(made)


@pytest.fixture
def influxdb_recorded_backend(request: pytest.FixtureRequest) -> Iterator[InfluxBackend]:
    """Give what a real server answered when this test was recorded."""
    test = request.node.name.replace("influxdb_recorded", "influxdb")
    with replaying(request.path.stem, test) as url:
        yield make_influx_backend(
            url,
            "ArtiSky",
            "hush-hush",
            "recorded",
            is_recorded=True,
            make_token=lambda **_: "a-token-with-fewer-rights",
            deactivate_token=lambda _: None,
            limit_retention=lambda: None,
        )


INFLUX_BACKENDS = [
    pytest.param("influxdb_recorded", id="influxdb_recorded"),
    pytest.param("influxdb", id="influxdb", marks=pytest.mark.external_service),
]


@pytest.fixture(params=INFLUX_BACKENDS)
def influx(request: pytest.FixtureRequest) -> InfluxBackend:
    """Give InfluxDB's recorded answers, then the real server."""
    return request.getfixturevalue(f"{request.param}_backend")


@pytest.fixture(
    params=[
        pytest.param("sqlite", id="sqlite"),
        pytest.param("postgresql", id="postgresql", marks=pytest.mark.external_service),
        *INFLUX_BACKENDS,
    ]
)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Give each backend in turn."""
    return request.getfixturevalue(f"{request.param}_backend")


@pytest.fixture
def store(backend: Backend) -> Iterator[ParameterStore]:
    """Give an empty store of each backend in turn."""
    with backend.open() as store:
        yield store


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Run a local HTTP server that plays InfluxDB."""
    with running_server() as fake:
        yield fake


@pytest.fixture
def fake_store(server: FakeServer) -> Iterator[InfluxStore]:
    """Give a store that asks the local server and does not wait between attempts."""
    with InfluxStore(server.url, org="ArtiSky", token="hush-hush", timeout_s=5) as store:  # noqa: S106
        store.server.retrying.wait = tenacity.wait_none()
        yield store


@pytest.fixture
def now() -> int:
    """Give the time that tests call now."""
    return NOW_NS
