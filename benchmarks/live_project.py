"""A feeder of many pairs with models on disk, for the benchmarks of the live side.

Ten real pairs are moved to now by the replay exchange's code; further pairs are copies of them
under other names. Models of the ten are fitted as a bot would; a copy gets a file of its own with
the same trees, so that loading, memory and prediction cost what they cost with so many pairs.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from common import LONG_PAIRS, full  # isort: skip - sets thread counts before numpy is imported

import freqtrade.exchange
import lightgbm as lgb
import numpy as np

from feeder_mixin.live.bot import LiveFeeder
from feeder_mixin.live.serve.candles import DataFolder
from feeder_mixin.live.state.files import write_checked
from feeder_mixin.live.state.schedule import schedule_identity
from feeder_mixin.live.train.due import due_cut_s
from feeder_mixin.live.train.models import ModelStore
from feeder_mixin.live.train.trainer import make_trainer
from feeder_mixin.model.quantile import pooled_weights
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.rehearsal.exchange.disk import write_datadir
from feeder_mixin.rehearsal.exchange.market import ReplayMarket
from feeder_mixin.schema import ParameterRecord, default_parameters
from feeder_mixin.settings import FeederSettings, load_settings
from feeder_mixin.stores.url import open_store

STEP_S = 300
ROOT = Path(__file__).parents[1]
REAL = [full(base) for base in LONG_PAIRS]


@dataclass(frozen=True)
class LiveProject:
    """Where a benchmark's feeder lives, and the candles that it will see."""

    root: Path
    settings: FeederSettings
    market: ReplayMarket

    @property
    def datadir(self) -> Path:
        """Return the data folder."""
        return self.settings.default_datadir

    @property
    def folder(self) -> DataFolder:
        """Return the candles on disk."""
        return DataFolder(self.settings, self.datadir, STEP_S)


def pair_names(n: int) -> list[str]:
    """Return the ten real pairs and names of further futures pairs that freqtrade has tiers for."""
    tiers = Path(freqtrade.exchange.__file__).parent / "binance_leverage_tiers.json"
    names = [p for p in json.loads(tiers.read_text()) if p.endswith("/USDT:USDT")]
    return [*REAL, *(p for p in sorted(names) if p not in REAL and p.isascii())][:n]


def file_of(datadir: Path, pair: str, kind: str = "5m-futures") -> Path:
    """Return where freqtrade keeps a pair's candles."""
    return datadir / "futures" / f"{pair.replace('/', '_').replace(':', '_')}-{kind}.feather"


def make_project(root: Path, source: Path, n_pairs: int, *, hours_ago: float = 0.0) -> LiveProject:
    """Return a feeder of `n_pairs` with records in its store and candles up to `hours_ago`."""
    pairs = pair_names(n_pairs)
    shutil.copytree(ROOT / "config", root / "config")
    shutil.copytree(ROOT / "user_data" / "strategies", root / "user_data" / "strategies")
    config = {
        "add_config_files": ["base.json"],
        "bot_name": "bench",
        "db_url": f"sqlite:///{root}/trades.sqlite",
        "feeder": {"side": "long", "context_pairs": REAL},
        "exchange": {"pair_whitelist": pairs},
    }
    path = root / "config" / "bench.json"
    path.write_text(json.dumps(config))
    settings = load_settings("bench", path, root / "user_data")
    market = ReplayMarket.from_datadir(source, REAL)
    write_datadir(market, settings.default_datadir, market.now_ms() - int(hours_ago * 3_600_000))
    for number, pair in enumerate(pairs[len(REAL) :]):
        for kind in ("5m-futures", "1h-mark", "1h-funding_rate"):
            original = file_of(settings.default_datadir, REAL[number % len(REAL)], kind)
            shutil.copy(original, file_of(settings.default_datadir, pair, kind))
    write_records(settings, pairs)
    return LiveProject(root, settings, market)


def write_records(settings: FeederSettings, pairs: list[str], reg_alpha: float = 0.0) -> None:
    """Store one record a pair; another `reg_alpha` makes another parameter set."""
    parameters = {**default_parameters(), "reg_alpha": reg_alpha}
    now_ns = time.time_ns()
    records = [
        ParameterRecord("bench", pair, now_ns, parameters, {"horizon_candles": 30.0})
        for pair in pairs
    ]
    with open_store("sqlite:///user_data/feeder_params.sqlite", root=settings.root) as store:
        store.write(records)


