"""The tuning journal: what survives, what a second command finds."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from feeder_mixin.documents import Numbers
from feeder_mixin.errors import TuningError
from feeder_mixin.tune.run.journal import Journal, NewestResults, WarmStart
from tests.reports import builder

IDENTITY = {"feeder_id": "f", "pair": "BTC/USDT:USDT", "seed": 1}
OTHER = {**IDENTITY, "seed": 2}
RESULT = builder.make_result(decision=None)
DECIDED = builder.make_result()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a journal may be made."""
    return tmp_path / "state" / "journal.sqlite"


def change(path: Path, statement: str, values: tuple[str, ...]) -> None:
    """Change what a journal keeps, as another program could."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(statement, values)


def dump(path: Path) -> list[str]:
    """Return all that a journal keeps."""
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def begin(journal: Journal, identity=IDENTITY, warm=None):
    """Return the unclosed run of one pair."""
    return journal.begin({"BTC": identity}, {"BTC": warm or WarmStart()})["BTC"]


def test_begin_same_identity_finds_the_unclosed_run_and_keeps_its_warm_start(path):
    """The store changes meanwhile: a run goes on from what it began with."""
    with Journal(path) as journal:
        first = begin(journal, warm=WarmStart(sets=({"num_leaves": 20},)))
        second = begin(journal, warm=WarmStart(sets=({"num_leaves": 60},)))
    assert second.run_id == first.run_id
    assert second.warm_start == WarmStart(sets=({"num_leaves": 20},))


def test_begin_other_identity_makes_another_run(path):
    """A run of another seed never continues this one."""
    with Journal(path) as journal:
        assert begin(journal).run_id != begin(journal, OTHER).run_id


def test_finished_run_is_found_until_it_is_closed_then_a_new_one_begins(path):
    """A command that died behind a finished pair takes it over; one that ended starts anew."""
    with Journal(path) as journal:
        run = begin(journal)
        journal.finish(run.run_id, RESULT)
        assert begin(journal).state == "finished"
        assert begin(journal).result == RESULT
        journal.close_runs([run.run_id])
        assert begin(journal).run_id != run.run_id


def test_amend_keeps_a_decision_beside_the_result_of_a_finished_run_only(path):
    """The next command must know what this one decided; an open run has nothing to amend."""
    with Journal(path) as journal:
        run = begin(journal)
        journal.amend(run.run_id, DECIDED.decided)
        assert begin(journal).result is None
        journal.finish(run.run_id, RESULT)
        journal.amend(run.run_id, DECIDED.decided)
        assert begin(journal).result == DECIDED


def test_close_runs_leaves_open_runs_open(path):
    """A pair that failed keeps its trials for the next command."""
    with Journal(path) as journal:
        run = begin(journal)
        journal.close_runs([run.run_id])
        assert begin(journal).run_id == run.run_id


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_reopen_keeps_what_was_decided(path, times):
    """A command with more trials must know what the interrupted one wrote to bots."""
    with Journal(path) as journal:
        run = begin(journal, warm=WarmStart(sets=({"num_leaves": 20},)))
        journal.finish(run.run_id, DECIDED)
        for _ in range(times):
            journal.reopen(run.run_id)
            again = begin(journal)
            journal.finish(run.run_id, RESULT)
    assert again.warm_start == WarmStart(sets=({"num_leaves": 20},), decision=DECIDED.decision)


def test_reopen_lets_a_finished_run_go_on(path):
    """More trials asked for: the result is dropped, the trials stay."""
    with Journal(path) as journal:
        run = begin(journal)
        journal.save_trials(run.run_id, "search", {0: {"value": 1.0}})
        journal.finish(run.run_id, RESULT)
        journal.reopen(run.run_id)
        assert begin(journal).state == "open"
        assert list(journal.trials(run.run_id, "search", Numbers)) == [0]


def test_drop_unclosed_deletes_runs_and_trials_of_those_pairs_only(path):
    """`--fresh` forgets what it names and nothing else."""
    with Journal(path) as journal:
        runs = journal.begin({"BTC": IDENTITY, "ETH": {**IDENTITY, "pair": "ETH"}}, {})
        for run in runs.values():
            journal.save_trials(run.run_id, "search", {0: {"value": 1.0}})
        assert journal.drop_unclosed(["BTC"], {"study": "none"}) == 1
        assert journal.trials(runs["BTC"].run_id, "search", Numbers) == {}
        assert len(journal.trials(runs["ETH"].run_id, "search", Numbers)) == 1


def test_save_trial_again_keeps_the_first(path):
    """An orphaned worker that is one trial late changes nothing."""
    with Journal(path) as journal:
        run = begin(journal)
        journal.save_trials(run.run_id, "search", {0: {"value": 1.0}})
        journal.save_trials(run.run_id, "search", {0: {"value": 2.0}})
        assert journal.trials(run.run_id, "search", Numbers) == {0: {"value": 1.0}}
        assert len(journal.trials(run.run_id, "search", dict)) == 1


def test_newest_results_gives_each_pairs_newest_run_with_a_result_and_changes_nothing(path):
    """A report shows what the last finished run found, also while another one is under way."""
    with Journal(path) as journal:
        for seed in (1, 2):  # two closed runs: the second counts
            run = begin(journal)
            journal.finish(run.run_id, builder.make_result(seed=seed))
            journal.close_runs([run.run_id])
        under_way = begin(journal)
        eth = journal.begin({"ETH": OTHER}, {})["ETH"]
        journal.finish(eth.run_id, RESULT)
        before = dump(path)
        newest = journal.newest_results()
        assert dump(path) == before
    assert newest.results == {
        "BTC": (run.run_id, builder.make_result(seed=2)),
        "ETH": (eth.run_id, RESULT),
    }
    assert run.run_id != under_way.run_id
    assert newest.unread == ()


@pytest.mark.parametrize("document", ['{"pair": "BTC", "walk": {}}', '{"version": 99}'])
def test_newest_results_names_pairs_whose_result_another_version_made(path, document):
    """An older or a later form is not guessed at, and hides no other pair."""
    with Journal(path) as journal:
        runs = journal.begin({"BTC": IDENTITY, "ETH": OTHER}, {})
        for run in runs.values():
            journal.finish(run.run_id, RESULT)
        change(path, "UPDATE runs SET result = ? WHERE pair = 'BTC'", (document,))
        newest = journal.newest_results()
    assert newest.unread == ("BTC",)
    assert list(newest.results) == ["ETH"]


def test_newest_results_of_an_empty_journal_is_empty(path):
    """A feeder that was never tuned has none."""
    with Journal(path) as journal:
        begin(journal)
        assert journal.newest_results() == NewestResults({}, ())


def test_save_trial_not_a_number_is_refused(path):
    """JSON has no NaN; one in a value is a defect, not data."""
    with Journal(path) as journal, pytest.raises(ValueError, match="JSON"):
        journal.save_trials(begin(journal).run_id, "search", {0: {"value": float("nan")}})


def _write_and_die(path: Path, run_id: int) -> None:
    journal = Journal(path)
    for number in range(100):
        journal.save_trials(run_id, "search", {number: {"value": float(number)}})
    os.kill(os.getpid(), signal.SIGKILL)


def test_saved_trials_survive_a_kill(path):
    """What was saved before `kill -9` is there afterwards, whole and in order."""
    with Journal(path) as journal:
        run = begin(journal)
    process = multiprocessing.get_context("spawn").Process(
        target=_write_and_die, args=(path, run.run_id)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with Journal(path) as journal:
        kept = journal.trials(run.run_id, "search", Numbers)
    assert kept == {number: {"value": float(number)} for number in range(100)}


def test_full_disk_is_an_error_that_names_the_file(path):
    """A disk that fills up while trials are saved ends the run with a message, not a traceback."""
    with Journal(path) as journal:
        run = begin(journal)
        journal._db.execute("PRAGMA max_page_count = 12")
        with pytest.raises(TuningError, match=r"journal\.sqlite.*full"):
            journal.save_trials(run.run_id, "search", {0: {"text": "x" * 500_000}})


def test_damaged_file_is_an_error_that_names_the_file(path):
    """A file that is no database says so."""
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(TuningError, match=r"journal\.sqlite"):
        Journal(path)


def test_schema_of_other_bytes_is_an_error_that_names_the_file(path):
    """The library's own message then holds bytes that are no text, and is never made."""
    with Journal(path) as journal:
        begin(journal)
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE T\x80BLE"))
    with pytest.raises(TuningError, match=r"journal\.sqlite"):
        Journal(path)


