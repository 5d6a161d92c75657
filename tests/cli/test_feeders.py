"""Several feeders in one command: one that fails costs itself alone, by name and exit code."""

from __future__ import annotations

import json
import time
import uuid
from argparse import Namespace

import pytest
from influxdb_client import Permission, PermissionResource

from feeder_mixin.cli.feeders import for_each_bot
from feeder_mixin.errors import StoreError, StoreUnavailableError
from feeder_mixin.stores.influx import InfluxStore
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import SqlStore
from tests.builders import make_record

PAIR = "BTC/USDT:USDT"
NAMES = ("one", "two", "three")


@pytest.fixture
def feeders(project, write_config):
    """Give three feeders with a store each, the second's damaged; return a function that damages."""

    def damage(name):
        (project / f"{name}.sqlite").write_bytes(b"no database" * 1000)

    for name in NAMES:
        url = f"sqlite:///{name}.sqlite"
        write_config(name, feeder={"side": "long", "store_url": url})
        with SqlStore(project / f"{name}.sqlite") as store:
            store.write([make_record(PAIR, time.time_ns(), feeder_id=name)])
    damage("two")
    return damage


COMMANDS = [
    ("show",),
    ("history",),
    ("export",),
    ("export", "--out", "backup.jsonl"),
    ("flush",),
    ("prune", "--older-than", "30"),
    ("init-store",),
    ("diff", "--from", "2020-01-01T00:00:00Z"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command_goes_on_after_a_feeder_that_fails(feeders, feeder, command, project):
    """The others have their turn, the failed one is named with its reason, and the exit code is 3."""
    code, out, err = feeder(*command, "--feeder", *NAMES)
    assert code == 3, err
    said = " ".join((out + err).split())
    named = "two: nothing waits, but" if command[0] == "flush" else "two failed: "
    assert named in said
    assert "malformed" in said or "not a database" in said
    for name in ("one", "three"):
        assert f"{name}: " in said or f"{name} {PAIR}" in said or f"{name} long" in said
        assert f"{name} failed" not in said
    if "--out" in command:
        lines = (project / "backup.jsonl").read_text().splitlines()
        assert [json.loads(line)["feeder_id"] for line in lines] == ["one", "three"]
        assert "backup.jsonl lacks two" in said


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command_of_which_every_feeder_fails_exits_1(feeders, feeder, command, project):
    """Nothing came of it, and no file takes the place of an earlier one."""
    (project / "backup.jsonl").write_text("of yesterday")
    for name in NAMES:
        feeders(name)
    code, _, err = feeder(*command, "--feeder", *NAMES)
    assert code == 1
    assert [name for name in NAMES if f"{name} failed: " in err or f"{name}: " in err] == [*NAMES]
    assert (project / "backup.jsonl").read_text() == "of yesterday"


def test_json_of_several_feeders_has_those_that_did_not_fail(feeders, feeder):
    """One document still, and the exit code tells that it is not whole."""
    code, out, _ = feeder("show", "--feeder", *NAMES, "--json")
    assert code == 3
    assert [record["feeder_id"] for record in json.loads(out)] == ["one", "three"]


def test_import_goes_on_after_a_feeder_that_fails(feeders, feeder, project):
    """A restore of six is not ended by the first that can't be written."""
    copy = project / "copy.jsonl"
    feeder("export", "--feeder", "one", "three", "--out", copy)
    two = copy.read_text().splitlines()[0].replace('"one"', '"two"')
    copy.write_text(f"{two}\n{copy.read_text()}")
    code, out, err = feeder("import", copy, "--feeder", *NAMES)
    assert code == 3
    assert "two failed: " in err
    assert "run the same command again" in " ".join(err.split())
    assert "three: 1 record, 0 candidates" in out


def test_one_feeder_alone_ends_in_its_own_error(feeders, feeder):
    """As ever: exit code 1, and no word of others."""
    code, _, err = feeder("show", "--feeder", "two")
    assert code == 1
    assert "two failed" not in err


def test_settings_errors_of_all_feeders_are_a_usage_error(feeders, feeder):
    """A typing error in --pairs is no failure of a store."""
    code, _, err = feeder("diff", "--feeder", "one", "three", "--pairs", "NOPE")
    assert code == 2
    assert "three failed: " in err


def test_flush_counts_a_feeder_whose_delivery_fails(feeders, feeder, project):
    """Delivered elsewhere, waiting here: exit code 3, 1 when nothing was delivered at all."""
    for name in ("one", "two"):
        path = project / "user_data" / "feeder_state" / name / "outbox.sqlite"
        waiting = Outbox(path)
        waiting.put(make_record(PAIR, time.time_ns(), feeder_id=name))
        waiting.close()
    code, out, err = feeder("flush", "--feeder", "one", "two")
    assert code == 3
    assert "one: 1 delivered to" in out
    assert "two: 0 delivered to" in err
    assert "1 remain" in err
    assert feeder("flush", "--feeder", "two")[0] == 1


def test_flush_that_can_not_look_never_says_that_nothing_remains(
    project, write_config, feeder, monkeypatch
):
    """A token that opens one feeder's bucket alone is no clean bill for the others."""
    write_config("one")

    def refuse(_):
        raise StoreUnavailableError("no right to read it")

    with monkeypatch.context() as patch:
        patch.setattr(SqlStore, "ping", refuse)
        code, out, err = feeder("flush", "--feeder", "one")
    assert (code, out) == (1, "")
    assert "can't be used: no right to read it" in err
    assert "remain" not in err
    code, out, _ = feeder("flush", "--feeder", "one")
    assert code == 0
    assert "one: 0 delivered to" in out
    assert "nothing waits" in out


def test_optimize_goes_on_after_a_feeder_that_fails(feeders, feeder, monkeypatch):
    """A busy feeder keeps no other from being tuned; the code is that of the failed one."""
    asked = []

    def tune(settings, *_):
        asked.append(settings.feeder_id)
        if settings.feeder_id == "two":
            raise StoreError("another optimizer is at work")
        return {"feeder_id": settings.feeder_id}, 0

    monkeypatch.setattr("feeder_mixin.cli.optimize._optimize_one", tune)
    code, _, err = feeder("optimize", "--feeder", *NAMES)
    assert asked == [*NAMES]
    assert code == 1
    assert "feeder optimize: two failed: another optimizer" in err


def test_for_each_bot_lets_a_defect_through(feeders):
    """Only errors of ours are a feeder's: another is shown whole."""

    def work(_):
        raise ZeroDivisionError

    arguments = Namespace(feeder=["one", "three"], config=None, userdir=None, command="show")
    with pytest.raises(ZeroDivisionError):
        for_each_bot(arguments, work)


@pytest.mark.external_service
def test_one_token_as_printed_serves_all_feeders_on_a_real_server(
    project, write_config, feeder, monkeypatch, influx_server
):
    """The commands' rights, no more: each role's token does its work in every bucket."""
    url, admin, org = influx_server
    names = [f"test-{uuid.uuid4().hex}" for _ in range(2)]
    for name in names:
        write_config(name)
    monkeypatch.setenv("FEEDER_STORE_URL", f"influxdb+{url}?org={org}")
    monkeypatch.setenv("FEEDER_STORE_TOKEN", admin)
    code, out, err = feeder("init-store", "--feeder", *names, "--json")
    assert code == 0, err
    documents = json.loads(out)
    with InfluxStore(url, org=org, token=admin) as store:
        client = store.server.client
        org_id = client.buckets_api().find_bucket_by_id(documents[0]["bucket_id"]).org_id
        made = []

        def make_token(command):
            words = command.split()
            permissions = [
                Permission(
                    action=word[2:-7],
                    resource=PermissionResource(type="buckets", id=words[i + 1], org_id=org_id),
                )
                for i, word in enumerate(words)
                if word in ("--read-bucket", "--write-bucket")
            ]
            made.append(client.authorizations_api().create_authorization(org_id, permissions))
            return made[-1].token

        try:
            shared = documents[1]["shared_token_commands"]
            bot, optimizer = make_token(shared["bot"]), make_token(shared["optimizer"])
            own = make_token(documents[0]["token_commands"]["bot"])
            for token, code in ((bot, 0), (optimizer, 0), (own, 3)):
                monkeypatch.setenv("FEEDER_STORE_TOKEN", token)
                for command in ("export", "flush"):
                    assert feeder(command, "--feeder", *names)[0] == code
            with InfluxStore(url, org=org, token=optimizer) as writer:
                writer.write([make_record(PAIR, time.time_ns(), feeder_id=name) for name in names])
            with InfluxStore(url, org=org, token=bot) as reader, pytest.raises(StoreError):
                reader.write([make_record(PAIR, time.time_ns(), feeder_id=names[0])])
        finally:
            for one in made:
                client.authorizations_api().delete_authorization(one)
            for document in documents:
                client.buckets_api().delete_bucket(document["bucket_id"])
