"""`feeder export` and `feeder import`: a copy of a store that another takes in, checked line by line."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import time

import pytest

from feeder_mixin.schema import (
    CANDIDATES,
    NANOSECONDS,
    format_time_ns,
)
from feeder_mixin.stores.operations.transfer import Entry, format_line
from feeder_mixin.stores.sql import SqlStore
from tests.builders import make_full_record

FEEDER = ("--feeder", "feeder120b")
PAIR, GONE = "BNB/USDT:USDT", "GONE/USDT:USDT"
FOREIGN = "DOGE/USDT:USDT"


def record_of_age(age_s, pair=PAIR, **changes):
    """Return a record with awkward values in it, made so many seconds ago."""
    time_ns = time.time_ns() - age_s * NANOSECONDS
    awkward = {"host": "é \u2028 \n", "pairs": ["A"], "nested": {"a": None}}
    record = make_full_record(pair, time_ns, **{"learning_rate": 0.1 / 3, **changes})
    return dataclasses.replace(record, provenance=awkward)


@pytest.fixture
def stored(project):
    """Give the default store with records of three pairs and a candidate, oldest last."""
    records = [record_of_age(age, pair) for age, pair in ((9, PAIR), (30, GONE), (20, PAIR))]
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as store:
        store.write(records)
        store.write([record_of_age(15, num_leaves=40)], CANDIDATES)
        yield store


def content(store):
    """Return everything that a store gives back of the feeder."""
    histories = [
        store.history("feeder120b", pair, measurement=m)
        for pair in (PAIR, GONE)
        for m in ("optimized_parameters", CANDIDATES)
    ]
    return histories, store.latest("feeder120b")


def test_export_then_import_gives_an_equal_store(project, stored, feeder):
    """Backup and restore on a fresh machine: latest and history are what they were."""
    file = project / "backup" / "feeder.jsonl"
    code, _, err = feeder("export", *FEEDER, "--out", file)
    assert code == 0
    assert "3 records, 1 candidate exported from sqlite" in err
    code, out, _ = feeder("import", file, *FEEDER, "--store", "sqlite:///other.sqlite")
    assert code == 0
    assert "3 records, 1 candidate in sqlite" in out
    with SqlStore(project / "other.sqlite") as other:
        assert content(other) == content(stored)
        feeder("import", file, *FEEDER, "--store", "sqlite:///other.sqlite")
        assert content(other) == content(stored)


def test_export_prints_one_line_a_record_oldest_first(project, stored, feeder):
    """Nanoseconds, tags and the schema's version in every line; stdout has nothing else."""
    _, out, _ = feeder("export", *FEEDER)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["pair"] for line in lines] == [GONE, PAIR, PAIR, PAIR]
    assert [line["measurement"] for line in lines].count(CANDIDATES) == 1
    assert lines == sorted(lines, key=lambda line: line["time"])
    assert all(len(line["time"]) == 30 and line["version"] == 1 for line in lines)
    _, out, _ = feeder("export", *FEEDER, "--pairs", GONE)
    assert [json.loads(line)["pair"] for line in out.splitlines()] == [GONE]


def test_export_leaves_out_and_names_what_is_no_record(project, stored, feeder):
    """An invalid stored point is said with its field, and the rest is exported."""
    with stored.write_connection() as connection:
        connection.exec_driver_sql(
            "UPDATE optimized_parameters SET num_leaves = 99 WHERE pair = ?", (GONE,)
        )
    code, out, err = feeder("export", *FEEDER)
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "not exported" in err
    assert "num_leaves=99.0 is outside 15 to 63" in err


def test_export_to_a_file_can_report_as_json(project, stored, feeder):
    """With the lines on stdout there is no room for a document."""
    assert feeder("export", *FEEDER, "--json")[0] == 2
    _, out, _ = feeder("export", *FEEDER, "--out", project / "x.jsonl", "--json")
    (document,) = json.loads(out)
    assert (document["records"], document["candidates"]) == (3, 1)
    assert (project / "x.jsonl").stat().st_mode & 0o777 == 0o600


def test_import_reads_stdin_and_counts_lines_of_others(project, feeder, monkeypatch, stored):
    """Only the named feeders' lines are taken; the others are said, not lost silently."""
    stored.write([record_of_age(5, FOREIGN, feeder_id="feeder75b")])
    _, out, _ = feeder("export", *FEEDER, "feeder75b")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(out.encode())))
    code, _, err = feeder("import", "-", *FEEDER, "--store", "sqlite:///other.sqlite")
    assert code == 0
    assert "lines of other feeders left out: feeder75b 1" in err
    with SqlStore(project / "other.sqlite") as other:
        assert other.history("feeder75b", FOREIGN) == []
        assert content(other) == content(stored)


def test_import_of_a_file_without_the_feeder_is_an_error(project, stored, feeder):
    """A typing error must not look like an import."""
    feeder("export", *FEEDER, "--out", project / "x.jsonl")
    code, _, err = feeder("import", project / "x.jsonl", "--feeder", "feeder75b")
    assert code == 2
    assert "only of feeder120b 4" in err


