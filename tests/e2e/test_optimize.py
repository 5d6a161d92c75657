"""The real `feeder optimize` process on generated candles: records, failures, interruptions."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass

import pandas as pd
import pytest

from feeder_mixin.schema import METRIC_NAMES, parameter_problems
from tests.candle_factory import candle_file, make_candles, write_candles
from tests.e2e.bot import running_exchange
from tests.e2e.conftest import PAIRS, ROOT, Project, comparable, make_project

OWNERS_SCRIPT = ROOT / "user_data" / "services" / "run_optuna_feeder_optimizer.py"
# Absent where a denominator is empty, where no challenger stood against anything, or beside FreqAI.
MAY_LACK = {
    *("false_positive_rate", "false_negative_rate", "christoffersen_p", "gain", "gain_se"),
    *("target_hash", "unsafe_share", "unsafe_share_upper"),
}


N_TRIALS = 20
"""Four more than the sampler draws before it learns from trials."""


@dataclass(frozen=True)
class Tuned:
    """A feeder that was tuned, and what the command said."""

    project: Project
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Give a feeder tuned by the owner's script, by two workers that nobody disturbed."""
    project = make_project(tmp_path_factory.mktemp("tuned") / "project")
    _feeder, _optimize, *options = project.optimize("--n-trials", N_TRIALS, "--jobs", 2)
    done = project.run([sys.executable, str(OWNERS_SCRIPT), *options])
    assert done.returncode == 0, done.stderr
    return Tuned(project, done)


def test_optimize_leaves_one_valid_record_per_pair_and_show_prints_them(tuned):
    """The outcome of the whole: candles in, one complete record per pair in the store."""
    project, done = tuned.project, tuned.done
    assert "ATR rule" in done.stdout
    assert f"searching the feeder's set {N_TRIALS}/{N_TRIALS}" in done.stderr
    assert "judging pairs 3/3" in done.stderr
    records = project.records()
    assert [r["pair"] for r in records] == list(PAIRS)
    for record in records:
        assert parameter_problems(record["parameters"]) == []
        assert set(METRIC_NAMES) - MAY_LACK <= set(record["metrics"])
        assert record["metrics"]["optimization_trials"] == N_TRIALS
    page = project.root / "user_data" / "feeder_state" / "test1" / "report.html"
    assert str(page) in done.stderr
    assert all(pair in page.read_text(encoding="utf-8") for pair in PAIRS)
    for point in project.ask("history"):
        assert point["provenance"]["context_pairs"] == sorted(PAIRS)


