"""Models on disk: the same bits after reading back, damage noticed, no fit done twice."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import ModelError
from feeder_mixin.live.train import trainer as trainer_module
from feeder_mixin.live.train.models import ModelStore
from feeder_mixin.live.train.trainer import Trainer
from feeder_mixin.model.quantile import SharedModels, pooled_weights
from feeder_mixin.schema import default_parameters
from tests.live.conftest import BTC, ETH, PAIRS, SOL, STEP_S, open_s

VALUES = default_parameters() | {"num_leaves": 20}


@pytest.fixture
def settings(world, tmp_path):
    """Give the settings of a feeder whose models are in a folder of their own."""
    return world.settings(tmp_path)


@pytest.fixture
def store(settings, tmp_path):
    """Give an empty folder of models."""
    return ModelStore(tmp_path / "models", settings)


@pytest.fixture
def trainer(world, settings, tmp_path):
    """Give a trainer over the whole market."""
    return world.trainer(world.folder(settings), tmp_path / "models")


@pytest.fixture
def cut_s(world):
    """Give the market's last midnight."""
    return open_s(world.candles[BTC], -1) // 86_400 * 86_400


@pytest.fixture
def fit(trainer):
    """Give a function that fits a pair on the market."""

    def fit(pair, cut_s, values=VALUES):
        candles = trainer.context[pair]
        return trainer.fit(pair, candles, values, cut_s)

    return fit


@pytest.fixture
def fitted(world, trainer, settings, cut_s) -> str:
    """Give the name of a model of ETH in this test's folder; all tests copy the files of one fit."""
    shared = world.trainer(world.folder(settings))
    name = shared.fit(ETH, shared.context[ETH], VALUES, cut_s)
    trainer.store.folder.mkdir()
    for file in shared.store.load(name).file_names:
        shutil.copy(shared.store.path(file), trainer.store.path(file))
    return name


def path_of(store: ModelStore, name: str, which: str) -> Path:
    """Return one of the three files of a model: its own, the scale's, the pooled trees'."""
    names = dict(zip(("own", "scale", "pooled"), store.load(name).file_names, strict=True))
    return store.path(names[which])


@pytest.fixture
def n_fits(monkeypatch):
    """Give a list that grows by one pair's name with every fit of own trees."""
    done = []
    fit_to = trainer_module.fit_to

    def counted(learned_from, *arguments):
        done.append(learned_from.pair)
        return fit_to(learned_from, *arguments)

    monkeypatch.setattr(trainer_module, "fit_to", counted)
    return done


def test_saved_model_read_back_predicts_the_same_bits(trainer, fit, cut_s, monkeypatch, settings):
    """What serves is the file's content, and that gives every bit of the fit."""
    kept = {}

    def keep(name):
        original = getattr(trainer_module, name)

        def caught(*arguments, **options):
            kept[name] = original(*arguments, **options)
            return kept[name]

        monkeypatch.setattr(trainer_module, name, caught)

    keep("fit_scale")
    keep("fit_pooled")
    keep("make_training_set")
    keep("fit_to")
    name = fit(ETH, cut_s)
    own, rows = kept["fit_to"], kept["make_training_set"].trees.rows
    (level,) = pooled_weights(VALUES["quantile_alpha"])
    shared = SharedModels(cut_s, kept["fit_scale"], {level: kept["fit_pooled"]})
    model = replace(own, shared=shared)
    loaded = ModelStore(trainer.store.path(name).parent, settings).load(name)
    table = trainer.market.build(trainer.context[ETH]).iloc[-400:]
    assert np.array_equal(loaded.safety.predict(table), model.predict(table))
    assert loaded.safety.ordinary == own.ordinary
    assert loaded.parameters == VALUES
    assert (loaded.pair, loaded.cut_s, loaded.rows, loaded.name) == (ETH, cut_s, len(rows), name)


def test_pairs_outside_the_context_share_its_one_fit_of_a_cut(world, tmp_path, cut_s, monkeypatch):
    """A cut's scale is fitted once, and each level once, whatever levels pairs have in common."""
    monkeypatch.setattr("feeder_mixin.model.scale.MIN_ROWS", 100)
    settings = world.settings(tmp_path, pairs=(ETH, SOL), context_pairs=[BTC])
    trainer = world.trainer(world.folder(settings), tmp_path / "models")
    fits = []
    for name in ("fit_scale", "fit_pooled"):
        original = getattr(trainer_module, name)
        monkeypatch.setattr(
            trainer_module, name, lambda *args, f=original: fits.append(f) or f(*args)
        )
    label, loaded = settings.label(STEP_S), {}
    for pair, level in ((ETH, 0.10), (SOL, 0.10), (SOL, 0.13), (ETH, 0.17), (ETH, 0.20)):
        candles, values = world.candles[pair], VALUES | {"quantile_alpha": level}
        name = trainer.fit(pair, candles, values, cut_s)
        loaded[pair] = ModelStore(trainer.store.folder, settings).load(name)
        scale = loaded[pair].safety.shared.scale
        fresh = replace(scale, coefficients={BTC: scale.coefficients[BTC]})
        again = fresh.with_pair(pair, trainer.market.build(candles), label)
        assert np.array_equal(again.coefficients[pair], scale.coefficients[pair])
    assert [f.__name__ for f in fits] == ["fit_scale", *["fit_pooled"] * 3]
    assert loaded[ETH].shared_name == loaded[SOL].shared_name


