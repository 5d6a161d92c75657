"""`feeder doctor`: a healthy feeder, each thing that can be wrong with it, and nothing there at all."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from feeder_mixin.doctor import _bot as bot
from feeder_mixin.doctor import run
from feeder_mixin.doctor.finding import Facts
from feeder_mixin.errors import StoreUnavailableError
from feeder_mixin.live.state import lock as lock_module
from feeder_mixin.live.state.files import write_private
from feeder_mixin.live.state.lock import PID_NAME, bot_lock
from feeder_mixin.schema import NANOSECONDS, format_time_ns, hash48
from feeder_mixin.stores import sql_inspection
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import SqlStore
from tests.cli.patient import CONTEXT, DAY_NS, FEEDER, PAIRS, Patient, make_patient
from tests.live.fake_bot import fake_bot

NAMES = [check.name for check in run.CHECKS]
HOUR_NS = 3_600 * NANOSECONDS
FIRST = PAIRS[0]
ROLLED_BACK_ON_B = {"host": "b", "rolled_back_from": "2026-01-01T00:00:00Z"}


@pytest.fixture
def patient(project):
    """Return a feeder with nothing wrong, this process being its bot."""
    patient = make_patient(project)
    lock = bot_lock(patient.settings)
    lock.acquire()
    yield patient
    lock.release()


@pytest.fixture
def doctor(feeder):
    """Return a function that asks for JSON and returns exit code and findings by check."""

    def ask(*options: object) -> tuple[int, dict[str, dict[str, str]]]:
        code, out, _ = feeder("doctor", "--feeder", FEEDER, "--json", *options)
        return code, {found["check"]: found for found in json.loads(out)}

    return ask


def states(findings: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return check -> state of everything that is no pass."""
    return {name: f["state"] for name, f in findings.items() if f["state"] != "pass"}


def test_doctor_of_a_healthy_feeder_passes_every_check(patient, doctor):
    """Nothing to do, so nothing is asked for."""
    code, findings = doctor()
    assert states(findings) == {}, findings
    assert code == 0
    assert list(findings) == NAMES
    assert all(not found["advice"] for found in findings.values())


def test_doctor_of_a_healthy_feeder_with_a_bot_process_passes_every_check(project, doctor):
    """The bot is another process, as it is in life."""
    patient = make_patient(project)
    with fake_bot(project / "user_data", "mute", FEEDER) as process:
        patient.say(lambda status: status.update(pid=process.pid))
        assert states(doctor()[1]) == {}


def test_doctor_changes_nothing(patient, doctor):
    """Looking is free: no file appears, none is written."""

    def content() -> dict[str, bytes]:
        files = [p for p in patient.root.rglob("*") if p.is_file() and "-shm" not in p.name]
        return {str(path): path.read_bytes() for path in files}

    before = content()
    doctor()
    assert content() == before


def test_doctor_of_a_fresh_project_warns_and_does_not_fail(project, doctor):
    """Before the first start there is something to do, but nothing broken; no file is made."""
    code, findings = doctor()
    assert code == 0
    found = states(findings)
    assert {name for name, state in found.items() if state == "warn"} == {
        "server",
        "candles",
        "bot",
    }
    assert found["parameters"] == found["models"] == found["valid_records"] == "skipped"
    assert list((project / "user_data").rglob("*")) == []


def test_doctor_prints_lines_with_advice_and_a_summary(patient, feeder):
    """What a person reads: state, check, what is, and below it what to do."""
    patient.say_model(version=None)
    code, out, err = feeder("doctor", "--feeder", FEEDER)
    assert code == 1
    assert not err
    assert f"{FEEDER}: {len(NAMES) - 1} pass, 0 warn, 1 fail, 0 skipped" in out
    assert re.search(
        rf"^ +fail +models +served by a model of an older record: {FIRST}", out, re.MULTILINE
    )
    assert f"-> feeder reload --feeder {FEEDER}" in out


