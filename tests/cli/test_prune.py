"""`feeder prune`: deletes what is old, and never what anything stands on."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import pytest

from feeder_mixin.documents import Numbers
from feeder_mixin.live.state.files import write_private
from feeder_mixin.live.state.last_good import save_last_good
from feeder_mixin.live.state.status import write_status
from feeder_mixin.schema import CANDIDATES, format_time_ns
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import SqlStore
from feeder_mixin.tune.run.journal import Journal
from tests.builders import make_record, make_settings
from tests.live.fake_bot import make_pair, make_status
from tests.reports import builder

FEEDER = ("--feeder", "feeder120b")
PAIR, OTHER = "BNB/USDT:USDT", "DOGE/USDT:USDT"
NOW_NS = time.time_ns()
DAY_NS = 86_400 * 10**9


def record_of_age(age_days, pair=PAIR):
    """Return a record so many days old."""
    return make_record(pair, NOW_NS - int(age_days * DAY_NS))


@pytest.fixture
def settings(project):
    """Give the feeder's settings."""
    return make_settings(project / "user_data")


@pytest.fixture
def store(project):
    """Give the default store, with records of one pair 5, 40, 50, 60 and 70 days old."""
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as store:
        store.write([record_of_age(age) for age in (5, 40, 50, 60, 70)])
        yield store


def ages(store, pair=PAIR, **options):
    """Return the ages in days of what is stored, youngest first."""
    points = store.history("feeder120b", pair, **options)
    return [round((NOW_NS - point.time_ns) / DAY_NS) for point in points]


def prune(feeder, *options):
    """Prune everything over 30 days old, and return what was printed."""
    code, out, err = feeder("prune", *FEEDER, "--older-than", 30, *options)
    assert code == 0, err
    return out


def test_prune_deletes_what_is_old_and_prints_each(project, store, feeder):
    """Every deletion is a line with pair and time."""
    out = prune(feeder)
    assert ages(store) == [5]
    for age in (40, 50, 60, 70):
        shown = format_time_ns(record_of_age(age).time_ns)
        assert f"{PAIR}: record of {shown} deleted" in out
    assert "4 points deleted" in out
    assert "0 points deleted" in prune(feeder)


def test_prune_dry_run_says_the_same_and_deletes_nothing(project, store, settings, feeder):
    """What would go can be read before it goes."""
    with closing(Outbox(settings.outbox_path)) as outbox:
        for age in (40, 50):
            outbox.put(record_of_age(age))
        outbox.deliver(store)
        wet = json.loads(prune(feeder, "--dry-run", "--json"))[0]
        assert ages(store) == [5, 40, 50, 60, 70]
        assert wet["outbox_entries"] == 1
        dry = json.loads(prune(feeder, "--json"))[0]
    same = ("points", "outbox_entries", "journal_runs")
    assert [wet[key] for key in same] == [dry[key] for key in same]


def test_prune_keeps_a_pairs_newest_record_whatever_its_age(project, store, feeder):
    """A pair that was tuned long ago keeps its record; half-written newer points protect none."""
    store.write([record_of_age(age, OTHER) for age in (45, 55)])
    store.write([record_of_age(35, OTHER)])
    with store.write_connection() as connection:
        connection.exec_driver_sql(
            "UPDATE optimized_parameters SET max_depth = NULL WHERE time_ns = ?",
            (record_of_age(35).time_ns,),
        )
    prune(feeder)
    assert ages(store, OTHER) == [45]


def test_prune_keeps_the_newest_valid_record_behind_an_invalid_one(project, store, feeder):
    """The invalid one must go on to be rejected; the valid one is what can be gone back to."""
    store.write([record_of_age(age, OTHER) for age in (35, 45, 55)])
    with store.write_connection() as connection:
        connection.exec_driver_sql(
            "UPDATE optimized_parameters SET num_leaves = 99 WHERE time_ns = ? AND pair = ?",
            (record_of_age(35).time_ns, OTHER),
        )
    prune(feeder)
    assert ages(store, OTHER) == [35, 45]


def test_prune_keeps_what_the_bot_has_loaded_serves_and_keeps(project, store, settings, feeder):
    """Loaded, serving and last good may be three different records; none is deleted."""
    status = make_status()
    status["pairs"] = {PAIR: make_pair(record_of_age(40).time_ns)}
    status["pairs"][PAIR]["model"]["version"] = format_time_ns(record_of_age(50).time_ns)
    write_status(settings.status_path, status)
    save_last_good(settings, [record_of_age(60)])
    prune(feeder)
    assert ages(store) == [5, 40, 50, 60]


