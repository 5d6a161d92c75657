"""How all fuzz tests run: few examples in the fast suite, many in the slow one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeder_mixin.errors import FeederError
from tests.builders import FEEDER

_SHOWN = 2_000


class _Shown:
    """An example whose text is cut: of a whole file, Hypothesis warns instead of naming the error."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        text = repr(self.value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


Fuzz = Callable[[st.SearchStrategy[Any], Callable[[Any], object]], None]


@pytest.fixture(
    params=[
        pytest.param(1, id="few"),
        pytest.param(20, id="many", marks=pytest.mark.slow),
    ]
)
def fuzz(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Give a function that runs a check on examples; our own errors are fine, others are found."""

    def run(
        strategy: st.SearchStrategy[Any], check: Callable[[Any], object], few: int = 60
    ) -> None:
        @settings(
            max_examples=few * request.param,
            deadline=None,
            derandomize=request.param == 1,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy.map(_Shown))
        def each(shown: _Shown) -> None:
            with suppress(FeederError):
                check(shown.value)

        each()

    return run


def listing(root: Path, but: Path) -> dict[Path, tuple[int, int]]:
    """Return the files below `root` but those in `but`, with size and time of change."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if but not in (path, *path.parents) and path.is_file()
    }


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the state folder, and see that nothing is written outside it, nor beside."""
    state = tmp_path / "user_data" / "feeder_state" / FEEDER
    state.mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path, state)
    yield state
    assert listing(tmp_path, state) == before
    assert Path.cwd() == tmp_path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "user_data"]
