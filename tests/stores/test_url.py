"""Choosing a store, and opening it from its URL."""

import subprocess
import sys
from pathlib import Path

import pytest

from feeder_mixin.errors import SettingsError
from feeder_mixin.stores.influx import InfluxStore
from feeder_mixin.stores.masking import masked_store_url
from feeder_mixin.stores.sql import SqlStore
from feeder_mixin.stores.url import choose_store_url, load_token, open_store
from tests.builders import make_full_record, make_settings

SECRET = "hush-hush"  # noqa: S105  (a secret of nothing)
INFLUX = "influxdb+http://host:8086?org=ArtiSky"


@pytest.mark.parametrize(
    ("option", "environ", "config", "expected"),
    [
        pytest.param("o", {"FEEDER_STORE_URL": "e"}, "c", ("o", "--store"), id="option"),
        pytest.param(
            None, {"FEEDER_STORE_URL": "e"}, "c", ("e", "FEEDER_STORE_URL"), id="environment"
        ),
        pytest.param(None, {}, "c", ("c", "config feeder.store_url"), id="config"),
        pytest.param(
            None,
            {},
            None,
            ("sqlite:////home/ft/rehearsal/feeder_params.sqlite", "default"),
            id="default_is_in_the_user_folder_in_force",
        ),
        pytest.param(
            "sqlite:///user_data/x.sqlite",
            {},
            None,
            ("sqlite:////home/ft/user_data/x.sqlite", "--store"),
            id="relative_is_anchored_beside_the_user_folder",
        ),
        pytest.param(
            "", {"FEEDER_STORE_URL": ""}, "c", ("c", "config feeder.store_url"), id="empty_is_unset"
        ),
    ],
)
def test_choose_store_url_takes_first_source(option, environ, config, expected):
    """The first source that is set wins, and its name comes with it."""
    settings = make_settings(
        Path("/home/ft/rehearsal"), **({"store_url": config} if config else {})
    )
    assert choose_store_url(option, environ, settings) == expected


@pytest.mark.parametrize(
    ("url", "path"),
    [
        pytest.param("sqlite:///user_data/s.sqlite", "/root/user_data/s.sqlite", id="relative"),
        pytest.param("sqlite:////abs/s.sqlite", "/abs/s.sqlite", id="absolute"),
        pytest.param("sqlite:///a b%20#c.sqlite", "/root/a b%20#c.sqlite", id="taken_literally"),
    ],
)
def test_open_store_sqlite_path_is_anchored(url, path):
    """Three slashes begin a path below the root, four an absolute one."""
    store = open_store(url, root=Path("/root"))
    assert isinstance(store, SqlStore)
    assert store.description == f"sqlite {path}"


def test_open_store_sqlite_with_odd_characters_works(tmp_path):
    """A path with spaces, percent and hash signs is a path like any other."""
    with open_store("sqlite:///a b%20#c.sqlite", root=tmp_path) as store:
        store.write([make_full_record()])
    assert (tmp_path / "a b%20#c.sqlite").exists()


def test_open_store_postgresql_hides_password():
    """A PostgreSQL URL opens the SQL store, which shows no password."""
    store = open_store(f"postgresql+psycopg://bot:{SECRET}@db/feeder", root=Path())
    assert isinstance(store, SqlStore)
    assert "bot:***@db/feeder" in store.description
    assert SECRET not in store.description + repr(store)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        pytest.param(INFLUX, "http://host:8086", id="http"),
        pytest.param("influxdb+https://host/db/?org=ArtiSky", "https://host/db", id="https_path"),
        pytest.param("influxdb+http://[::1]:8086?org=ArtiSky", "http://[::1]:8086", id="ipv6"),
    ],
)
def test_open_store_influxdb_takes_token_from_environment(url, server):
    """An InfluxDB URL gives server and organisation; the token comes from the environment."""
    with open_store(url, root=Path(), environ={"FEEDER_STORE_TOKEN": SECRET}) as store:
        assert isinstance(store, InfluxStore)
        assert store.description == f"influxdb {server} org=ArtiSky"
        assert store.server.client.api_client.default_headers["Authorization"] == f"Token {SECRET}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param(
            f"mysql://bot:{SECRET}@db/x",
            r"'mysql': use one of sqlite, postgresql\+psycopg, influxdb\+http, influxdb\+https",
            id="unknown_kind",
        ),
        pytest.param(f"{SECRET}", "text without ://", id="no_url"),
        pytest.param("sqlite://user_data/x", "sqlite:///relative", id="sqlite_two_slashes"),
        pytest.param("sqlite:///", "no SQLite file", id="sqlite_empty"),
        pytest.param("sqlite:///:memory:", "no SQLite file", id="sqlite_memory"),
        pytest.param("sqlite:///x?mode=ro", "without options", id="sqlite_options"),
        pytest.param("influxdb+http://host:8086", "lacks org", id="no_org"),
        pytest.param("influxdb+http://host:8086?org=", "lacks org", id="empty_org"),
        pytest.param("influxdb+http://?org=ArtiSky", "lacks host", id="no_host"),
        pytest.param("influxdb+http://host:x?org=ArtiSky", "can't be read", id="bad_port"),
        pytest.param(f"{INFLUX}&token={SECRET}", "set FEEDER_STORE_TOKEN", id="token"),
        pytest.param(f"{INFLUX}&API_Token={SECRET}", "set FEEDER_STORE_TOKEN", id="any_token"),
        pytest.param(
            f"influxdb+http://u:{SECRET}@host?org=A", "set FEEDER_STORE_TOKEN", id="password"
        ),
        pytest.param(f"{INFLUX}&bucket={SECRET}", "unknown option bucket", id="unknown_option"),
        pytest.param(
            f"postgresql+psycopg://bot:{SECRET}@host:x/db", "not a valid PostgreSQL", id="postgres"
        ),
    ],
)
def test_open_store_bad_url_says_what_is_wrong(url, message):
    """A URL that can't be used names the fault and the remedy, and repeats no secret."""
    with pytest.raises(SettingsError, match=message) as caught:
        open_store(url, root=Path(), environ={"FEEDER_STORE_TOKEN": "t"})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_open_store_influxdb_without_token_says_where_to_put_it():
    """No token at all names both places for it."""
    with pytest.raises(SettingsError, match="FEEDER_STORE_TOKEN or FEEDER_STORE_TOKEN_FILE"):
        open_store(INFLUX, root=Path(), environ={})