def write_changed_sets(settings: FeederSettings, seed: int = 1) -> None:
    """Store a record a pair with ten other values than before, of 100 to 300 trees."""
    random = np.random.default_rng(seed)
    now_ns = time.time_ns()
    records = []
    for pair in settings.pairs:
        values = {
            "learning_rate": float(random.uniform(0.005, 0.03)),
            "n_estimators": int(random.integers(101, 301)),
            "num_leaves": int(random.integers(16, 24)),
            "max_depth": int(random.choice([3, 5, 6])),
            "min_child_samples": int(random.integers(30, 50)),
            "reg_alpha": float(random.uniform(0.01, 0.5)),
            "reg_lambda": float(random.uniform(0.3, 0.9)),
            "quantile_alpha": float(random.uniform(0.05, 0.20)),
            "feature_fraction": float(random.uniform(0.65, 1.0)),
            "bagging_fraction": float(random.uniform(0.75, 1.0)),
        }
        metrics = {"horizon_candles": 30.0}
        records.append(ParameterRecord("bench", pair, now_ns, values, metrics))
    with open_store("sqlite:///user_data/feeder_params.sqlite", root=settings.root) as store:
        store.write(records)


def source_of(pair: str) -> str:
    """Return the real pair whose candles a pair has."""
    position = pair_names(1000).index(pair)
    return pair if position < len(REAL) else REAL[(position - len(REAL)) % len(REAL)]


def put_models(project: LiveProject, days_ago: int = 0) -> None:
    """Write a model of every pair, and the schedule that puts it in force from its cut on.

    Parameters
    ----------
    days_ago
        Age of the cut: with 1, all are due for their daily retraining.
    """
    settings, model_dir = project.settings, project.settings.model_dir
    cut_s = due_cut_s(time.time(), settings.retrain_hours) - days_ago * int(DAY_S)
    trainer, _ = make_trainer(project.folder, {}, model_dir, int(time.time()))
    store = ModelStore(model_dir, settings)
    names = {}
    for pair in REAL:
        names[pair] = trainer.fit(pair, trainer.context[pair], default_parameters(), cut_s)
    version = _versions(project)
    for pair in settings.pairs:
        if pair not in names:
            names[pair] = _copy_model(store, names[source_of(pair)], pair)
    entries = {
        pair: [
            {
                "model": names[pair],
                # A day before its cut: right after midnight yesterday's candles are measured.
                "first_candle_s": cut_s - int(DAY_S),
                "source": "store",
                "version": version[pair],
                "beats_rule": True,
            }
        ]
        for pair in settings.pairs
    }
    write_checked(
        settings.state_dir / "schedule.json",
        {"identity": schedule_identity(settings), "pairs": entries},
    )


def _versions(project: LiveProject) -> dict[str, int]:
    with open_store("sqlite:///user_data/feeder_params.sqlite", root=project.root) as store:
        return {p: r.time_ns for p, r in store.latest("bench").records.items()}


def _copy_model(store: ModelStore, name: str, pair: str) -> str:
    """Write a real pair's model under a copy's name, with scale weights of its own."""
    model = store.load(name)
    source = model.pair
    slug = pair.replace("/", "_").replace(":", "_")
    shared = store.load_shared(model.shared_name, tuple(pooled_weights(model.safety.alpha)))
    shared = shared.with_weights(pair, model.safety.shared.scale.coefficients[source])
    own = replace(
        model.safety,
        pair=pair,
        own=lgb.Booster(model_str=model.safety.own.model_to_string()),
        shared=shared,
    )
    copied = f"{slug}-{model.cut_s}-copy"
    store.save(copied, model.shared_name, own, model.parameters, model.rows, 1.0)
    return copied


def make_live(project: LiveProject, host_frame: object) -> LiveFeeder:
    """Return the live side as the mixin makes it, not yet started."""
    return LiveFeeder(project.folder, host_frame)  # type: ignore[arg-type]
