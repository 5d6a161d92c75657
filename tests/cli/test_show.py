"""`feeder show`, `history`, `flush`, `settings`: what they print, on what they are silent."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from feeder_mixin.schema import CANDIDATES, default_parameters
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import SqlStore
from tests.builders import make_record

PAIR = "BNB/USDT:USDT"


@pytest.fixture
def stored(project):
    """Return two records of one pair in the default store, newest last."""
    now = time.time_ns()
    records = [make_record(PAIR, now - 2, num_leaves=20), make_record(PAIR, now - 1, num_leaves=30)]
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as store:
        store.write(records)
    return records


def test_show_json_is_a_list_of_latest_records(project, stored, feeder):
    """One document on stdout, with the fixed keys, values to the last digit."""
    code, out, err = feeder("show", "--feeder", "feeder120b", "--json")
    assert code == 0
    (shown,) = json.loads(out)
    assert shown["feeder_id"] == "feeder120b"
    assert shown["pair"] == PAIR
    assert shown["model_type"] == "lightgbm_quantile"
    assert shown["parameters"] == dict(stored[1].parameters)
    assert shown["metrics"] == {"skill": 0.05}
    assert shown["time"].endswith("Z")
    assert "DOGE/USDT:USDT" in err  # pairs without a record are said


def test_show_table_names_every_parameter_and_the_store(project, stored, feeder):
    """A user sees what a pair would run on, and where that came from."""
    code, out, _ = feeder("show", "--feeder", "feeder120b")
    assert code == 0
    assert all(name in out for name in default_parameters())
    assert PAIR in out
    assert "from default" in out


def test_show_says_why_each_record_was_written(project, feeder):
    """What a bot runs on, and why: once for the pairs that share it."""
    why = {"outcome": "expired_replaced", "reason": "the defaults won the search"}
    back = {"rolled_back_from": "2026-11-24T03:43:45Z", "promotion": why}
    now = time.time_ns()
    records = [
        replace(make_record(pair, now - 1), provenance=provenance)
        for pair, provenance in {
            PAIR: {"promotion": why},
            "DOGE/USDT:USDT": {"promotion": why},
            "BCH/USDT:USDT": back,
            "ZEC/USDT:USDT": {"promotion": "of a foreign writer"},
        }.items()
    ]
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as store:
        store.write(records)
    _, out, _ = feeder("show", "--feeder", "feeder120b")
    said = "expired replaced: the defaults won the search"
    assert out.splitlines()[-2:] == [
        f"{PAIR}, DOGE/USDT:USDT: {said}",
        f"BCH/USDT:USDT: rolled back from 2026-11-24T03:43:45Z; {said}",
    ]


def test_show_empty_store_prints_an_empty_list_and_how_to_fill_it(project, feeder):
    """No record is an answer, and the store's file is not made by asking."""
    code, out, err = feeder("show", "--feeder", "feeder120b", "--json")
    assert code == 0
    assert json.loads(out) == []
    assert "feeder optimize --feeder feeder120b" in err
    assert not (project / "user_data" / "feeder_params.sqlite").exists()


def test_show_all_feeders_reads_every_config(project, stored, feeder):
    """`all` is every feeder with a config."""
    code, out, err = feeder("show", "--feeder", "all", "--json")
    assert code == 0
    assert len(json.loads(out)) == 1
    assert all(f"feeder{n}{x}" in err for n in (75, 120) for x in "abc")


def test_show_store_from_environment_is_said(project, stored, feeder, monkeypatch):
    """A forgotten variable must not look like an empty store."""
    monkeypatch.setenv("FEEDER_STORE_URL", "sqlite:///elsewhere.sqlite")
    _, _, err = feeder("show", "--feeder", "feeder120b")
    assert "elsewhere.sqlite" in err
    assert "FEEDER_STORE_URL" in err


