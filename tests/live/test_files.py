"""Files of the state folder: whole or not at all, damage noticed, one bot at a time."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_mixin.errors import BusyError, StateError
from feeder_mixin.live import files
from feeder_mixin.live.files import (
    bot_lock,
    is_bot_running,
    read_checked,
    running_bot_pid,
    write_checked,
    write_private,
)
from tests import strategies
from tests.live.fake_bot import fake_bot, make_settings

documents = st.dictionaries(st.text(), strategies.json_values, max_size=4)


@pytest.fixture
def feeder(tmp_path):
    """Return the settings of a feeder without state."""
    return make_settings(tmp_path / "user_data")


def mount(folder, *options):
    """Mount a tmpfs, or skip the test where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603
        pytest.skip("needs the right to mount")


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=64k")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607


@pytest.fixture
def read_only(tmp_path):
    """Return a folder in which nobody can write, root neither."""
    folder = tmp_path / "user_data"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
    else:
        mount(folder, "ro")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607


@given(documents)
@settings(max_examples=60)
def test_checked_document_read_back_is_the_one_written(tmp_path_factory, document):
    """Whatever JSON holds comes back to the last digit."""
    path = tmp_path_factory.mktemp("state") / "document.json"
    write_checked(path, document)
    assert read_checked(path) == document


def test_checked_file_is_plain_json(tmp_path):
    """An operator's own tools can read it."""
    write_checked(tmp_path / "x.json", {"a": [1, "ü"]})
    assert json.loads((tmp_path / "x.json").read_text())["document"] == {"a": [1, "ü"]}


def test_checked_megabytes_are_written_and_read_at_once(tmp_path):
    """Models are a few MB of text; a bot must not wait for them."""
    document = {"trees": "0.125 -3.5e-05 " * 400_000}
    write_checked(tmp_path / "model.json", document)
    assert read_checked(tmp_path / "model.json") == document


def test_read_checked_missing_file_is_none(tmp_path):
    """No last good copy is a normal start, not an error."""
    assert read_checked(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(lambda _content: b"", "is empty", id="empty"),
        pytest.param(lambda content: content[:-1], "cut short", id="last byte lost"),
        pytest.param(lambda content: content[: len(content) // 2], "cut short", id="half"),
        pytest.param(lambda content: content.replace(b"20", b"21"), "edited", id="edited"),
        pytest.param(lambda content: content[:-3] + b" }}\n", "edited", id="space put in"),
        pytest.param(lambda content: bytes(len(content)), "no file of this kind", id="zeros"),
        pytest.param(lambda content: b"\xff" + content, "no file of this kind", id="foreign"),
        pytest.param(
            lambda content: json.dumps(json.loads(content), indent=1).encode(),
            "no file of this kind",
            id="formatted anew",
        ),
    ],
)
def test_read_checked_damaged_file_is_refused_by_name(tmp_path, damage, words):
    """A cut or edited file is never half believed; the message says which and what to do."""
    path = tmp_path / "last_good.json"
    write_checked(path, {"num_leaves": 20, "pairs": ["a", "b"]})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StateError, match=r"last_good\.json .*Delete it") as caught:
        read_checked(path)
    assert words in str(caught.value)


def test_read_checked_unreadable_file_is_a_state_error(tmp_path):
    """A folder in the file's place, for example."""
    (tmp_path / "x.json").mkdir()
    with pytest.raises(StateError, match=r"x\.json can't be read"):
        read_checked(tmp_path / "x.json")


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), object(), {1j: 0}],
    ids=["nan", "infinite", "object", "key"],
)
def test_write_checked_of_what_json_has_not_leaves_the_old_file(tmp_path, value):
    """A NaN is a defect that must not reach the disk."""
    path = tmp_path / "x.json"
    write_checked(path, {"a": 1})
    with pytest.raises(StateError, match=r"x\.json is not written"):
        write_checked(path, {"a": value})
    assert read_checked(path) == {"a": 1}


