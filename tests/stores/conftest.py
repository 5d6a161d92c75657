"""One `store` fixture over every backend; servers are used when the environment names them."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
import tenacity
from influxdb_client.client.write_api import SYNCHRONOUS

from feeder_mixin.schema import (
    FIELD_NAMES,
    MEASUREMENT,
    NANOSECONDS,
    ParameterRecord,
    bucket_name,
    default_parameters,
)
from feeder_mixin.stores.base import ParameterStore
from feeder_mixin.stores.influx import InfluxStore
from feeder_mixin.stores.sql import TABLE, SqlStore
from tests.fake_influx import FakeServer, running_server

NOW_NS = 1_795_176_000 * NANOSECONDS
POSTGRES_VARIABLE = "FEEDER_TEST_POSTGRES_URL"
INFLUX_VARIABLES = (
    "FEEDER_TEST_INFLUX_URL",
    "FEEDER_TEST_INFLUX_TOKEN",
    "FEEDER_TEST_INFLUX_ORG",
)


@dataclass
class Backend:
    """A store under test, a feeder with a place in it, and what tests need to get around it."""

    name: str
    feeder: str
    open: Callable[[], ParameterStore]
    write_raw: Callable[[str, str, int, Mapping[str, object]], None]
    """Write a point as a foreign writer would: any fields, of any type."""


def write_sql_row(store: SqlStore, feeder: str, pair: str, time_ns: int, fields: Mapping) -> None:
    """Insert a row with any values, past all checks of the store."""
    tags = {"feeder_id": feeder, "pair": pair, "optimized_for": feeder, "model_type": "foreign"}
    row = {"time_ns": time_ns, **tags, **fields}
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    with store.write_connection() as connection:
        connection.execute(sa.text(f"INSERT INTO {TABLE.name} ({names}) VALUES ({values})"), row)  # noqa: S608


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
    writer = store._client.write_api(write_options=SYNCHRONOUS)
    writer.write(bucket_name(feeder), store._org, f"{MEASUREMENT},{tags} {body} {time_ns}")


@pytest.fixture
def sqlite_backend(tmp_path: Path) -> Iterator[Backend]:
    """Give an SQLite file that does not exist yet."""
    path = tmp_path / "folder" / "feeder_params.sqlite"
    with SqlStore(path) as store:
        yield Backend(
            "sqlite", "feeder1", lambda: SqlStore(path), lambda *row: write_sql_row(store, *row)
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
            "feeder1",
            lambda: SqlStore(postgres_url),
            lambda *row: write_sql_row(store, *row),
        )


@pytest.fixture
def influxdb_backend() -> Iterator[Backend]:
    """Give a feeder with an empty InfluxDB bucket, deleted afterwards."""
    values = [os.environ.get(name) for name in INFLUX_VARIABLES]
    if not all(values):
        pytest.skip(f"{', '.join(INFLUX_VARIABLES)} are not set")
    url, token, org = values
    feeder = f"test-{uuid.uuid4().hex}"
    with InfluxStore(url, org=org, token=token, feeder_ids=[feeder]) as store:
        assert store.create_bucket(feeder)
        yield Backend(
            "influxdb",
            feeder,
            lambda: InfluxStore(url, org=org, token=token, feeder_ids=[feeder]),
            lambda *point: write_influx_point(store, *point),
        )
        buckets = store._client.buckets_api()
        buckets.delete_bucket(buckets.find_bucket_by_name(bucket_name(feeder)))


@pytest.fixture(
    params=[
        pytest.param("sqlite", id="sqlite"),
        pytest.param("postgresql", id="postgresql", marks=pytest.mark.external_service),
        pytest.param("influxdb", id="influxdb", marks=pytest.mark.external_service),
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
        store._retrying.wait = tenacity.wait_none()
        yield store


@pytest.fixture
def now() -> int:
    """Give the time that tests call now."""
    return NOW_NS


@pytest.fixture
def make_record() -> Callable[..., ParameterRecord]:
    """Give a function that makes a valid record: all metrics set, parameters by keyword."""

    def make(
        feeder: str, pair: str = "BTC/USDT:USDT", time_ns: int = NOW_NS, **changes: float
    ) -> ParameterRecord:
        metrics = {name: i / 7 for i, name in enumerate(FIELD_NAMES[10:], 1)}
        provenance = {"seed": 7, "pairs": ["BTC/USDT:USDT", "ETH/USDT:USDT"], "text": "é \"'\\ \n"}
        return ParameterRecord(
            feeder, pair, time_ns, default_parameters() | changes, metrics, provenance
        )

    return make
