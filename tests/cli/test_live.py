"""`feeder status`, `feeder reload`, `optimize --reload`: against a real process that acts as the bot."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from feeder_mixin.cli.bot_commands import reload_after_writing
from feeder_mixin.cli.common import ChosenStore
from feeder_mixin.live.reload.client import catches_sigusr1, reload_bot
from feeder_mixin.live.state.files import write_private
from feeder_mixin.live.state.lock import LOCK_NAME, PID_NAME
from feeder_mixin.live.state.stand_in import remove_stand_in
from feeder_mixin.live.state.status import write_status
from tests import disks
from tests.builders import PAIRS, make_settings
from tests.live.fake_bot import fake_bot, make_status
from tests.reports import builder


@pytest.fixture
def userdir(project):
    """Return the project's user_data folder."""
    return project / "user_data"


@pytest.fixture
def bystander():
    """Return a process without any handler: SIGUSR1 would end it."""
    with subprocess.Popen(["sleep", "60"]) as process:  # noqa: S607
        yield process
        process.kill()


def leave_state(userdir, pid):
    """Leave what a killed bot leaves: lock file, pid file and status."""
    settings = make_settings(userdir)
    write_private(settings.state_dir / LOCK_NAME, "")
    write_private(settings.state_dir / PID_NAME, f"{pid}\n")
    status = make_status(pid=pid)
    status["reload"] |= {"requested": 7, "completed": 7}
    write_status(settings.status_path, status)
    return settings


def test_status_of_a_running_bot_shows_every_pair(userdir, feeder):
    """What an operator wants to know at a glance."""
    with fake_bot(userdir) as bot:
        code, out, err = feeder("status", "--feeder", "feeder120b")
    assert code == 0
    assert not err
    assert f"feeder120b: running, pid {bot.pid}" in out
    assert "generation 1, loaded at" in out
    assert "0 requested, 0 completed" in out
    assert "last error: none" in out
    for pair in PAIRS:
        assert pair in out
    assert "4310" in out
    assert "default" in out


def test_status_shows_the_newest_prediction_of_every_pair_and_cuts_nothing(userdir, feeder):
    """Where a newcomer looks first: the forecast, whether it is safe, and of which candle."""
    with fake_bot(userdir) as bot:
        status = make_status(pid=bot.pid)
        first, second, last = PAIRS
        status["pairs"][first] |= {"last_served": "2026-11-29T03:00:00.000000000Z"}
        del status["pairs"][second]["last_q"], status["pairs"][second]["last_safe"]  # an older bot
        write_status(make_settings(userdir).status_path, status)
        _, out, _ = feeder("status", "--feeder", "feeder120b")
    rows = [line.split() for line in out.splitlines()]
    ends = {pair: next(row for row in rows if row[:1] == [pair]) for pair in PAIRS}
    assert ends[first][-4:] == ["2026-11-29T03:00Z", "-0.81", "%", "yes"]
    assert ends[second][-2:] == ends[last][-2:] == ["-", "-"]
    assert "…" not in out


def test_status_json_carries_the_file_as_it_is(userdir, feeder):
    """One document, with what the file can't know beside it."""
    with fake_bot(userdir) as bot:
        code, out, _ = feeder("status", "--feeder", "feeder120b", "--json")
    (shown,) = json.loads(out)
    assert code == 0
    assert shown["alive"] is True
    assert shown["pid"] == shown["status"]["pid"] == bot.pid
    assert 0 <= shown["age_s"] < 60
    assert shown["problem"] is None
    assert set(shown["status"]["pairs"]) == set(PAIRS)


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_bot_on_a_disk_that_cannot_be_written_is_seen_and_reloads(userdir, feeder, disk):
    """Lock and process tell that it runs; its status is where it can write, and why is said."""
    place = disks.full(userdir) if disk == "full" else disks.tmpfs(userdir, "ro")
    with place, fake_bot(userdir) as bot:
        code, out, _ = feeder("status", "--feeder", "feeder120b")
        assert code == 0
        assert f"feeder120b: running, pid {bot.pid}" in out
        assert f"because it can't write {make_settings(userdir).state_dir}: free disk space" in out
        assert "never ran" not in out
        code, out, err = feeder("reload", "--feeder", "feeder120b")
        assert code == 0, err
        assert "generation 1 -> 2" in out
        code, out, _ = feeder("doctor", "--feeder", "feeder120b")
        assert f"running, pid {bot.pid}" in out
        assert "it can't write" in out
    remove_stand_in(make_settings(userdir).state_dir)