@pytest.mark.parametrize("name", ["status_path", "last_good_path"])
def test_prune_with_a_damaged_state_file_deletes_nothing(project, store, settings, feeder, name):
    """Where nobody can tell what runs, nothing is deleted; the file is named."""
    path = getattr(settings, name)
    write_private(path, "{")
    code, _, err = feeder("prune", *FEEDER, "--older-than", 30)
    assert code == 1
    assert path.name in err
    assert len(ages(store)) == 5


def test_prune_candidates_by_the_same_rule(project, store, feeder):
    """Refused sets age as records do; the newest stays to be looked at."""
    store.write([record_of_age(age) for age in (80, 90)], CANDIDATES)
    assert "candidate of" in prune(feeder)
    assert ages(store, measurement=CANDIDATES) == [80]


def test_prune_finds_pairs_that_left_the_config(project, store, feeder):
    """What nobody tunes any more is bounded, too."""
    store.write([record_of_age(age, "GONE/USDT:USDT") for age in (40, 50)])
    prune(feeder)
    assert ages(store, "GONE/USDT:USDT") == [40]


def test_prune_outbox_keeps_what_waits_and_each_pairs_newest(project, store, settings, feeder):
    """An undelivered result of any age stays, and is delivered afterwards."""
    with closing(Outbox(settings.outbox_path)) as outbox:
        for age in (80, 90):
            outbox.put(record_of_age(age, OTHER))
            outbox.put(record_of_age(age, OTHER), CANDIDATES)
        assert outbox.deliver(store).remaining == 0
        waiting = outbox.put(record_of_age(100, OTHER))
        assert "2 delivered outbox entries" in prune(feeder)
        assert outbox.pending() == [waiting]
        newest = outbox.latest_entered("feeder120b", [OTHER]).records[OTHER]
        assert newest.time_ns == record_of_age(80).time_ns
        assert "1 delivered" in feeder("flush", *FEEDER)[1]
    with sqlite3.connect(settings.outbox_path) as db:
        assert db.execute("SELECT COUNT(*) FROM delivered").fetchone() == (2,)


def test_prune_outbox_leaves_keys_that_an_interrupted_tuning_may_still_take(
    project, store, settings, feeder
):
    """Its results enter under the time at which they were made, however long ago that was."""
    with Journal(settings.journal_path) as journal:
        run = journal.begin({PAIR: {"pair": PAIR}}, {})[PAIR]
        journal.finish(run.run_id, builder.make_result())
    with sqlite3.connect(settings.journal_path) as db:
        db.execute("UPDATE runs SET created_s = ?", ((NOW_NS - 65 * DAY_NS) / 1e9,))
    with closing(Outbox(settings.outbox_path)) as outbox:
        for age in (40, 60, 70):
            outbox.put(record_of_age(age))
        outbox.deliver(store)
        _, out, err = feeder("prune", *FEEDER, "--older-than", 30)
        assert "1 delivered outbox entries" in out
        assert "was interrupted and can be resumed" in err
        taken = record_of_age(60)
        again = outbox.put(replace(taken, metrics={"skill": 0.1}))
    assert again.time_ns == taken.time_ns + 1


def test_prune_journal_keeps_open_runs_and_each_pairs_newest_result(
    project, store, settings, feeder
):
    """Only closed runs go, with their trials; the report still finds what it shows."""
    with Journal(settings.journal_path) as journal:
        ids = []
        for number in range(3):
            run = journal.begin({PAIR: {"number": number}}, {})[PAIR]
            journal.save_trials(run.run_id, "search", {0: {}})
            journal.finish(run.run_id, builder.make_result(seed=number))
            journal.close_runs([run.run_id])
            ids.append(run.run_id)
        unclosed = journal.begin({OTHER: {"number": 9}}, {})[OTHER]
    with sqlite3.connect(settings.journal_path) as db:
        db.execute("UPDATE runs SET created_s = ?", ((NOW_NS - 65 * DAY_NS) / 1e9,))
    assert "2 closed runs of the journal" in prune(feeder)
    with Journal(settings.journal_path) as journal:
        assert journal.newest_results().results[PAIR] == (ids[2], builder.make_result(seed=2))
        assert journal.begin({OTHER: {"number": 9}}, {})[OTHER].run_id == unclosed.run_id
        assert [len(journal.trials(run_id, "search", Numbers)) for run_id in ids] == [0, 0, 1]


@pytest.mark.parametrize("days", ["0.5", "-3", "nan", "1e9"])
def test_prune_of_an_unusable_age_is_refused(project, store, feeder, days):
    """A typing error deletes nothing."""
    code, _, err = feeder("prune", *FEEDER, "--older-than", days)
    assert code == 2
    assert "expected days from 1 to" in err
    assert len(ages(store)) == 5


def test_prune_without_store_or_state_finds_nothing_and_makes_nothing(project, feeder):
    """Asking is free."""
    assert "0 points deleted" in prune(feeder)
    assert list((project / "user_data").iterdir()) == []
