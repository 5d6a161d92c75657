"""Fixtures of all tests; pyproject turns warnings into errors."""

from __future__ import annotations

import os

# Before numpy is imported. Its threads and those of other pytest workers spin while they wait for
# each other's cores: half of the suite's CPU seconds were that.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import logging
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.strategies import FAST_EXAMPLES

# Nothing here that imports freqtrade or pandas: the process that hands out the tests, and starts the
# workers only afterwards, needs neither.
if TYPE_CHECKING:
    import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATADIR = REPOSITORY.parent / "shared" / "data" / "binance"
LIBRARIES = ("optuna", "freqtrade", "feeder_mixin", "lightgbm")
INFLUX_VARIABLES = tuple(f"FEEDER_TEST_INFLUX_{name}" for name in ("URL", "TOKEN", "ORG"))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts in the background so, and a process that a test starts inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup starts what it runs so
# How fast a machine draws examples says nothing about the code: other work on it made tests fail.
ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", ANY_MACHINE, max_examples=FAST_EXAMPLES)
settings.register_profile("thorough", ANY_MACHINE, max_examples=20 * FAST_EXAMPLES)
settings.load_profile("fast")  # `make test-slow` names the other one
MEMORY = Path("/dev/shm")  # noqa: S108  (pytest makes a folder of its own in there)
if (
    MEMORY.is_dir()
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC  # some tests write a program and run it
    and shutil.disk_usage(MEMORY).free > 4 * 1024**3
):
    # Temporary files in memory: tests of commands and stores wait for the disk half of their time.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
LONG_FIRST = ("e2e", "tune", "live")
"""Folders of the modules that take longest: the small ones then even out pytest's workers."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long modules first; else the order stays."""
    rank = {REPOSITORY / "tests" / name: i for i, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent, len(rank)))


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Put back handlers, levels and propagation that a test changed."""
    loggers = [logging.getLogger(name) for name in ("", *LIBRARIES)]
    before = [(log, log.handlers[:], log.level, log.propagate) for log in loggers]
    yield
    for log, handlers, level, propagate in before:
        log.handlers[:], log.propagate = handlers, propagate
        if log.level != level:  # setting it makes hundreds of loggers forget what is enabled
            log.setLevel(level)


@pytest.fixture(autouse=True)
def _restore_signals() -> Iterator[None]:
    """Put back signal handlers and the wake-up descriptor that a test changed."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_feeder_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the host's FEEDER_STORE_* and FREQTRADE__* variables out of tests."""
    for name in list(os.environ):
        if name.startswith(("FREQTRADE__", "FEEDER_STORE_", "FEEDER_SCHEDULER")):
            monkeypatch.delenv(name)


@pytest.fixture
def influx_server() -> tuple[str, str, str]:
    """Give URL, token and organisation of the InfluxDB server that the environment names."""
    values = [os.environ.get(name) for name in INFLUX_VARIABLES]
    if not all(values):
        pytest.skip(f"{', '.join(INFLUX_VARIABLES)} are not set")
    url, token, org = values
    return url, token, org


@pytest.fixture(scope="session")
def datadir() -> Path:
    """Give the folder of real candles, where there is one."""
    if not (REAL_DATADIR / "futures").is_dir():
        pytest.skip(f"no real candles: {REAL_DATADIR} does not exist")
    return REAL_DATADIR


@pytest.fixture(scope="session")
def real_candles(datadir: Path) -> Callable[[str], pd.DataFrame]:
    """Give a function that loads a pair's real candles, each file once."""
    from feeder_mixin.market.candles import load_candles

    loaded: dict[tuple[str, str], pd.DataFrame] = {}

    def load(pair: str, timeframe: str = "5m") -> pd.DataFrame:
        if (pair, timeframe) not in loaded:
            candles = load_candles(datadir, pair, timeframe, "futures", "feather")
            loaded[pair, timeframe] = candles.frame
        return loaded[pair, timeframe]

    return load


@pytest.fixture
def make_candles() -> Callable[..., pd.DataFrame]:
    """Give `candle_factory.make_candles`."""
    from tests.candle_factory import make_candles

    return make_candles


@pytest.fixture
def made_datadir(tmp_path: Path) -> Callable[[Mapping[str, pd.DataFrame]], Path]:
    """Give a function that writes pair -> candles into a data folder and returns it."""
    from tests.candle_factory import write_candles

    def write(candles: Mapping[str, pd.DataFrame], timeframe: str = "5m") -> Path:
        return write_candles(tmp_path / "data" / "binance", candles, timeframe)

    return write
