"""Files of the state folder: whole or not at all, damage noticed."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.errors import StateError
from feeder_mixin.live.state import files
from feeder_mixin.live.state.files import read_checked, write_checked, write_private
from feeder_mixin.live.state.lock import bot_lock
from tests import disks, strategies
from tests.builders import make_settings

documents = st.dictionaries(st.text(), strategies.json_values, max_size=4)


@pytest.fixture
def feeder(tmp_path):
    """Return the settings of a feeder without state."""
    return make_settings(tmp_path / "user_data")


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of 64 kB."""
    with disks.tmpfs(tmp_path / "disk", "size=64k") as folder:
        yield folder


@pytest.fixture
def read_only(tmp_path):
    """Return a folder in which nobody can write, root neither."""
    with disks.tmpfs(tmp_path / "user_data", "ro") as folder:
        yield folder


@given(documents)
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
        pytest.param(lambda content: content[:-1], "is truncated", id="last byte lost"),
        pytest.param(lambda content: content[: len(content) // 2], "is truncated", id="half"),
        pytest.param(lambda content: content.replace(b"20", b"21"), "edited", id="edited"),
        pytest.param(lambda content: content[:-3] + b" }}\n", "edited", id="space put in"),
        pytest.param(lambda content: bytes(len(content)), "not a file of this kind", id="zeros"),
        pytest.param(lambda content: b"\xff" + content, "not a file of this kind", id="foreign"),
        pytest.param(
            lambda content: json.dumps(json.loads(content), indent=1).encode(),
            "not a file of this kind",
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
        "from feeder_mixin.live.state import files\n"
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
