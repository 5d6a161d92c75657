"""From store to parameters: every answer of the store has its one outcome, and is said."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import socket
import sqlite3
import time

import pytest

from feeder_mixin.errors import SettingsError, StoreError
from feeder_mixin.live.announce import log_loaded
from feeder_mixin.live.reload import loader
from feeder_mixin.live.reload.feeder_reader import FeederReader
from feeder_mixin.live.reload.loader import (
    Loaded,
    check_store_url,
    load_last_good,
    load_parameters,
    records_at,
)
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.live.state.last_good import save_last_good
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.schema import NANOSECONDS, default_parameters, format_time_ns, hash48
from tests.builders import FEEDER
from tests.live.conftest import (
    BTC,
    ETH,
    HORIZON,
    PAIRS,
    SOL,
    STEP_S,
    market_record,
    market_settings,
)

NOW_NS = time.time_ns()
HOUR_NS = 3_600 * NANOSECONDS
DAY_NS = 24 * HOUR_NS
OLD, NEW = NOW_NS - 2 * DAY_NS, NOW_NS - DAY_NS
SECRET = "hunter2secret"  # noqa: S105


@pytest.fixture
def settings(tmp_path):
    """Give a feeder of three pairs without store and state."""
    return market_settings(tmp_path / "user_data")


@pytest.fixture
def closed_port():
    """Give a port that refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]  # bound, but not listening: nobody else takes it


@pytest.fixture
def down(closed_port, monkeypatch):
    """Give an environment whose store is down: InfluxDB with a token that must stay secret."""
    monkeypatch.setenv("FEEDER_STORE_TOKEN", SECRET)
    return {
        "FEEDER_STORE_URL": f"influxdb+http://127.0.0.1:{closed_port}?org=ArtiSky",
        "FEEDER_STORE_TOKEN": SECRET,
    }


@pytest.fixture
def lines(caplog):
    """Give a function that returns all log lines of the package so far, with their level."""
    caplog.set_level(logging.DEBUG, "feeder_mixin")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records]


def load(settings, environ=None, running=None) -> Loaded:
    """Load and say so, as the bot does."""
    loaded = load_parameters(FeederReader(settings, STEP_S), environ or {}, running)
    log_loaded(settings, loaded, 4)
    return loaded


def write_row(settings, pair, time_ns, changes, extra_column=None):
    """Insert a row as a foreign writer would: any values, past all checks."""
    path = settings.user_data_dir / "feeder_params.sqlite"
    tags = {"feeder_id": FEEDER, "pair": pair, "optimized_for": FEEDER, "model_type": "foreign"}
    row = {"time_ns": time_ns, **tags, **default_parameters(), **changes}
    with sqlite3.connect(path) as connection:
        if extra_column:
            connection.execute(f"ALTER TABLE optimized_parameters ADD COLUMN {extra_column} TEXT")
            row[extra_column] = "what is this"
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        sql = f"INSERT INTO optimized_parameters ({names}) VALUES ({marks})"  # noqa: S608
        connection.execute(sql, list(row.values()))
    connection.close()


def of_level(lines, level):
    """Return the lines of one level."""
    return [text for name, text in lines() if name == level]


# ------------------------------------------------------------------ a store that answers


def test_records_of_a_time_are_the_newest_then_and_later_ones_are_not_spoken_of(
    settings, write_store, lines
):
    """A backtest of before a tuning sees the store as it was."""
    write_store(market_record(BTC, OLD, num_leaves=31), market_record(BTC, NEW, num_leaves=32))
    reader = FeederReader(settings, STEP_S)
    at_ns = records_at({"FEEDER_RECORDS_AT": format_time_ns(NEW - 1)})
    loaded = load_parameters(reader, {}, None, at_ns)
    assert (loaded.pairs[BTC].version, loaded.pairs[BTC].passed_over) == (OLD, None)
    assert of_level(lines, "WARNING") == []
    assert records_at({}) is None
    assert load_parameters(reader, {}, None).pairs[BTC].version == NEW


