"""What is printed never decides what is done: every sub-command on streams that fail it."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from feeder_mixin.cli import common
from feeder_mixin.cli.main import main
from feeder_mixin.cli.streams import SafeStream
from feeder_mixin.live.reload.client import ReloadOutcome
from feeder_mixin.schema import MEASUREMENT
from feeder_mixin.stores.operations.transfer import Entry, format_line
from feeder_mixin.stores.sql import SqlStore
from feeder_mixin.tune.run.options import RunSummary
from tests.cli.conftest import FEEDER, OTHER, PAIR, ROOT, record_after
from tests.command_line import command_parsers
from tests.reports.builder import make_results

FEEDERS = ("--feeder", "feeder120b", "feeder75a")
COMMANDS: dict[str, list[str]] = {
    "optimize": [*FEEDERS, "--reload"],
    "report": [*FEEDER, "--out", "page.html", "--json"],
    "risk": [*FEEDER],
    "studies": [*FEEDER],
    "show": [*FEEDER],
    "history": [*FEEDERS, "--json"],
    "settings": [*FEEDERS],
    "diff": [*FEEDER],
    "rollback": [*FEEDER, "--pairs", PAIR, "--yes"],
    "status": [*FEEDERS],
    "reload": [*FEEDERS],
    "doctor": [*FEEDER],
    "metrics": [*FEEDER],
    "export": [*FEEDER],
    "import": ["copy.jsonl", *FEEDER],
    "prune": [*FEEDER, "--keep-days", "1"],
    "init-store": [*FEEDERS],
    "flush": [*FEEDERS],
    "init": ["--userdir", "other"],
    "replay-exchange": ["--generate-days", "1", "--write-config", "replay.json"],
    "demo": [],
    "completion": ["bash"],
}
"""Sub-command -> arguments with which it has something to print."""
NAMES = list(command_parsers())


class Raw(io.RawIOBase):
    """A descriptor that takes so many writes and then fails; None takes all."""

    def __init__(self, number: int | None = None, n_taken: int = 0) -> None:
        self.number, self.n_left, self.taken = number, n_taken, b""

    def writable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def write(self, data) -> int:
        """See `io.RawIOBase`."""
        if self.number is not None:
            if self.n_left == 0:
                raise OSError(self.number, os.strerror(self.number))
            self.n_left -= 1
        self.taken += bytes(data)
        return len(data)


@pytest.fixture
def opened():
    """Give a function that makes a text stream on a `Raw`, closed in peace afterwards."""
    raws = []

    def open_stream(raw: Raw, encoding: str = "utf-8") -> io.TextIOWrapper:
        stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding, line_buffering=True)
        raws.append((raw, stream))
        return stream

    yield open_stream
    for raw, _ in raws:
        raw.number = None


@pytest.fixture
def run(monkeypatch, opened):
    """Give a function that runs a command on two streams and returns exit code and stderr."""

    def run_on(out, arguments: list[str], errors=None, encoding="utf-8"):
        heard = Raw()
        common.make_console.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None if out is None else opened(out, encoding))
            patch.setattr(sys, "stderr", opened(errors or heard, encoding))
            code = main(arguments)
        common.make_console.cache_clear()
        return code, heard.taken.decode(encoding)

    return run_on


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Give a project folder with a stored history and a copy of it."""
    root = tmp_path_factory.mktemp("prepared")
    shutil.copytree(ROOT / "config", root / "config")
    (root / "user_data").mkdir()
    (root / "other").mkdir()
    records = [record_after(s, metrics={"skill": 0.05, "exceedance": 0.1}) for s in (10, 20, 30)]
    with SqlStore(root / "user_data" / "feeder_params.sqlite") as store:
        store.write(records)
    lines = [
        format_line(Entry(MEASUREMENT, record_after(40, pair=other))) for other in (OTHER, PAIR)
    ]
    (root / "copy.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root


@pytest.fixture
def places(tmp_path, monkeypatch, prepared):
    """Give a function that makes a copy of the project, and enters it.

    What takes minutes ends at once: tuning has results, the exchange ends when it is ready.
    """
    done: list[str] = []

    def run_feeder(settings, *_):
        done.append(f"tuned {settings.feeder_id}")
        results = {p: known.result for p, known in make_results(settings.pairs).items()}
        return RunSummary(settings.feeder_id, results, {PAIR: record_after(50)})

    def reload_bot(settings, *_):
        done.append(f"reloaded {settings.feeder_id}")
        return ReloadOutcome(settings.feeder_id, error="no bot runs", is_running=False)

    def serve(_market, _host, _port, *, ready, **_):
        ready("http://127.0.0.1:1")
        done.append("served")

    monkeypatch.setattr("feeder_mixin.tune.run.run.run_feeder", run_feeder)
    monkeypatch.setattr("feeder_mixin.market.history.download_missing", lambda *_, **__: {})
    monkeypatch.setattr("feeder_mixin.cli.optimize.report_after_tuning", lambda *_: None)
    page = SimpleNamespace(html="page")
    monkeypatch.setattr("feeder_mixin.reports.page.render_page", lambda *_: page)
    shown = {"feeder_id": "feeder120b", "missing": ["nothing"]}
    monkeypatch.setattr("feeder_mixin.reports.page.report_document", lambda *_: shown)
    monkeypatch.setattr("feeder_mixin.cli.bot_commands.reload_bot", reload_bot)
    monkeypatch.setattr("feeder_mixin.rehearsal.exchange.server.serve_market", serve)
    monkeypatch.setattr(
        "feeder_mixin.rehearsal.demo.story.Story.run", lambda _: done.append("told") or {}
    )
    monkeypatch.setattr("feeder_mixin.cli.demo._print_document", lambda *_: None)

    def enter(name: str) -> tuple[Path, list[str]]:
        done.clear()
        folder = tmp_path / name
        shutil.copytree(prepared, folder)
        monkeypatch.chdir(folder)
        return folder, done

    return enter


def effects(folder: Path, done: list[str]) -> tuple[object, ...]:
    """Return what a command did: steps, files, and what the store holds."""
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "-wal" not in p.name)
    with SqlStore(folder / "user_data" / "feeder_params.sqlite") as store:
        latest = store.latest("feeder120b")
        values = {pair: r.parameters for pair, r in latest.records.items()}
        counts = {pair: len(store.history("feeder120b", pair, 99)) for pair in values}
    return tuple(done), files, values, counts


