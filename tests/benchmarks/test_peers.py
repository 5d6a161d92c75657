"""The comparison with peer tuners: what it pools, keeps, refuses and gives to the peers."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feeder_mixin.errors import SettingsError
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.labels import LABEL_COLUMNS
from feeder_mixin.model.folds import Layout, Window
from feeder_mixin.model.quantile import fit_shared
from feeder_mixin.model.rows import DAY_S, open_seconds, train_stop_s
from feeder_mixin.settings import LabelSpec
from tests.candle_factory import make_candles
from tests.inline_executor import InlineExecutor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = ("common", "naive", "peer_cells", "peer_tuners", "peers")
HORIZON, TIMEFRAME_S = 30, 300


@pytest.fixture(scope="module")
def peers():
    """Import the benchmark as a script of its folder does, and leave no trace of that."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "1")  # the benchmarks set them at import
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("peers")
        for name in MODULES:
            del sys.modules[name]


def make_cell(peers, pair="BTC/USDT:USDT", side="short", cut="2025-12-15", *, seed=0, first_day=0):
    """Return a cell of five days with random losses of all contenders."""
    rng = np.random.default_rng(seed)
    results = {
        name: sys.modules["peer_cells"].Result(
            rng.uniform(0.5, 1.5, 5).tolist(), rng.uniform(0.05, 0.15), 20.0, 7, {"x": 1}
        )
        for name in (peers.RULE, peers.DEFAULTS, *peers.PEERS.values(), peers.OURS)
    }
    return peers.Cell(pair, side, cut, list(range(first_day, first_day + 5)), results)


def pooled_by_hand(peers, cells, contender, against):
    """Return mean difference of skill and its error by days, one step after the other."""
    skills = []
    days: dict[int, list[float]] = {}
    for cell in cells:
        rule = cell.results[peers.RULE].day_losses
        mine, theirs = cell.results[contender].day_losses, cell.results[against].day_losses
        skills.append((1 - sum(mine) / sum(rule)) - (1 - sum(theirs) / sum(rule)))
        for i, day in enumerate(cell.days):
            sums = days.setdefault(day, [0.0, 0.0])
            sums[0] += (theirs[i] - mine[i]) / sum(rule)
            sums[1] += rule[i] / sum(rule)
    mean = sum(skills) / len(skills)
    squares = sum((gain - mean * share) ** 2 for gain, share in days.values())
    n = len(days)
    return mean, (n / (n - 1) * squares) ** 0.5 / len(cells)


def test_pooled_gain_equals_mean_of_cells_and_error_by_days(peers):
    """Cells count the same whatever their volatility; days that cells share are one block."""
    pooled_gain = sys.modules["peer_cells"].pooled_gain
    cells = [make_cell(peers, seed=s, first_day=3 * (s % 2)) for s in range(6)]  # days overlap
    for against in (peers.RULE, *peers.PEERS.values()):
        expected = pooled_by_hand(peers, cells, peers.OURS, against)
        assert pooled_gain(cells, peers.OURS, against) == pytest.approx(expected, rel=1e-12)


def test_pooled_error_of_repeated_days_does_not_shrink(peers):
    """Ten pairs that move as one are no more evidence than one pair."""
    pooled_gain = sys.modules["peer_cells"].pooled_gain
    one = [make_cell(peers, seed=1)]
    same_days = [make_cell(peers, seed=1, pair=f"P{i}") for i in range(10)]
    other_days = [make_cell(peers, seed=1, pair=f"P{i}", first_day=5 * i) for i in range(10)]
    alone, repeated, spread = (
        pooled_gain(cells, peers.OURS, peers.NAIVE) for cells in (one, same_days, other_days)
    )
    assert repeated == pytest.approx(alone)
    assert spread[0] == pytest.approx(alone[0])
    assert spread[1] < alone[1] / 3


def test_verdicts_allow_one_error_below_a_peer_and_none_below_the_naive_loop(peers):
    """The promise is asymmetric: a peer may be ahead within noise, the naive loop may not."""
    cells = [make_cell(peers, seed=s, first_day=5 * s) for s in range(4)]
    for cell in cells:
        worse = [1.0001 * x for x in cell.results[peers.NAIVE].day_losses]
        worse[0] *= 1.01  # noise: the error exceeds the difference
        worse[1] /= 1.01
        cell.results[peers.OURS].day_losses[:] = worse
        for name in (peers.TUNER_CV, peers.FLAML):
            cell.results[name].day_losses[:] = cell.results[peers.NAIVE].day_losses
    naive, tuner_cv, flaml = peers.verdicts(cells, list(cells[0].results))
    assert naive == "DOES NOT HOLD: ours above the naive loop"
    assert tuner_cv.startswith("holds: ours not below LightGBMTunerCV")
    assert flaml.startswith("holds: ours not below FLAML")