def test_valid_records_are_taken_and_said_word_for_word(settings, write_store, lines, tmp_path):
    """The fixed log lines, with counts, source, version and generation; the values at DEBUG."""
    write_store(market_record(BTC, NEW, num_leaves=31), market_record(ETH, OLD, learning_rate=0.02))
    loaded = load(settings)
    assert {p: (x.source, x.version) for p, x in loaded.pairs.items()} == {
        BTC: ("store", NEW),
        ETH: ("store", OLD),
        SOL: ("default", None),
    }
    assert loaded.pairs[BTC].parameters == default_parameters() | {"num_leaves": 31}
    assert (loaded.n_defaulted, loaded.n_rejected, loaded.error) == (1, 0, None)
    values = {p: loaded.pairs[p].parameters for p in (BTC, ETH)}
    expected = []
    for pair, version in ((BTC, NEW), (ETH, OLD)):
        shown = " ".join(f"{name}={value!r}" for name, value in values[pair].items())
        facts = f"source=store version={format_time_ns(version)} generation=4"
        expected.append(("INFO", f"Using Optuna params for {pair} {facts}"))
        expected.append(("DEBUG", f"Optuna params of {pair} {shown}"))
    expected.append(("WARNING", f"No Optuna params for {SOL}, using defaults generation=4"))
    *most, (level, last) = lines()
    assert most == expected
    assert level == "INFO"
    assert re.fullmatch(
        r"Loaded Optuna params for 2 pairs feeder=feeder120b loaded=2 defaulted=1 rejected=0 "
        r"generation=4 store=sqlite:////\S+/user_data/feeder_params\.sqlite \(default\) took_ms=\d+ last_good=0 "
        r"passed_over=0",
        last,
    )


def test_store_without_any_record_is_one_warning_that_names_it(settings, lines):
    """A forgotten FEEDER_STORE_URL must not look like a fresh start."""
    loaded = load(settings, {"FEEDER_STORE_URL": "sqlite:///user_data/other.sqlite"})
    assert {x.source for x in loaded.pairs.values()} == {"default"}
    *defaults, none = of_level(lines, "WARNING")
    assert defaults == [f"No Optuna params for {p}, using defaults generation=4" for p in PAIRS]
    assert none == (
        "No pair has Optuna params from the store feeder=feeder120b "
        f"store=sqlite:///{settings.root}/user_data/other.sqlite (FEEDER_STORE_URL): is it the right one? "
        "(FEEDER_STORE_URL, then feeder.store_url, then the default)"
    )
    assert lines()[-1][1].startswith(
        "Loaded Optuna params for 0 pairs feeder=feeder120b loaded=0 defaulted=3 rejected=0 "
    )
    assert of_level(lines, "ERROR") == []


def test_store_with_a_record_gives_no_such_warning(settings, write_store, lines):
    """One pair is enough: the store is the right one."""
    write_store(market_record(BTC, NEW))
    load(settings)
    assert not [text for text in of_level(lines, "WARNING") if "is it the right one" in text]


def test_newest_record_wins_and_other_feeders_do_not_count(settings, write_store):
    """Per pair the newest record of this feeder."""
    write_store(
        market_record(BTC, OLD, num_leaves=20),
        market_record(BTC, NEW, num_leaves=40),
        market_record(BTC, NOW_NS - HOUR_NS, feeder_id="feeder75b", num_leaves=60),
    )
    loaded = load(settings)
    assert loaded.pairs[BTC].parameters["num_leaves"] == 40


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"num_leaves": 99.0}, "num_leaves=99.0 is outside 15 to 63", id="range"),
        pytest.param({"num_leaves": 31.5}, "num_leaves=31.5 is not a whole number", id="whole"),
        pytest.param({"num_leaves": "many"}, "num_leaves='many' is not a number", id="text"),
        pytest.param({"num_leaves": "31 "}, None, id="integer_as_text"),
        pytest.param({"learning_rate": float("inf")}, "learning_rate=inf is not finite", id="inf"),
        pytest.param({"skill": "good"}, "skill='good' is not a number", id="metric_text"),
        pytest.param({"side": -1.0}, "side=short, but this feeder is long", id="side"),
        pytest.param({"horizon_candles": 30.0}, "horizon_candles=30, but", id="horizon"),
        pytest.param({"timeframe_s": 60.0}, "timeframe_s=60, but", id="timeframe"),
    ],
)
def test_record_that_can_not_serve_is_rejected_whole_and_says_why(
    settings, write_store, lines, changes, reason
):
    """The newest complete record decides: refused with pair, field and value, no older one tried."""
    write_store(market_record(BTC, OLD, num_leaves=20), market_record(ETH, OLD))
    write_row(settings, BTC, NEW, changes)
    loaded = load(settings)
    errors = [text for text in of_level(lines, "ERROR") if text.startswith("Rejected")]
    if reason is None:  # SQLite turns it into the number it is
        assert loaded.pairs[BTC].parameters["num_leaves"] == 31
        assert errors == []
        return
    pair = loaded.pairs[BTC]
    assert (pair.source, pair.parameters) == ("default", default_parameters())
    assert BTC in pair.rejected
    assert reason in pair.rejected
    assert errors == [
        f"Rejected Optuna params for {BTC} reason={pair.rejected} running=default version=defaults"
    ]
    assert loaded.pairs[ETH].source == "store"
    assert "loaded=1 defaulted=2 rejected=1" in lines()[-1][1]