def test_history_lists_newest_first(project, stored, feeder):
    """Both records, newest first, with validity."""
    _, out, _ = feeder("history", "--feeder", "feeder120b", "--json")
    shown = json.loads(out)
    assert [point["fields"]["num_leaves"] for point in shown] == [30.0, 20.0]
    assert all(point["valid"] for point in shown)


def test_show_and_history_candidates_print_refused_sets_only(project, stored, feeder):
    """With the option the refused, without it what bots read; never both."""
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as store:
        store.write([make_record(PAIR, time.time_ns(), num_leaves=40)], CANDIDATES)
    for command, values in (("show", "parameters"), ("history", "fields")):
        _, out, _ = feeder(command, "--feeder", "feeder120b", "--candidates", "--json")
        assert [one[values]["num_leaves"] for one in json.loads(out)] == [40]
    _, out, _ = feeder("show", "--feeder", "feeder120b", "--json")
    assert json.loads(out)[0]["parameters"]["num_leaves"] == 30
    _, out, err = feeder("show", "--feeder", "feeder120b", "--candidates")
    assert "candidates, store" in out
    assert "no candidate for DOGE" in err
    assert "optimize" not in err


@pytest.mark.parametrize("limit", ["0", "-3"])
def test_history_of_no_records_is_refused(project, stored, feeder, limit):
    """It would say that nothing is stored, or ask a store for all there is."""
    code, _, err = feeder("history", "--feeder", "feeder120b", "--limit", limit)
    assert code == 2
    assert f"--limit {limit}: expected 1 or more" in err


def test_history_without_candidates_says_so(project, feeder):
    """Nothing was refused, or nothing was tuned."""
    _, _, err = feeder("history", "--feeder", "feeder120b", "--candidates")
    assert "no candidate is stored" in err


def test_flush_delivers_what_waits_and_then_nothing(project, feeder):
    """Results that could not be written are written once."""
    record = make_record(PAIR, time.time_ns())
    outbox = Outbox(project / "user_data" / "feeder_state" / "feeder120b" / "outbox.sqlite")
    outbox.put(record)
    outbox.close()
    code, out, _ = feeder("flush", "--feeder", "feeder120b")
    assert code == 0
    assert "1 delivered" in out
    assert "0 delivered" in feeder("flush", "--feeder", "feeder120b")[1]
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as store:
        assert store.latest("feeder120b").records[PAIR].same_content(record)


def test_flush_unreachable_store_exits_1_and_keeps_everything(project, feeder, monkeypatch):
    """A store that is down loses nothing."""
    monkeypatch.setenv("FEEDER_STORE_TOKEN", "SECRET123")
    outbox = Outbox(project / "user_data" / "feeder_state" / "feeder120b" / "outbox.sqlite")
    outbox.put(make_record(PAIR, time.time_ns()))
    outbox.close()
    url = "postgresql+psycopg://user:SECRET456@127.0.0.1:1/none"
    code, out, err = feeder("flush", "--feeder", "feeder120b", "--store", url)
    assert code == 1
    assert "1 remain" in err
    assert "SECRET" not in out + err
    assert "1 delivered" in feeder("flush", "--feeder", "feeder120b")[1]


def test_settings_prints_every_value_and_the_stores_origin(project, feeder):
    """What a bot would run with, as JSON."""
    code, out, _ = feeder("settings", "--feeder", "feeder75a", "--json")
    assert code == 0
    (shown,) = json.loads(out)
    assert shown["side"] == "long"
    assert shown["horizon_candles"] == 30
    assert shown["store_url_from"] == "default"
    assert "BTC/USDT:USDT" in shown["context_pairs"]


def test_init_store_of_a_file_says_there_is_nothing_to_make(project, feeder):
    """SQLite needs no preparation, and asking makes no file."""
    code, out, _ = feeder("init-store", "--feeder", "feeder120b")
    assert code == 0
    assert "nothing to create" in out
    assert not (project / "user_data" / "feeder_params.sqlite").exists()