def test_doctor_json_is_a_list_of_documents_with_five_texts(patient, doctor):
    """For scripts."""
    _, findings = doctor()
    for found in findings.values():
        assert list(found) == ["feeder_id", "check", "state", "message", "advice"]
        assert all(isinstance(text, str) for text in found.values())
        assert found["feeder_id"] == FEEDER


def future(ns: int) -> Callable[[Patient], None]:
    """Return what dates the first pair's newest record so far ahead."""
    return lambda patient: patient.write(FIRST, time.time_ns() + ns)


def aged(days: int) -> Callable[[Patient], None]:
    """Return what makes the first pair's record so old."""
    return lambda p: p.sql(
        f"UPDATE optimized_parameters SET time_ns = time_ns - {days * DAY_NS} WHERE pair = '{FIRST}'"  # noqa: S608
    )


def half_written(patient: Patient) -> None:
    """Leave a newer point without one of the ten."""
    patient.write(FIRST, patient.now_ns)
    patient.sql(
        f"UPDATE optimized_parameters SET num_leaves = NULL WHERE time_ns = {patient.now_ns}"  # noqa: S608
    )


def old_names(patient: Patient) -> None:
    """Leave what an optimizer with other field names writes."""
    patient.sql("ALTER TABLE optimized_parameters ADD COLUMN lr FLOAT")
    patient.sql("UPDATE optimized_parameters SET lr = learning_rate, learning_rate = NULL")


def damaged_candles(patient: Patient) -> None:
    """Cut a file of candles."""
    patient.candle_file(FIRST).write_bytes(b"no candles")


def waiting_result(patient: Patient) -> None:
    """Leave a result in the outbox."""
    outbox = Outbox(patient.settings.outbox_path)
    outbox.put(patient.record(FIRST, patient.now_ns))
    outbox.close()


def damaged_outbox(patient: Patient) -> None:
    """Leave an outbox that is no database."""
    patient.settings.outbox_path.write_bytes(b"no database, but long enough to be read as one" * 9)


def blackouts(line: str) -> Callable[[Patient], None]:
    """Return what gives the feeder a file of one blackout."""

    def write(patient: Patient) -> None:
        (patient.root / "times.csv").write_text(f"time,minutes_before,minutes_after,name\n{line}\n")
        patient.configure(feeder={**patient.feeder_block, "blackouts": "times.csv"})

    return write


def old_copy(patient: Patient) -> None:
    """Limit the age of the last good copy to less than it has."""
    patient.configure(
        feeder={"side": "short", "context_pairs": list(CONTEXT), "last_good_max_days": 1e-9}
    )


def foreign_status(patient: Patient, minutes: float = 0.0) -> None:
    """Leave the status of another process, the bot having started some minutes ago."""
    patient.say(lambda status: status.update(pid=1))
    then = time.time() - 60 * minutes
    os.utime(patient.settings.state_dir / PID_NAME, (then, then))


def pending(patient: Patient) -> None:
    """Have a reload under way."""
    patient.say(lambda status: status["reload"].update(requested=3, completed=2))


def newer_record(patient: Patient) -> None:
    """Write what no bot has loaded."""
    patient.write(FIRST, patient.now_ns)


NINE_DAYS_AGO: Final = format_time_ns(time.time_ns() - 9 * DAY_NS)