@pytest.mark.parametrize("value", [None, float("nan")], ids=["missing", "nan"])
def test_incomplete_record_is_passed_over_for_the_older_one_and_named(
    settings, write_store, lines, value
):
    """A missing field (SQLite keeps NaN as one) makes no record: the one before serves, all said."""
    write_store(market_record(BTC, OLD, num_leaves=20))
    write_row(settings, BTC, NEW, {"reg_alpha": value})
    loaded = load(settings)
    assert (loaded.pairs[BTC].version, loaded.pairs[BTC].source) == (OLD, "store")
    reason = f"{BTC} at {format_time_ns(NEW)}: incomplete: reg_alpha missing"
    assert f"Stored record passed over: {reason}" in of_level(lines, "WARNING")
    assert (loaded.pairs[BTC].rejected, loaded.pairs[BTC].passed_over) == (None, reason)
    assert of_level(lines, "ERROR") == []
    assert "loaded=1 defaulted=2 rejected=0" in lines()[-1][1]
    assert lines()[-1][1].endswith("last_good=0 passed_over=1")
    assert not [text for _, text in lines() if "last good copy" in text.lower()]  # not needed
    write_store(market_record(BTC, NEW + 1, num_leaves=33))
    again = load(settings, running=loaded.pairs).pairs[BTC]
    assert (again.passed_over, again.parameters["num_leaves"]) == (None, 33)


def test_incomplete_record_behind_which_all_have_expired_is_expired(settings, write_store, lines):
    """What was passed over changes nothing for the pair: the newest complete record decides."""
    write_store(market_record(BTC, NOW_NS - 91 * DAY_NS), market_record(ETH, OLD))
    write_row(settings, BTC, NEW, {"reg_alpha": None})
    pair = load(settings).pairs[BTC]
    assert (pair.source, pair.rejected) == ("default", None)
    assert "reg_alpha missing" in pair.passed_over
    assert "rejected=0" in lines()[-1][1]


def test_every_refused_pair_has_its_own_fixed_line(settings, copy, write_store, lines):
    """An operator greps for `Rejected Optuna params for PAIR`, however many share the reason."""
    write_store(*(market_record(pair, OLD, metrics={"horizon_candles": 60.0}) for pair in PAIRS))
    loaded = load(settings)
    rejected = [text for text in of_level(lines, "ERROR") if text.startswith("Rejected")]
    assert len(rejected) == loaded.n_rejected == 3
    for pair, text in zip(PAIRS, rejected, strict=True):
        now = loaded.pairs[pair]
        assert text == (
            f"Rejected Optuna params for {pair} reason={pair}: horizon_candles=60, but this feeder has "
            f"{settings.horizon_candles} running={now.source} version={now.version_text}"
        )


def test_one_note_of_many_pairs_is_said_once_with_the_newest(settings, write_store, lines):
    """Half-written by one writer, expired by one pause: one line each."""
    write_store(*(market_record(pair, NOW_NS - 91 * DAY_NS - i) for i, pair in enumerate(PAIRS)))
    for i, pair in enumerate(PAIRS):
        write_row(settings, pair, NEW + i, {"reg_alpha": None})
    load(settings)
    said = of_level(lines, "WARNING")
    (passed,) = [text for text in said if text.startswith("Stored record passed over")]
    assert f"3 points of {', '.join(PAIRS)}, the newest at {format_time_ns(NEW + 2)}" in passed
    (expired,) = [text for text in said if text.startswith("Stored record is too old")]
    assert f"pair={','.join(PAIRS)} version=several" in expired