def test_load_token_reads_file_without_line_end(tmp_path):
    """A token file's line end is no part of the token."""
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    assert load_token({"FEEDER_STORE_TOKEN_FILE": str(path)}) == SECRET
    assert load_token({"FEEDER_STORE_TOKEN": SECRET}) == SECRET
    assert load_token({}) is None


@pytest.mark.parametrize(
    ("content", "environ", "message"),
    [
        pytest.param(b"x", {"FEEDER_STORE_TOKEN": SECRET}, "not both", id="both"),
        pytest.param(None, {}, "No such file", id="missing"),
        pytest.param(b" \n", {}, "empty", id="empty"),
        pytest.param(b"hush-hush\xff", {}, "not UTF-8", id="not_text"),
    ],
)
def test_load_token_bad_source_is_an_error(tmp_path, content, environ, message):
    """A token source that can't be used is an error without the token."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o400)
    with pytest.raises(SettingsError, match=message) as caught:
        load_token({"FEEDER_STORE_TOKEN_FILE": str(path), **environ})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777, 0o610], ids=oct)
def test_load_token_from_a_file_that_others_may_use_is_refused(tmp_path, mode):
    """A token that group or others can reach is refused, with the command that mends it."""
    path = tmp_path / "a token"
    path.write_text(SECRET)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=rf"mode {mode:04o}.*chmod 600 '.*a token'") as caught:
        load_token({"FEEDER_STORE_TOKEN_FILE": str(path)})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://bot:{SECRET}@db:5432/feeder",
        f"postgresql+psycopg://db/feeder?password={SECRET}",
        f"{INFLUX}&token={SECRET}",
        f"x://[{SECRET}",
    ],
)
def test_masked_store_url_shows_no_secret(url):
    """A URL shown to users has its secrets masked whole."""
    assert SECRET not in masked_store_url(url)
    assert "***" in masked_store_url(url)


def test_description_of_a_postgresql_store_shows_no_secret_of_its_query(tmp_path):
    """A driver takes passwords as options: values are masked in every message that names the store."""
    url = f"postgresql+psycopg://bot:{SECRET}@db/feeder?sslpassword={SECRET}"
    with open_store(url, root=tmp_path) as store:
        assert (
            store.description == "postgresql postgresql+psycopg://bot:***@db/feeder?sslpassword=***"
        )


@pytest.mark.parametrize("url", ["sqlite:///user_data/x", "sqlite:////abs/x", INFLUX])
def test_masked_store_url_without_secret_is_unchanged(url):
    """A URL without secrets is shown as it is."""
    assert masked_store_url(url) == url


def test_import_of_stores_loads_no_database_client():
    """Choosing a store imports neither SQLAlchemy nor the InfluxDB client."""
    code = (
        "import sys, feeder_mixin.stores, feeder_mixin.stores.url\n"
        "sys.exit(any(m in sys.modules for m in ('sqlalchemy', 'influxdb_client', 'psycopg')))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False)  # noqa: S603  (our own code)
    assert result.returncode == 0
