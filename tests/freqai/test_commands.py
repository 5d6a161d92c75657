"""Commands about records of a FreqAI bot: its own type is shown, copied and taken back, the other told."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from feeder_mixin.schema import FREQAI_MODEL_TYPE, MODEL_TYPE, format_time_ns
from feeder_mixin.stores.operations.transfer import Entry, format_line
from tests.freqai.conftest import BOT, PAIRS, freqai_record

BTC, ETH = PAIRS
NOW = time.time_ns()


@pytest.fixture
def stored(store, write_freqai):
    """Give two records of one pair, and a built-in one, newer, of both pairs."""
    write_freqai()
    records = [freqai_record(BTC, NOW - 900, num_leaves=20), freqai_record(BTC, NOW - 800)]
    store.write(records)
    built_in = [replace(freqai_record(pair, NOW - 10), model_type=MODEL_TYPE) for pair in PAIRS]
    store.write(built_in)
    return records


def test_show_gives_the_bots_own_type_and_names_the_others(stored, feeder):
    """A built-in record, however new, is none; a pair that has no other is told why."""
    code, out, err = feeder("show", "--feeder", BOT, "--json")
    assert code == 0
    (shown,) = json.loads(out)
    assert (shown["model_type"], shown["pair"]) == (FREQAI_MODEL_TYPE, BTC)
    assert shown["time"] == format_time_ns(NOW - 800)
    assert f"the record of {format_time_ns(NOW - 10)} is of model type lightgbm_quantile" in err
    assert "but my_freqai trains lightgbm_freqai" in err
    _, table, _ = feeder("show", "--feeder", BOT)
    assert "by target" in table


def test_feeder_may_be_left_out_with_the_config(stored, feeder, project):
    """One config describes one bot."""
    config = project / "config" / f"{BOT}.json"
    code, out, _ = feeder("show", "--config", config, "--json")
    assert (code, len(json.loads(out))) == (0, 1)
    code, _, err = feeder("show")
    assert code == 2
    assert "no feeder is named: expected --feeder F, or --config FILE" in err


def test_history_diff_and_rollback_work_on_the_bots_own_type(stored, feeder, store):
    """The old values are written again as a record of the same type; the built-in one stays alone."""
    _, out, _ = feeder("history", "--feeder", BOT, "--json")
    assert [one["time"] for one in json.loads(out)] == [
        format_time_ns(NOW - 800),
        format_time_ns(NOW - 900),
    ]
    old = format_time_ns(NOW - 900)
    _, out, _ = feeder("diff", "--feeder", BOT, "--pairs", BTC, "--from", old, "--json")
    (compared,) = json.loads(out)
    assert [one["name"] for one in compared["differences"]] == ["num_leaves"]
    code, _, err = feeder("rollback", "--feeder", BOT, "--pair", BTC, "--to", old)
    assert code == 0, err
    newest = store.history(BOT, BTC, 1, model_type=FREQAI_MODEL_TYPE)[0].build_record(BOT)
    assert newest.parameters == stored[0].parameters
    assert len(store.history(BOT, BTC)) == 1


def test_export_and_import_keep_both_types(stored, feeder, project):
    """A backup has everything of the id, and another store takes it in."""
    file = project / "all.jsonl"
    assert feeder("export", "--feeder", BOT, "--out", file)[0] == 0
    code, out, err = feeder("import", file, "--feeder", BOT, "--store", "sqlite:///other.sqlite")
    assert code == 0
    assert "4 records, 0 candidates" in out
    assert "bots reject imported records" in err
    assert "is of model type lightgbm_quantile" in err
    _, again, _ = feeder("show", "--feeder", BOT, "--store", "sqlite:///other.sqlite", "--json")
    assert json.loads(again)[0]["time"] == format_time_ns(NOW - 800)


def test_hand_written_record_is_imported_and_shown(write_freqai, feeder, project):
    """Before a tuner writes any, a user can put a record in."""
    write_freqai()
    line = format_line(Entry("optimized_parameters", freqai_record(ETH, NOW)))
    (project / "one.jsonl").write_text(line)
    assert feeder("import", "one.jsonl", "--feeder", BOT)[0] == 0
    _, out, _ = feeder("show", "--feeder", BOT, "--pairs", ETH, "--json")
    assert json.loads(out)[0]["parameters"] == dict(freqai_record().parameters)


def test_built_in_feeder_is_told_of_freqai_records(store, feeder, project, write_config):
    """The other way round the refusal names the type as well."""
    write_config(BOT)
    store.write([freqai_record(BTC, NOW)])
    _, out, err = feeder("show", "--feeder", BOT, "--json")
    assert json.loads(out) == []
    assert "is of model type lightgbm_freqai, but my_freqai trains lightgbm_quantile" in err


def test_doctor_fails_a_pair_that_has_the_other_type_alone(stored, feeder):
    """Nobody has to find out from a bot's log; what is of the built-in model alone is skipped."""
    _, out, _ = feeder("doctor", "--feeder", BOT, "--json")
    found = {one["check"]: one for one in json.loads(out)}
    assert found["config"]["state"] == "pass"
    assert "my_freqai is freqai" in found["config"]["message"]
    assert found["valid_records"]["state"] == "fail"
    assert "is of model type lightgbm_quantile" in found["valid_records"]["message"]
    assert BTC not in found["valid_records"]["message"].split(":")[0]
    assert found["candles"]["state"] == "skipped"
    assert "check itself failed" not in out


def test_advice_is_what_works_for_a_freqai_bot(stored, feeder):
    """Nobody is sent to the tuner of the built-in model, nor to its strategy."""
    _, _, err = feeder("show", "--feeder", BOT)
    assert (
        "make one with: feeder optimize --feeder my_freqai --strategy LightGBMSafetyFeederStrategy"
        in err
    )
    _, out, _ = feeder("doctor", "--feeder", BOT, "--json")
    found = {one["check"]: one for one in json.loads(out)}
    assert "would start on the config's own values" in found["missing_records"]["message"]
    assert found["missing_records"]["advice"].startswith(
        "feeder optimize --feeder my_freqai --strategy LightGBMSafetyFeederStrategy"
    )
    assert "--freqaimodel OptunaLightGBMRegressor" in found["bot"]["advice"]


def test_optimize_wants_the_strategys_name(write_freqai, write_config, feeder):
    """A FreqAI bot's features and targets are its strategy's; a feeder's are not."""
    write_freqai(strategy="")
    code, _, err = feeder("optimize", "--feeder", BOT)
    assert code == 2
    assert "my_freqai: no strategy is named: expected --strategy" in err
    write_config("plain1")
    code, _, err = feeder("optimize", "--feeder", "plain1", "--strategy", "MyFreqai")
    assert code == 2
    assert "--strategy MyFreqai: plain1 is a feeder with the built-in model" in err
