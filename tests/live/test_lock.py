"""One bot at a time on a state folder, seen from outside whatever the disk is like."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from feeder_mixin.errors import BusyError, StateError
from feeder_mixin.live.state import lock as lock_module
from feeder_mixin.live.state import stand_in
from feeder_mixin.live.state.lock import BotLock, bot_lock, is_bot_running, running_bot_pid
from feeder_mixin.live.state.stand_in import find_stand_in, newest_status_path, remove_stand_in
from feeder_mixin.live.state.status import keep_status, read_status
from tests import disks
from tests.builders import make_settings
from tests.live.fake_bot import fake_bot, make_status


@pytest.fixture
def feeder(tmp_path):
    """Return the settings of a feeder without state; no stand-in is left."""
    settings = make_settings(tmp_path / "user_data")
    yield settings
    remove_stand_in(settings.state_dir)


def test_bot_lock_second_process_is_told_the_pid(feeder):
    """Two bots of one id would overwrite each other's state."""
    with fake_bot(feeder.user_data_dir) as process:
        with pytest.raises(BusyError, match=rf"pid {process.pid}\).*feeder120b"):
            bot_lock(feeder).acquire()
        assert not bot_lock(feeder).is_held


def test_bot_lock_is_free_again_after_a_kill(feeder):
    """The kernel frees it; the pid file that is left misleads nobody."""
    with fake_bot(feeder.user_data_dir) as process:
        assert running_bot_pid(feeder) == process.pid
        process.kill()
        process.wait()
        assert (feeder.state_dir / "bot.pid").read_text() == f"{process.pid}\n"
        assert not is_bot_running(feeder)
        assert running_bot_pid(feeder) is None
        bot_lock(feeder).acquire()
    assert running_bot_pid(feeder) == os.getpid()
    bot_lock(feeder).release()
    assert running_bot_pid(feeder) is None
    assert not (feeder.state_dir / "bot.pid").exists()


def test_bot_lock_counts_within_a_process_and_across_threads(feeder):
    """On /reload_config the new strategy takes it before the old one gives it back."""
    lock = bot_lock(feeder)
    lock.acquire()
    assert bot_lock(feeder) is lock
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert running_bot_pid(feeder) == os.getpid()
    lock.release()
    assert not lock.is_held
    lock.release()
    lock.acquire()
    assert is_bot_running(feeder)
    lock.release()