def test_status_of_a_bot_without_any_status_file_does_not_say_that_none_ran(userdir, feeder):
    """It is starting, or can write nowhere."""
    with fake_bot(userdir, "late") as bot:
        code, out, _ = feeder("status", "--feeder", "feeder120b")
    assert code == 1
    assert f"feeder120b: running, pid {bot.pid}" in out
    assert "no status.json yet: it is still starting, or can't write" in out
    assert "never ran" not in out


def test_status_names_rejected_records_with_their_reason(userdir, feeder):
    """A rejected record is the operator's to mend."""
    with fake_bot(userdir, "reject"):
        feeder("reload", "--feeder", "feeder120b")
        _, out, _ = feeder("status", "--feeder", "feeder120b")
    assert f"rejected {PAIRS[1]}: num_leaves=99 is outside 15 to 63" in out


def test_status_names_a_failed_training_with_its_reason(userdir, feeder):
    """The old model serves on; the operator sees why."""
    with fake_bot(userdir) as bot:
        status = make_status(pid=bot.pid)
        status["pairs"][PAIRS[0]]["model"]["error"] = "too few rows"
        write_status(make_settings(userdir).status_path, status)
        _, out, _ = feeder("status", "--feeder", "feeder120b")
    assert f"training failed {PAIRS[0]}: too few rows" in out


def test_status_of_a_bot_that_never_ran_says_so_and_exits_1(project, feeder):
    """No traceback and no table, but how to start it."""
    code, out, _ = feeder("status", "--feeder", "feeder120b")
    assert code == 1
    assert "feeder120b: NOT RUNNING" in out
    assert "never ran here" in out
    code, out, _ = feeder("status", "--feeder", "feeder120b", "--json")
    assert code == 1
    assert json.loads(out)[0]["alive"] is False
    assert not (project / "user_data" / "feeder_state").exists()


def test_status_of_a_killed_bot_is_shown_as_its_last_words(userdir, feeder):
    """A stale file must not look like a running bot, whoever has the pid now."""
    leave_state(userdir, os.getpid())
    code, out, _ = feeder("status", "--feeder", "feeder120b")
    assert code == 1
    assert "feeder120b: NOT RUNNING" in out
    assert f"last status, from pid {os.getpid()}" in out
    assert PAIRS[0] in out


def test_status_names_pairs_with_candles_out_of_the_ordinary(userdir, feeder):
    """The most of them first; pairs without any are left out."""
    settings = leave_state(userdir, os.getpid())
    status = make_status(pid=os.getpid())
    for pair, share in zip(PAIRS, (0.0, 0.0104, 0.25), strict=False):
        status["pairs"][pair]["unusual_share"] = share
    write_status(settings.status_path, status)
    _, out, _ = feeder("status", "--feeder", "feeder120b")
    said = f"not safe: {PAIRS[2]} 25.0 %, {PAIRS[1]} 1.0 %"
    assert said in " ".join(out.split())
    assert PAIRS[0] not in out.split("out of the ordinary")[1]