def test_write_private_makes_folder_and_file_for_the_owner_only(tmp_path):
    """Status and parameters concern nobody else."""
    path = tmp_path / "state" / "x.txt"
    write_private(path, "text")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    write_private(path, "other")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_write_private_reader_sees_old_or_new_but_never_a_part(tmp_path):
    """Readers poll while the bot writes."""
    path = tmp_path / "x.txt"
    texts = {letter * 200_000 for letter in "ab"}
    write_private(path, "a" * 200_000)
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(10):
        for text in sorted(texts):
            write_private(path, text)
    stop.set()
    reader.join()
    assert seen <= texts


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_private_failing_at_any_step_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, step
):
    """The previous content stands, and nothing is left lying about."""
    path = tmp_path / "x.txt"
    write_private(path, "old")

    def fail(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os if step == "fsync" else files.Path, step, fail)
    with pytest.raises(StateError, match=r"x\.txt can't be written: No space left"):
        write_private(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_private_full_disk_leaves_the_old_file_and_no_other(small_disk):
    """The real thing: a disk of 64 kB."""
    path = small_disk / "x.txt"
    write_private(path, "old")
    with pytest.raises(StateError, match="No space left"):
        write_private(path, "n" * 100_000)
    assert path.read_text() == "old"
    assert list(small_disk.iterdir()) == [path]


def test_write_private_read_only_folder_is_a_state_error(read_only):
    """It says which file and what to do."""
    with pytest.raises(StateError, match=r"state/x\.txt can't be written.*writable"):
        write_private(read_only / "state" / "x.txt", "new")


def test_write_private_killed_before_the_swap_leaves_the_old_file_whole(feeder):
    """`kill -9` at the worst moment; the next bot removes what it left."""
    path = feeder.state_dir / "x.json"
    write_checked(path, {"a": 1})
    code = (
        "import sys, time; from pathlib import Path\n"
        "from feeder_mixin.live import files\n"
        "Path.replace = lambda *_: (print('now', flush=True), time.sleep(60))\n"
        "files.write_checked(Path(sys.argv[1]), {'a': 2})"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.kill()
    assert read_checked(path) == {"a": 1}
    assert len(list(feeder.state_dir.iterdir())) == 2
    bot_lock(feeder).acquire()
    bot_lock(feeder).release()
    assert {p.name for p in feeder.state_dir.iterdir()} == {"x.json", "bot.lock"}


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


def test_bot_lock_read_only_folder_is_a_state_error(read_only):
    """The bot warns and goes on without it."""
    feeder = make_settings(read_only)
    with pytest.raises(StateError, match="can't be locked"):
        bot_lock(feeder).acquire()
    assert not bot_lock(feeder).is_held
    assert running_bot_pid(feeder) is None


def test_bot_lock_full_disk_is_a_state_error_and_holds_nothing(feeder, monkeypatch):
    """A lock nobody can attribute would be worse than none."""

    def fail(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(StateError, match=r"bot\.pid can't be written"):
        bot_lock(feeder).acquire()
    assert not is_bot_running(feeder)


def test_running_bot_pid_never_believes_the_pid_file_alone(feeder, monkeypatch):
    """The lock is held, but the pid in the file is of a process that does not have it."""
    monkeypatch.setattr(files, "_PID_PATIENCE_S", 0.0)
    with fake_bot(feeder.user_data_dir):
        (feeder.state_dir / "bot.pid").write_text(f"{os.getpid()}\n")
        with pytest.raises(StateError, match=rf"pid {os.getpid()} in bot\.pid.*container"):
            running_bot_pid(feeder)
        (feeder.state_dir / "bot.pid").unlink()
        with pytest.raises(StateError, match=r"there is no bot\.pid"):
            running_bot_pid(feeder)


@pytest.mark.parametrize("way", ["_is_listed", "_has_open"])
def test_running_bot_pid_needs_one_way_to_see_the_holder(feeder, monkeypatch, way):
    """Sandboxes hide descriptors, some file systems hide the lock."""
    monkeypatch.setattr(files, way, lambda *_: False)
    with fake_bot(feeder.user_data_dir) as process:
        assert running_bot_pid(feeder) == process.pid


def test_is_bot_running_makes_no_file(feeder):
    """Asking leaves no trace."""
    assert not is_bot_running(feeder)
    assert not Path(feeder.user_data_dir).exists()
