"""`feeder rollback`: the old values again as a new record, everything or nothing, said before and after."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import replace

import pytest

from feeder_mixin.documents import Numbers
from feeder_mixin.errors import StoreError, StoreUnavailableError
from feeder_mixin.live.state.status import read_status
from feeder_mixin.schema import (
    CANDIDATES,
    NANOSECONDS,
    format_time_ns,
)
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import SqlStore
from feeder_mixin.tune.run.journal import Journal
from feeder_mixin.tune.run.lock import feeder_lock
from tests.builders import make_settings
from tests.cli.conftest import BASE_NS, FEEDER, OTHER, PAIR, record_after, shown
from tests.live.fake_bot import fake_bot


def test_rollback_to_a_shown_time_appends_that_records_copy(project, store, history, feeder):
    """The old values to the last digit become the newest record, which says whose they are."""
    code, out, err = feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(history[0]))
    assert code == 0, err
    points = store.history("feeder120b", PAIR)
    assert len(points) == 4
    newest = points[0].build_record("feeder120b")
    assert (newest.parameters, newest.metrics) == (history[0].parameters, history[0].metrics)
    assert newest.provenance == {
        **history[0].provenance,
        "rolled_back_from": shown(history[0]),
        "rolled_back_host": os.uname().nodename,
    }
    assert f"{PAIR}: {shown(history[0])} is written again as {shown(newest)}" in out
    assert [point.build_record("feeder120b") for point in points[1:]] == history[::-1]


@pytest.mark.parametrize(
    ("after_s", "found"),
    [
        pytest.param("12.000000000", 0, id="between_two"),
        pytest.param("20.249999999", 0, id="a_nanosecond_before"),
        pytest.param("20.250000000", 1, id="exact"),
        pytest.param("20.25", 1, id="exact_with_fewer_digits"),
        pytest.param("20", 1, id="as_tables_show_it_to_the_second"),
        pytest.param("21", 1, id="the_next_second"),
    ],
)
def test_rollback_time_names_the_record_shown_so_else_the_newest_not_after(
    project, store, history, feeder, after_s, found
):
    """Whatever was copied from a screen finds the record that stood there, and it is said."""
    seconds, point, fraction = after_s.partition(".")
    base = format_time_ns(BASE_NS + int(seconds) * NANOSECONDS)[:19]
    code, out, _ = feeder("rollback", *FEEDER, "--pair", PAIR, "--to", f"{base}{point}{fraction}Z")
    assert code == 0
    assert shown(history[found]) in out
    assert store.latest("feeder120b").records[PAIR].parameters == history[found].parameters


def test_rollback_time_with_another_zone_is_the_same_instant(project, store, history, feeder):
    """An operator ahead of UTC may give the local time, with its zone."""
    local = format_time_ns(history[0].time_ns + 7 * 3600 * NANOSECONDS).replace("Z", "+07:00")
    assert feeder("rollback", *FEEDER, "--pair", PAIR, "--to", local)[0] == 0
    assert store.latest("feeder120b").records[PAIR].parameters == history[0].parameters


def test_rollback_to_what_is_newest_already_writes_nothing(project, store, history, feeder):
    """Asked twice, the second time finds the values there."""
    arguments = ("rollback", *FEEDER, "--pair", PAIR, "--to", shown(history[0]))
    feeder(*arguments)
    code, out, _ = feeder(*arguments)
    assert code == 0
    assert "nothing is written" in out
    assert len(store.history("feeder120b", PAIR)) == 4


@pytest.mark.parametrize(
    ("to", "words"),
    [
        pytest.param("2026-01-01T00:00:00", "no zone", id="naive"),
        pytest.param("yesterday", "RFC 3339", id="unreadable"),
        pytest.param("2200-01-01T00:00:00Z", "in the future", id="future"),
        pytest.param("2026-01-01T00:00:00Z", "no record at or before", id="before_the_first"),
    ],
)
def test_rollback_to_an_unusable_time_is_refused_with_the_value(
    project, store, history, feeder, to, words
):
    """The time is named, and what was expected; nothing is written."""
    code, _, err = feeder("rollback", *FEEDER, "--pair", PAIR, "--to", to)
    assert code == 2
    assert words in err
    assert to in err
    assert len(store.history("feeder120b", PAIR)) == 3


def spoil(store, record, **values):
    """Change stored values of a record, past all checks."""
    with store.write_connection() as connection:
        for name, value in values.items():
            connection.exec_driver_sql(
                f"UPDATE optimized_parameters SET {name} = ? WHERE time_ns = ?",  # noqa: S608
                (value, record.time_ns),
            )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"num_leaves": 500.0}, "num_leaves=500.0 is outside 15 to 63", id="range"),
        pytest.param({"max_depth": None}, "max_depth missing", id="incomplete"),
        pytest.param({"horizon_candles": 60.0}, "horizon_candles=60", id="horizon"),
        pytest.param({"side": 1.0}, "side=long, but this feeder is short", id="side"),
        pytest.param({"timeframe_s": 60.0}, "timeframe_s=60", id="timeframe"),
    ],
)
def test_rollback_to_a_record_no_bot_would_take_is_refused(
    project, store, history, feeder, values, words
):
    """The field is named; no older record is taken in its place."""
    spoil(store, history[1], **values)
    code, _, err = feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(history[1]))
    assert code == 2
    assert words in err
    assert "nothing is written" in err
    assert len(store.history("feeder120b", PAIR)) == 3


def test_rollback_passes_over_a_half_written_point_that_was_not_named(
    project, store, history, feeder
):
    """As a bot would have at that time."""
    spoil(store, history[1], max_depth=None)
    to = format_time_ns(history[1].time_ns + NANOSECONDS)
    assert feeder("rollback", *FEEDER, "--pair", PAIR, "--to", to)[0] == 0
    assert store.latest("feeder120b").records[PAIR].parameters == history[0].parameters


def test_rollback_all_with_one_pair_that_can_not_writes_nothing_at_all(
    project, store, history, feeder
):
    """Every pair is resolved first; each that has no record is named."""
    store.write([record_after(5, OTHER)])
    code, _, err = feeder("rollback", *FEEDER, "--all", "--to", shown(history[0]))
    assert code == 2
    assert "BCH/USDT:USDT: no record" in err
    assert "ZEC/USDT:USDT: no record" in err
    assert len(store.history("feeder120b", PAIR)) == 3
    assert len(store.history("feeder120b", OTHER)) == 1
    assert not Outbox(make_settings(project / "user_data").outbox_path).pending()


def test_rollback_of_a_foreign_pair_is_refused(project, store, history, feeder):
    """A typing error names the feeder's pairs."""
    code, _, err = feeder("rollback", *FEEDER, "--pair", "BTC/USDT:USDT", "--to", shown(history[0]))
    assert code == 2
    assert PAIR in err