def test_model_from_the_rows_that_are_learned_from_is_that_of_the_whole_table(
    world, tmp_path, cut_s, monkeypatch
):
    """The bot makes a quarter of a pair's rows, the backtest all of them: the same file, to the byte."""
    monkeypatch.setattr("feeder_mixin.model.scale.MIN_ROWS", 100)
    settings = world.settings(tmp_path, context_pairs=[BTC, ETH])
    for pair in (ETH, SOL):
        candles = world.candles[pair].copy()
        candles.iloc[-1_500:-1_490] = np.nan  # rows behind a hole are left out
        files = []
        for is_whole in (True, False):
            folder = tmp_path / f"models-{pair[:3]}-{is_whole}"
            trainer = world.trainer(world.folder(settings), folder)
            table = trainer.market.build(candles) if is_whole else None
            name = trainer.fit(pair, candles, VALUES, cut_s, table)
            files.append(trainer.store.path(name).read_bytes())
        assert files[0] == files[1]


def test_missing_model_is_an_error_that_names_the_file(store):
    """A model that is not there is a ModelError with its path."""
    with pytest.raises(ModelError, match=r"models/none-1-2-3\.json does not exist"):
        store.load("none-1-2-3")


@pytest.mark.parametrize("which", ["own", "scale", "pooled"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _content: b"", id="empty"),
        pytest.param(lambda content: content[:-1], id="last_byte_cut"),
        pytest.param(lambda content: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content: content.replace(b"tree", b"tref", 1), id="edited"),
    ],
)
def test_damaged_file_is_an_error_that_names_it(fitted, trainer, settings, which, damage):
    """A model file that was cut or edited is refused by name, own trees and shared ones."""
    path = path_of(trainer.store, fitted, which)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(ModelError, match=path.name):
        ModelStore(path.parent, settings).load(fitted)


def test_missing_shared_file_is_an_error_that_names_it(fitted, trainer, settings):
    """Own trees without the scale they go with can't serve."""
    path = trainer.store.path(trainer.store.load(fitted).shared_name)
    path.unlink()
    with pytest.raises(ModelError, match=path.name):
        ModelStore(path.parent, settings).load(fitted)


@pytest.mark.parametrize("which", ["own", "scale", "pooled"])
def test_damaged_model_is_fitted_anew(fitted, trainer, world, settings, cut_s, which, n_fits):
    """The next process that needs a damaged model makes it again, under the same name and trees."""
    path = path_of(trainer.store, fitted, which)
    n_fits.clear()
    content = path.read_bytes()
    path.write_bytes(content[:100])
    again = world.trainer(world.folder(settings), path.parent)
    candles = again.context[ETH]
    assert again.fit(ETH, candles, VALUES, cut_s) == fitted
    assert path.read_bytes() == content
    assert n_fits == [ETH]


def test_model_of_the_other_side_is_an_error(fitted, trainer, settings):
    """A LONG model never serves a SHORT feeder."""
    other = ModelStore(trainer.store.folder, replace(settings, side="short"))
    with pytest.raises(ModelError, match="is for side long"):
        other.load(fitted)


def test_shared_models_of_a_cut_are_one_object_for_all_pairs(fit, settings, cut_s, trainer):
    """A hundred pairs hold the scale and the pooled trees of a cut once."""
    names = [fit(pair, cut_s) for pair in PAIRS]
    store = ModelStore(trainer.store.path(names[0]).parent, settings)
    loaded = [store.load(name) for name in names]
    assert len({model.shared_name for model in loaded}) == 1
    assert len({id(model.safety.shared.scale) for model in loaded}) == 1
    for alpha in loaded[0].safety.shared.pooled:
        assert len({id(model.safety.shared.pooled[alpha]) for model in loaded}) == 1


def test_keep_only_deletes_exactly_the_rest(fit, trainer, cut_s):
    """Files of models in force and what they share stay; all others go; the kept still load."""
    day = 86_400
    names = {(pair, cut): fit(pair, cut) for pair in (BTC, ETH) for cut in (cut_s - day, cut_s)}
    kept = [trainer.store.load(names[BTC, cut_s]), trainer.store.load(names[ETH, cut_s])]
    folder = trainer.store.path("x").parent
    assert len(list(folder.iterdir())) == 8
    trainer.store.keep_only(kept)
    expected = {name for model in kept for name in model.file_names}
    assert {path.stem for path in folder.iterdir()} == expected
    trainer.store.keep_only(iter(kept[:1]))
    assert {path.stem for path in folder.iterdir()} == set(kept[0].file_names)
    assert trainer.store.load(kept[0].name).cut_s == cut_s
    with pytest.raises(ModelError, match=kept[1].name):
        trainer.store.load(kept[1].name)


