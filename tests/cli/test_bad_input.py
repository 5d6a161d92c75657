"""Every bad input: one clear error that names the thing, the right exit code, nothing half-written."""

from __future__ import annotations

import pytest

PAIRS = ("BNB/USDT:USDT", "DOGE/USDT:USDT", "BCH/USDT:USDT", "ZEC/USDT:USDT")


@pytest.fixture
def datadir(project):
    """Return an existing data folder without candles."""
    folder = project / "candles"
    folder.mkdir()
    return folder


def test_optimize_with_a_bad_file_of_blackouts_exits_2_and_names_the_line(
    project, datadir, feeder, monkeypatch
):
    """What the bot would refuse, the tuner does not count with either."""
    (project / "times.csv").write_text("time,minutes_before,minutes_after\n2026-12-10 13:30,1,1\n")
    monkeypatch.setenv("FREQTRADE__FEEDER__BLACKOUTS", "times.csv")
    code, out, err = feeder("optimize", "--feeder", "feeder120b", "--datadir", datadir)
    assert code == 2
    assert not out
    assert "times.csv line 2: time='2026-12-10 13:30'" in " ".join(err.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(["--n-trials", "0"], ["--n-trials 0", "1 or more"], id="no trials"),
        pytest.param(["--days-back", "0"], ["--days-back 0", "above 0"], id="no days"),
        pytest.param(["--days-back", "nan"], ["--days-back nan"], id="days not a number"),
        pytest.param(["--timeout", "-1"], ["--timeout -1"], id="negative timeout"),
        pytest.param(["--jobs", "0"], ["--jobs 0"], id="no jobs"),
        pytest.param(
            ["--scheduler", "http://10.0.0.1:8786"],
            ["http://10.0.0.1:8786", "tcp://HOST:PORT"],
            id="scheduler of another kind",
        ),
        pytest.param(
            ["--jobs", "2", "--scheduler", "tcp://10.0.0.1:8786"],
            ["--jobs 2", "--scheduler tcp://10.0.0.1:8786", "leave one of them out"],
            id="two executors",
        ),
        pytest.param(["--fix", "num_leafs=20"], ["num_leafs", "num_leaves"], id="wrong name"),
        pytest.param(["--fix", "num_leaves=99"], ["num_leaves=99", "15 to 63"], id="out of range"),
        pytest.param(["--fix", "num_leaves=20.5"], ["num_leaves=20.5", "whole"], id="not whole"),
        pytest.param(["--fix", "num_leaves"], ["num_leaves", "NAME=VALUE"], id="no value"),
        pytest.param(["--fix", "num_leaves=many"], ["num_leaves=many"], id="text value"),
        pytest.param(["--fix", "reg_alpha=nan"], ["reg_alpha", "not finite"], id="NaN value"),
        pytest.param(
            ["--pairs", "BTC/USDT:USDT"], ["BTC/USDT:USDT", "feeder120b", *PAIRS], id="foreign pair"
        ),
        pytest.param(
            ["--store", "mysql://x"], ["mysql", "sqlite", "postgresql", "influxdb"], id="store kind"
        ),
        pytest.param(["--datadir", "nowhere"], ["nowhere", "data folder"], id="no data folder"),
        pytest.param(["--config", "no.json"], ["no.json", "does not exist"], id="no config"),
    ],
)
def test_optimize_bad_option_exits_2_names_it_and_leaves_nothing(
    project, datadir, feeder, options, words
):
    """Usage and settings errors are found before anything is written."""
    code, out, err = feeder("optimize", "--feeder", "feeder120b", "--datadir", datadir, *options)
    assert code == 2
    assert not out
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert not list((project / "user_data").rglob("*.sqlite"))


def test_optimize_jobs_beside_the_environments_scheduler_names_the_variable(
    project, datadir, feeder, monkeypatch
):
    """Neither is dropped silently; an empty variable is none."""
    monkeypatch.setenv("FEEDER_SCHEDULER", "tcp://10.0.0.1:8786")
    command = ("optimize", "--feeder", "feeder120b", "--datadir", datadir, "--jobs", "2")
    code, _, err = feeder(*command)
    assert code == 2
    assert "FEEDER_SCHEDULER=tcp://10.0.0.1:8786" in err
    monkeypatch.setenv("FEEDER_SCHEDULER", "")
    code, _, err = feeder(*command)
    assert "FEEDER_SCHEDULER" not in err


def test_optimize_unknown_feeder_exits_2_and_names_those_there_are(project, feeder):
    """A typing error in the id is answered with the ids."""
    code, _, err = feeder("optimize", "--feeder", "feeder999")
    assert code == 2
    assert "feeder999" in err
    assert "feeder120b" in err


def test_optimize_token_in_store_url_is_refused_without_repeating_it(project, datadir, feeder):
    """Secrets come from the environment only, and appear nowhere."""
    url = "influxdb+http://localhost:8086?org=O&token=SECRET123"
    code, out, err = feeder(
        "optimize", "--feeder", "feeder120b", "--datadir", datadir, "--store", url
    )
    assert code == 2
    assert "SECRET123" not in out + err
    assert "FEEDER_STORE_TOKEN" in err


def test_optimize_no_candles_for_any_pair_exits_2_and_names_each(project, datadir, feeder):
    """Unusable candles of every pair are a data error, said per pair with its file."""
    code, _, err = feeder("optimize", "--feeder", "feeder120b", "--datadir", datadir)
    assert code == 2
    for pair in PAIRS:
        assert f"{pair} failed: no 5m candles" in err
    assert "download-data --config config/feeder120b.json" in err
    assert f"--datadir {datadir}" in err
    assert "--days 345" in err
    assert not (project / "user_data" / "feeder_params.sqlite").exists()


def test_no_sub_command_is_a_usage_error(feeder):
    """`feeder` alone prints its usage."""
    code, _, err = feeder()
    assert code == 2
    assert "usage: feeder" in err


@pytest.mark.parametrize(
    "command", ["optimize", "show", "history", "flush", "init-store", "settings"]
)
def test_help_describes_every_sub_command(feeder, command):
    """Each command explains itself and its options."""
    code, out, _ = feeder(command, "--help")
    assert code == 0
    assert "--feeder" in out
    assert "--json" in out


def test_optimize_help_lists_every_field_of_a_record(feeder):
    """Names and ranges come from the schema, once."""
    from feeder_mixin.schema import FIELD_NAMES

    _, out, _ = feeder("optimize", "--help")
    assert all(name in out for name in FIELD_NAMES)