def test_status_says_how_many_blackouts_the_bot_has_and_which_is_next(userdir, feeder):
    """So that a list that ends soon, or a time that is wrong, is seen."""
    settings = leave_state(userdir, os.getpid())
    upcoming = {
        "start": "2026-12-09T16:30:00.000000000Z",
        "end": "2026-12-09T20:00:00.000000000Z",
        "name": "FOMC",
    }
    blackouts = {"file": "/x/times.csv", "windows": 12, "next": upcoming}
    for known, words in (
        (blackouts, "next 2026-12-09T16:30:00Z to 2026-12-09T20:00:00Z (FOMC)"),
        (blackouts | {"next": None}, "none to come"),
    ):
        write_status(settings.status_path, make_status(pid=os.getpid()) | {"blackouts": known})
        _, out, _ = feeder("status", "--feeder", "feeder120b")
        assert f"blackouts: 12 in /x/times.csv, {words}" in " ".join(out.split())


def test_status_damaged_file_is_named_and_exits_1(userdir, feeder):
    """The bot runs on; the file says nothing."""
    with fake_bot(userdir):
        make_settings(userdir).status_path.write_text("{")
        code, out, _ = feeder("status", "--feeder", "feeder120b")
    assert code == 1
    assert "running, pid" in out
    assert "status.json is not JSON" in out


def test_status_of_a_starting_bot_tells_its_file_from_the_last_ones(userdir, feeder):
    """Until the new process has loaded, the file is of the one before."""
    leave_state(userdir, 1)
    with fake_bot(userdir, "late") as bot:
        code, out, _ = feeder("status", "--feeder", "feeder120b")
    assert code == 0
    assert f"running, pid {bot.pid}" in out
    assert "last status, from pid 1 (the running one is still starting)" in out


def test_status_several_feeders_each_get_an_answer(userdir, feeder):
    """One that is down does not hide one that runs."""
    with fake_bot(userdir), fake_bot(userdir, feeder_id="feeder75a"):
        code, out, _ = feeder("status", "--feeder", "feeder120b", "feeder75a", "--json")
        assert code == 0
        code, out, _ = feeder("status", "--feeder", "all", "--json")
    assert code == 3
    alive = {shown["feeder_id"] for shown in json.loads(out) if shown["alive"]}
    assert alive == {"feeder120b", "feeder75a"}


def test_reload_prints_generation_accepted_and_unanswered(userdir, feeder):
    """The answer of the bot to this very request."""
    with fake_bot(userdir):
        code, out, err = feeder("reload", "--feeder", "feeder120b")
        assert code == 0
        assert not err
        assert (
            "generation 1 -> 2, 2 accepted, 0 rejected, 1 without a record, 1 pair with a new record"
            in out
        )
        assert f"no record for {PAIRS[2]}, it runs on default" in out
        assert "generation 2 -> 3" in feeder("reload", "--feeder", "feeder120b")[1]


def test_reload_json_names_pairs(userdir, feeder):
    """For scripts: one document with every fact."""
    with fake_bot(userdir, "reject") as bot:
        code, out, _ = feeder("reload", "--feeder", "feeder120b", "--json")
    assert code == 0
    assert json.loads(out) == [
        {
            "feeder_id": "feeder120b",
            "ok": True,
            "pid": bot.pid,
            "generation_before": 1,
            "generation_after": 2,
            "accepted": [PAIRS[0]],
            "rejected": {PAIRS[1]: "num_leaves=99 is outside 15 to 63"},
            "passed_over": {},
            "unanswered": {PAIRS[2]: "default"},
            "changed": [PAIRS[0]],
            "error": None,
        }
    ]


def test_reload_that_failed_gives_the_bots_reason_and_exits_1(userdir, feeder):
    """The bot keeps what it runs; the operator learns why."""
    with fake_bot(userdir, "fail") as bot:
        code, out, err = feeder("reload", "--feeder", "feeder120b")
        assert bot.poll() is None
    assert code == 1
    assert not out
    assert (
        "the reload failed, the bot keeps its parameters: StoreUnavailableError: influx is down"
        in err
    )
    assert "generation" not in err  # nothing was read, so there is nothing to count


def test_reload_without_a_bot_exits_1(userdir, feeder):
    """Nothing to signal, and that is said."""
    code, _, err = feeder("reload", "--feeder", "feeder120b")
    assert code == 1
    assert "no bot runs" in err
    assert "none ever ran here" in err