BROKEN = {
    "unknown key": (lambda p: p.configure(feeder={"sides": "short"}), "config", "fail", "feeder"),
    "other bot_name": (
        lambda p: p.configure(bot_name="other"),
        "config",
        "fail",
        f"bot_name is 'other', expected '{FEEDER}'",
    ),
    "no such timeframe": (lambda p: p.configure(timeframe="7x"), "config", "fail", "'7x'"),
    "no database": (lambda p: p.store_path.write_bytes(b"x" * 4096), "server", "fail", "database"),
    "no table": (
        lambda p: p.sql("DROP TABLE optimized_parameters"),
        "bucket",
        "warn",
        "table optimized_parameters is not there",
    ),
    "text in a field": (
        lambda p: p.sql(
            f"UPDATE optimized_parameters SET max_depth = 'deep' WHERE pair = '{FIRST}'"  # noqa: S608
        ),
        "fields",
        "warn",
        "more than one type: max_depth is float and string",
    ),
    "only text in a field": (
        lambda p: p.sql("UPDATE optimized_parameters SET max_depth = 'deep'"),
        "fields",
        "fail",
        "not float: max_depth is string",
    ),
    "old field names": (
        old_names,
        "fields",
        "fail",
        "no point has learning_rate; foreign names: lr",
    ),
    "value out of range": (
        lambda p: p.sql("UPDATE optimized_parameters SET num_leaves = 500"),
        "valid_records",
        "fail",
        "num_leaves=500.0 is outside 15 to 63",
    ),
    "other horizon": (
        lambda p: p.write(FIRST, p.now_ns, horizon_candles=12.0),
        "valid_records",
        "fail",
        "horizon_candles=12, but this feeder has 30",
    ),
    "other side": (
        lambda p: p.write(FIRST, p.now_ns, side=-p.record(FIRST, 1).metrics["side"]),
        "valid_records",
        "fail",
        "but this feeder is",
    ),
    "record without a side": (
        lambda p: p.sql("UPDATE optimized_parameters SET side = NULL"),
        "tuned_for",
        "warn",
        f"no side in the record of {PAIRS[0]}",
    ),
    "pair without record": (
        lambda p: p.sql(f"DELETE FROM optimized_parameters WHERE pair = '{FIRST}'"),  # noqa: S608
        "missing_records",
        "warn",
        f"no record for {FIRST}",
    ),
    "half-written newest": (half_written, "complete_records", "warn", "num_leaves missing"),
    "half-written only": (
        lambda p: p.sql("UPDATE optimized_parameters SET num_leaves = NULL"),
        "complete_records",
        "fail",
        f"{', '.join(PAIRS)} has no complete record",
    ),
    "naive local time": (
        future(7 * HOUR_NS),
        "future_records",
        "fail",
        "looks like a local time without zone, from 7 h east of UTC",
    ),
    "naive local time with half hours": (
        future(11 * HOUR_NS // 2),
        "future_records",
        "fail",
        "5.5 h",
    ),
    "writer's clock far ahead": (future(30 * HOUR_NS), "future_records", "fail", "a wrong clock"),
    "writer's clock a little ahead": (
        future(60 * NANOSECONDS),
        "future_records",
        "warn",
        "s ahead",
    ),
    "stale record": (aged(50), "record_age", "warn", f"over 45 days old: {FIRST} (oldest 51;"),
    "expired record": (aged(100), "record_age", "fail", f"expired (over 90 days old): {FIRST}"),
    "tuned on other context": (
        lambda p: p.write(FIRST, p.now_ns, context_hash=1.0),
        "tuned_for",
        "warn",
        f"tuned on other context pairs: {FIRST}",
    ),
    "tuned on another exchange": (
        lambda p: p.write(FIRST, p.now_ns, market_hash=1.0),
        "tuned_for",
        "warn",
        f"tuned on other exchange or candles: {FIRST}",
    ),
    "no candles of a context pair": (
        lambda p: p.candle_file(CONTEXT[0]).unlink(),
        "candles",
        "warn",
        f"no file for {CONTEXT[0]}",
    ),
    "old candles": (
        lambda p: p.write_candles(FIRST, p.now_ns - 3 * DAY_NS),
        "candles",
        "warn",
        "1 end over 2 days ago",
    ),
    "damaged candles": (damaged_candles, "candles", "fail", f"damaged: {FIRST}"),
    "clock behind the candles": (
        lambda p: p.write_candles(FIRST, p.now_ns + HOUR_NS),
        "clock",
        "fail",
        "s ahead",
    ),
    "result not delivered": (waiting_result, "outbox", "warn", "1 result not delivered"),
    "damaged outbox": (damaged_outbox, "outbox", "fail", "outbox"),
    "damaged last good copy": (
        lambda p: p.settings.last_good_path.write_text('{"cut'),
        "last_good",
        "fail",
        "is truncated",
    ),
    "old last good copy": (old_copy, "last_good", "warn", "so a bot would refuse it"),
    "no such file of blackouts": (
        lambda p: p.configure(feeder={**p.feeder_block, "blackouts": "none.csv"}),
        "blackouts",
        "fail",
        "none.csv can't be read",
    ),
    "blackouts all past": (
        blackouts("2024-12-18T19:00Z,150,60,FOMC"),
        "blackouts",
        "warn",
        "1 window in",
    ),
    "blackouts that the bot has not read": (
        blackouts("2124-12-18T19:00Z,150,60,FOMC"),
        "blackouts",
        "warn",
        "next 2124-12-18T16:30Z to 2124-12-18T20:00Z (FOMC); the bot runs on others",
    ),
    "damaged status file": (
        lambda p: p.settings.status_path.write_text('{"pid": 1'),
        "status_file",
        "fail",
        "is not JSON",
    ),
    "status of another feeder": (
        lambda p: p.say(lambda s: s.update(feeder_id="other")),
        "status_file",
        "fail",
        "is of feeder 'other'",
    ),
    "bot that is starting": (foreign_status, "status_file", "warn", "it is starting"),
    "bot that hangs at its start": (
        lambda p: foreign_status(p, 10),
        "status_file",
        "fail",
        "it started 10 min ago",
    ),
    "failed reload": (
        lambda p: p.say(lambda s: s["reload"].update(last_error="StoreError: no")),
        "reload",
        "fail",
        "the bot keeps its parameters: StoreError: no",
    ),
    "reload under way": (pending, "reload", "warn", "3 requested, 2 completed"),
    "newer record in the store": (newer_record, "parameters", "fail", "no reload is pending"),
    "newer record and a bot that asks by itself": (
        lambda p: (
            newer_record(p),
            p.configure(
                feeder={"side": "short", "context_pairs": list(CONTEXT), "check_store_minutes": 5}
            ),
        ),
        "parameters",
        "warn",
        "the bot asks the store every 5 minutes",
    ),
    "newer record and a reload under way": (
        lambda p: (newer_record(p), pending(p)),
        "parameters",
        "warn",
        "a reload is under way",
    ),
    "bot on another store": (
        lambda p: p.sql("UPDATE optimized_parameters SET time_ns = time_ns - 1000"),
        "parameters",
        "fail",
        "newer than what this store holds",
    ),
    "pair the bot does not know": (
        lambda p: p.say(lambda s: s["pairs"].pop(FIRST)),
        "parameters",
        "fail",
        f"the bot does not know {FIRST}",
    ),
    "model of defaults": (lambda p: p.say_model(version=None), "models", "fail", "serves defaults"),
    "model being trained": (
        lambda p: p.say_model(version=None, state="training"),
        "models",
        "warn",
        f"being trained: {FIRST}",
    ),
    "model due": (lambda p: p.say_model(state="stale"), "models", "warn", "due for training"),
    "no model": (
        lambda p: p.say_model(version=None, state="none", trained_until=None),
        "models",
        "fail",
        "no model, so never safe",
    ),
    "model on a short history": (
        lambda p: p.say_model(rows=294),
        "models",
        "fail",
        f"half of the expected rows, or of the context's candles: {FIRST} (rows 294 of 4320, context 100 %)",
    ),
    "model on a short context": (
        lambda p: p.say_model(context_share=0.25),
        "models",
        "fail",
        f"{FIRST} (rows 4310 of 4320, context 25 %)",
    ),
    "model that is too old": (
        lambda p: p.say_model(trained_until=format_time_ns(p.now_ns - 16 * DAY_NS)),
        "models",
        "fail",
        f"older than feeder.model_max_age_hours=360, so never safe: {FIRST} (trained until 20",
    ),
    "model that is too old as none can be trained": (
        lambda p: p.say_model(
            trained_until=format_time_ns(p.now_ns - 16 * DAY_NS), error="no space left"
        ),
        "models",
        "fail",
        f"so never safe: {FIRST} (trained until 20",
    ),
    "pair that the host dropped": (
        lambda p: p.say(lambda s: s["pairs"][FIRST].update(last_candle=NINE_DAYS_AGO)),
        "served",
        "fail",
        f"so they get no prediction: {FIRST} (last candle {NINE_DAYS_AGO[:16]}Z)",
    ),
    "bot that trades nothing": (
        lambda p: p.say(
            lambda s: [pair.update(last_candle=NINE_DAYS_AGO) for pair in s["pairs"].values()]
        ),
        "served",
        "fail",
        "freqtrade analyses no pair",
    ),
    "context that follows the whitelist": (
        lambda p: p.configure(feeder={"side": "short"}),
        "config",
        "warn",
        "it follows pair_whitelist",
    ),
    "training that failed": (
        lambda p: p.say_model(error="too few rows"),
        "models",
        "fail",
        f"training failed: {FIRST} (too few rows)",
    ),
    "training that failed everywhere for one long reason": (
        lambda p: p.say(
            lambda s: [
                pair["model"].update(error="no space left, " * 20) for pair in s["pairs"].values()
            ]
        ),
        "models",
        "fail",
        f"training failed: {', '.join(PAIRS)} (no space left, no space left",
    ),
}


@pytest.mark.parametrize(("spoil", "check", "state", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_doctor_finds_what_is_wrong_and_says_what_to_do(
    patient, doctor, spoil, check, state, words
):
    """Each fault once: the right check, its state, the fact, and an advice; exit 1 only on a fail."""
    spoil(patient)
    code, findings = doctor()
    found = findings[check]
    assert found["state"] == state, findings
    assert words in found["message"]
    assert found["advice"]
    assert code == int("fail" in states(findings).values())
    assert list(findings) == NAMES


def test_doctor_without_a_bot_warns_and_skips_what_only_a_bot_can_tell(project, doctor):
    """A tuning host, or a bot not started yet, is no failure."""
    make_patient(project)
    code, findings = doctor()
    assert code == 0
    assert states(findings) == {
        "bot": "warn",
        **dict.fromkeys(
            ("status_file", "handler", "reload", "parameters", "models", "served"), "skipped"
        ),
    }
    assert findings["handler"]["message"] == "skipped: no bot runs"


def test_doctor_of_a_bot_without_a_handler_fails(project, doctor):
    """SIGUSR1 would end it."""
    patient = make_patient(project)
    with fake_bot(project / "user_data", "deaf", FEEDER) as process:
        patient.say(lambda status: status.update(pid=process.pid))
        code, findings = doctor()
    assert code == 1
    assert states(findings) == {"handler": "fail"}


def test_doctor_without_proc_warns_that_it_cannot_see_the_handler(patient, doctor, monkeypatch):
    """Not a pass: nobody looked."""
    monkeypatch.setattr(bot, "PROC", patient.root / "nowhere")
    assert states(doctor()[1]) == {"handler": "warn"}


def test_doctor_of_a_store_that_cannot_be_written_warns_for_the_optimizer(
    patient, doctor, monkeypatch
):
    """A bot only reads."""
    monkeypatch.setattr(sql_inspection.os, "access", lambda *_: False)
    code, findings = doctor()
    assert (code, states(findings)) == (0, {"write_right": "warn"})
    assert "not for the optimizer" in findings["write_right"]["message"]


def test_doctor_after_a_failed_check_skips_what_builds_on_it(patient, doctor):
    """One fault is one fail, not twenty; what can still be told is told."""
    patient.configure(bot_name="other")
    findings = states(doctor()[1])
    assert findings.pop("config") == "fail"
    assert findings == dict.fromkeys([name for name in NAMES if name != "config"], "skipped")


def test_doctor_with_store_option_says_that_bots_do_not_read_it(patient, doctor):
    """What follows is about another store."""
    _, findings = doctor("--store", "sqlite:///elsewhere.sqlite")
    assert findings["store"]["state"] == "warn"
    assert "a bot does not read --store" in findings["store"]["message"]
    assert findings["server"]["state"] == "warn"


@pytest.mark.parametrize("error", [ZeroDivisionError("no\nsuch"), StoreUnavailableError("down")])
def test_doctor_turns_any_exception_in_a_check_into_a_fail(patient, doctor, monkeypatch, error):
    """No traceback, and the other checks are made."""

    def broken(_facts: Facts) -> None:
        raise error

    checks = [c._replace(make=broken) if c.name == "outbox" else c for c in run.CHECKS]
    monkeypatch.setattr(run, "CHECKS", checks)
    code, findings = doctor()
    assert code == 1
    assert states(findings) == {"outbox": "fail"}
    assert str(error).split()[-1] in findings["outbox"]["message"]
    assert "\n" not in findings["outbox"]["message"]
    is_ours = isinstance(error, StoreUnavailableError)
    assert ("ZeroDivisionError" in findings["outbox"]["message"]) is not is_ours


HOSTILE = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe{}",
    "deep": b"[" * 100_000,
    "null": b"null",
    "list": b"[]",
    "other types": b'{"feeder_id": 1, "pid": true, "generation": -1, "loaded_at": [], "reload": 2}',
    "huge number": b'{"pid": 1e999}',
    "folder": None,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_doctor_of_a_hostile_status_file_fails_in_one_line(patient, doctor, content):
    """Whatever lies there: one finding, nothing believed."""
    path = patient.settings.status_path
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    code, findings = doctor()
    assert code == 1
    assert states(findings) == {
        "status_file": "fail",
        **dict.fromkeys(("reload", "parameters", "models", "served"), "skipped"),
    }
    assert "itself failed" not in findings["status_file"]["message"]


def test_doctor_prints_no_control_characters_of_a_status_file(patient, feeder):
    """A file that somebody else wrote can't paint the operator's terminal."""
    patient.say(
        lambda s: s["reload"].update(last_error="bad\x1b[2J\r\n\x07 [bold]line" + "x" * 9_999)
    )
    _, out, _ = feeder("doctor", "--feeder", FEEDER)
    assert "bad?[2J ? [bold]line" in " ".join(out.split())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)
    assert len(out) < 9_000


def listen() -> socket.socket:
    """Return a socket that listens on a free port of the loopback."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


def api(port: object) -> dict[str, object]:
    """Return freqtrade's block for that port."""
    return {"enabled": True, "listen_ip_address": "127.0.0.1", "listen_port": port}


def test_doctor_finds_the_api_port_held_by_the_bot_itself(patient, doctor):
    """That is how it should be, as long as the bot lives."""
    with listen() as server:
        patient.configure(api_server=api(server.getsockname()[1]))
        assert states(doctor()[1]) == {}
    assert "nothing listens" in doctor()[1]["api_port"]["message"]


def test_doctor_finds_the_api_port_held_by_another_process(project, doctor):
    """Freqtrade would hang at its start without a word."""
    patient = make_patient(project)
    with listen() as server:
        patient.configure(api_server=api(server.getsockname()[1]))
        assert "in use by another process" in doctor()[1]["api_port"]["message"]
    _, findings = doctor()
    assert findings["api_port"]["state"] == "pass"
    assert "is free" in findings["api_port"]["message"]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        pytest.param(api("8090"), "expected 1 to 65535", id="text"),
        pytest.param(api(70_000), "expected 1 to 65535", id="too large"),
        pytest.param(
            {**api(8090), "listen_ip_address": "192.0.2.1"}, "can't be used", id="foreign"
        ),
        pytest.param(
            {**api(8090), "listen_ip_address": "no such"}, "can't be used", id="no address"
        ),
    ],
)
def test_doctor_of_an_impossible_api_port_fails(patient, doctor, block, words):
    """The config is wrong, whoever runs."""
    patient.configure(api_server=block)
    code, findings = doctor()
    assert code == 1
    assert words in findings["api_port"]["message"]


