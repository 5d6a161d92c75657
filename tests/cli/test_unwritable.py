"""Whatever folder we write to may be read-only, full, or a file: named, with what to do, nothing lost."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

from feeder_mixin.cli import common
from feeder_mixin.schema import NANOSECONDS, format_time_ns
from feeder_mixin.stores.sql import SqlStore
from feeder_mixin.tune.lock import feeder_lock
from tests import disks
from tests.cli.conftest import BASE_NS, FEEDER, PAIR
from tests.cli.test_streams import NAMES

PAST = format_time_ns(BASE_NS + 25 * NANOSECONDS)
WRITING = {
    "optimize": ([*FEEDER, "--n-trials", "1", "--jobs", "1"], "user_data/data/binance"),
    "report": ([*FEEDER, "--out", "page.html"], "user_data/feeder_params.sqlite"),
    "rollback": ([*FEEDER, "--pair", PAIR, "--to", PAST], "user_data"),
    "export": ([*FEEDER, "--out", "copy.jsonl"], "user_data/feeder_params.sqlite"),
    "import": (["copy.jsonl", *FEEDER], "user_data/feeder_params.sqlite"),
    "prune": ([*FEEDER, "--older-than", "1"], "user_data"),
    "flush": ([*FEEDER], "user_data/feeder_params.sqlite"),
    "init-store": ([*FEEDER], "user_data/feeder_params.sqlite"),
    "init": (["--userdir", "other"], "other/strategies/LightGBMSafetyFeederStrategy.py"),
    "replay-exchange": (
        ["--generate-days", "1", "--write-config", "deep/replay.json"],
        "deep/replay.json",
    ),
}
"""Sub-command that writes -> arguments, and what its error names in a read-only project."""
READING = {"show", "history", "settings", "diff", "status", "reload", "doctor", "metrics"}
ELSEWHERE = {"demo"}
"""Makes its folder among the temporary ones."""
READ_ONLY = "Read-only file system|readonly database|unable to open database|writable"


def test_every_sub_command_is_tried_or_writes_nothing():
    """A new one has to be put into one of the three."""
    assert sorted([*WRITING, *READING, *ELSEWHERE]) == sorted(NAMES)


@pytest.mark.parametrize("name", WRITING)
def test_command_in_a_read_only_project_names_the_place_and_what_to_do(
    project, feeder, store, history, name, monkeypatch
):
    """Exit 1 or 2 and one sentence, never a traceback; what is there stays as it is."""
    (project / "other").mkdir()
    assert feeder("export", *FEEDER, "--out", "copy.jsonl")[0] == 0
    store.close()
    arguments, place = WRITING[name]
    with disks.read_only(project):
        monkeypatch.chdir(project)  # anew: the folder of before is the writable one below it
        code, _, err = feeder(name, *arguments)
    assert code in (1, 2), err
    assert "Traceback" not in err
    assert place in err
    assert any(word in err for word in READ_ONLY.split("|")), err
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as again:
        assert len(again.history("feeder120b", PAIR, 9)) == 3


@contextmanager
def spoiled(folder, how):
    """Have a folder in which nothing can be written."""
    if how == "file in its place":
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text("in the way", encoding="utf-8")
        yield "Move the file away"
    elif how == "full":
        with disks.full(folder):
            yield "Free disk space"
    else:
        with disks.tmpfs(folder, "ro"):
            yield "mount it writable"


HOW = ("file in its place", "full", "read-only")


@pytest.mark.parametrize("how", HOW)
def test_optimize_whose_data_folder_cannot_be_written_names_it(project, feeder, how):
    """Without `--datadir` candles are downloaded: not where nothing can be kept."""
    folder = project / "user_data" / "data" / "binance"
    with spoiled(folder, how) as advice:
        code, _, err = feeder("optimize", *FEEDER, "--n-trials", "1")
    assert code == 2
    assert f"{folder} can't be written: " in err
    assert advice in err
    assert "--datadir" in err


@pytest.mark.parametrize("how", HOW)
def test_init_into_a_folder_that_cannot_be_written_leaves_no_half_file(project, feeder, how):
    """A strategy is there whole or not at all."""
    folder = project / "other" / "strategies"
    folder.parent.mkdir()
    with spoiled(folder, how) as advice:
        code, _, err = feeder("init", "--userdir", "other")
        assert code == 1
        assert "other/strategies/LightGBMSafetyFeederStrategy.py can't be written: " in err
        assert advice in err
        if folder.is_dir():
            assert {p.name for p in folder.iterdir()} <= {"filler"}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("command", ["report", "export"])
def test_out_into_a_folder_that_cannot_be_written_names_it(project, feeder, history, command, how):
    """The file is there whole or not at all; the store is not touched."""
    folder = project / "out"
    folder.mkdir()
    with spoiled(folder, how) as advice:
        code, _, err = feeder(command, *FEEDER, "--out", "out/file")
        assert code == 1
        assert "out/file can't be written: " in err
        assert advice in err
        if folder.is_dir():
            assert {p.name for p in folder.iterdir()} <= {"filler"}


@pytest.mark.parametrize("how", HOW)
def test_state_folder_of_the_optimizer_that_cannot_be_written_is_named(project, how):
    """Before a trial is begun that could not be kept."""
    settings = common.load_settings("feeder120b", None, None)
    settings.state_dir.parent.mkdir(parents=True)
    with (
        spoiled(settings.state_dir, how) as advice,
        pytest.raises(
            Exception, match=rf"state folder {settings.state_dir} can't be written: .*{advice}"
        ),
        feeder_lock(settings),
    ):
        pass
