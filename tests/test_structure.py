"""The architecture as a test: who may import whom, and what import must not do."""

from __future__ import annotations

import ast
import importlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "feeder_mixin"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

ALLOWED = {
    "errors": set(),
    "processes": set(),
    "pairs": {"errors"},
    "tolerance": set(),
    "settings": {"errors", "pairs", "tolerance"},
    "schema": {"errors", "settings", "tolerance"},
    "documents": {"errors", "schema"},
    "stores": {"documents", "errors", "settings", "schema"},
    "market": {"errors", "pairs", "processes", "settings", "schema"},
    "model": {"errors", "settings", "schema", "market"},
    "commands": {"errors", "settings"},
    "executors": {"errors"},
    "tune": {
        "documents",
        "errors",
        "settings",
        "schema",
        "stores",
        "market",
        "model",
        "executors",
        "tolerance",
        "freqai.dataset",
        "freqai.installed",
        "freqai.parameters",
        "freqai.regressors",
        "freqai.settings",
        "freqai.targets",
    },
    "reports": {"errors", "settings", "schema", "tolerance", "stores.notes", "model", "tune"},
    "live": {
        "documents",
        "tolerance",
        "errors",
        "settings",
        "schema",
        "stores",
        "market",
        "model",
        "executors",
        "processes",
    },
    "freqai": {"documents", "errors", "processes", "settings", "schema", "stores", "live"},
    "mixin": {"errors", "settings", "schema", "stores", "market", "model", "live", "freqai"},
    "rehearsal": {"errors", "pairs", "processes", "settings", "schema", "market", "live"},
    "doctor": {
        "errors",
        "commands",
        "settings",
        "schema",
        "stores",
        "market",
        "model",
        "live",
        "freqai",
    },
    "cli": {
        "commands",
        "errors",
        "settings",
        "schema",
        "stores",
        "market",
        "tune",
        "reports",
        "rehearsal",
        "live",
        "executors",
        "processes",
        "doctor",
        "freqai",
    },
}
"""Layer -> what it may import beside itself."""

LIVE_SIDE = (
    "documents",
    "schema",
    "stores",
    "market",
    "model",
    "executors",
    "processes",
    "live",
    "freqai",
    "mixin",
)
"""What the running bot imports."""

SEARCH_AND_PLOTS = {"optuna", "plotly", "matplotlib"}
CLIENTS = {"sqlalchemy", "sqlite3", "influxdb_client", "psycopg"}
LAZY_BACKENDS = {
    "sql.py",
    "sql_inspection.py",
    "influx.py",
    "influx_buckets.py",
    "influx_errors.py",
    "influx_points.py",
    "influx_server.py",
    "outbox.py",
}
"""Imported only when a store of their kind is opened."""


def layer_of(path: Path) -> str:
    """Return the layer of a module: its folder or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports_of(path: Path, *, top_level_only: bool = False) -> frozenset[str]:
    """Return the modules that a file imports; type-checking blocks are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_the_layers_below(path):
    """The import direction of docs/architecture.md, never backwards."""
    layer = layer_of(path)
    if layer == "__init__":
        return
    for name in imports_of(path):
        if not name.startswith("feeder_mixin."):
            continue
        target = name.removeprefix("feeder_mixin.")
        allowed = {layer, *ALLOWED[layer]}
        assert any(target == a or target.startswith(f"{a}.") for a in allowed), name


def module_name(path: Path) -> str:
    """Return the dotted name of a module's file."""
    return ".".join(
        ("feeder_mixin", *path.relative_to(PACKAGE).with_suffix("").parts)
    ).removesuffix(".__init__")


def test_no_module_imports_itself_by_way_of_others():
    """Imports form no circle, those inside of functions and for type checks included."""
    names = {module_name(path): imports_of(path) for path in MODULES}
    graph = {name: found & names.keys() - {name} for name, found in names.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_no_two_modules_have_a_class_or_function_of_one_name():
    """What is found by its name is found in one place; all command groups have `add_parsers`."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            is_named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if is_named and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module_name(path))
    places.pop("add_parsers")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_private_module_is_imported_only_by_its_own_folder(path):
    """What begins with an underscore may change without a look beyond the folder."""
    for name in imports_of(path):
        if name.startswith("feeder_mixin.") and "._" in name:
            folder = name.partition("._")[0]
            assert module_name(path).startswith(f"{folder}."), name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_live_side_names_neither_search_nor_plots_nor_a_database_at_import(path):
    """The bot never tunes, and asks for a database only when a store is opened."""
    if layer_of(path) not in LIVE_SIDE:
        return
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & SEARCH_AND_PLOTS
    if path.name not in LAZY_BACKENDS:
        top = {name.split(".")[0] for name in imports_of(path, top_level_only=True)}
        assert not top & CLIENTS


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_candles_and_history_of_market_and_model_import_freqtrade(path):
    """Features and model are the same code in tuner and bot, and need no host."""
    if layer_of(path) in {"market", "model"} and path.name not in {"candles.py", "history.py"}:
        assert not any(name.startswith("freqtrade") for name in imports_of(path))


def test_importing_the_package_pulls_in_no_library():
    """Importing is free: no I/O, no handler, no extra."""
    code = (
        "import sys, logging, feeder_mixin; "
        "bad = {'optuna', 'lightgbm', 'pandas', 'sqlalchemy', 'freqtrade'} & set(sys.modules); "
        "sys.exit(bool(bad or logging.getLogger().handlers))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def test_import_does_without_the_signals_that_windows_lacks(monkeypatch):
    """Bot and commands are imported there; `feeder.check_store_minutes` does what SIGUSR1 does elsewhere."""
    names = ("feeder_mixin.mixin", "feeder_mixin.live.bot", "feeder_mixin.cli.main")
    for name in names:  # and with them asyncio and others: theirs is not ours
        importlib.import_module(name)
    with fresh_modules():
        for name in ("SIGUSR1", "SIGHUP", "SIGKILL", "pthread_sigmask"):
            monkeypatch.delattr(signal, name)
        for name in names:
            importlib.import_module(name)
        watcher = importlib.import_module("feeder_mixin.live.reload.watcher")
        assert watcher.RELOAD_SIGNAL is None
        answering = watcher.SignalWatcher(print)
        answering.install()
        answering.start()
        answering.stop()


@contextmanager
def fresh_modules() -> Iterator[None]:
    """Import this package anew in the block; afterwards its modules are those of before."""
    prefix = "feeder_mixin"
    before = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == prefix}
    for name in before:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == prefix]:
            del sys.modules[name]
        sys.modules.update(before)


def test_public_names_are_those_of_their_modules():
    """What the package offers by its own name is one list, and each is imported on demand."""
    import feeder_mixin

    for name in feeder_mixin.__all__:
        assert getattr(feeder_mixin, name).__module__ == feeder_mixin._HOMES[name]
    assert set(feeder_mixin.__all__) == set(feeder_mixin._HOMES) <= set(dir(feeder_mixin))
    with pytest.raises(AttributeError, match="no attribute 'Mixin'"):
        _ = feeder_mixin.Mixin


def test_show_needs_neither_lightgbm_nor_optuna():
    """`feeder show` answers at once."""
    code = (
        "import sys; from feeder_mixin.cli.main import make_parser; make_parser(); "
        "sys.exit(bool({'optuna', 'lightgbm', 'pandas', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