def test_doctor_of_several_feeders_names_a_shared_port_and_database(project, write_config, feeder):
    """Two bots can't have one port, and must not have one database of trades."""
    for name, port in (("one", 8100), ("two", 8100), ("three", 8101)):
        trades = "postgresql://u:pass-word@h/trades" if port == 8100 else "sqlite:///t.sqlite"
        write_config(name, api_server=api(port), db_url=trades)
    code, out, _ = feeder("doctor", "--feeder", "one", "two", "three", "--json")
    assert code == 1
    assert "pass-word" not in out
    found = {f["feeder_id"]: f for f in json.loads(out) if f["check"] == "neighbours"}
    assert {name: f["state"] for name, f in found.items()} == {
        "one": "fail",
        "two": "fail",
        "three": "pass",
    }
    assert (
        found["one"]["message"] == "API port 8100 is also used by two; db_url is also used by two"
    )


def test_doctor_of_all_shows_a_broken_config_as_a_fail_and_the_others_as_they_are(project, feeder):
    """One broken file hides no bot, and is not left out, either."""
    (project / "config" / "feeder75b.json").write_text("{")
    code, out, _ = feeder("doctor", "--feeder", "all", "--json")
    assert code == 1
    findings = json.loads(out)
    fails = [(f["feeder_id"], f["check"]) for f in findings if f["state"] == "fail"]
    assert fails == [("feeder75b", "config")]
    assert len({f["feeder_id"] for f in findings}) == 6
    code, out, _ = feeder("doctor", "--feeder", "all")
    assert code == 1
    assert "6 feeders: " in out