def test_optimize_killed_goes_on_and_ends_with_the_records_of_the_owners_script_undisturbed(
    project, tuned
):
    """`kill -9` costs the cells in hand; nor does it matter which command tunes, in which processes."""
    command = project.optimize("--n-trials", N_TRIALS, "--jobs", 1)
    process = project.start(command)
    n_cells = tuned.project.cells_kept()
    project.wait_for_cells(process, n_cells // 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert n_cells // 2 <= project.cells_kept() < n_cells
    done = project.run_here(command)
    assert done.returncode == 0, done.stderr
    assert project.cells_kept() == n_cells
    assert project.trials_kept() == N_TRIALS
    expected = [comparable(record) for record in tuned.project.records()]
    assert [comparable(record) for record in project.records()] == expected


@pytest.mark.slow
def test_optimize_ctrl_c_writes_the_finished_pairs_and_ends_as_if_undisturbed(
    project, other_project
):
    """Exit 130 leaves what was decided among the finished; the same command decides over all."""
    command = project.optimize("--n-trials", 40, "--jobs", 1)
    process = project.start(command)
    project.wait_for_results(process, 1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Decided without the unfinished pairs" in errors
    written = [r["pair"] for r in project.records()]
    assert written
    assert set(written) < set(PAIRS)
    done = project.run(command)
    assert done.returncode == 0, done.stderr
    assert "finished by the interrupted run" in done.stderr
    undisturbed = other_project("undisturbed")
    assert undisturbed.run(undisturbed.optimize("--n-trials", 40, "--jobs", 2)).returncode == 0
    assert [comparable(r) for r in project.records()] == [
        comparable(r) for r in undisturbed.records()
    ]


@pytest.mark.slow
def test_optimize_second_run_keeps_what_runs_and_says_so(project):
    """A search that ends where the record stands: exit 0, nothing new for bots, and why.

    Each is a run of its own, warm-started from the store; asked to, it writes all the same.
    """
    command = project.optimize("--n-trials", 3, "--pairs", PAIRS[0], "--jobs", 1)
    assert project.run(command).returncode == 0
    before = project.records()
    said = project.run(command)
    assert said.returncode == 0, said.stderr
    assert "kept, nothing is written" in said.stdout
    assert "0 records written" in said.stdout
    assert project.records() == before
    assert project.trials_kept() == 6
    asked = project.run([*command, "--promote", "always", "--json"])
    (document,) = json.loads(asked.stdout)
    assert document["pairs"][PAIRS[0]]["decision"]["outcome"] == "promoted"
    assert document["pairs"][PAIRS[0]]["record"] is not None
    history = project.command("history", "--feeder", "test1", "--pairs", PAIRS[0], "--json")
    assert len(json.loads(project.run(history).stdout)) == 2


def interrupt_after_five_cells(project, number):
    """Send a signal to a tuning's whole group, check how it ends, and return what it said."""
    process = project.start(project.optimize("--n-trials", 300, "--jobs", 2))
    project.wait_for_cells(process, 5)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command to continue" in errors
    assert "Traceback" not in errors
    return errors


@pytest.mark.slow
def test_optimize_ctrl_c_exits_130_and_keeps_finished_trials(project):
    """Ctrl-C reaches the whole group; the same command goes on afterwards."""
    interrupt_after_five_cells(project, signal.SIGINT)
    kept = project.cells_kept()
    assert kept >= 5
    done = project.run(project.optimize("--n-trials", 3, "--jobs", 2))
    assert done.returncode == 0, done.stderr
    assert project.cells_kept() >= kept


@pytest.mark.slow
def test_optimize_closed_terminal_exits_130_keeps_trials_and_leaves_no_folder(
    project, tmp_path, monkeypatch
):
    """SIGHUP reaches the whole group, as Ctrl-C does; under `nohup` it reaches nobody."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    errors = interrupt_after_five_cells(project, signal.SIGHUP)
    assert "died" not in errors
    assert project.cells_kept() >= 5
    assert list((tmp_path / "temporary").iterdir()) == []
    process = project.start(["nohup", *project.optimize("--n-trials", 60, "--jobs", 2)])
    project.wait_for_cells(process, 60)
    os.killpg(process.pid, signal.SIGHUP)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_optimize_all_whose_output_nobody_reads_tunes_every_feeder(project):
    """`| true` took the second feeder and every reload: what is printed decides nothing."""
    config = json.loads((project.root / "config" / "test1.json").read_text(encoding="utf-8"))
    config["bot_name"] = "test2"
    (project.root / "config" / "test2.json").write_text(json.dumps(config), encoding="utf-8")
    options = ("--n-trials", 1, "--jobs", 2, "--reload", "--promote", "always")
    command = project.optimize(*options, "--feeder", "test2")
    done = project.run(["bash", "-c", f"{shlex.join(command)} | true; exit ${{PIPESTATUS[0]}}"])
    assert done.returncode == 0, done.stderr
    for feeder in ("test1", "test2"):
        assert f"{feeder}: no bot runs on" in done.stderr
        shown = project.run(project.command("show", "--feeder", feeder, "--json"))
        assert [record["pair"] for record in json.loads(shown.stdout)] == list(PAIRS)


@pytest.mark.slow
def test_optimize_second_on_the_same_feeder_is_refused_and_told_who_works(project):
    """Two optimizers on one feeder: the second does nothing and says which process is first."""
    first = project.start(project.optimize("--n-trials", 500, "--jobs", 1))
    try:
        project.wait_for_cells(first, 1)
        second = project.run(project.optimize("--n-trials", 1))
        assert second.returncode == 1
        assert str(first.pid) in second.stderr
        assert "test1" in second.stderr
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


@pytest.mark.slow
def test_optimize_one_pair_with_bad_candles_exits_3_and_tunes_the_others(project):
    """One pair that fails does not stop the others, and the run says which and why."""
    path = candle_file(project.datadir, PAIRS[2])
    frame = pd.read_feather(path)
    frame.loc[100, "close"] = float("nan")
    frame.to_feather(path)
    done = project.run(project.optimize("--n-trials", 1, "--json"))
    assert done.returncode == 3, done.stderr
    (document,) = json.loads(done.stdout)
    assert list(document["pairs"]) == list(PAIRS[:2])
    assert "close=nan" in document["failures"][PAIRS[2]]
    assert f"{PAIRS[2]} failed: " in done.stderr
    assert [r["pair"] for r in project.records()] == list(PAIRS[:2])


def test_optimize_too_few_candles_for_every_pair_exits_2_and_says_how_many(project):
    """A thin history is told what it lacks."""
    frames = {pair: make_candles(12 * 288, seed) for seed, pair in enumerate(PAIRS)}
    write_candles(project.datadir, frames)
    done = project.run_here(project.optimize("--n-trials", 1))
    assert done.returncode == 2, done.stderr
    assert "too few candles" in done.stderr
    assert "minimum" in done.stderr
    assert project.records() == []


@pytest.mark.slow
def test_optimize_store_down_keeps_results_and_flush_writes_them(project):
    """An unreachable store costs exit 1 and nothing else."""
    store = "postgresql+psycopg://user:SECRET@127.0.0.1:1/none"
    done = project.run(project.optimize("--n-trials", 1, "--pairs", *PAIRS[:2], "--store", store))
    assert done.returncode == 1
    assert "feeder flush --feeder test1" in done.stderr
    assert "SECRET" not in done.stdout + done.stderr
    assert project.records() == []
    assert project.run(project.command("flush", "--feeder", "test1")).returncode == 0
    assert [r["pair"] for r in project.records()] == list(PAIRS[:2])


@pytest.mark.slow
def test_optimize_full_disk_exits_1_names_the_file_and_goes_on_later(project):
    """A full disk ends the run with a message; with space again the same command goes on."""
    state = project.root / "user_data" / "feeder_state"
    state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(state)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:  # noqa: S603
        pytest.skip("mounting a small tmpfs needs root")
    try:
        done = project.run(project.optimize("--n-trials", 60, "--jobs", 1))
        assert done.returncode == 1, done.stderr
        assert "full" in done.stderr
        assert str(state) in done.stderr
        assert "Traceback" not in done.stderr
        kept = project.cells_kept()
        subprocess.run(["mount", "-o", "remount,size=50m", str(state)], check=True)  # noqa: S603, S607
        again = project.run(project.optimize("--n-trials", 12, "--jobs", 1))
        assert again.returncode == 0, again.stderr
        assert project.cells_kept() >= kept
    finally:
        subprocess.run(["umount", "-l", str(state)], check=False)  # noqa: S603, S607


@pytest.mark.slow
def test_optimize_timeout_ends_the_search_and_leaves_records(project):
    """Out of time, what the study has is compared, judged and written."""
    done = project.run(project.optimize("--n-trials", 100_000, "--timeout", 3, "--jobs", 2))
    assert done.returncode == 0, done.stderr
    for record in project.records():
        assert 1 <= record["metrics"]["optimization_trials"] < 10_000


@pytest.mark.slow
def test_optimize_one_pair_alone_is_tuned_on_its_own_evidence_and_says_so(project, other_project):
    """The set that a pair gets depends on the pairs at hand; nothing else does, nor on `--jobs`."""
    among, alone = project, other_project("alone")
    options = ("--n-trials", 12, "--promote", "always", "--fix", "n_estimators=120")
    assert among.run(among.optimize(*options, "--jobs", 2)).returncode == 0
    single = alone.optimize(*options, "--jobs", 1, "--pairs", PAIRS[1])
    assert alone.run(single).returncode == 0
    for project_of, n_pairs in ((alone, 1), (among, len(PAIRS))):
        made_from = {one["pair"]: one["provenance"] for one in project_of.ask("history")}
        assert made_from[PAIRS[1]]["study_pairs"] == n_pairs
    expected = {r["pair"]: r for r in among.records()}[PAIRS[1]]
    (record,) = alone.records()
    for name in ("candles_from_s", "candles_to_s", "context_hash", "training_samples"):
        assert record["metrics"][name] == expected["metrics"][name]


@pytest.mark.slow
def test_optimize_killed_again_and_again_ends_with_the_undisturbed_records(project, other_project):
    """Whatever moment a kill hits (start, trials, redraws, delivery), nothing is lost."""
    undisturbed = other_project("undisturbed")
    assert undisturbed.run(undisturbed.optimize("--n-trials", 15, "--jobs", 1)).returncode == 0
    n_all = undisturbed.cells_kept()
    command = project.optimize("--n-trials", 15, "--jobs", 2)
    for share in (0.0, 0.4, 0.7, 0.95):
        process = project.start(command)
        try:
            project.wait_for_cells(process, max(1, int(share * n_all)))
        finally:
            process.kill()
            process.communicate()
    done = project.run(command)
    assert done.returncode == 0, done.stderr
    assert [comparable(r) for r in project.records()] == [
        comparable(r) for r in undisturbed.records()
    ]


@pytest.mark.slow
def test_optimize_on_real_candles_of_thin_and_long_pairs_leaves_valid_records(project, datadir):
    """Feeder 120c: two pairs with 264 days or more, two with 60."""
    command = project.command(
        "optimize", "--feeder", "feeder120c", "--datadir", datadir, "--n-trials", 5
    )
    done = project.run(command)
    assert done.returncode == 0, done.stderr
    show = project.command("show", "--feeder", "feeder120c", "--json")
    records = json.loads(project.run(show).stdout)
    assert len(records) == 4
    assert all(parameter_problems(r["parameters"]) == [] for r in records)


@pytest.mark.slow
def test_optimize_of_a_pair_that_the_exchange_does_not_list_exits_3_and_tunes_the_others(
    project, tmp_path
):
    """Without ``--datadir`` all that can be downloaded is, and the pair that is gone fails by name."""
    with running_exchange(
        tmp_path / "market", "--generate-days", 40, "--timeframe", "5m"
    ) as market:
        config = {
            "add_config_files": ["base.json", str(market.overlay)],
            "bot_name": "test1",
            "feeder": {"side": "long", "train_days": 10},
            "exchange": {"pair_whitelist": [PAIRS[0], "MATIC/USDT:USDT"]},
        }
        (project.root / "config" / "test1.json").write_text(json.dumps(config), encoding="utf-8")
        options = ("--feeder", "test1", "--n-trials", 1, "--days-back", 12, "--jobs", 1)
        done = project.run(project.command("optimize", *options))
    words = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 3, words
    assert "MATIC/USDT:USDT: binance lists no active futures pair of that name" in words
    assert "network" not in words
    assert [record["pair"] for record in project.records()] == [PAIRS[0]]
