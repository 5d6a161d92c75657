"""`feeder doctor` on a PostgreSQL store: rights, clock and column types, asked from a real server."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from feeder_mixin.stores.sql import SqlStore
from tests.cli.patient import FEEDER, PAIRS, make_patient

POSTGRES_VARIABLE = "FEEDER_TEST_POSTGRES_URL"


@pytest.fixture
def admin() -> Iterator[sa.Connection]:
    """Give a connection in a schema and with a reader of its own, both dropped afterwards."""
    if not (text := os.environ.get(POSTGRES_VARIABLE)):
        pytest.skip(f"{POSTGRES_VARIABLE} is not set")
    name = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(text, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD 'pass-word-of-reader'")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {name} TO {name}")
        connection.exec_driver_sql(f"SET search_path = {name}")
        yield connection
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
        connection.exec_driver_sql(f"DROP ROLE {name}")
    engine.dispose()


@pytest.mark.external_service
def test_doctor_tells_rights_and_types_of_a_postgresql_store(project, feeder, monkeypatch, admin):
    """Empty, full, read with a reader's rights, without any, and with a column of integers."""
    schema = admin.exec_driver_sql("SELECT current_schema()").scalar_one()
    url = sa.make_url(os.environ[POSTGRES_VARIABLE])
    url = url.update_query_dict({"options": f"-csearch_path={schema}"})
    owner = url.render_as_string(hide_password=False)
    reader = url.set(username=schema, password="pass-word-of-reader")  # noqa: S106  (of a test)

    def ask(store_url: str) -> dict[str, str]:
        monkeypatch.setenv("FEEDER_STORE_URL", store_url)
        _, out, err = feeder("doctor", "--feeder", FEEDER, "--json")
        assert "pass-word" not in out + err
        return {f["check"]: f["state"] for f in json.loads(out)}

    patient = make_patient(project)
    found = ask(owner)
    assert (found["server"], found["clock"], found["write_right"]) == ("pass",) * 3
    assert (found["bucket"], found["fields"]) == ("warn", "skipped")

    with SqlStore(owner) as store:
        store.write([patient.record(pair, patient.now_ns) for pair in PAIRS])
    found = ask(owner)
    rights = ("bucket", "read_right", "write_right", "fields", "valid_records")
    assert [found[name] for name in rights] == ["pass"] * 5

    reader_url = reader.render_as_string(hide_password=False)
    found = ask(reader_url)
    assert [found[name] for name in rights] == ["pass", "fail", "warn", "skipped", "skipped"]
    admin.exec_driver_sql(f"GRANT SELECT ON optimized_parameters TO {schema}")
    found = ask(reader_url)
    assert [found[name] for name in rights] == ["pass", "pass", "warn", "pass", "pass"]

    admin.exec_driver_sql("ALTER TABLE optimized_parameters ALTER num_leaves TYPE bigint")
    assert ask(owner)["fields"] == "fail"