@pytest.mark.parametrize("name", ["../x", "no-such", ""])
def test_doctor_of_an_unknown_feeder_fails_its_config_check(project, feeder, name):
    """A finding as any other, also for a script."""
    code, out, _ = feeder("doctor", "--feeder", name, "--json")
    assert code == 1
    assert [f["check"] for f in json.loads(out) if f["state"] == "fail"] == ["config"]


def test_doctor_config_option_with_several_feeders_exits_2(project, feeder):
    """A usage error."""
    assert feeder("doctor", "--feeder", "a", "b", "--config", "x.json")[0] == 2


def test_doctor_bot_in_another_container_can_not_be_seen(patient, doctor, monkeypatch):
    """The lock is held, but neither pid file nor kernel names a process of this place."""
    write_private(patient.settings.state_dir / PID_NAME, "1\n")
    monkeypatch.setattr(lock_module, "listed_pids", lambda _wanted: [])
    _, findings = doctor()
    assert findings["bot"]["state"] == "fail"
    assert "its process can't be seen from here" in findings["bot"]["message"]


def test_doctor_of_records_tuned_without_a_context_pair_that_has_no_candles_asks_for_no_tuning(
    patient, doctor
):
    """What the exchange does not list is context for nobody: tuning again would change nothing."""
    patient.candle_file(CONTEXT[0]).unlink()
    for pair in PAIRS:
        patient.write(pair, patient.now_ns, context_hash=float(hash48(*sorted(PAIRS))))
    _, findings = doctor()
    assert findings["tuned_for"]["state"] == "pass"
    assert f"no file for {CONTEXT[0]}" in str(findings["candles"])
    assert "see which pairs binance does not list" in str(findings["candles"])