def test_copy_in_the_log_counts_the_pairs_that_run_on_it(settings, copy, write_store, lines):
    """Beside one rejected pair the copy of the others stands in for nothing."""
    write_store(market_record(ETH, NEW))
    write_row(settings, BTC, NEW, {"num_leaves": 99.0})
    pairs = load(settings).pairs
    assert [pair for pair, now in pairs.items() if now.source == "last_good"] == [BTC]
    (said,) = [t for t in of_level(lines, "WARNING") if "stands in for the store" in t]
    assert "stands in for the store pairs=1 " in said
    assert "last_good=1" in lines()[-1][1]


def test_incomplete_record_alone_is_no_store_without_records(settings, copy, write_store, lines):
    """Where no older record is in the store, the copy or what runs goes on: never silent defaults."""
    write_store(market_record(ETH, OLD))
    write_row(settings, BTC, NEW, {"reg_alpha": None})
    started = load(settings)
    pair = started.pairs[BTC]
    assert (pair.source, pair.version) == ("last_good", OLD)
    assert "reg_alpha missing" in pair.rejected
    assert f"No Optuna params for {BTC}, using defaults generation=4" not in of_level(
        lines, "WARNING"
    )
    reloaded = load(settings, running=started.pairs).pairs[BTC]
    assert (reloaded.source, reloaded.rejected) == ("last_good", pair.rejected)


def test_record_of_the_future_is_passed_over_and_named(settings, write_store, lines):
    """A writer with a wrong clock does not win for hours, and is said."""
    write_store(market_record(BTC, OLD), market_record(BTC, NOW_NS + HOUR_NS, num_leaves=40))
    loaded = load(settings)
    assert (loaded.pairs[BTC].version, loaded.pairs[BTC].rejected) == (OLD, None)
    assert [text for text in of_level(lines, "WARNING") if "in the future" in text and BTC in text]


def test_unknown_column_is_ignored(settings, write_store):
    """A later version may write more: the record is taken as it is known here."""
    write_store(market_record(ETH, OLD))
    write_row(settings, BTC, NEW, {"num_leaves": 40.0}, extra_column="phase_of_the_moon")
    loaded = load(settings)
    assert loaded.pairs[BTC].parameters == default_parameters() | {"num_leaves": 40}


def test_expired_record_serves_no_start_and_is_said(settings, write_store, lines):
    """At start, a record older than 90 days counts as none; which pair it was is in the log."""
    write_store(market_record(BTC, NOW_NS - 91 * DAY_NS, num_leaves=40), market_record(ETH, NEW))
    loaded = load(settings)
    assert (loaded.pairs[BTC].source, loaded.pairs[BTC].parameters) == (
        "default",
        default_parameters(),
    )
    assert f"No Optuna params for {BTC}, using defaults generation=4" in of_level(lines, "WARNING")
    old = [t for _, t in lines() if BTC in t and format_time_ns(NOW_NS - 91 * DAY_NS) in t]
    assert old, "an expired record looks like none at all"


def test_record_of_just_under_90_days_is_taken(settings, write_store):
    """The age limit of a record is 90 days."""
    write_store(market_record(BTC, NOW_NS - 90 * DAY_NS + HOUR_NS))
    assert load(settings).pairs[BTC].source == "store"


@pytest.mark.parametrize(
    ("metrics", "words", "here"),
    [
        pytest.param({"feature_hash": 7.0}, "features", FEATURE_HASH, id="features"),
        pytest.param({"context_hash": 7.0}, "context pairs", hash48(*sorted(PAIRS)), id="context"),
        pytest.param(
            {"market_hash": 7.0}, "exchange or candles", hash48("binance", "futures"), id="market"
        ),
    ],
)
def test_record_tuned_on_other_features_is_used_with_a_warning(
    settings, write_store, lines, metrics, words, here
):
    """Other features or context pairs: better than nothing, and to be tuned again."""
    (name,) = metrics
    write_store(market_record(BTC, NEW, metrics=metrics))
    assert load(settings).pairs[BTC].source == "store"
    assert (
        f"Optuna params for {BTC} were tuned on other {words}, tune again "
        f"version={format_time_ns(NEW)} {name}=7 here={here}"
    ) in of_level(lines, "WARNING")


def test_record_of_these_features_and_context_gives_no_warning(settings, write_store, lines):
    """What was tuned here is just taken."""
    metrics = {
        "feature_hash": float(FEATURE_HASH),
        "context_hash": float(hash48(*settings.context_pairs)),
        "market_hash": float(hash48(settings.exchange, settings.candle_type)),
        "side": 1.0,
        "horizon_candles": float(HORIZON),
        "timeframe_s": float(STEP_S),
    }
    write_store(*(market_record(pair, NEW, metrics=metrics) for pair in PAIRS))
    load(settings)
    assert of_level(lines, "WARNING") == []


