"""The training set that a pair's fits of a cut share: a reload fits trees and reads no candles."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feeder_mixin.errors import StateError
from feeder_mixin.live.serve.candles import DataFolder, Tail, from_frame
from feeder_mixin.live.train import _worker
from feeder_mixin.live.train._worker import Fit, WorkerSetup, run_fit
from feeder_mixin.live.train.models import ModelStore
from feeder_mixin.live.train.prepared import read_prepared
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import FeederSettings
from tests.live.conftest import BTC, SOL, STEP_S, World, open_s

VALUES = default_parameters() | {"n_estimators": 101}
CHANGED = VALUES | {"num_leaves": 20, "quantile_alpha": 0.12}
N_ON_DISK = 7_300


@pytest.fixture
def settings(world: World, tmp_path: Path) -> FeederSettings:
    """Give a feeder whose SOL is outside of the context, so that a fit reads its file."""
    return world.settings(tmp_path, context_pairs=[BTC])


@pytest.fixture
def folder(world: World, settings: FeederSettings, tmp_path: Path) -> DataFolder:
    """Give a data folder that ends before the host's candles."""
    datadir = world.write(tmp_path / "data", N_ON_DISK)
    return world.folder(settings, datadir)


@pytest.fixture
def newer(world: World) -> Tail:
    """Give the host's candles of SOL: they reach back into the folder's."""
    return from_frame(world.candles[SOL].iloc[N_ON_DISK - 50 :], STEP_S)


@pytest.fixture
def cut_s(world: World) -> int:
    """Give the market's last midnight, behind the end of the folder."""
    return open_s(world.candles[BTC], -1) // 86_400 * 86_400


@pytest.fixture
def start(world: World, folder: DataFolder, tmp_path: Path) -> Callable[..., WorkerSetup]:
    """Give a function that begins a worker process anew, with models in a folder by name."""

    def start(models: str = "models", folder: DataFolder = folder) -> WorkerSetup:
        newer = {BTC: from_frame(world.candles[BTC].iloc[N_ON_DISK - 50 :], STEP_S)}
        return WorkerSetup(folder, newer, tmp_path / models, open_s(world.candles[BTC], -1))

    return start


def file_of(setup: WorkerSetup, name: str) -> bytes:
    """Return a model's file."""
    return (setup.model_dir / f"{name}.json").read_bytes()


def test_reload_fits_the_same_model_without_reading_candles(
    start, newer, cut_s, folder, monkeypatch
):
    """Behind the first fit of a cut the candle file is not read, and the trees are those of all rows."""
    run_fit(start(), Fit(SOL, VALUES, cut_s), newer)
    whole = start("others")
    expected = run_fit(whole, Fit(SOL, CHANGED, cut_s), newer)
    load = DataFolder.load

    def load_context(self, pair, since_s=None):
        assert pair != SOL, "the pair's candles are read"
        return load(self, pair, since_s)

    monkeypatch.setattr(DataFolder, "load", load_context)
    setup = start()
    answer = run_fit(setup, Fit(SOL, CHANGED, cut_s), newer)
    assert answer.name == expected.name
    assert file_of(setup, answer.name) == file_of(whole, answer.name)