@pytest.mark.parametrize(
    ("hosts", "state", "words"),
    [
        pytest.param("aaa", "pass", "tuned on a", id="one"),
        pytest.param("aabb", "pass", "tuned on a, then on b", id="moved once"),
        pytest.param("aba", "warn", "tuned in turns on 2 hosts: a (last ", id="in turns"),
        pytest.param("aRa", "pass", "tuned on a", id="rolled back elsewhere"),
    ],
)
def test_doctor_finds_two_hosts_that_tune_one_bot_name(project, doctor, hosts, state, words):
    """Each replaces what the other found, and neither says so."""
    patient = make_patient(project)
    with SqlStore(patient.store_path) as store:
        for pair in PAIRS:
            store.delete(FEEDER, pair, [point.time_ns for point in store.history(FEEDER, pair)])
        for hours, host in enumerate(hosts, start=1 - len(hosts)):
            told = {"host": host} if host != "R" else ROLLED_BACK_ON_B
            made = [patient.record(pair, patient.now_ns + hours * HOUR_NS) for pair in PAIRS]
            store.write([replace(record, provenance=told) for record in made])
    found = doctor()[1]["tuner_hosts"]
    assert (found["state"], found["message"][: len(words)]) == (state, words)
    assert bool(found["advice"]) == (state == "warn")
