"""`feeder report`: where the page goes, what is said, what ends it; and that no tuning fails by it."""

from __future__ import annotations

import argparse
import json
import sqlite3
import time

import pytest

from feeder_mixin.cli import report as report_command
from feeder_mixin.cli.common import feeder_store
from feeder_mixin.errors import CandleError, StoreUnavailableError
from feeder_mixin.settings import load_settings
from feeder_mixin.stores.sql import SqlStore
from feeder_mixin.tune.run.journal import FEEDER as WHOLE_FEEDER
from feeder_mixin.tune.run.journal import Journal
from feeder_mixin.tune.run.options import RunSummary
from feeder_mixin.tune.search.kept import TRIALS
from tests.reports import builder

FEEDER = "feeder120b"
PAIRS = ("BNB/USDT:USDT", "DOGE/USDT:USDT", "BCH/USDT:USDT", "ZEC/USDT:USDT")
DOWN = "postgresql+psycopg://user:SECRET456@127.0.0.1:1/none"


@pytest.fixture
def state(project):
    """Give the feeder's state folder."""
    return project / "user_data" / "feeder_state" / FEEDER


@pytest.fixture
def tuned(state):
    """Write a journal with a closed run of two pairs, and return their results."""
    results = {}
    with Journal(state / "journal.sqlite") as journal:
        study = journal.begin({WHOLE_FEEDER: {"study": 1}}, {})[WHOLE_FEEDER]
        for number, trial in builder.make_trials().items():
            journal.save_trials(study.run_id, TRIALS, {number: trial.to_json()})
        for seed, pair in enumerate(PAIRS[:2]):
            run = journal.begin({pair: {"pair": pair}}, {})[pair]
            results[pair] = builder.make_result(pair, seed)
            journal.finish(run.run_id, results[pair])
            journal.close_runs([run.run_id])
    return results


@pytest.fixture
def stored(project):
    """Write a record of the third pair, as another host would."""
    result = builder.make_result(PAIRS[2], time_ns=time.time_ns() - 60 * 10**9)
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as store:
        store.write([builder.make_record(result, FEEDER)])
    return result


def test_report_writes_the_page_of_the_journal_beside_it_and_says_where(state, tuned, feeder):
    """One file, for its owner only, in the feeder's state folder."""
    code, out, err = feeder("report", "--feeder", FEEDER)
    path = state / "report.html"
    assert code == 0
    assert out == ""
    assert str(path) in err
    assert path.stat().st_mode & 0o777 == 0o600
    html = path.read_text(encoding="utf-8")
    assert "Better than the ATR rule" in html
    assert "No run and no record: BCH, ZEC." in html
    assert "not shown: No run and no record: BCH, ZEC." in err
    assert not list(state.glob("*.tmp"))


def test_report_changes_nothing_it_reads(project, state, tuned, feeder):
    """Journal and store stand as before; asking makes no store and no outbox."""
    before = list(sqlite3.connect(state / "journal.sqlite").iterdump())
    feeder("report", "--feeder", FEEDER)
    assert list(sqlite3.connect(state / "journal.sqlite").iterdump()) == before
    assert not (project / "user_data" / "feeder_params.sqlite").exists()
    assert not (state / "outbox.sqlite").exists()


def test_report_out_and_pair_choose_file_and_candles(project, tuned, feeder):
    """Where a user wants it, with the pair a user wants to see."""
    out_path = project / "pages" / "mine.html"
    code, _, _ = feeder("report", "--feeder", FEEDER, "--out", out_path, "--pair", PAIRS[1])
    assert code == 0
    html = out_path.read_text(encoding="utf-8")
    assert html.index(f"{PAIRS[1]}: ") < html.index(f"{PAIRS[0]}: ")


def test_report_json_is_one_document_with_file_and_verdict(state, tuned, feeder):
    """For a machine: what the page says, and nothing else on stdout."""
    code, out, _ = feeder("report", "--feeder", FEEDER, "--json")
    (document,) = json.loads(out)
    assert code == 0
    assert document["feeder_id"] == FEEDER
    assert document["file"] == str(state / "report.html")
    assert document["verdict"]["outcomes"] == {"promoted": 2}
    assert list(document["pairs"]) == list(PAIRS[:2])


def test_report_without_a_journal_shows_the_store_and_says_what_is_missing(state, stored, feeder):
    """Tuned elsewhere: the record's own figures, and no guess at the rest."""
    code, out, err = feeder("report", "--feeder", FEEDER, "--json")
    (document,) = json.loads(out)
    assert code == 0
    assert document["pairs"][PAIRS[2]]["from_store"] is True
    assert document["pairs"][PAIRS[2]]["scores"]["tuned"]["skill"] == 0.05
    assert "its stored record" in err
    assert not (state / "journal.sqlite").exists()


def test_report_mixes_runs_of_the_journal_with_records_of_elsewhere(tuned, stored, feeder):
    """Every pair that is known is on the page, in the feeder's order."""
    _, out, _ = feeder("report", "--feeder", FEEDER, "--json")
    (document,) = json.loads(out)
    assert {p: facts["from_store"] for p, facts in document["pairs"].items()} == {
        PAIRS[0]: False,
        PAIRS[1]: False,
        PAIRS[2]: True,
    }


def test_report_store_down_is_made_from_the_journal_and_says_so(state, tuned, feeder):
    """A store that is down costs one section; its secret is on no page."""
    code, out, err = feeder("report", "--feeder", FEEDER, "--store", DOWN)
    html = (state / "report.html").read_text(encoding="utf-8")
    assert code == 0
    assert "could not be read" in err
    assert "could not be read" in html
    assert "SECRET" not in out + err + html


