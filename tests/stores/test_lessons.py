"""The owner's seven lessons (each cost a night), replayed against every store up to what a bot runs."""

import logging
from dataclasses import replace

import pytest

from feeder_mixin.errors import SettingsError, StoreError
from feeder_mixin.live.announce import log_loaded
from feeder_mixin.live.reload.feeder_reader import FeederReader
from feeder_mixin.live.reload.loader import load_parameters
from feeder_mixin.live.state.last_good import save_last_good
from feeder_mixin.schema import (
    NANOSECONDS,
    PARAMETER_NAMES,
    default_parameters,
    parse_time_ns,
)
from tests.builders import make_full_record, make_settings

PAIR, OTHER, THIRD = PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT")
HOUR_NS, DAY_NS = 3_600 * NANOSECONDS, 86_400 * NANOSECONDS
FLOATS = {name: float(value) for name, value in default_parameters().items()}
HALF = {name: FLOATS[name] for name in PARAMETER_NAMES[:4]}
FOREIGN_NAMES = {f"lgbm_{name}": value for name, value in FLOATS.items()}


def make_any_record(*key, **changes):
    """Return a record that bots of any horizon and timeframe take."""
    return replace(make_full_record(*key, **changes), metrics={"skill": 0.1})


@pytest.fixture
def load(backend, tmp_path, now, monkeypatch, caplog):
    """Give a function that loads as a bot of three pairs does, and says so in the log."""
    caplog.set_level(logging.DEBUG, "feeder_mixin")
    for module in ("influx", "sql"):
        monkeypatch.setattr(f"feeder_mixin.stores.{module}.now_ns", lambda: now)

    def run(running=None, feeder=backend.feeder, environ=backend.environ):
        settings = make_settings(tmp_path / "user_data", feeder, side="long", pairs=PAIRS)
        loaded = load_parameters(FeederReader(settings, 300), environ, running)
        log_loaded(settings, loaded, 1)
        return loaded

    return run


def sources(loaded):
    """Return pair -> where its values come from."""
    return {pair: one.source for pair, one in loaded.pairs.items()}


def test_lesson_1_field_names_of_another_writer_are_an_error_with_the_name(
    backend, store, load, now, caplog
):
    """A record under other names never loads; the missing field is named, and what runs instead."""
    record = make_any_record(PAIR, now - DAY_NS, feeder_id=backend.feeder, num_leaves=40)
    store.write([record])
    for pair in (PAIR, OTHER):
        backend.write_raw(backend.feeder, pair, now - HOUR_NS, FOREIGN_NAMES)
    backend.write_raw(backend.feeder, THIRD, now, {**FOREIGN_NAMES, "learning_rate": 0.05})
    loaded = load()
    assert sources(loaded) == {PAIR: "store", OTHER: "default", THIRD: "default"}
    assert loaded.pairs[PAIR].parameters == record.parameters
    assert loaded.pairs[THIRD].parameters == default_parameters()
    assert "n_estimators" in loaded.pairs[THIRD].rejected
    assert f"Rejected Optuna params for {THIRD}" in caplog.text
    assert "loaded=1 defaulted=2" in caplog.text


def test_lesson_2_integers_of_a_foreign_writer_hide_no_float(backend, store, load, now):
    """Integers in an older week neither refuse the read nor make newer floats vanish."""
    integers = {name: round(value) for name, value in FLOATS.items()}
    backend.write_raw(backend.feeder, OTHER, now - 60 * DAY_NS, integers)
    records = [make_any_record(pair, now - 1, feeder_id=backend.feeder) for pair in (PAIR, OTHER)]
    store.write(records)
    assert store.latest(backend.feeder, now=now).records == {r.pair: r for r in records}
    loaded = load()
    assert sources(loaded) == {PAIR: "store", OTHER: "store", THIRD: "default"}
    whole = loaded.pairs[OTHER].parameters["n_estimators"]
    assert isinstance(whole, int)