@pytest.mark.parametrize("text", ["{", "[]", "1" * 5_000], ids=["cut", "list", "digits"])
def test_document_that_is_none_is_an_error_that_names_the_file(path, text):
    """A row that another program changed ends the command with a message, not a traceback."""
    with Journal(path) as journal:
        run = begin(journal)
        journal.save_trials(run.run_id, "search", {0: {"value": 1.0}})
        change(path, "UPDATE trials SET document = ?", (text,))
        with pytest.raises(TuningError, match=r"journal\.sqlite is damaged"):
            journal.trials(run.run_id, "search", Numbers)
        change(path, "UPDATE runs SET warm_start = ?", (text,))
        with pytest.raises(TuningError, match=r"journal\.sqlite is damaged"):
            begin(journal)


def test_document_of_another_form_is_an_error_that_names_file_and_field(path):
    """JSON all right, but not what was written: said by field, never half used."""
    document = RESULT.to_json()
    del document["evidence"]["comparison"]["walk"]
    with Journal(path) as journal:
        run = begin(journal)
        journal.finish(run.run_id, RESULT)
        change(path, "UPDATE runs SET result = ?", (json.dumps(document),))
        words = r"journal\.sqlite is damaged.*evidence\.comparison\.walk is missing"
        for use in (begin, Journal.newest_results):
            with pytest.raises(TuningError, match=words):
                use(journal)