def test_records_without_a_side_serve_with_one_warning_that_counts_them(
    settings, write_store, lines
):
    """Older records are taken as this feeder's; the operator hears of it once."""
    write_store(
        market_record(BTC, NEW, metrics={"side": 1.0}),
        *(market_record(p, NEW, metrics={}) for p in (ETH, SOL)),
    )
    assert {pair.source for pair in load(settings).pairs.values()} == {"store"}
    (said,) = [text for text in of_level(lines, "WARNING") if "without a side" in text]
    assert f"taken as long, tune again to be sure pairs=2 of=3 first={ETH}" in said


def test_last_good_copy_of_the_other_side_serves_nobody_and_is_named(
    settings, copy, write_store, lines
):
    """A long feeder's own copies, after its config went short: the defaults run, the copy is said."""
    other = dataclasses.replace(settings, side="short")
    save_last_good(settings, [market_record(BTC, OLD, metrics={"side": 1.0})])
    write_store(market_record(ETH, NEW, metrics={"side": -1.0}))
    write_row(settings, BTC, NEW, {"num_leaves": 99.0})
    assert load(other).pairs[BTC].source == "default"
    (said,) = [t for t in of_level(lines, "ERROR") if t.startswith("Last good copy does not match")]
    assert f"reason={BTC}: side=long, but this feeder is short" in said


@pytest.mark.parametrize(
    ("metrics", "beats"),
    [({"beats_rule": 0.0}, False), ({"beats_rule": 1.0}, True), ({}, True)],
    ids=["no", "yes", "unsaid"],
)
def test_beats_rule_of_the_record_goes_with_the_pair(settings, write_store, metrics, beats):
    """Only a record that says 0 takes the pair's safe away."""
    write_store(market_record(BTC, NEW, metrics=metrics))
    assert load(settings).pairs[BTC].beats_rule is beats


# ------------------------------------------------------------------ reload: a running pair keeps


def test_reload_from_a_store_that_is_down_is_an_error_and_changes_nothing(
    settings, write_store, down
):
    """Nothing is returned that could be put in force."""
    write_store(market_record(BTC, NEW, num_leaves=31))
    running = load(settings).pairs
    with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
        load_parameters(FeederReader(settings, STEP_S), down, running)


@pytest.mark.parametrize(
    ("newer", "is_rejected"),
    [
        pytest.param(None, False, id="none"),
        pytest.param({"num_leaves": 99.0}, True, id="rejected"),
        pytest.param({"horizon_candles": 30.0}, True, id="other_horizon"),
    ],
)
def test_reload_without_usable_record_keeps_what_the_pair_runs(
    settings, write_store, lines, newer, is_rejected
):
    """A running pair keeps record, source and version; the refusal is noted beside it."""
    write_store(market_record(BTC, OLD, num_leaves=31), market_record(ETH, OLD))
    running = load(settings).pairs
    path = settings.user_data_dir / "feeder_params.sqlite"
    if newer is None:
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM optimized_parameters WHERE pair = ?", [BTC])
        connection.close()
    else:
        write_row(settings, BTC, NEW, newer)
    pair = load(settings, running=running).pairs[BTC]
    assert (pair.source, pair.version) == ("store", OLD)
    assert pair.parameters == running[BTC].parameters
    assert (pair.rejected is not None) == is_rejected
    if is_rejected:
        assert (
            f"Rejected Optuna params for {BTC} reason={pair.rejected} running=store "
            f"version={format_time_ns(OLD)}"
        ) in of_level(lines, "ERROR")


def test_reload_with_good_record_after_a_refused_one_recovers(settings, write_store):
    """The next good record is taken, and nothing is said to be refused any more."""
    write_store(market_record(BTC, OLD))
    write_row(settings, BTC, NEW, {"num_leaves": 99.0})
    first = load(settings)
    assert first.pairs[BTC].rejected
    write_store(market_record(BTC, NEW + 1, num_leaves=33))
    again = load(settings, running=first.pairs).pairs[BTC]
    assert (again.rejected, again.source, again.parameters["num_leaves"]) == (None, "store", 33)