def test_lesson_3_mixed_old_and_new_gives_the_newest_complete_record(backend, store, load, now):
    """A half-written newest point is not the latest, and lends none of its values."""
    record = make_any_record(PAIR, now - DAY_NS, feeder_id=backend.feeder, learning_rate=0.05)
    store.write([make_any_record(PAIR, now - 2 * DAY_NS, feeder_id=backend.feeder), record])
    backend.write_raw(backend.feeder, PAIR, now - 1, HALF)
    loaded = load()
    assert loaded.pairs[PAIR].version == record.time_ns
    assert loaded.pairs[PAIR].parameters == record.parameters
    assert PARAMETER_NAMES[4] in loaded.pairs[PAIR].passed_over
    assert loaded.pairs[PAIR].rejected is None


def test_lesson_4_latest_of_every_pair_has_all_ten_fields(backend, store, now):
    """Not one field of ten a pair, whatever lies around the records (see test_influx_answers)."""
    expected = {}
    for i, pair in enumerate(PAIRS):
        values = {"learning_rate": 0.01 * (i + 1), "num_leaves": 20 + i}
        expected[pair] = make_any_record(pair, now - DAY_NS - i, feeder_id=backend.feeder, **values)
        older = [
            make_any_record(pair, now - age * DAY_NS, feeder_id=backend.feeder)
            for age in (3, 9, 30)
        ]
        store.write([*older, expected[pair]])
        backend.write_raw(backend.feeder, pair, now - i - 1, HALF)
    assert store.latest(backend.feeder, now=now).records == expected


def test_lesson_5_naive_time_of_a_zone_ahead_of_utc_is_told_not_lost(
    backend, store, load, now, caplog
):
    """Local time read as UTC lies seven hours ahead: it is said by how much, and does not serve."""
    record = make_any_record(PAIR, now - DAY_NS, feeder_id=backend.feeder)
    store.write([record])
    backend.write_raw(backend.feeder, PAIR, now + 7 * HOUR_NS, FLOATS | {"num_leaves": 40.0})
    loaded = load()
    assert loaded.pairs[PAIR].version == record.time_ns
    assert "dated 25200 s in the future (a writer with a wrong clock or zone?)" in caplog.text
    assert len(store.history(backend.feeder, PAIR)) == 2
    with pytest.raises(SettingsError, match="RFC 3339 with a zone"):
        parse_time_ns("2026-11-24T18:00:00")


def test_lesson_6_every_value_says_where_it_came_from(backend, store, load, now, tmp_path, caplog):
    """Store, last good copy and default are told apart in what is loaded and in the log."""
    record = make_any_record(PAIR, now - 1, feeder_id=backend.feeder, num_leaves=20)
    kept = make_any_record(OTHER, now - DAY_NS, feeder_id=backend.feeder, num_leaves=30)
    store.write([record])
    backend.write_raw(backend.feeder, OTHER, now - 1, FLOATS | {"num_leaves": 1e6})
    save_last_good(
        make_settings(tmp_path / "user_data", backend.feeder, side="long", pairs=PAIRS), [kept]
    )
    loaded = load()
    assert sources(loaded) == {PAIR: "store", OTHER: "last_good", THIRD: "default"}
    assert "num_leaves" in loaded.pairs[OTHER].rejected
    assert f"Using Optuna params for {PAIR} source=store" in caplog.text
    assert f"Using Optuna params for {OTHER} source=last_good" in caplog.text
    assert f"No Optuna params for {THIRD}, using defaults" in caplog.text
    assert "Loaded Optuna params for 1 pairs" in caplog.text


def test_lesson_7_query_error_is_raised_and_keeps_what_runs(backend, store, load, now, caplog):
    """An error is never an empty store: a running bot keeps its values, a starting one says why."""
    store.write([make_any_record(PAIR, now - 1, feeder_id=backend.feeder)])
    running = load().pairs
    feeder = backend.break_queries()
    with pytest.raises(StoreError):
        store.latest(feeder, now=now)
    with pytest.raises(StoreError):
        load(running, feeder)
    caplog.clear()
    loaded = load(None, feeder)
    assert loaded.error is not None
    assert "Store gave no answer" in caplog.text
    assert "is it the right one?" not in caplog.text