def test_report_damaged_journal_is_said_and_the_store_makes_the_page(state, stored, feeder):
    """What can be shown is shown; what can't is named."""
    state.mkdir(parents=True)
    (state / "journal.sqlite").write_bytes(b"not a database, but long enough" * 100)
    code, _, err = feeder("report", "--feeder", FEEDER)
    assert code == 0
    assert "journal.sqlite" in err
    assert "journal.sqlite" in (state / "report.html").read_text(encoding="utf-8")


def test_report_result_of_another_version_is_said_and_the_others_are_shown(state, tuned, feeder):
    """What this version can't read is named, never guessed; the rest makes the page."""
    with sqlite3.connect(state / "journal.sqlite") as db:
        document = '{"pair": "BNB/USDT:USDT", "walk": {"rule": [1.0]}}'
        db.execute("UPDATE runs SET result = ? WHERE pair = ?", (document, PAIRS[0]))
    code, out, err = feeder("report", "--feeder", FEEDER, "--json")
    (report,) = json.loads(out)
    assert code == 0
    assert "Another version of feeder-mixin made the newest result of BNB/USDT:USDT" in err
    assert list(report["pairs"]) == [PAIRS[1]]


def test_report_nothing_but_results_of_another_version_exits_2_and_says_so(state, tuned, feeder):
    """Tuned, but not for this version: the way out is to tune again."""
    with sqlite3.connect(state / "journal.sqlite") as db:
        db.execute("""UPDATE runs SET result = '{"version": 99}'""")
    code, _, err = feeder("report", "--feeder", FEEDER)
    assert code == 2
    assert "Another version of feeder-mixin" in err
    assert "Traceback" not in err


def test_report_nothing_tuned_exits_2_says_how_to_tune_and_writes_nothing(state, feeder):
    """A page of nothing would look like a result."""
    code, out, err = feeder("report", "--feeder", FEEDER)
    assert code == 2
    assert out == ""
    assert "nothing is tuned yet" in err
    assert f"feeder optimize --feeder {FEEDER}" in err
    assert not (state / "report.html").exists()


def test_report_nothing_tuned_here_and_store_down_exits_1(project, feeder):
    """Whether there is something can't be known: the store is what failed."""
    code, _, err = feeder("report", "--feeder", FEEDER, "--store", DOWN)
    assert code == 1
    assert "127.0.0.1" in err


def test_report_of_several_feeders_goes_on_past_one_without_and_exits_3(tuned, feeder):
    """One feeder that was never tuned hides no other."""
    code, out, err = feeder("report", "--feeder", "feeder75a", FEEDER, "--json")
    assert code == 3
    assert [document["feeder_id"] for document in json.loads(out)] == [FEEDER]
    assert "feeder75a: nothing is tuned yet" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(("--out", "x.html", "--feeder", "feeder75a"), "--out goes with one", id="out"),
        pytest.param(("--pair", "BTC/USDT:USDT"), "its pairs are BNB", id="foreign pair"),
    ],
)
def test_report_options_that_can_not_be_used_exit_2(tuned, feeder, options, words):
    """Named with what was expected."""
    code, _, err = feeder("report", "--feeder", FEEDER, *options)
    assert code == 2
    assert words in err


def test_report_folder_read_only_exits_1_and_keeps_the_page_before(state, tuned, feeder):
    """Whole or not at all: a page that can't be replaced stands."""
    out = state / "report.html"
    out.mkdir()  # a folder of that name can't be replaced by a file, whoever runs the test
    code, _, err = feeder("report", "--feeder", FEEDER)
    assert code == 1
    assert "report.html" in err
    assert not list(state.glob(".report.html*"))


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("the store is gone"), RuntimeError("a defect")], ids=repr
)
def test_report_after_tuning_says_what_failed_and_never_raises(project, monkeypatch, capsys, error):
    """A tuning took an hour: a page that fails must not cost its exit code."""

    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(report_command, "write_report", fail)
    settings = load_settings(FEEDER)
    with feeder_store(settings, argparse.Namespace(store=None)) as chosen:
        report_command.report_after_tuning(settings, chosen, RunSummary(FEEDER))
    assert str(error) in capsys.readouterr().err


def test_report_after_tuning_does_not_ask_a_store_that_was_down(state, tuned, monkeypatch):
    """Its time-out was waited for once already."""
    settings = load_settings(FEEDER)
    with feeder_store(settings, argparse.Namespace(store=None)) as chosen:
        monkeypatch.setattr(chosen.store, "latest", lambda *_: pytest.fail("the store was asked"))
        down = RunSummary(FEEDER, store_error=StoreUnavailableError("was down"))
        report_command.report_after_tuning(settings, chosen, down)
    assert "was down" in (state / "report.html").read_text(encoding="utf-8")


def test_report_after_tuning_names_the_pairs_that_failed(state, tuned):
    """The page alone must not look as if all were well."""
    settings = load_settings(FEEDER)
    failed = RunSummary(FEEDER, failures={PAIRS[3]: CandleError(f"{PAIRS[3]}: too few candles")})
    with feeder_store(settings, argparse.Namespace(store=None)) as chosen:
        report_command.report_after_tuning(settings, chosen, failed)
    html = (state / "report.html").read_text(encoding="utf-8")
    assert f"failed: {PAIRS[3]}: too few candles" in html
