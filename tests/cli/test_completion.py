"""`feeder completion`, and the help by job: whoever does not know a command finds it."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter

import pytest

from feeder_mixin.cli.main import JOBS, make_parser
from tests.command_line import command_parsers

COMPLETE = """
source /dev/stdin
COMP_WORDS=(feeder {words}); COMP_CWORD={position}
_shtab_feeder
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def test_help_shows_every_command_once_under_its_job():
    """A command that stands under no job would be in no help."""
    assert Counter(name for names in JOBS.values() for name in names) == Counter(
        command_parsers().keys()
    )
    shown = make_parser().format_help()
    for job, names in JOBS.items():
        section = shown.partition(f"\n{job}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines() if line[2] != " "] == list(names)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("opt", {"optimize"}),
        ("re", {"report", "reload", "replay-exchange"}),
        ("show --p", {"--pairs"}),
    ],
)
def test_bash_completes_commands_and_options_by_the_printed_script(feeder, words, expected):
    """The script in a real bash."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    code, script, err = feeder("completion", "bash")
    assert code == 0, err
    ask = COMPLETE.format(words=words, position=len(words.split()))
    done = subprocess.run(  # noqa: S603
        ["bash", "-c", ask],  # noqa: S607
        input=script,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_script_of_another_shell_names_every_command(feeder, shell):
    """Not run: neither shell is among what the tests need."""
    script = feeder("completion", shell)[1]
    assert all(name in script for name in command_parsers())