def test_reload_after_a_kill_with_a_dead_pid_exits_1(userdir, feeder):
    """The status file names a process that is gone."""
    with subprocess.Popen(["true"]) as gone:  # noqa: S607
        gone.wait()
    leave_state(userdir, gone.pid)
    code, _, err = feeder("reload", "--feeder", "feeder120b")
    assert code == 1
    assert "no bot runs" in err


def test_reload_never_signals_a_process_that_got_the_pid_of_a_killed_bot(
    userdir, feeder, bystander
):
    """Lock, pid file and status all name it, but it is somebody else."""
    leave_state(userdir, bystander.pid)
    code, _, err = feeder("reload", "--feeder", "feeder120b")
    assert code == 1
    assert "no bot runs" in err
    assert bystander.poll() is None


def test_reload_never_signals_a_bystander_while_a_bot_runs(userdir, feeder, bystander):
    """A pid file out of place must not lead the signal astray: the lock's holder gets it."""
    with fake_bot(userdir) as bot:
        settings = make_settings(userdir)
        write_private(settings.state_dir / PID_NAME, f"{bystander.pid}\n")
        code, out, err = feeder("reload", "--feeder", "feeder120b")
        assert bot.poll() is None
    assert code == 0, err
    assert "generation 1 -> 2" in out
    assert bystander.poll() is None


def test_reload_never_signals_a_bot_without_a_handler(userdir, feeder):
    """SIGUSR1 ends a process that does not catch it."""
    with fake_bot(userdir, "deaf") as bot:
        assert not catches_sigusr1(bot.pid)
        code, _, err = feeder("reload", "--feeder", "feeder120b")
        assert bot.poll() is None
    assert code == 1
    assert f"process {bot.pid}" in err
    assert "does not catch SIGUSR1" in err


def test_reload_of_a_bot_that_ends_meanwhile_says_so(userdir, feeder):
    """No waiting for an answer that can't come."""
    started = time.monotonic()
    with fake_bot(userdir, "die"):
        code, _, err = feeder("reload", "--feeder", "feeder120b")
    assert code == 1
    assert "ended meanwhile" in err
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        pytest.param("mute", "has not received the request", id="request not taken"),
        pytest.param("hang", "still loading", id="reload under way"),
        pytest.param("late", "still starting", id="no status yet"),
    ],
)
def test_reload_timeout_exits_1_and_says_what_is_known(userdir, feeder, mode, words):
    """A bot that does not answer is not waited for without end."""
    with fake_bot(userdir, mode):
        code, _, err = feeder("reload", "--feeder", "feeder120b", "--timeout", "0.5")
    assert code == 1
    assert words in err


def test_reload_waits_for_a_bot_that_is_starting(userdir):
    """An optimizer that ends during a restart needs no second try; the last process's file waits."""
    leave_state(userdir, 1)
    with fake_bot(userdir, "late") as bot:
        assert bot.stdin is not None
        release = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(0.3); print()"], stdout=bot.stdin
        )
        outcome = reload_bot(make_settings(userdir), timeout_s=10)
        release.wait()
    assert outcome.error is None
    assert outcome.after is not None
    assert outcome.after["generation"] == 2


def test_reload_counts_only_answers_to_its_own_request(userdir, feeder):
    """A reload that was under way before is no answer."""
    with fake_bot(userdir, "mute") as bot:
        status = make_status(pid=bot.pid)
        status["reload"] |= {"requested": 3, "completed": 3, "last_error": "old"}
        write_status(make_settings(userdir).status_path, status)
        code, _, err = feeder("reload", "--feeder", "feeder120b", "--timeout", "0.5")
    assert code == 1
    assert "old" not in err


def test_reload_several_feeders_one_down_reloads_the_other_and_exits_3(userdir, feeder):
    """Each gets its own answer."""
    with fake_bot(userdir, feeder_id="feeder75a"):
        code, out, err = feeder("reload", "--feeder", "feeder120b", "feeder75a")
    assert code == 3
    assert "feeder75a: generation 1 -> 2" in out
    assert "feeder120b: no bot runs" in err


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf"])
def test_reload_bad_timeout_exits_2(project, feeder, timeout):
    """A usage error, before anything is asked."""
    code, _, err = feeder("reload", "--feeder", "feeder120b", "--timeout", timeout)
    assert code == 2
    assert f"--timeout {timeout}" in err


