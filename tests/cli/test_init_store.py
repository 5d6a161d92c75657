"""`feeder init-store`: what it finds, makes, warns of, and which least rights it prints.

The answers are those of a real server (InfluxDB 2, asked 2026-11-24), ids shortened.
"""

from __future__ import annotations

import json
import uuid

import pytest

from feeder_mixin.stores.influx import InfluxStore
from tests.fake_influx import running_server

FEEDER, BUCKET = "feeder120b", "OPTUNA_FEEDER120B"
TOKEN = "hush-hush"  # noqa: S105  (a token of no server)

ORG = (200, json.dumps({"orgs": [{"id": "31d0", "name": "ArtiSky"}]}))
NO_ORG_SEEN = (200, json.dumps({"orgs": []}))
ORG_UNKNOWN = (404, '{"code": "not found", "message": "organization name \\"ArtiSky\\" not found"}')
NO_BUCKET = (200, json.dumps({"buckets": []}))
READABLE = (200, '{"results":[{"statement_id":0}]}')
WRONG_TOKEN = (401, '{"code": "unauthorized", "message": "unauthorized access"}')
NO_RIGHT = (401, '{"code": "unauthorized", "message": "write:orgs/31d0/buckets is unauthorized"}')


def bucket(keeps_s=0, org_id="31d0"):
    """Return a bucket as the server describes it."""
    rules = [{"type": "expire", "everySeconds": keeps_s}] if keeps_s else []
    return {"id": "43f1", "orgID": org_id, "name": BUCKET, "retentionRules": rules}


@pytest.fixture
def server(project, monkeypatch):
    """Run a server that plays InfluxDB, named by the environment."""
    with running_server() as server:
        monkeypatch.setenv("FEEDER_STORE_URL", f"influxdb+{server.url}?org=ArtiSky")
        monkeypatch.setenv("FEEDER_STORE_TOKEN", TOKEN)
        yield server


def test_missing_bucket_is_made_without_retention_and_rights_are_printed(server, feeder):
    """The bucket keeps points for ever; commands for both tokens are ready, no token is shown."""
    server.answers += [ORG, NO_BUCKET, (201, json.dumps(bucket())), READABLE]
    code, out, err = feeder("init-store", "--feeder", FEEDER)
    assert code == 0, err
    path, _, body = server.asked[2]
    assert path == "/api/v2/buckets"
    asked = json.loads(body)
    assert (asked["orgID"], asked["name"], asked["retentionRules"]) == ("31d0", BUCKET, [])
    assert f"{FEEDER}: bucket {BUCKET} created" in out
    command = "influx auth create --org ArtiSky --description"
    assert f"{command} 'bot {FEEDER}' --read-bucket 43f1\n" in out
    assert f"{command} 'optimizer {FEEDER}' --read-bucket 43f1 --write-bucket 43f1\n" in out
    assert TOKEN not in out + err


def test_found_bucket_that_forgets_is_left_and_warned_of(server, feeder):
    """Retention would drop records: said with the command that ends it, and changed by nobody."""
    found = (200, json.dumps({"buckets": [bucket(keeps_s=30 * 86_400)]}))
    server.answers += [ORG, found, READABLE]
    code, out, err = feeder("init-store", "--feeder", FEEDER)
    assert code == 0
    assert f"bucket {BUCKET} exists already" in out
    assert "deletes points older than 30 days" in err
    assert "influx bucket update --id 43f1 --retention 0" in err
    assert [path for path, _, _ in server.asked] == ["/api/v2/orgs", "/api/v2/buckets", "/query"]


def test_bucket_of_another_organisation_is_not_taken_for_ours(server, feeder):
    """A token of several organisations sees equal names: only the URL's organisation counts."""
    other = (200, json.dumps({"buckets": [bucket(org_id="ffff")]}))
    server.answers += [ORG, other, (201, json.dumps(bucket())), READABLE]
    code, out, _ = feeder("init-store", "--feeder", FEEDER)
    assert code == 0
    assert f"bucket {BUCKET} created" in out


def test_all_feeders_json_is_one_document(server, feeder):
    """One command for the six: a list with what was found, ids and commands."""
    found = (200, json.dumps({"buckets": [bucket()]}))
    server.answers += [ORG, found, READABLE] * 6
    code, out, _ = feeder("init-store", "--feeder", "all", "--json")
    documents = json.loads(out)
    assert code == 0
    assert {d["feeder_id"] for d in documents} == {
        f"feeder{n}{x}" for n in (75, 120) for x in "abc"
    }
    for document in documents:
        assert document["bucket_id"] == "43f1"
        assert document["made"] is False
        assert document["retention_s"] is None
        assert document["warning"] is None
        assert set(document["token_commands"]) == {"bot", "optimizer"}
        assert document["shared_token_commands"]["bot"].count("--read-bucket 43f1") == 6