def test_keep_only_deletes_training_sets_of_pairs_that_have_gone(fit, trainer, cut_s):
    """A pair that left the whitelist leaves no file of its rows behind."""
    kept = trainer.store.load(fit(BTC, cut_s))
    paths = {pair: trainer.store.prepared_path(pair) for pair in (BTC, ETH)}
    for path in paths.values():
        path.write_bytes(b"rows")
    trainer.store.keep_only([kept])
    assert paths[BTC].exists()
    assert not paths[ETH].exists()


def test_keep_only_of_a_folder_that_is_not_there_does_nothing(store):
    """A bot that never trained has no folder of models."""
    store.keep_only([])


def test_fit_twice_is_one_fit(fit, cut_s, n_fits, trainer):
    """An equal fit finds its file: same name, nothing is trained again."""
    first = fit(ETH, cut_s)
    written = trainer.store.path(first).stat().st_mtime_ns
    assert fit(ETH, cut_s) == first
    assert n_fits == [ETH]
    assert trainer.store.path(first).stat().st_mtime_ns == written


def test_fit_by_another_process_is_one_fit(fit, cut_s, n_fits, trainer, world, settings):
    """The name says it all: a trainer that begins anew finds the file, too."""
    first = fit(ETH, cut_s)
    again = world.trainer(world.folder(settings), trainer.store.path(first).parent)
    candles = again.context[ETH]
    assert again.fit(ETH, candles, VALUES, cut_s) == first
    assert n_fits == [ETH]


def name_of(trainer: Trainer, pair: str, cut_s: int, values: Mapping[str, float] = VALUES) -> str:
    """Return what `fit` would give."""
    return trainer.name(pair, trainer.context[pair], values, cut_s)


def test_other_parameters_pair_or_cut_give_another_name(trainer, fit, cut_s):
    """Nothing a fit depends on is missing in its name."""
    names = {
        name_of(trainer, ETH, cut_s),
        name_of(trainer, ETH, cut_s - 86_400),
        name_of(trainer, BTC, cut_s),
        name_of(trainer, ETH, cut_s, VALUES | {"learning_rate": 0.02}),
        name_of(trainer, ETH, cut_s, VALUES | {"learning_rate": np.nextafter(0.02, 1)}),
    }
    assert len(names) == 5
    assert fit(ETH, cut_s) in names


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"side": "short"}, id="side"),
        pytest.param({"train_days": 20.0}, id="train_days"),
        pytest.param({"horizon_candles": 7}, id="horizon"),
    ],
)
def test_other_settings_give_another_name(world, trainer, cut_s, tmp_path, changes):
    """A config that trains otherwise does not find the models of the old one."""
    other = world.trainer(world.folder(world.settings(tmp_path, **changes)), tmp_path / "models")
    assert name_of(other, ETH, cut_s) != name_of(trainer, ETH, cut_s)


def test_name_depends_on_which_pairs_are_context(world, trainer, cut_s, tmp_path):
    """A pair inside the context and the same pair outside of it have other features: two names."""
    smaller = world.settings(tmp_path, context_pairs=[BTC, ETH])
    other = world.trainer(world.folder(smaller), tmp_path / "models")
    candles = world.candles[SOL]
    name = other.name(SOL, candles, VALUES, cut_s)
    assert name != trainer.name(SOL, candles, VALUES, cut_s)


@pytest.mark.parametrize("changed", [ETH, SOL], ids=["own", "context"])
def test_other_candles_before_the_cut_give_another_name(trainer, cut_s, changed):
    """One other price, of the pair or of a context pair, and the model is another one."""
    context = dict(trainer.context)
    context[changed] = context[changed].copy()
    context[changed].iloc[-1_000, 4] *= 1.5
    other = Trainer(trainer.settings, STEP_S, context, None, trainer.store)
    assert name_of(other, ETH, cut_s) != name_of(trainer, ETH, cut_s)


def test_later_candles_change_neither_name_nor_trees(world, trainer, fit, cut_s, tmp_path):
    """A model of a cut is the same whether it is fitted at the cut or weeks later."""
    whole = trainer.store.path(fit(ETH, cut_s)).read_bytes()
    name = fit(ETH, cut_s)
    n = world.candles[ETH].index.searchsorted(pd.Timestamp(cut_s, unit="s", tz="UTC"))
    context = {pair: frame.iloc[: n + 1] for pair, frame in trainer.context.items()}
    store = ModelStore(tmp_path / "early", trainer.settings)
    early = Trainer(trainer.settings, STEP_S, context, None, store)
    assert early.fit(ETH, context[ETH], VALUES, cut_s) == name
    assert store.path(name).read_bytes() == whole
    shared = store.load(name).shared_name
    assert store.path(shared).read_bytes() == trainer.store.path(shared).read_bytes()


def test_fit_without_finished_label_is_an_error(trainer, world, fit):
    """A pair whose candles begin after the cut has nothing to learn from."""
    with pytest.raises(ModelError, match=r"^0 rows to learn from"):
        fit(ETH, open_s(world.candles[ETH], 100))
