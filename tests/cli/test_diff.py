"""`feeder diff`: only what differs, old -> new, and whose each side is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from feeder_mixin.live.state.status import write_status
from feeder_mixin.schema import default_parameters, format_time_ns
from tests.builders import make_settings
from tests.cli.conftest import FEEDER, OTHER, PAIR, record_after, shown
from tests.live.fake_bot import fake_bot, make_pair, make_status


@pytest.fixture
def status(project):
    """Give a function that leaves a status file: PAIR on a record of that time, the others on defaults."""

    def leave(record, **facts):
        document = make_status()
        pair = make_pair(record.time_ns)
        pair["parameters"] = dict(record.parameters)
        pair["model"] |= facts
        document["pairs"] = {PAIR: pair, OTHER: make_pair()}
        write_status(make_settings(project / "user_data").status_path, document)

    return leave


def test_diff_between_bot_and_store_shows_only_what_differs(project, history, status, feeder):
    """Old is what the bot has loaded, new the store's newest; equal fields are not printed."""
    status(history[1])
    code, out, _ = feeder("diff", *FEEDER, "--pairs", PAIR)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"feeder120b {PAIR}"
    assert lines[1] == f"  old: bot, store {shown(history[1])} (20 trials, seed 3, host h)"
    assert lines[2] == f"  new: store {shown(history[2])} (20 trials, seed 3, host h)"
    assert lines[3:] == ["  learning_rate  0.02 -> 0.05"]


def test_diff_without_a_difference_says_so(project, history, status, feeder):
    """The bot runs the store's newest record."""
    status(history[2])
    _, out, _ = feeder("diff", *FEEDER, "--pairs", PAIR)
    assert out.splitlines()[3:] == ["  no difference"]
    _, out, _ = feeder("diff", *FEEDER, "--pairs", PAIR, "--json")
    assert json.loads(out)[0]["differences"] == []


def test_diff_between_two_stored_records_by_time(project, store, history, feeder):
    """Needs no bot; parameters come before metrics, differences in far digits are shown."""
    metrics = {"skill": 0.1, "beats_rule": 0.0, "train_mae": 1.0}
    store.write([record_after(50, metrics=metrics, learning_rate=0.05 + 1e-9)])
    arguments = ("--pairs", PAIR, "--from", shown(history[2]), "--to", shown(record_after(55)))
    code, out, _ = feeder("diff", *FEEDER, *arguments)
    assert code == 0
    assert [line.split() for line in out.splitlines()[3:]] == [
        ["learning_rate", "0.05", "->", "0.050000001"],
        ["skill", "0.05", "->", "0.1"],
        ["beats_rule", "-", "->", "0"],
        ["optimization_trials", "20", "->", "-"],
    ]


def test_diff_json_names_sides_and_values_to_the_last_digit(project, history, status, feeder):
    """What a script needs to decide whether a reload is due."""
    status(history[0])
    _, out, _ = feeder("diff", *FEEDER, "--pairs", PAIR, "--json")
    (document,) = json.loads(out)
    assert document["old"]["time"] == shown(history[0])
    assert document["new"]["time"] == shown(history[2])
    assert document["differences"] == [{"name": "learning_rate", "old": 0.1 / 3, "new": 0.05}]


def test_diff_says_what_a_side_lacks(project, store, history, status, feeder):
    """No record, an invalid one, a pair that the bot does not run: each is said, none hides another."""
    status(history[2])
    store.write([record_after(5, OTHER)])
    with store.write_connection() as connection:
        connection.exec_driver_sql(
            "UPDATE optimized_parameters SET num_leaves = 99 WHERE pair = ?", (OTHER,)
        )
    code, out, _ = feeder("diff", *FEEDER)
    assert code == 0
    assert "num_leaves=99.0 is outside" in out
    assert "  old: bot, default defaults" in out
    assert "the bot does not run this pair" in out
    assert "new: no record in the store" in out
    assert "no difference" in out


def test_diff_names_a_bots_record_that_the_store_does_not_hold(project, history, status, feeder):
    """The ten values are compared; what else the record said is not known."""
    status(record_after(25, learning_rate=0.03))
    _, out, _ = feeder("diff", *FEEDER, "--pairs", PAIR)
    assert "(not in this store)" in out
    assert out.splitlines()[3:] == ["  learning_rate  0.03 -> 0.05"]


def test_diff_shows_the_bots_own_values_where_its_record_has_others(
    project, history, status, feeder
):
    """What the bot said it runs counts, not what the store holds now under that time."""
    status(replace(history[2], parameters={**history[2].parameters, "num_leaves": 61}))
    _, out, _ = feeder("diff", *FEEDER, "--pairs", PAIR)
    assert out.splitlines()[3:] == ["  num_leaves  61 -> 15"]


def test_diff_says_when_an_older_model_still_serves(project, history, status, feeder):
    """Loaded is not yet serving while a model trains."""
    status(history[2], state="training", version=format_time_ns(history[0].time_ns))
    _, _, err = feeder("diff", *FEEDER, "--pairs", PAIR)
    assert f"the model of {shown(history[0])} still serves (model training)" in err


def test_diff_says_when_no_bot_runs_and_when_none_ever_did(project, history, status, feeder):
    """Last words are told from those of a running bot; without any it is an error."""
    code, _, err = feeder("diff", *FEEDER)
    assert code == 1
    assert "never ran here" in err
    status(history[2])
    assert "no bot runs" in feeder("diff", *FEEDER)[2]
    with fake_bot(project / "user_data"):
        _, out, err = feeder("diff", *FEEDER, "--pairs", PAIR)
    assert "no bot runs" not in err
    assert "bot, store" in out


def test_diff_default_side_is_compared_with_the_first_record(project, store, status, feeder):
    """A bot on defaults and a store that has its first record."""
    status(record_after(1))
    store.write([record_after(60, OTHER, num_leaves=40)])
    _, out, _ = feeder("diff", *FEEDER, "--pairs", OTHER)
    assert f"num_leaves  {default_parameters()['num_leaves']} -> 40" in out
