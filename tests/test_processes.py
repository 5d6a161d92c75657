"""How processes end: signals, children of a killed parent, folders that it left."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from feeder_mixin.processes import ScratchFolder, ending_signals
from tests.waiting import wait_until

PATIENCE_S = 20.0


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Make a folder the one for temporary files, in child processes too."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def start(code: str) -> subprocess.Popen[str]:
    """Run Python code in a process that can be read from and killed."""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)  # noqa: S603


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def make_folder_in_a_process(then: str = "") -> subprocess.Popen[str]:
    """Start a process that makes a folder with a file in it and prints its path."""
    return start(
        "import time; from feeder_mixin.processes import ScratchFolder as S; s = S('test'); "
        f"(s.path / 'file').touch(); print(s.path, flush=True); {then or 'time.sleep(60)'}"
    )


def test_scratch_folder_is_gone_when_it_is_removed_or_its_process_ends(temporary):
    """Nobody has to clean up by hand, and removing twice is no error."""
    scratch = ScratchFolder("test")
    (scratch.path / "file").touch()
    assert scratch.path.parent == temporary
    scratch.remove()
    scratch.remove()
    with make_folder_in_a_process("pass") as process:
        assert line_of(process).startswith(str(temporary))
    assert list(temporary.iterdir()) == []


def test_folder_of_a_killed_process_is_removed_by_the_next_and_no_other_is(temporary):
    """``kill -9`` leaves a folder until the next start; folders in use and other people's stay."""
    with make_folder_in_a_process() as killed, make_folder_in_a_process() as alive:
        left, used = Path(line_of(killed)), Path(line_of(alive))
        killed.kill()
        killed.wait()
        own = ScratchFolder("test")
        foreign = temporary / "feeder-test-of-a-user"
        foreign.mkdir()
        kept = ScratchFolder("test")
        kept.keep()
        last = ScratchFolder("test")
        alive_folders = {own.path, used, foreign, kept.path, last.path}
        assert set(temporary.iterdir()) == alive_folders
        assert not left.exists()
        alive.kill()
    for scratch in (own, last):
        scratch.remove()


def test_ignored_signal_stays_ignored():
    """``nohup`` and ``&`` in a script said that the command is to go on."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert ending_signals() == [signal.SIGINT, signal.SIGTERM]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert ending_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_command_like_ctrl_c_once(number):
    """The second one (systemd sends two) does not cut the clean-up short."""
    code = (
        "import time; from feeder_mixin.processes import end_like_ctrl_c; end_like_ctrl_c()\n"
        "try:\n    print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('stopped', flush=True); time.sleep(0.3); print('clean')"
    )
    with start(code) as process:
        assert line_of(process) == "ready"
        process.send_signal(number)
        assert line_of(process) == "stopped"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert line_of(process) == "clean"
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_child_of_a_killed_process_ends():
    """What the demo or a download started does not go on alone; its pid is the command's own."""
    code = (
        "import subprocess, time; from feeder_mixin.processes import tied; "
        "p = subprocess.Popen(tied(['sleep', '60']), start_new_session=True); "
        "print(p.pid, flush=True); time.sleep(60)"
    )
    with start(code) as process:
        pid = int(line_of(process))
        comm = Path(f"/proc/{pid}/comm")
        wait_until(lambda: comm.read_text(encoding="utf-8") == "sleep\n", "the child's program")
        process.kill()
    wait_until(lambda: not _lives(pid), "the child's end")


def _lives(pid: int) -> bool:
    """Return whether a process is there and no zombie (a container may have nobody to reap it)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