def test_cell_file_gives_back_what_was_added(peers, tmp_path):
    """A later run finds finished cells, asks for the rest, and adds contenders to a cell."""
    path, settings = tmp_path / "cells.json", {"budget": "20"}
    whole = make_cell(peers)
    part = peers.Cell(
        whole.pair, whole.side, whole.cut, whole.days, {peers.RULE: whole.results[peers.RULE]}
    )
    peers.CellFile(path, settings).add(part)
    again = peers.CellFile(path, settings)
    assert again.missing(whole.key, list(whole.results)) == list(whole.results)[1:]
    assert again.missing("ETH/USDT:USDT long 2025-10-01", ["a"]) == ["a"]
    again.add(peers.Cell(whole.pair, whole.side, whole.cut, whole.days, whole.results))
    assert peers.CellFile(path, settings).cells == {whole.key: whole}
    assert [p.name for p in tmp_path.iterdir()] == ["cells.json"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            '{"settings": {"budget": "60"}, "cells": []}',
            "keeps cells of budget 60, this run has 20",
        ),
        ('{"settings": {"budget": "20", "code": "a"}, "cells": []}', "code a, this run has None"),
        ('{"settings": {"bud', "is no file of this benchmark"),
        ("[1]", "is no file of this benchmark"),
    ],
    ids=["other budget", "other code", "torn", "other document"],
)
def test_cell_file_of_something_else_is_refused(peers, tmp_path, content, match):
    """Cells of two recipes or budgets are never pooled, and no foreign file is overwritten."""
    path = tmp_path / "cells.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match=match):
        peers.CellFile(path, {"budget": "20"})
    assert path.read_text() == content


def test_cell_file_that_cannot_be_written_is_refused_before_the_first_cell(peers, tmp_path):
    """A wrong path costs no cell of minutes."""
    with pytest.raises(SettingsError, match="can't be written"):
        peers.CellFile(tmp_path / "absent" / "cells.json", {})


@pytest.mark.parametrize(
    "options",
    [
        ["--pairs", "NOPE"],
        ["--sides", "up"],
        ["--cuts", "2025-13-01"],
        ["--budget-s", "0"],
        ["--budget-s", "nan"],
        ["--jobs", "0"],
        ["--peers", "autogluon"],
    ],
    ids=" ".join,
)
def test_main_wrong_option_is_named_with_its_value(peers, capsys, options):
    """The message says what was wrong, before candles are read."""
    with pytest.raises(SystemExit, match="2"):
        peers.main(options)
    err = capsys.readouterr().err
    assert options[0] in err
    assert options[1] in err


def test_main_without_the_extra_says_the_command(peers, monkeypatch, capsys):
    """The peers are not in the default install; one line tells how to get them."""
    monkeypatch.setattr(peers, "find_spec", lambda _name: None)
    assert peers.main([]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "flaml and optuna_integration and xgboost missing: "
        '.venv/bin/python -m pip install -e ".[peers]"'
    )