def test_reload_whose_record_expired_meanwhile_keeps_what_runs(settings, write_store, monkeypatch):
    """A bot that ran for 90 days without tuning does not fall back to defaults at a reload."""
    write_store(market_record(BTC, NOW_NS - 89 * DAY_NS, num_leaves=31))
    running = load(settings).pairs
    monkeypatch.setattr("feeder_mixin.stores.sql.now_ns", lambda: NOW_NS + 5 * DAY_NS)
    again = load(settings, running=running).pairs[BTC]
    assert (again.source, again.version) == ("store", NOW_NS - 89 * DAY_NS)


# ------------------------------------------------------------------ the last good copy


@pytest.fixture
def copy(settings):
    """Give a last good copy of two pairs."""
    save_last_good(
        settings, [market_record(BTC, OLD, num_leaves=31), market_record(ETH, OLD, num_leaves=41)]
    )
    return settings.last_good_path


def test_store_down_at_start_with_last_good_copy_runs_on_it(settings, copy, down, lines):
    """The copy serves, source last_good; pairs outside it get defaults; why is an ERROR."""
    loaded = load(settings, down)
    assert {p: (x.source, x.version) for p, x in loaded.pairs.items()} == {
        BTC: ("last_good", OLD),
        ETH: ("last_good", OLD),
        SOL: ("default", None),
    }
    assert loaded.pairs[BTC].parameters["num_leaves"] == 31
    (error,) = of_level(lines, "ERROR")
    assert error.startswith(
        "Store gave no answer feeder=feeder120b store=influxdb+http://127.0.0.1:"
    )
    assert loaded.error in error
    assert (
        "INFO",
        f"Using Optuna params for {BTC} source=last_good version={format_time_ns(OLD)} generation=4",
    ) in lines()
    assert (
        f"Last good copy stands in for the store pairs=2 oldest_days=0.0 path={copy}"
        in of_level(lines, "WARNING")
    )
    assert "for 0 pairs" in lines()[-1][1]
    assert "loaded=0 defaulted=1 rejected=0" in lines()[-1][1]


def test_store_down_at_start_without_last_good_copy_runs_on_defaults(settings, down, lines):
    """A bot never waits for its store: defaults, and everything is said."""
    loaded = load(settings, down)
    assert {x.source for x in loaded.pairs.values()} == {"default"}
    assert loaded.error
    assert f"There is no last good copy path={settings.last_good_path}" in of_level(
        lines, "WARNING"
    )


def test_unreachable_postgresql_at_start_runs_on_the_copy(settings, copy, closed_port, lines):
    """The same for the other server; its password is in no line."""
    pytest.importorskip("psycopg")
    url = f"postgresql+psycopg://bot:{SECRET}@127.0.0.1:{closed_port}/feeder"
    loaded = load(settings, {"FEEDER_STORE_URL": url})
    assert loaded.pairs[BTC].source == "last_good"
    assert loaded.error
    assert SECRET not in json.dumps(lines())
    assert SECRET not in repr(loaded)
    assert SECRET not in loaded.error


def test_secret_is_in_no_log_line(settings, down, lines):
    """Neither URL nor token of the store reaches a log, an error or the outcome."""
    down["FEEDER_STORE_URL"] += f"&note={SECRET}"
    with pytest.raises(SettingsError) as caught:
        load(settings, down)
    assert SECRET not in str(caught.value)
    down["FEEDER_STORE_URL"] = down["FEEDER_STORE_URL"].partition("&")[0]
    loaded = load(settings, down)
    assert loaded.error
    assert SECRET not in json.dumps(lines())
    assert SECRET not in repr(loaded)


def test_rejected_record_at_start_runs_on_the_copy(settings, copy, write_store, lines):
    """What ran before the restart goes on when the store's newest record is refused."""
    write_store(market_record(ETH, NEW))
    write_row(settings, BTC, NEW, {"num_leaves": 99.0})
    pair = load(settings).pairs[BTC]
    assert (pair.source, pair.version) == ("last_good", OLD)
    assert "num_leaves=99.0" in pair.rejected
    assert (
        f"Rejected Optuna params for {BTC} reason={pair.rejected} running=last_good "
        f"version={format_time_ns(OLD)}"
    ) in of_level(lines, "ERROR")


