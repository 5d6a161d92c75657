"""`make release VERSION=1.2.3`: the changelog's section, the version, a commit and its tag; nothing leaves here.

All is checked before anything is written, and what is written is one commit: `git reset` takes it back.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

UNRELEASED: Final = "## Unreleased\n"
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+")
_LINE: Final = re.compile(r'^version = "([^"]+)"', re.MULTILINE)


class ReleaseError(Exception):
    """Nothing was written: the message says what is in the way."""


def released_changelog(text: str, version: str, day: date) -> str:
    """Return the changelog with what was unreleased under its version, and a new empty section."""
    before, found, after = text.partition(UNRELEASED)
    if not found or not after.split("\n## ")[0].strip():
        raise ReleaseError("CHANGELOG.md has nothing under Unreleased: write there what is new")
    return f"{before}{UNRELEASED}\n## {version} - {day.isoformat()}\n{after}"


def released_project(text: str, version: str) -> str:
    """Return pyproject.toml with a version that must be higher than the one there."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"VERSION={version}, expected three numbers, such as 1.2.3")
    found = _LINE.search(text)
    if found is None:
        raise ReleaseError('pyproject.toml has no line version = "..."')
    if _order(version) <= _order(found[1]):
        raise ReleaseError(f"VERSION={version}, expected a higher one than {found[1]}")
    return f"{text[: found.start(1)]}{version}{text[found.end(1) :]}"


def release(root: Path, version: str, day: date) -> None:
    """Write section and version, commit both and tag the commit."""
    tag = f"v{version}"
    if _git(root, "status", "--porcelain"):
        raise ReleaseError("the working tree has changes: commit them or put them away")
    if _git(root, "tag", "--list", tag):
        raise ReleaseError(f"there is a tag {tag} already")
    changelog, project = root / "CHANGELOG.md", root / "pyproject.toml"
    texts = {
        project: released_project(project.read_text(encoding="utf-8"), version),
        changelog: released_changelog(changelog.read_text(encoding="utf-8"), version, day),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    _git(root, "commit", "--quiet", "--message", f"release: {version}", *map(str, texts))
    _git(root, "tag", "--annotate", tag, "--message", f"feeder_mixin {version}")


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise ReleaseError(f"git {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    try:
        release(Path.cwd(), sys.argv[1], datetime.now(UTC).date())
    except ReleaseError as error:
        sys.exit(f"make release: {error}")
    print(f"v{sys.argv[1]} is committed and tagged here; next: make dist, git push --follow-tags")