@pytest.fixture
def tuned(monkeypatch, project):
    """Replace the tuning by a run that delivered one record, or what the test sets."""
    summary = SimpleNamespace(failures={}, store_error=None, exit_code=0, candidates={})
    summary.undelivered, summary.windows = frozenset(), []
    record = SimpleNamespace(to_dict=dict)
    summary.results = {PAIRS[0]: builder.make_result(PAIRS[0])}
    summary.records = {PAIRS[0]: record}
    monkeypatch.setattr("feeder_mixin.market.history.download_missing", lambda *_, **__: {})
    monkeypatch.setattr("feeder_mixin.tune.run.run.run_feeder", lambda *_: summary)
    return summary


OPTIMIZE = ("optimize", "--feeder", "feeder120b", "--json")


def test_optimize_reload_reloads_the_running_bot(userdir, feeder, tuned):
    """Tuned, delivered, loaded: the nightly timer in one command."""
    with fake_bot(userdir):
        code, out, _ = feeder(*OPTIMIZE, "--reload")
    assert code == 0
    (shown,) = json.loads(out)
    assert shown["reload"]["generation_after"] == 2


def test_optimize_reload_without_a_bot_is_no_failure(userdir, feeder, tuned):
    """A tuning host need not run bots."""
    code, out, err = feeder(*OPTIMIZE, "--reload")
    assert code == 0
    assert json.loads(out)[0]["reload"] is None
    assert "no bot runs" in err


def test_optimize_reload_that_fails_exits_1_and_keeps_the_result(userdir, feeder, tuned):
    """The records are stored; the bot is the operator's to look at."""
    with fake_bot(userdir, "fail"):
        code, out, err = feeder(*OPTIMIZE, "--reload")
    assert code == 1
    assert "influx is down" in err
    assert json.loads(out)[0]["delivered"] is True


def test_optimize_undelivered_records_reload_nothing(userdir, feeder, tuned):
    """The bot would load what it has."""
    tuned.store_error, tuned.exit_code = RuntimeError("store is down"), 1
    with fake_bot(userdir):
        code, out, _ = feeder(*OPTIMIZE, "--reload")
        assert (
            json.loads(feeder("status", "--feeder", "feeder120b", "--json")[1])[0]["status"][
                "generation"
            ]
            == 1
        )
    assert code == 1
    assert "reload" not in json.loads(out)[0]


def test_optimize_that_wrote_nothing_reloads_nothing(userdir, feeder, tuned):
    """What runs was kept: the bot has it already."""
    tuned.candidates, tuned.records = tuned.records, {}
    with fake_bot(userdir, "deaf"):
        code, out, _ = feeder(*OPTIMIZE, "--reload")
    assert code == 0
    (shown,) = json.loads(out)
    assert "reload" not in shown
    (pair,) = shown["pairs"].values()
    assert (pair["record"], pair["candidate"]) == (None, {})


def test_optimize_without_reload_signals_nobody(userdir, feeder, tuned):
    """Only when asked."""
    with fake_bot(userdir, "deaf") as bot:
        code, out, _ = feeder(*OPTIMIZE)
        assert bot.poll() is None
    assert code == 0
    assert "reload" not in json.loads(out)[0]


def test_optimize_reload_with_another_store_warns(userdir, capsys):
    """The bot does not read what --store names."""
    chosen = ChosenStore(SimpleNamespace(description="SQLite other.sqlite"), "x", "--store")
    with fake_bot(userdir):
        _, is_fine = reload_after_writing(
            make_settings(userdir), chosen, argparse.Namespace(json=True)
        )
    assert is_fine
    assert "SQLite other.sqlite" in capsys.readouterr().err