def test_rollback_never_takes_a_candidate(project, store, history, feeder):
    """A refused set can't be gone back to, and its time does not silently mean another record."""
    candidate = record_after(25, learning_rate=0.09)
    store.write([candidate], CANDIDATES)
    code, _, err = feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(candidate))
    assert code == 2
    assert "candidate" in err
    later = format_time_ns(candidate.time_ns + NANOSECONDS)
    assert feeder("rollback", *FEEDER, "--pair", PAIR, "--to", later)[0] == 0
    assert store.latest("feeder120b").records[PAIR].parameters == history[1].parameters


def test_rollback_of_two_feeders_plans_both_before_it_writes(project, store, history, feeder):
    """One feeder that can't go back keeps the other from going."""
    to = shown(history[0])
    code, _, err = feeder("rollback", *FEEDER, "feeder75b", "--pair", PAIR, "--to", to)
    assert code == 2
    assert "feeder75b: nothing is written" in err
    assert len(store.history("feeder120b", PAIR)) == 3


def test_rollback_delivers_what_waited_before_so_that_the_copy_is_newest(
    project, store, history, feeder
):
    """A result that waited for the store is older than the rollback there, too."""
    with closing(Outbox(make_settings(project / "user_data").outbox_path)) as outbox:
        outbox.put(record_after(40, learning_rate=0.07))
    assert feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(history[2]))[0] == 0
    rates = [point.fields["learning_rate"] for point in store.history("feeder120b", PAIR)]
    assert rates[:2] == [0.05, 0.07]


def test_rollback_store_down_while_writing_keeps_the_copy_in_the_outbox(
    project, store, history, feeder, monkeypatch
):
    """Decided is on disk: exit 1, and the next flush delivers it."""

    def refuse(*_):
        raise StoreUnavailableError("gone")

    with monkeypatch.context() as patch:
        write = SqlStore.write
        patch.setattr(
            SqlStore,
            "write",
            lambda self, *a: write(self, *a) if "outbox" in self.description else refuse(),
        )
        code, _, err = feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(history[0]))
    assert code == 1
    assert "feeder flush --feeder feeder120b" in err
    assert "1 delivered" in feeder("flush", *FEEDER)[1]
    assert store.latest("feeder120b").records[PAIR].parameters == history[0].parameters


def refuse_writes(monkeypatch, *pairs):
    """Let the store refuse these pairs, as a token without the right to write is refused."""
    write = SqlStore.write

    def refuse(self, records, *more):
        if "outbox" not in self.description and any(r.pair in pairs for r in records):
            raise StoreError("no right to do this")
        write(self, records, *more)

    monkeypatch.setattr(SqlStore, "write", refuse)