def test_records_of_the_future_only_at_start_run_on_the_copy(settings, copy, write_store, lines):
    """A clock that was set back makes no fresh start: what ran before goes on."""
    write_store(market_record(BTC, NOW_NS + DAY_NS, num_leaves=33))
    pairs = load(settings).pairs
    assert (pairs[BTC].source, pairs[BTC].version, pairs[BTC].rejected) == ("last_good", OLD, None)
    assert pairs[ETH].source == "default"
    assert [t for t in of_level(lines, "WARNING") if "in the future" in t and BTC in t]


def test_store_that_answers_none_at_start_means_defaults_in_spite_of_a_copy(
    settings, copy, write_store
):
    """A copy never overrules a store that answered: its records may have been withdrawn."""
    write_store(market_record(SOL, NEW))
    loaded = load(settings)
    assert (loaded.pairs[BTC].source, loaded.pairs[SOL].source) == ("default", "store")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content: content.replace(b":31.0", b":32.0"), id="edited"),
        pytest.param(lambda _content: b"\x80\x04pickle", id="something_else"),
    ],
)
def test_damaged_copy_is_not_used_and_named(settings, copy, down, lines, damage):
    """A copy that was cut or edited is refused whole; the bot runs on defaults and says so."""
    content = copy.read_bytes()
    copy.write_bytes(damage(content))
    assert copy.read_bytes() != content
    loaded = load(settings, down)
    assert {x.source for x in loaded.pairs.values()} == {"default"}
    (line,) = [t for t in of_level(lines, "ERROR") if t.startswith("Last good copy can't be used")]
    assert str(copy) in line


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d["records"][ETH].pop("saved_ns"), id="no_time"),
        pytest.param(lambda d: d.update(records=[]), id="no_mapping"),
        pytest.param(lambda d: d["records"][BTC]["fields"].pop("num_leaves"), id="incomplete"),
        pytest.param(lambda d: d["records"][BTC]["fields"].update(num_leaves=99), id="range"),
        pytest.param(lambda d: d["records"][BTC].update(provenance="{"), id="provenance"),
        pytest.param(lambda d: d["records"].update({BTC: None}), id="null"),
        pytest.param(lambda d: d["records"][BTC].update(time_ns=10**400), id="number"),
        pytest.param(lambda d: d["records"][BTC].update(provenance="1" * 5_000), id="digits"),
    ],
)
def test_copy_of_another_shape_is_not_used_and_named(settings, copy, down, lines, change):
    """A whole file whose content makes no records (an older version's) ends no start."""
    document = read_checked(copy)
    change(document)
    write_checked(copy, document)
    loaded = load(settings, down)
    assert {x.source for x in loaded.pairs.values()} == {"default"}
    assert [t for t in of_level(lines, "ERROR") if "can't be used" in t and str(copy) in t]


@pytest.mark.parametrize(("age_days", "is_used"), [(6.9, True), (7.1, False)], ids=["young", "old"])
def test_copy_older_than_the_limit_is_not_used(
    tmp_path, down, lines, monkeypatch, age_days, is_used
):
    """`feeder.last_good_max_days` bounds how old a copy may be; without it there is no bound."""
    limited = market_settings(tmp_path / "user_data", last_good_max_days=7.0)
    save_last_good(limited, [market_record(BTC, OLD)])
    monkeypatch.setattr(loader.time, "time_ns", lambda: NOW_NS + int(age_days * DAY_NS))
    assert (load(limited, down).pairs[BTC].source == "last_good") is is_used
    old = [t for t in of_level(lines, "ERROR") if t.startswith("Last good copy is too old")]
    assert bool(old) is not is_used
    assert all("age_days=7.1 feeder.last_good_max_days=7" in text for text in old)
    unlimited = market_settings(tmp_path / "user_data")
    assert load(unlimited, down).pairs[BTC].source == "last_good"


def test_age_of_a_copy_is_the_pairs_own(tmp_path, down, monkeypatch):
    """A pair that the store stopped giving grows old, whatever it still gives for others."""
    limited = market_settings(tmp_path / "user_data", last_good_max_days=7.0)
    save_last_good(limited, [market_record(ETH, OLD)])
    monkeypatch.setattr(loader.time, "time_ns", lambda: NOW_NS + int(8 * DAY_NS))
    save_last_good(limited, [market_record(BTC, OLD)])
    sources = {pair: one.source for pair, one in load(limited, down).pairs.items()}
    assert (sources[BTC], sources[ETH]) == ("last_good", "default")


