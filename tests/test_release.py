"""`make release VERSION=`: one commit and its tag, or nothing."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path

import pytest

from tools.release import ReleaseError, release, released_changelog

DAY = date(2026, 11, 28)
CHANGELOG = (
    "# Changelog\n\n## Unreleased\n\n### Added\n- A thing.\n\n## 0.1.0 - 2026-01-01\n\n- Old.\n"
)
PROJECT = '[project]\nname = "feeder-mixin"\nversion = "0.1.0"  # the one place\n'


def git(root: Path, *arguments: str) -> str:
    """Return what git prints."""
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """Give a repository of one commit."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@example.org")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_release_writes_section_and_version_in_one_tagged_commit(clone):
    """What was unreleased has a number and a day, and the next change a place."""
    release(clone, "0.2.0", DAY)
    written = (clone / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased\n\n## 0.2.0 - 2026-11-28\n\n### Added\n- A thing.\n" in written
    assert PROJECT.replace("0.1.0", "0.2.0") == (clone / "pyproject.toml").read_text("utf-8")
    assert git(clone, "log", "--format=%s", "-1", "v0.2.0") == "release: 0.2.0\n"
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.2", "three numbers"),
        ("v0.2.0", "three numbers"),
        ("0.1.0", "higher"),
        ("0.0.9", "higher"),
    ],
)
def test_release_refuses_a_wrong_version_and_changes_nothing(clone, version, said):
    """A mistyped number leaves no trace."""
    with pytest.raises(ReleaseError, match=said):
        release(clone, version, DAY)
    assert git(clone, "status", "--porcelain") == git(clone, "tag") == ""


def test_release_refuses_changes_that_are_in_no_commit(clone):
    """A release is what was tested."""
    (clone / "new.py").write_text("", encoding="utf-8")
    with pytest.raises(ReleaseError, match="has changes"):
        release(clone, "0.2.0", DAY)


def test_release_refuses_a_version_that_was_tagged(clone):
    """A released version never changes."""
    git(clone, "tag", "v0.2.0")
    with pytest.raises(ReleaseError, match=r"tag v0\.2\.0"):
        release(clone, "0.2.0", DAY)


def test_release_of_nothing_new_is_refused():
    """An empty section tells a user nothing."""
    released = released_changelog(CHANGELOG, "0.2.0", DAY)
    with pytest.raises(ReleaseError, match="nothing under Unreleased"):
        released_changelog(released, "0.3.0", DAY)