def test_later_candles_of_the_host_change_no_training_set(start, newer, cut_s):
    """The host's tail moves on all day; what lies before the cut is the same."""
    setup = start()
    run_fit(setup, Fit(SOL, VALUES, cut_s), newer)
    kept = setup.prepare(Fit(SOL, CHANGED, cut_s), newer)
    n_later = int((newer.last_s - cut_s) // STEP_S) // 2
    shorter = Tail(newer.first_s, STEP_S, newer.rows[:-n_later])
    again = setup.prepare(Fit(SOL, CHANGED, cut_s), shorter)
    assert again.made_from == kept.made_from
    trimmed = newer.newest(len(newer.rows) - 40)  # older ones are on disk
    assert setup.prepare(Fit(SOL, CHANGED, cut_s), trimmed).made_from == kept.made_from


def change_host(start, folder, newer, cut_s):
    """Correct a candle of the host that is not on disk and lies before the cut."""
    rows = newer.rows.copy()
    rows[100, 4] *= 2.0
    return start(), Fit(SOL, CHANGED, cut_s), replace(newer, rows=rows)


def change_disk(start, folder, newer, cut_s):
    """Download other candles of the pair."""
    other = folder.datadir / "futures"
    shutil.copy(*(other / f"{base}_USDT_USDT-5m-futures.feather" for base in ("ETH", "SOL")))
    return start(), Fit(SOL, CHANGED, cut_s), newer


def change_cut(start, folder, newer, cut_s):
    """Let a day go by."""
    return start(), Fit(SOL, CHANGED, cut_s - 86_400), newer


def change_side(start, folder, newer, cut_s):
    """Trade the other side."""
    settings = replace(folder.settings, side="short")
    return start(folder=replace(folder, settings=settings)), Fit(SOL, CHANGED, cut_s), newer


def change_train_days(start, folder, newer, cut_s):
    """Learn from fewer days."""
    settings = replace(folder.settings, train_days=5.0)
    return start(folder=replace(folder, settings=settings)), Fit(SOL, CHANGED, cut_s), newer


def change_context(start, folder, newer, cut_s):
    """Add a context pair."""
    settings = replace(folder.settings, context_pairs=(BTC, "ETH/USDT:USDT"))
    return start(folder=replace(folder, settings=settings)), Fit(SOL, CHANGED, cut_s), newer


@pytest.mark.parametrize(
    "change",
    [change_host, change_disk, change_cut, change_side, change_train_days, change_context],
)
def test_what_a_fit_depends_on_makes_its_training_set_anew(
    start, folder, newer, cut_s, change, tmp_path
):
    """Other candles before the cut, another cut, side, window or context: never the old rows."""
    first = start().prepare(Fit(SOL, VALUES, cut_s), newer)
    setup, fit, host = change(start, folder, newer, cut_s)
    again = setup.prepare(fit, host)
    fresh = replace(setup, model_dir=tmp_path / "empty").prepare(fit, host)
    assert again.data_hash == fresh.data_hash != first.data_hash
    for name in ("x", "z", "weight", "rows"):
        made, expected = (getattr(one.learned_from.trees, name) for one in (again, fresh))
        assert np.array_equal(made, expected)
    assert np.array_equal(again.learned_from.rule_ratios, fresh.learned_from.rule_ratios)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content: content[:3_000] + b"x" * 9 + content[3_009:], id="edited"),
        pytest.param(lambda _content: b"[1, 2]", id="foreign"),
    ],
)
def test_damaged_training_set_is_made_anew(start, newer, cut_s, settings, damage):
    """A file that a power cut left half written costs a second, and no wrong row is learned from."""
    setup = start()
    expected = run_fit(setup, Fit(SOL, CHANGED, cut_s), newer)
    content = file_of(setup, expected.name)
    path = ModelStore(setup.model_dir, settings).prepared_path(SOL)
    path.write_bytes(damage(path.read_bytes()))
    (setup.model_dir / f"{expected.name}.json").unlink()
    assert read_prepared(path, SOL, "long") is None
    again = start()
    assert run_fit(again, Fit(SOL, CHANGED, cut_s), newer).name == expected.name
    assert file_of(again, expected.name) == content
    assert read_prepared(path, SOL, "long") is not None


def test_missing_candles_are_counted_before_the_cut(start, newer, cut_s):
    """What is said of a gap is the training window's, from the file as from the candles."""
    rows = newer.rows.copy()
    before = int((cut_s - newer.first_s) // STEP_S)
    rows[[before - 5, before - 4, before + 3]] = np.nan
    host = replace(newer, rows=rows)
    answers = [run_fit(start(), Fit(SOL, values, cut_s), host) for values in (VALUES, CHANGED)]
    assert [answer.n_missing for answer in answers] == [2, 2]


def test_training_set_that_can_not_be_kept_costs_no_model(start, newer, cut_s, monkeypatch):
    """A disk without room for the rows may have room for the model, which is what counts."""
    expected = run_fit(start("others"), Fit(SOL, VALUES, cut_s), newer).name

    def fail(*_arguments):
        raise StateError("no space left on device")

    monkeypatch.setattr(_worker, "write_prepared", fail)
    setup = start()
    assert run_fit(setup, Fit(SOL, VALUES, cut_s), newer).name == expected
    assert file_of(setup, expected) == file_of(start("others"), expected)