def test_every_sub_command_is_tried_on_failing_streams():
    """A new one has to be added here."""
    assert list(COMMANDS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_command_does_the_same_whatever_becomes_of_its_output(places, run, name):
    """No reader, a full or closed stdout, a broken stderr, ASCII: what is done is the same."""
    arguments = [name, *COMMANDS[name]]
    good = Raw()
    undisturbed = places("undisturbed")
    code, _ = run(good, arguments)
    expected = effects(*undisturbed)
    says_something = bool(good.taken)
    for case, out, errors, words in (
        ("head -1", Raw(errno.EPIPE, 1), None, None),
        ("full", Raw(errno.ENOSPC), None, "No space left on device"),
        ("all closed", None, Raw(errno.EIO), ""),
        ("ASCII", Raw(), None, None),
    ):
        place = places(case)
        got, said = run(out, arguments, errors, "ascii" if case == "ASCII" else "utf-8")
        assert effects(*place) == expected, case
        assert "Traceback" not in said, case
        fails = words is not None and says_something
        assert got == (code or int(fails)), case
        line = f"feeder {name}: the result can't be written to stdout: "
        assert (f"{line}{words}" in said) == (bool(words) and says_something), (case, said)


def test_plain_stream_prints_ascii_for_what_the_encoding_lacks(opened):
    """Our own signs in ASCII, all others by number; a lone surrogate (a file name) too."""
    raw = Raw()
    stream = SafeStream(opened(raw, "ascii"))
    stream.write("a ± b … \u5e01 \udcff\n")
    assert raw.taken == b"a +- b ... \\u5e01 \\udcff\n"


def test_documents_for_programs_are_utf_8_on_any_terminal(opened):
    """An export or a metric must not depend on the locale of the shell that asked."""
    raw = Raw()
    stream = SafeStream(opened(raw, "latin-1"))
    stream.write("first\n")
    stream.write_utf8("\u5e01/USDT\n")
    stream.flush()
    assert raw.taken == "first\n\u5e01/USDT\n".encode()


def test_help_on_a_full_disk_says_so(run):
    """Usage texts go the same way."""
    code, said = run(Raw(errno.ENOSPC), ["--help"])
    assert code == 1
    assert "feeder: the result can't be written to stdout: No space left" in said


def test_import_from_a_closed_stdin_is_a_usage_error(project, run, monkeypatch):
    """``<&-`` leaves nothing to read: said, not a traceback."""
    monkeypatch.setattr(sys, "stdin", None)
    code, said = run(Raw(), ["import", "-", *FEEDER])
    assert code == 2
    assert "- can't be read: stdin is closed" in said


def shell(project: Path, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``feeder`` is this environment's."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(  # noqa: S603
        ["bash", "-c", line],  # noqa: S607
        cwd=project,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("feeder history --feeder feeder120b | true; exit ${PIPESTATUS[0]}", 0),
        ("feeder history --feeder feeder120b | head -1; exit ${PIPESTATUS[0]}", 0),
        ("feeder history --feeder feeder120b > /dev/full", 1),
        ("feeder history --feeder feeder120b >&-", 1),
        ("feeder history --feeder feeder120b >&- 2>&-", 1),
        ("feeder history --feeder feeder120b 2>&-", 0),
        ("feeder export --feeder feeder120b > /dev/full", 1),
        ("feeder --help | true; exit ${PIPESTATUS[0]}", 0),
        ("feeder --version >&-", 1),
    ],
)
def test_shell_sees_the_exit_code_and_no_traceback(project, history, line, code):
    """The real process behind real pipes, also as Python ends."""
    done = shell(project, line, PYTHONIOENCODING="ascii")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_closed_descriptors_are_not_given_to_files(project, history):
    """With stdout and stderr closed, no file of ours becomes descriptor 1 or 2."""
    code = (
        "import os, sys; from feeder_mixin.cli.streams import fill_closed_descriptors as fill; "
        "fill(); f = open('x', 'w'); sys.exit(10 if f.fileno() < 3 else 0)"
    )
    done = shell(project, f'"{sys.executable}" -c "{code}" >&- 2>&- <&-')
    assert done.returncode == 0