def test_several_feeders_get_the_commands_of_one_token_for_all(server, feeder):
    """One token is read, whatever the feeders: it must open every bucket, with no right beside."""
    ids = ("43f1", "43f2")
    for one in ids:
        found = {**bucket(), "id": one}
        server.answers += [ORG, (200, json.dumps({"buckets": [found]})), READABLE]
    code, out, _ = feeder("init-store", "--feeder", FEEDER, "feeder75a")
    assert code == 0
    read = " ".join(f"--read-bucket {one}" for one in ids)
    write = " ".join(f"--write-bucket {one}" for one in ids)
    assert f"one token for {FEEDER}, feeder75a, which all read the same FEEDER_STORE_TOKEN" in out
    assert f"'bot {FEEDER} feeder75a' {read}\n" in out
    assert f"'optimizer {FEEDER} feeder75a' {read} {write}\n" in out
    assert "A token that may write a bucket may also delete it" in out


def test_one_feeder_needs_no_shared_token(server, feeder):
    """Its own is that; what an optimizer's may do is said all the same."""
    server.answers += [ORG, (200, json.dumps({"buckets": [bucket()]})), READABLE]
    _, out, _ = feeder("init-store", "--feeder", FEEDER)
    assert "one token for" not in out
    assert "may also delete it" in out


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        pytest.param([WRONG_TOKEN], "the token is wrong: check FEEDER_STORE_TOKEN", id="token"),
        pytest.param([NO_ORG_SEEN], "organisation ArtiSky does not exist, or", id="org_unseen"),
        pytest.param([ORG_UNKNOWN], "organisation ArtiSky does not exist, or", id="org_unknown"),
        pytest.param(
            [ORG, NO_BUCKET, NO_RIGHT], f"no right to make bucket {BUCKET}", id="no_right"
        ),
    ],
)
def test_refusal_says_what_to_do_and_exits_1(server, feeder, answers, message):
    """Each way a token or organisation can be wrong has its own words."""
    server.answers += answers
    code, out, err = feeder("init-store", "--feeder", FEEDER)
    assert code == 1
    assert message in " ".join(err.split())
    assert out == ""
    assert TOKEN not in err


def test_server_down_says_so_and_exits_1(project, feeder, monkeypatch):
    """Nobody at the address: named, with the question whether it runs."""
    monkeypatch.setenv("FEEDER_STORE_TOKEN", TOKEN)
    store = "influxdb+http://127.0.0.1:1?org=ArtiSky"
    code, _, err = feeder("init-store", "--feeder", FEEDER, "--store", store)
    assert code == 1
    assert "is the server running?" in err


@pytest.mark.external_service
def test_real_server_makes_finds_and_serves_the_least_rights(
    project, write_config, feeder, monkeypatch, influx_server
):
    """Against a real server: made, then found; a token with only the bucket's rights is told apart."""
    url, token, org = influx_server
    name = f"test-{uuid.uuid4().hex}"
    write_config(name)
    monkeypatch.setenv("FEEDER_STORE_URL", f"influxdb+{url}?org={org}")
    monkeypatch.setenv("FEEDER_STORE_TOKEN", token)
    ids = []
    try:
        for made in (True, False):
            code, out, err = feeder("init-store", "--feeder", name, "--json")
            assert code == 0, err
            (document,) = json.loads(out)
            ids.append(document["bucket_id"])
            assert document["made"] is made
        assert ids[0] == ids[1]
        for variable, value, message in (
            ("FEEDER_STORE_TOKEN", "no-such-token", "the token is wrong"),
            (
                "FEEDER_STORE_URL",
                f"influxdb+{url}?org=Nobody",
                "organisation Nobody does not exist",
            ),
        ):
            with monkeypatch.context() as patch:
                patch.setenv(variable, value)
                code, _, err = feeder("init-store", "--feeder", name)
            assert code == 1
            assert message in " ".join(err.split())
    finally:
        with InfluxStore(url, org=org, token=token) as store:
            store.server.client.buckets_api().delete_bucket(ids[0])