BROKEN = [
    ("cut", dict.clear, "is not JSON"),
    ("range", lambda d: d["parameters"].update(num_leaves=99), "num_leaves=99 is outside 15 to 63"),
    ("missing", lambda d: d["parameters"].pop("max_depth"), "max_depth is missing"),
    ("metric", lambda d: d["metrics"].update(profit=1.0), "metrics has profit"),
    ("text", lambda d: d["metrics"].update(skill="x"), "skill='x' is not a number"),
    ("naive", lambda d: d.update(time="2026-01-01T00:00:00"), "has no zone"),
    (
        "key",
        lambda d: d.pop("provenance"),
        "provenance is missing (a line has version, measurement, feeder_id, pair,",
    ),
    (
        "unknown",
        lambda d: d.update(note=1),
        "unknown key note (a line has version, measurement, feeder_id, pair,",
    ),
    ("version", lambda d: d.update(version=2), "version=2, expected 1"),
    (
        "kind",
        lambda d: d.update(measurement="x"),
        "measurement='x', expected 'optimized_parameters' or",
    ),
    ("type", lambda d: d.update(pair=7), "pair=7, expected a text"),
    ("surrogate", lambda d: d.update(pair="\ud800"), "expected a printable text"),
    ("old", lambda d: d.update(time="1969-12-31T00:00:00Z"), "expected one from 1970"),
]


@pytest.mark.parametrize(
    ("damage", "words"), [pytest.param(d, w, id=name) for name, d, w in BROKEN]
)
def test_import_of_a_broken_line_writes_nothing_and_names_it(
    project, stored, feeder, damage, words
):
    """Line number, field, value and what was expected; the good lines before it wait as well."""
    _, out, _ = feeder("export", *FEEDER)
    lines = out.splitlines()
    document = json.loads(lines[2])
    damage(document)
    lines[2] = json.dumps(document) if words != "is not JSON" else lines[2][:-9]
    file = project / "x.jsonl"
    file.write_text("\n".join(lines))
    code, _, err = feeder("import", file, *FEEDER, "--store", "sqlite:///other.sqlite")
    assert code == 2
    assert "nothing is written" in err
    assert "line 3: " in err
    assert words in err
    assert not (project / "other.sqlite").exists()


def test_import_of_two_contents_at_one_time_names_both_lines(project, stored, feeder):
    """Which of the two would be the record is not guessed."""
    _, out, _ = feeder("export", *FEEDER)
    line = json.loads(out.splitlines()[0])
    line["metrics"]["skill"] = 0.5
    (project / "x.jsonl").write_text(out + json.dumps(line) + "\n")
    code, _, err = feeder("import", project / "x.jsonl", *FEEDER)
    assert code == 2
    assert "line 5: GONE/USDT:USDT has other content at the same time than line 1" in err


def test_import_over_another_content_of_the_same_time_is_a_conflict(project, stored, feeder):
    """What is stored is never overwritten."""
    _, out, _ = feeder("export", *FEEDER)
    line = json.loads(out.splitlines()[0])
    line["metrics"]["skill"] = 0.5
    (project / "x.jsonl").write_text(json.dumps(line))
    before = content(stored)
    code, _, err = feeder("import", project / "x.jsonl", *FEEDER)
    assert code == 1
    assert "other content" in err
    assert content(stored) == before


def test_import_says_what_is_dated_in_the_future(project, feeder):
    """It is a copy, so it is taken; but no bot reads it, and a wrong clock is to be seen."""
    _, out, _ = feeder("export", *FEEDER)
    assert out == ""
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as store:
        store.write([record_of_age(-3600)])
    _, out, _ = feeder("export", *FEEDER)
    (project / "x.jsonl").write_text(out)
    code, _, err = feeder("import", project / "x.jsonl", *FEEDER)
    assert code == 0
    assert "1 record dated in the future" in err


def test_import_says_which_records_no_bot_of_this_feeder_takes(project, feeder):
    """A copy of the time when the feeder was long: kept, and said with the side."""
    record = record_of_age(5)
    facts = {"horizon_candles": 30.0, "timeframe_s": 300.0, "side": 1.0}
    line = format_line(Entry("optimized_parameters", dataclasses.replace(record, metrics=facts)))
    (project / "x.jsonl").write_text(line)
    code, _, err = feeder("import", project / "x.jsonl", *FEEDER)
    assert code == 0
    assert f"bots reject imported records of {PAIR}: {PAIR}: side=long, but this feeder is" in err


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_import_of_an_unreadable_file_is_an_error(project, feeder, name):
    """The file is named."""
    code, _, err = feeder("import", name, *FEEDER)
    assert code == 2
    assert f"{name} can't be read" in err


def test_times_in_lines_are_exact(project, stored, feeder):
    """A nanosecond lost would be another key."""
    _, out, _ = feeder("export", *FEEDER, "--pairs", PAIR)
    times = {json.loads(line)["time"] for line in out.splitlines()}
    points = [*stored.history("feeder120b", PAIR)]
    assert {format_time_ns(point.time_ns) for point in points} < times