def test_bot_lock_probes_never_keep_a_bot_from_starting(feeder):
    """`feeder status` in a loop is no second bot, and two of them don't see each other as one."""
    lock, stop, seen = bot_lock(feeder), threading.Event(), []
    lock.acquire()
    lock.release()

    def probe():
        while not stop.wait(0.001):
            seen.append(is_bot_running(feeder))

    threads = [threading.Thread(target=probe) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(seen) < 100:
        assert not any(seen)
    for _ in range(20):
        lock.acquire()
        lock.release()
    stop.set()
    for thread in threads:
        thread.join()


def test_bot_on_a_read_only_folder_is_found_and_alone(feeder):
    """Lock and status stand in shared memory, and go with the bot."""
    with disks.tmpfs(feeder.user_data_dir, "ro"):
        with fake_bot(feeder.user_data_dir) as process:
            assert running_bot_pid(feeder) == process.pid
            assert read_status(newest_status_path(feeder))["pid"] == process.pid
            with pytest.raises(BusyError, match=rf"pid {process.pid}\).*feeder120b"):
                bot_lock(feeder).acquire()
            assert not bot_lock(feeder).is_held
        assert running_bot_pid(feeder) is None
        lock = bot_lock(feeder)
        lock.acquire()  # what a killed bot left misleads nobody
        assert "can't be locked: [Errno 30]" in str(lock.problem)
        assert running_bot_pid(feeder) == os.getpid()
        assert find_stand_in(feeder.state_dir) is not None
        lock.release()
        assert find_stand_in(feeder.state_dir) is None
        assert newest_status_path(feeder) == feeder.status_path
    lock.acquire()
    assert lock.problem is None
    lock.release()


def test_second_bot_on_a_disk_that_became_read_only_is_told_of_the_first(feeder):
    """The lock can't be opened for writing any more, but it is held."""
    with fake_bot(feeder.user_data_dir) as process, disks.read_only(feeder.user_data_dir):
        with pytest.raises(BusyError, match=rf"pid {process.pid}\)"):
            bot_lock(feeder).acquire()
        assert running_bot_pid(feeder) == process.pid


def test_bot_on_a_full_disk_is_found_by_its_lock_and_its_status_comes_back(feeder):
    """The kernel knows who has the lock; with space again the status is where it belongs."""
    with disks.full(feeder.user_data_dir) as disk:
        feeder.state_dir.mkdir(parents=True)
        with fake_bot(feeder.user_data_dir) as process:
            assert not (feeder.state_dir / "bot.pid").exists()
            assert running_bot_pid(feeder) == process.pid
        lock = BotLock(feeder.state_dir)
        lock.acquire()
        assert "bot.pid can't be written: No space left on device" in str(lock.problem)
        status = make_status()
        said = keep_status(feeder, status)
        assert said is not None
        assert "status.json can't be written: No space left on device" in said
        assert read_status(newest_status_path(feeder)) == status
        (disk / "filler").unlink()
        status["generation"] += 1
        assert keep_status(feeder, status) is None
        assert newest_status_path(feeder) == feeder.status_path
        assert read_status(feeder.status_path) == status
        lock.acquire()
        assert lock.problem is None
        lock.release()
        lock.release()
        assert find_stand_in(feeder.state_dir) is None


def test_bot_without_any_place_for_its_lock_says_so(feeder, monkeypatch, tmp_path):
    """It goes on without: the message says what that costs."""
    monkeypatch.setattr(stand_in, "SHARED_MEMORY", tmp_path / "missing")
    monkeypatch.setattr(stand_in.tempfile, "tempdir", str(tmp_path / "missing"))
    with disks.tmpfs(feeder.user_data_dir, "ro"):
        with pytest.raises(StateError, match=r"can't be locked.*second bot.*can't find this one"):
            bot_lock(feeder).acquire()
        assert not bot_lock(feeder).is_held
        assert running_bot_pid(feeder) is None


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_stand_in_that_others_can_write_is_not_believed(feeder, monkeypatch, tmp_path, mode):
    """Anybody may make a folder of that name in a place for all."""
    monkeypatch.setattr(stand_in, "SHARED_MEMORY", tmp_path)
    (folder,) = [
        path for path in stand_in.candidate_places(feeder.state_dir) if path.parent == tmp_path
    ]
    folder.mkdir()
    folder.chmod(mode)
    assert find_stand_in(feeder.state_dir) is None
    folder.chmod(0o700)
    assert find_stand_in(feeder.state_dir) == folder
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert find_stand_in(feeder.state_dir) is None


def test_running_bot_pid_believes_the_kernel_and_not_the_pid_file(feeder, monkeypatch):
    """The file may be missing, or name a process that does not have the lock."""
    monkeypatch.setattr(lock_module, "PID_PATIENCE_S", 0.0)
    with fake_bot(feeder.user_data_dir) as process:
        path = feeder.state_dir / "bot.pid"
        for change in (lambda: path.write_text(f"{os.getpid()}\n"), path.unlink):
            change()
            assert running_bot_pid(feeder) == process.pid
            with monkeypatch.context() as patch:
                patch.setattr(lock_module, "listed_pids", lambda _wanted: [])
                said = f"pid {os.getpid()} in" if path.exists() else "there is no"
                with pytest.raises(StateError, match=rf"{said} bot\.pid.*container"):
                    running_bot_pid(feeder)


@pytest.mark.parametrize("way", ["_is_listed", "_has_open"])
def test_running_bot_pid_needs_one_way_to_see_the_holder(feeder, monkeypatch, way):
    """Sandboxes hide descriptors, some file systems hide the lock."""
    monkeypatch.setattr(lock_module, way, lambda *_: False)
    with fake_bot(feeder.user_data_dir) as process:
        assert running_bot_pid(feeder) == process.pid


def test_is_bot_running_makes_no_file(feeder):
    """Asking leaves no trace."""
    assert not is_bot_running(feeder)
    assert not Path(feeder.user_data_dir).exists()