def test_copy_of_another_horizon_is_not_used(settings, down):
    """A config whose horizon was changed does not run on what was tuned for the old one."""
    other = {"horizon_candles": 30.0}
    save_last_good(settings, [market_record(BTC, OLD, metrics=other), market_record(ETH, OLD)])
    loaded = load(settings, down)
    assert (loaded.pairs[BTC].source, loaded.pairs[ETH].source) == ("default", "last_good")


def test_copy_keeps_pairs_that_the_store_did_not_give_this_time(settings, copy):
    """A partial answer takes no pair out of the copy, and replaces those it has."""
    save_last_good(settings, [market_record(BTC, NEW, num_leaves=33)])
    pairs = load_last_good(FeederReader(settings, STEP_S), PAIRS)
    assert {p: (x.version, x.parameters["num_leaves"]) for p, x in pairs.items()} == {
        BTC: (NEW, 33),
        ETH: (OLD, 41),
    }


def test_copy_that_is_damaged_is_written_anew(settings, copy):
    """The next good load mends the file."""
    copy.write_bytes(b"{")
    save_last_good(settings, [market_record(ETH, NEW)])
    assert list(load_last_good(FeederReader(settings, STEP_S), PAIRS)) == [ETH]


def test_copy_of_another_shape_is_written_anew(settings, copy):
    """A whole file without records must not fail the load that would mend it."""
    for document in ({}, {"records": None}, {"records": 3}, {"records": {SOL: {"saved_ns": 1}}}):
        write_checked(copy, document)
        save_last_good(settings, [market_record(ETH, NEW)])
        assert list(load_last_good(FeederReader(settings, STEP_S), PAIRS)) == [ETH]


def test_copy_gives_back_every_bit_of_a_record(settings):
    """What serves from the copy equals what served from the store, beats_rule included."""
    record = market_record(
        BTC, NEW, metrics={"beats_rule": 0.0, "candles_to_s": 1.5e9}, learning_rate=0.1 / 3
    )
    save_last_good(settings, [record])
    from_copy = load_last_good(FeederReader(settings, STEP_S), PAIRS)[BTC]
    from_store = loader.from_record(record, "last_good")
    assert from_copy == from_store
    assert from_copy.candles_to_s == 1.5e9


# ------------------------------------------------------------------ settings of the store


def test_wrong_store_url_is_a_settings_error_before_anything_runs(tmp_path):
    """The bot checks its store's URL and token at start, without connecting."""
    settings = market_settings(tmp_path / "user_data", store_url="mysql://host/db")
    with pytest.raises(SettingsError, match="store URL of unknown kind 'mysql'"):
        check_store_url(settings, {})


def test_token_comes_from_the_environment_that_is_handed_over(settings, down, monkeypatch):
    """URL and token are looked up in one place: here, not in the process's environment."""
    monkeypatch.delenv("FEEDER_STORE_TOKEN")
    assert load(settings, down).error
    check_store_url(settings, down)


def test_store_url_of_the_config_is_below_that_of_the_environment(tmp_path, lines):
    """FEEDER_STORE_URL wins over feeder.store_url; the log says which one it was."""
    settings = market_settings(tmp_path / "user_data", store_url="sqlite:///user_data/a.sqlite")
    load(settings)
    assert (
        f"store=sqlite:///{tmp_path}/user_data/a.sqlite (config feeder.store_url)" in lines()[-1][1]
    )
    load(settings, {"FEEDER_STORE_URL": "sqlite:///user_data/b.sqlite"})
    assert f"store=sqlite:///{tmp_path}/user_data/b.sqlite (FEEDER_STORE_URL)" in lines()[-1][1]


def test_corrupt_store_file_at_start_runs_on_the_copy(settings, copy, lines):
    """A store that answers with nonsense gave no answer."""
    (settings.user_data_dir / "feeder_params.sqlite").write_bytes(b"no database " * 200)
    loaded = load(settings)
    assert loaded.pairs[BTC].source == "last_good"
    assert "not a database" in loaded.error


def test_record_tuned_without_a_context_pair_names_it(settings, write_store, lines):
    """Tuning again changes nothing until that pair has candles where it is tuned."""
    record = market_record(BTC, NEW, metrics={"context_hash": 1.0})
    write_store(dataclasses.replace(record, provenance={"context_pairs": [BTC, ETH]}))
    load(settings)
    (said,) = [text for text in of_level(lines, "WARNING") if "other context pairs" in text]
    assert said.endswith(
        f"tuned_without={SOL}: they had no candles when tuned, download them first"
    )