def test_rollback_says_of_each_pair_what_happened_to_it(
    project, store, history, feeder, monkeypatch
):
    """Written, or waiting in the outbox; counted when written, however many tries it takes."""
    store.write([record_after(9, OTHER, learning_rate=0.03), record_after(31, OTHER)])
    arguments = ("rollback", *FEEDER, "--pair", PAIR, OTHER, "--to", shown(history[0]))
    with monkeypatch.context() as patch:
        refuse_writes(patch, PAIR, OTHER)
        for _ in range(2):
            code, out, err = feeder(*arguments)
            assert (code, "no right to do this" in err) == (1, True)
            assert out.count("is not written yet") == 2
            assert "is written again" not in out
            assert "written to" not in out
    with closing(Outbox(make_settings(project / "user_data").outbox_path)) as outbox:
        assert len(outbox.pending()) == 2
    with monkeypatch.context() as patch:
        refuse_writes(patch, OTHER)
        code, out, err = feeder(*arguments, "--json")
    (document,) = json.loads(out)
    assert (code, document["delivered_from_outbox"]) == (1, 1)
    assert f"{PAIR}: " in err
    assert "waited in the outbox and is written now" in err
    assert document["pairs"][OTHER]["delivered"] is False
    code, out, _ = feeder(*arguments)
    assert code == 0
    assert "1 record written to" in out
    assert ", 1 of which waited in the outbox" in out
    assert [len(store.history("feeder120b", pair)) for pair in (PAIR, OTHER)] == [4, 3]


def test_rollback_partly_refused_counts_what_the_store_took(
    project, store, history, feeder, monkeypatch
):
    """One pair of two is written: exit 1, and the count is one."""
    store.write([record_after(9, OTHER, learning_rate=0.03), record_after(31, OTHER)])
    refuse_writes(monkeypatch, OTHER)
    code, out, _ = feeder("rollback", *FEEDER, "--pair", PAIR, OTHER, "--to", shown(history[0]))
    assert code == 1
    assert f"{PAIR}: {shown(history[0])} is written again as" in out
    assert f"{OTHER}: {format_time_ns(BASE_NS + 9 * NANOSECONDS)} is not written yet" in out
    assert "1 record written to" in out


def test_rollback_json_has_every_pair_and_the_record(project, store, history, feeder):
    """One document: what was newest, what was gone back to, what was written."""
    arguments = ("--pair", PAIR, "--to", shown(history[0]), "--json")
    _, out, _ = feeder("rollback", *FEEDER, *arguments)
    (document,) = json.loads(out)
    pair = document["pairs"][PAIR]
    assert (pair["from"], pair["to"]) == (shown(history[2]), shown(history[0]))
    assert pair["record"]["parameters"] == dict(history[0].parameters)
    assert document["delivered"] is True


def test_rollback_reload_makes_the_bot_load_and_says_the_generation(
    project, store, history, feeder
):
    """The running bot is told at once."""
    userdir = project / "user_data"
    with fake_bot(userdir):
        arguments = ("--pair", PAIR, "--to", shown(history[0]), "--reload", "--json")
        code, out, _ = feeder("rollback", *FEEDER, *arguments)
        assert code == 0
        assert read_status(make_settings(userdir).status_path)["generation"] == 2
    assert json.loads(out)[0]["reload"]["generation_after"] == 2


def test_rollback_while_an_optimizer_works_is_refused(project, store, history, feeder):
    """It would write on top of the rollback what it compared with the record of before."""
    with feeder_lock(make_settings(project / "user_data")):
        code, _, err = feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(history[0]))
    assert code == 1
    assert "another optimizer" in err
    assert len(store.history("feeder120b", PAIR)) == 3


def test_rollback_sets_aside_an_interrupted_tuning_of_its_pairs(project, store, history, feeder):
    """Gone on with, it would decide against the record that was left behind."""
    path = make_settings(project / "user_data").journal_path
    identities = {PAIR: {"pair": PAIR}, OTHER: {"pair": OTHER}}
    with Journal(path) as journal:
        before = journal.begin(identities, {})
        journal.save_trials(before[PAIR].run_id, "search", {0: {}})
    _, _, err = feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(history[0]))
    assert "1 interrupted tuning cancelled" in err
    with Journal(path) as journal:
        after = journal.begin(identities, {})
        assert after[PAIR].run_id != before[PAIR].run_id
        assert after[OTHER].run_id == before[OTHER].run_id
        assert journal.trials(before[PAIR].run_id, "search", Numbers) == {0: {}}


def test_rollback_of_a_rollback_names_the_copy(project, store, history, feeder):
    """Forward again is another rollback; the chain can be followed in the history."""
    feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(history[0]))
    first = store.history("feeder120b", PAIR)[0]
    feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(history[2]))
    feeder("rollback", *FEEDER, "--pair", PAIR, "--to", shown(first))
    newest = store.latest("feeder120b").records[PAIR]
    assert newest.provenance["rolled_back_from"] == shown(first)
    assert newest.fields == replace(history[0], time_ns=newest.time_ns).fields
