"""Files of the state folder, damaged or whole with another content."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import time
from contextlib import closing

import numpy as np
import pytest
from hypothesis import strategies as st

from feeder_mixin.cli.bot_commands import BotReport, _print_report
from feeder_mixin.cli.common import make_console
from feeder_mixin.documents import Numbers
from feeder_mixin.live.bot import LiveFeeder
from feeder_mixin.live.reload.feeder_reader import FeederReader
from feeder_mixin.live.reload.loader import load_last_good
from feeder_mixin.live.serve.calibration import Calibration
from feeder_mixin.live.serve.candles import DataFolder
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.live.state.last_good import save_last_good
from feeder_mixin.live.state.schedule import schedule_identity
from feeder_mixin.live.state.status import read_status, write_status
from feeder_mixin.schema import default_parameters
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import SqlStore
from feeder_mixin.tune.run import journal as journal_module
from feeder_mixin.tune.run.journal import Journal
from tests import strategies
from tests.builders import FEEDER
from tests.live.conftest import BTC, STEP_S, loaded_pair, market_record, market_settings
from tests.live.fake_bot import make_status
from tests.reports import builder

NOW_NS = time.time_ns()


@pytest.fixture
def feeder(tmp_path):
    """Give a feeder whose state folder exists."""
    return market_settings(tmp_path / "user_data", last_good_max_days=7.0)


def damage_or_change(path, document):
    """Return contents of a checked file: damaged, or whole with another document."""
    write_checked(path, document)
    damaged = strategies.damaged_bytes(path.read_bytes())
    return damaged | strategies.mutated_documents(document).map(lambda d: {"whole": d})


def put(path, content):
    """Write what `damage_or_change` drew."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        put_body(path, json.dumps(content["whole"]).encode())  # NaN as well: its reader takes it


def put_body(path, body):
    """Write a checked file whose digest fits, whatever its body is."""
    digest = hashlib.sha256(body).hexdigest().encode()
    path.write_bytes(b'{"sha256":"%b","document":%b}\n' % (digest, body))


def test_status_file_of_any_content_is_shown_or_refused(fuzz, state_dir, feeder):
    """What `read_status` accepts can be printed; what it does not is our error."""
    status = make_status()
    write_status(feeder.status_path, status)
    damaged = strategies.damaged_bytes(feeder.status_path.read_bytes())
    changed = strategies.mutated_documents(status).map(lambda d: json.dumps(d).encode())

    def check(content):
        feeder.status_path.write_bytes(content)
        read = read_status(feeder.status_path)
        with make_console().capture():
            _print_report(make_console(), feeder, BotReport(True, 1, read, None))

    fuzz(damaged | changed, check, 80)


def test_checked_file_of_any_bytes_is_a_document_or_our_error(fuzz, state_dir):
    """Also where the digest fits: nesting without end, numbers without end, no object."""
    path = state_dir / "file.json"
    bodies = {
        "deep": b"[" * 100_000,
        "digits": b"1" * 5_000,
        "empty": b"{}",
        "null": b"null",
        "zero": b"\x00",
        "latin": b'{"a":"\xe9"}',
    }

    def check(content):
        put(path, content)
        assert isinstance(read_checked(path), dict)

    fuzz(damage_or_change(path, {"a": [1, 2.5, "é", None]}), check, 100)

    def check_body(name):
        put_body(path, bodies[name])
        assert read_checked(path) == {}

    fuzz(st.sampled_from(sorted(bodies)), check_body, 10)


def test_last_good_copy_of_any_content_serves_whole_or_not_at_all(fuzz, feeder):
    """A start goes on without it, and the next good load writes it anew."""
    records = [market_record(BTC, NOW_NS, metrics={"skill": 0.1}, num_leaves=31)]
    save_last_good(feeder, records)
    document = read_checked(feeder.last_good_path)

    def check(content):
        put(feeder.last_good_path, content)
        for pair in load_last_good(FeederReader(feeder, STEP_S), feeder.pairs).values():
            assert set(pair.parameters) == set(default_parameters())
            assert pair.source == "last_good"
        save_last_good(feeder, records)
        assert (
            load_last_good(FeederReader(feeder, STEP_S), feeder.pairs)[BTC].parameters["num_leaves"]
            == 31
        )

    fuzz(damage_or_change(feeder.last_good_path, document), check, 80)


