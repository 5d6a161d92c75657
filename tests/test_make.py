"""`make setup`, with a stand-in for Python: no package is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAKE_PYTHON = f"""#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
    echo made >> made.log
    mkdir -p "$3/bin"
    mkdir "$3/busy" || {{ echo both at once >> made.log; exit 1; }}
    printf '#!/bin/sh\\n' > "$3/bin/python"
    chmod +x "$3/bin/python"
    sleep 0.3
    rmdir "$3/busy"
    exit $(cat exit.code)
fi
exec {sys.executable} "$@"
"""


@pytest.fixture
def clone(tmp_path):
    """Give a folder with what `make setup` reads and a Python that makes no environment."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.lock", "requirements-freqai.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text(FAKE_PYTHON, encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "exit.code").write_text("0", encoding="utf-8")
    return tmp_path


def start_setup(clone: Path, *options: str, target: str = "setup") -> subprocess.Popen[str]:
    """Start `make setup`, or another target, in a clone."""
    # Not what a make gives that runs these tests: `make check EXTRAS=freqai` is what CI does.
    given = {"EXTRAS"}
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k not in given
    }
    return subprocess.Popen(  # noqa: S603
        ["make", target, "PYTHON=./python", *options],  # noqa: S607
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_make_twice_at_once_sets_up_once_and_both_go_on(clone):
    """Two terminals on a fresh clone: the second waits and says so, and finds all ready."""
    both = [start_setup(clone) for _ in range(2)]
    said = [one.communicate(timeout=60)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert (clone / "made.log").read_text(encoding="utf-8") == "made\n"
    assert sum("Another make sets up .venv: waiting" in text for text in said) == 1, said
    assert (clone / ".venv" / ".ready").exists()


def test_make_with_an_extra_installs_what_it_lacks_and_nothing_again(clone):
    """The stamp knows which extras are there; what was set up with more serves the plain targets, too."""
    for options, n_made in (((), 1), (("EXTRAS=freqai",), 2), (("EXTRAS=freqai",), 2), ((), 2)):
        setup = start_setup(clone, *options)
        said = setup.communicate(timeout=60)[0]
        assert setup.returncode == 0, said
        assert (clone / "made.log").read_text(encoding="utf-8") == "made\n" * n_made


def test_make_demo_freqai_installs_the_extra_that_it_needs(clone):
    """One command on a fresh clone; what it is given goes on to the demo."""
    feeder = clone / ".venv" / "bin" / "feeder"
    feeder.parent.mkdir(parents=True)
    feeder.write_text('#!/bin/sh\necho "feeder $@"\n', encoding="utf-8")
    feeder.chmod(0o755)
    demo = start_setup(clone, "ARGS=--keep", target="demo-freqai")
    said = demo.communicate(timeout=60)[0]
    assert demo.returncode == 0, said
    assert said.splitlines()[-1] == "feeder demo --freqai --keep"
    assert (clone / ".venv" / ".ready-freqai").exists()


def test_make_whose_set_up_fails_leaves_the_next_one_free(clone):
    """A lock that nobody holds any more holds up nobody."""
    (clone / "exit.code").write_text("1", encoding="utf-8")
    failed = start_setup(clone)
    assert "Error" in failed.communicate(timeout=60)[0]
    assert failed.returncode == 2
    (clone / "exit.code").write_text("0", encoding="utf-8")
    again = start_setup(clone)
    said = again.communicate(timeout=60)[0]
    assert again.returncode == 0, said
    assert "waiting" not in said