def test_main_without_candles_names_the_file(peers, tmp_path, capsys):
    """Nothing is measured on candles that are not there."""
    assert peers.main(["--peers", "--datadir", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().out


@pytest.mark.slow
def test_main_killed_goes_on_with_the_cells_that_are_missing(peers, monkeypatch, tmp_path, capsys):
    """Finished cells are kept when a run ends early, and not measured again."""
    measured = []

    def measure_cell(_ten, task, _layout, _shared, contenders, _budget_s):
        if len(measured) == 1 and kill:
            raise KeyboardInterrupt
        measured.append(task.key)
        cell = make_cell(peers, f"{task.base}/USDT:USDT", task.side, task.cut)
        assert list(cell.results) == contenders
        return cell

    monkeypatch.setattr(peers, "ProcessExecutor", InlineExecutor)
    monkeypatch.setattr(peers, "find_spec", lambda _name: True)
    monkeypatch.setattr(peers, "run_settings", lambda *_arguments: {})
    layout = Layout((), Window(0, 15 * DAY_S), 90.0)
    monkeypatch.setattr(peers, "plan", lambda _ten, _base, _cut_s: layout)
    monkeypatch.setattr(peers, "fit_cut", lambda _ten, _cut_s: (None, 1.0))
    monkeypatch.setattr(peers, "measure_cell", measure_cell)
    options = ["--pairs", "BTC", "INJ", "--sides", "short", "--cuts", "2025-12-15"]
    options += ["--json", str(tmp_path / "cells.json")]
    kill = True
    assert peers.main(options) == 130
    kill = False
    assert peers.main(options) == 0
    assert measured == ["BTC/USDT:USDT short 2025-12-15", "INJ/USDT:USDT short 2025-12-15"]
    assert peers.main(options) == 0
    assert len(measured) == 2
    out = capsys.readouterr().out
    for contender in (peers.RULE, peers.DEFAULTS, *peers.PEERS.values(), peers.OURS):
        assert f"\n{contender}" in out


@pytest.mark.slow
def test_script_on_real_candles_measures_a_cell_once(datadir, tmp_path):
    """The whole way: workers, shared models, the real tuner, the table; then the kept cell."""
    command = [sys.executable, str(BENCHMARKS / "peers.py"), "--datadir", str(datadir), "--peers"]
    command += ["--pairs", "INJ", "--sides", "long", "--cuts", "2026-02-01", "--budget-s", "1"]
    command += ["--json", str(tmp_path / "cells.json")]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        for _ in range(2)
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "1/1 INJ/USDT:USDT long 2026-02-01: defaults" in first.stderr
    assert "1 of 1 cells are kept" in second.stderr
    assert first.stdout == second.stdout
    assert [line.split("  ")[0] for line in first.stdout.splitlines()[2:]] == [
        "ATR rule",
        "defaults",
        "ours",
    ]


@pytest.fixture(scope="module")
def setup(peers):
    """Give 60 days of two made pairs, two folds of ten days and a test window of ten."""
    pairs = ("BTC/USDT:USDT", "ETH/USDT:USDT")
    candles = {pair: make_candles(60 * 288, seed) for seed, pair in enumerate(pairs)}
    market = FeatureContext(candles, HORIZON, TIMEFRAME_S)
    tables = dict(market.build_context())
    end_s = int(candles[pairs[0]].index[0].timestamp()) + 59 * DAY_S
    cuts = [end_s - days * DAY_S for days in (30, 20, 10)]
    folds = (
        Window(cuts[0], cuts[1]),
        Window(cuts[1], train_stop_s(cuts[2], LabelSpec("long", HORIZON, TIMEFRAME_S))),
    )
    layout = Layout(folds, Window(cuts[2], end_s), 45.0)
    shared = {cuts[2]: fit_shared(tables, cuts[2], LabelSpec("long", HORIZON, TIMEFRAME_S))}
    return sys.modules["common"].Setup("BTC", market, tables[pairs[0]], layout, shared, 0.0, 0.0)


def spoil_labels(setup, from_s):
    """Return the setup with the labels of all rows that open at `from_s` or later replaced."""
    table = setup.table.copy()
    table.loc[open_seconds(table) >= from_s, list(LABEL_COLUMNS.values())] = -0.5
    return dataclasses.replace(setup, table=table)


def test_problem_of_the_peers_has_no_label_that_ends_after_the_cut(peers, setup):
    """What a peer tunes and is fitted on does not know the untouched window."""
    build_problem = sys.modules["peer_tuners"].build_problem
    known, cut_s = build_problem(setup, "short"), setup.layout.test.cut_s
    first_unknown_s = train_stop_s(cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    spoilt = build_problem(spoil_labels(setup, first_unknown_s), "short")
    np.testing.assert_array_equal(known.z, spoilt.z)
    np.testing.assert_array_equal(known.final.z, spoilt.final.z)
    one_earlier = build_problem(spoil_labels(setup, first_unknown_s - 3600), "short")
    assert (known.final.z != one_earlier.final.z).any()  # the spoiling does spoil


def test_problem_of_the_peers_has_no_fold_that_trains_on_what_it_scores(peers, setup):
    """Folds are purged by the horizon, and score rows that no label before them has seen."""
    build_problem = sys.modules["peer_tuners"].build_problem
    known = build_problem(setup, "short")
    for window, (train, scored) in zip(setup.layout.folds, known.folds, strict=True):
        stop_s = train_stop_s(window.cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
        spoilt = build_problem(spoil_labels(setup, stop_s), "short")
        np.testing.assert_array_equal(known.z[train], spoilt.z[train])
        assert (known.z[scored] != spoilt.z[scored]).all()
        assert min(len(train), len(scored)) > 200


@pytest.mark.parametrize("contender", ["LightGBMTunerCV", "FLAML"])
def test_peer_of_the_extra_finds_a_quantile_model_within_its_budget(peers, setup, contender):
    """The real packages run on the problem, and their winner forecasts the quantile asked for."""
    for module in {"FLAML": ("xgboost", "flaml"), "LightGBMTunerCV": ("optuna_integration",)}[
        contender
    ]:
        pytest.importorskip(module)
    result = sys.modules["peer_tuners"].measure(setup, "short", contender, 1.0)
    assert len(result.day_losses) == 10
    assert 0.02 < result.exceedance < 0.25
    assert result.n_trials >= 1
    assert 0.9 < result.cpu_s < 5.0  # CPU seconds, so a busy machine changes nothing
    assert result.parameters["objective"] == "quantile"
    assert result.parameters["alpha"] == 0.1