def test_calibration_file_of_any_content_is_used_or_begins_anew(fuzz, state_dir, feeder):
    """Theta of every pair is a finite number at every candle, whatever the file holds."""
    path = state_dir / "calibration.json"
    Calibration(feeder, STEP_S, 10).save(path)
    thetas = base64.b64encode(np.array([0.1, 0.2]).tobytes()).decode()
    document = {
        "identity": read_checked(path)["identity"],
        "pairs": {BTC: {"first_candle_s": NOW_NS // 10**9 // 300 * 300 - 900, "thetas": thetas}},
    }

    def check(content):
        put(path, content)
        calibration = Calibration(feeder, STEP_S, 10)
        calibration.restore(path)
        for pair, track in calibration.tracks.items():
            assert np.isfinite(track.thetas).all()
            assert type(track.first_s) is int
            assert calibration.factor(pair) > 0
            track.at(np.array([track.first_s, track.last_s], dtype=np.int64))
        calibration.save(path)

    fuzz(damage_or_change(path, document), check, 80)


def test_schedule_file_of_any_content_ends_no_start(fuzz, state_dir, feeder):
    """Models that can't be put back in force are trained anew; the bot starts."""
    bot = LiveFeeder(DataFolder(feeder, state_dir, STEP_S), lambda _pair: None)
    path = state_dir / "schedule.json"
    entry = {
        "model": "0" * 16,
        "first_candle_s": NOW_NS // 10**9 - 600,
        "source": "store",
        "version": NOW_NS,
        "beats_rule": True,
    }
    document = {"identity": schedule_identity(feeder), "pairs": {BTC: [entry, entry]}}

    def check(content):
        put(path, content)
        bot.cache.swap_parameters({BTC: loaded_pair(BTC)}, 1, NOW_NS, 0)
        bot.schedule.restore(bot.models)
        assert bot.snapshot.pairs[BTC].newest is None

    try:
        fuzz(damage_or_change(path, document), check, 80)
    finally:
        bot.watcher.stop()
        bot.state_folder.release()


# ------------------------------------------------------------------ SQLite files


def damaged_database(path):
    """Return contents of an SQLite file, damaged."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return strategies.damaged_bytes(path.read_bytes())


def replace_database(path, content):
    """Write an SQLite file without what SQLite kept beside it."""
    path.write_bytes(content)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def use_journal(journal):
    """Do with a journal what a run does."""
    for run_id, _ in journal.newest_results().results.values():
        journal.trials(run_id, "search", Numbers)
    runs = journal.begin({BTC: {"pair": BTC}}, {})
    run_id = runs[BTC].run_id
    journal.save_trials(run_id, "search", {7: {"value": 1.0}})
    assert 7 in journal.trials(run_id, "search", Numbers)
    journal.finish(run_id, builder.make_result())
    journal.close_runs([run_id])


def test_damaged_journal_is_used_or_refused(fuzz, feeder, monkeypatch):
    """Bytes changed anywhere in the tuning journal."""
    # One byte of the header makes SQLite wait for a lock that nobody holds.
    monkeypatch.setattr(journal_module, "BUSY_TIMEOUT_S", 0.05)
    with Journal(feeder.journal_path) as journal:
        use_journal(journal)
        journal.begin({BTC: {"pair": BTC}}, {})

    def check(content):
        replace_database(feeder.journal_path, content)
        with Journal(feeder.journal_path) as journal:
            use_journal(journal)

    fuzz(damaged_database(feeder.journal_path), check, 50)


def test_journal_rows_of_any_values_are_used_or_refused(fuzz, feeder):
    """Documents that are no JSON, or no object; foreign types in any column."""
    cells = (
        st.none()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats()
        | st.binary(max_size=5)
        | st.sampled_from(("{", "[]", "null", "1" * 5_000, "[" * 9_000, '{"a":1}'))
    )
    columns = st.sampled_from(("pair", "warm_start", "result", "document", "state"))

    def check(change):
        column, value = change
        for suffix in ("", "-wal", "-shm"):
            feeder.journal_path.with_name(feeder.journal_path.name + suffix).unlink(missing_ok=True)
        with Journal(feeder.journal_path) as journal:
            run = journal.begin({BTC: {"pair": BTC}}, {})[BTC]
            journal.save_trials(run.run_id, "search", {7: {"value": 1.0}})
            table = "trials" if column == "document" else "runs"
            try:
                with closing(sqlite3.connect(feeder.journal_path, isolation_level=None)) as db:
                    db.execute(f"UPDATE {table} SET {column} = ?", (value,))  # noqa: S608
            except sqlite3.IntegrityError:
                return
            use_journal(journal)

    fuzz(st.tuples(columns, cells), check, 40)


def test_damaged_outbox_is_delivered_or_refused(fuzz, feeder, tmp_path_factory):
    """Bytes changed anywhere in the outbox: what can be read as a record goes out, no other."""
    target_path = tmp_path_factory.mktemp("elsewhere") / "store.sqlite"
    outbox = Outbox(feeder.outbox_path)
    for i in range(3):
        outbox.put(market_record(BTC, NOW_NS - i))
    with SqlStore(target_path) as store:
        outbox.deliver(store)
        outbox.put(market_record(BTC, NOW_NS - 9))

        def check(content):
            replace_database(feeder.outbox_path, content)
            damaged = Outbox(feeder.outbox_path)
            damaged.deliver(store)
            damaged.latest_entered(FEEDER, [BTC])
            damaged.put(market_record(BTC, NOW_NS - 4))
            damaged.pending()

        fuzz(damaged_database(feeder.outbox_path), check, 30)
