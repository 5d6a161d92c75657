"""Whole runs over generated candles: what bots read afterwards, and what they do not."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from feeder_mixin.errors import SettingsError, StoreUnavailableError
from feeder_mixin.model import quantile
from feeder_mixin.reports.tables import present_risk
from feeder_mixin.schema import CANDIDATES, default_parameters, hash48
from feeder_mixin.settings import FeederSettings, load_settings
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import SqlStore
from feeder_mixin.tune.judge.decision import Mode
from feeder_mixin.tune.judge.risk import TOLERANCE_FACTORS
from feeder_mixin.tune.run import _tasks
from feeder_mixin.tune.run.journal import Journal
from feeder_mixin.tune.run.options import RunOptions, RunSummary, check_options
from feeder_mixin.tune.run.run import run_feeder
from tests.builders import make_record
from tests.candle_factory import halted, make_candles, write_candles
from tests.inline_executor import InlineExecutor

ROOT = Path(__file__).parents[2]
PAIRS = tuple(f"{base}/USDT:USDT" for base in ("BTC", "ETH", "SOL", "XRP", "BNB"))
BEATEN, CLOSE, EQUAL, EXPIRED, NEW = PAIRS
DEFAULT = default_parameters()
# A thousand large trees learn a few hundred rows by heart; a little less shrinkage says the same.
BAD = {
    **DEFAULT,
    "learning_rate": 0.1,
    "n_estimators": 1000,
    "num_leaves": 63,
    "max_depth": 12,
    "min_child_samples": 10,
    "reg_lambda": 0.0,
}
NEARLY = {**DEFAULT, "reg_lambda": 0.9}
SEEDS = dict(zip(PAIRS, (110, 1, 2, 3, 4), strict=True))
"""Of each pair's candles; the first was chosen for a market in which `BAD` shows within a week."""
DAY_NS = 86_400 * 10**9


class Silence:
    """A run's progress that nobody watches."""

    def stage(self, *_):
        """See `tune.run.options.Progress`."""

    def finished(self, *_):
        """See `tune.run.options.Progress`."""


class DownStore(SqlStore):
    """A store that can't be reached."""

    def latest(self, *_, **__):
        """Fail."""
        raise StoreUnavailableError("the store is down")

    def write(self, *_):
        """Fail."""
        raise StoreUnavailableError("the store is down")


def make_project(root: Path) -> FeederSettings:
    """Return a feeder of five pairs in a project of its own, with candles."""
    (root / "user_data").mkdir(parents=True)
    shutil.copytree(ROOT / "config", root / "config")
    pairs = ", ".join(f'"{pair}"' for pair in PAIRS)
    text = (
        '{"add_config_files": ["base.json"], "bot_name": "test1", "feeder": {"side": "short"}, '
        f'"exchange": {{"pair_whitelist": [{pairs}]}}}}'
    )
    (root / "config" / "test1.json").write_text(text, encoding="utf-8")
    frames = {pair: make_candles(40 * 288, seed) for pair, seed in SEEDS.items()}
    write_candles(root / "candles", frames)
    return load_settings("test1", root / "config" / "test1.json", root / "user_data")


def write_champion(
    store: SqlStore,
    pair: str,
    parameters: dict[str, float],
    age_days: float,
    beats_rule: float = 1.0,
) -> int:
    """Store a record of so many days ago and return its time."""
    time_ns = time.time_ns() - int(age_days * DAY_NS)
    metrics = {"beats_rule": beats_rule, "horizon_candles": 30.0, "timeframe_s": 300.0}
    store.write([make_record(pair, time_ns, feeder_id="test1", metrics=metrics, **parameters)])
    return time_ns


def run(settings, store, root, *, promote: Mode = "auto", **options) -> RunSummary:
    """Run the optimizer with the defaults as the only trial."""
    chosen = RunOptions(
        datadir=root / "candles", jobs=2, promote=promote, **{"n_trials": 1, **options}
    )
    return run_feeder(settings, chosen, store, Silence())


def stored(store, pair, measurement="optimized_parameters"):
    """Return how many points a pair has, and the newest's parameters."""
    points = store.history("test1", pair, measurement=measurement)
    newest = dict(points[0].build_record("test1").parameters) if points else None
    return len(points), newest


EXECUTOR = "feeder_mixin.tune.run.run.ProcessExecutor"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Give a feeder with champions beaten, close, equal and expired, and with none; tuned once."""
    root = tmp_path_factory.mktemp("run") / "project"
    settings, store = make_project(root), SqlStore(root / "store.sqlite")
    write_champion(store, BEATEN, BAD, 1)
    write_champion(store, CLOSE, NEARLY, 1)
    write_champion(store, EQUAL, DEFAULT, 1)
    write_champion(store, EXPIRED, BAD, 91)
    # With all pooled trees: fewer are not enough to tell the champions apart.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EXECUTOR, InlineExecutor)
        return root, settings, store, run(settings, store, root)


@pytest.fixture
def inline(monkeypatch):
    """Run the workers' tasks in this process, with few pooled trees: starting processes takes longer."""
    monkeypatch.setattr(EXECUTOR, InlineExecutor)
    monkeypatch.setattr(quantile, "POOLED_TREES", 8)


@pytest.mark.parametrize(
    ("pair", "outcome", "written"),
    [
        pytest.param(BEATEN, "promoted", "tuned", id="beaten"),
        pytest.param(CLOSE, "refused", None, id="close"),
        pytest.param(EQUAL, "kept", None, id="equal"),
        pytest.param(EXPIRED, "expired_replaced", "defaults", id="expired"),
        pytest.param(NEW, "first", "defaults", id="new"),
    ],
)
def test_run_auto_decides_every_pair_on_its_evidence(project, pair, outcome, written):
    """Every pair gets an answer, with exit code 0, whether or not something was written."""
    *_, summary = project
    decision = summary.results[pair].decided
    assert (decision.outcome, decision.written) == (outcome, written), decision.reason
    assert summary.exit_code == 0
    assert (pair in summary.records) == (written is not None)


def test_run_auto_leaves_bots_what_was_decided_and_nothing_else(project):
    """The beaten champion is replaced; the close one and the equal one are as they were."""
    _, _, store, _ = project
    assert stored(store, BEATEN) == (2, DEFAULT)
    assert stored(store, CLOSE) == (1, NEARLY)
    assert stored(store, EQUAL) == (1, DEFAULT)
    assert stored(store, EXPIRED) == (2, DEFAULT)
    assert stored(store, NEW) == (1, DEFAULT)
    latest = store.latest("test1")
    assert set(latest.records) == set(PAIRS)
    assert latest.records[NEW].metrics["defaults_won"] == 1.0


def test_run_auto_puts_the_refused_challenger_among_the_candidates(project):
    """With its gain, and the reason in its provenance."""
    _, _, store, summary = project
    assert [stored(store, pair, CANDIDATES)[0] for pair in PAIRS] == [0, 1, 0, 0, 0]
    (point,) = store.history("test1", CLOSE, measurement=CANDIDATES)
    candidate = point.build_record("test1")
    assert candidate == summary.candidates[CLOSE]
    assert candidate.metrics["gain"] == summary.results[CLOSE].decided.gain
    assert "not beyond noise" in candidate.provenance["promotion"]["reason"]


def test_run_results_carry_what_reports_read(project):
    """One champion more in the scores where there was one; equal lengths everywhere."""
    *_, summary = project
    with_champion = summary.results[CLOSE]
    assert list(with_champion.scores) == ["ATR rule", "defaults", "running", "tuned"]
    assert list(summary.results[EXPIRED].scores) == ["ATR rule", "defaults", "tuned"]
    for result in summary.results.values():
        comparison = result.evidence.comparison
        for table in (comparison.test, comparison.walk):
            assert set(table.losses) == set(result.scores)
            assert {len(losses) for losses in table.losses.values()} == {len(table.days)}
        assert len(comparison.walk.days) > len(comparison.test.days)
        assert result.evidence.n_independent > 10


def test_run_results_are_in_the_journal_as_they_were_told_and_with_their_curves(project):
    """What the next command and the report read is what this one ended with, and what it did not hold."""
    _, settings, _, summary = project
    with Journal(settings.journal_path) as journal:
        kept = {pair: one for pair, (_, one) in journal.newest_results().results.items()}
    assert {pair: one.without_curves for pair, one in kept.items()} == summary.results
    for result in kept.values():
        assert len({len(column) for column in asdict(result.chart).values()}) == 1
        assert {cell.factor for cell in result.risk.cells} == set(TOLERANCE_FACTORS)


def test_risk_at_the_tolerances_in_force_needs_no_curves(project):
    """The closing words say of a run what the report says of its journal."""
    _, settings, _, summary = project
    with Journal(settings.journal_path) as journal:
        kept = {pair: one for pair, (_, one) in journal.newest_results().results.items()}
    assert present_risk(kept) is not None
    assert present_risk(summary.results) == present_risk(kept)


def test_run_never_writes_candidates_only(project, inline):
    """Bots read what they read before; a pair without a record stays without."""
    root, settings, _, _ = project
    store = SqlStore(root / "never.sqlite")
    summary = run(settings, store, root, promote="never", pairs=(NEW,))
    assert (summary.records, set(summary.candidates)) == ({}, {NEW})
    assert stored(store, NEW) == (0, None)
    assert stored(store, NEW, CANDIDATES) == (1, DEFAULT)


def test_run_with_the_store_down_goes_by_what_it_wrote_last(tmp_path, inline):
    """An outage must not look like a first run: the champion last written from here defends."""
    root = tmp_path / "project"
    settings = make_project(root)
    outbox = Outbox(settings.outbox_path)
    metrics = {"horizon_candles": 30.0, "timeframe_s": 300.0}
    champion = make_record(CLOSE, time.time_ns(), feeder_id="test1", metrics=metrics, **NEARLY)
    outbox.put(champion)
    outbox.close()
    summary = run(settings, DownStore(root / "down.sqlite"), root, pairs=(CLOSE,))
    result = summary.results[CLOSE]
    assert summary.exit_code == 1
    assert summary.undelivered == set(summary.records)
    assert result.decided.champion_time_ns == champion.time_ns
    assert result.decided.outcome != "first"
    assert "running" in result.scores


@pytest.mark.parametrize("metrics", [{"horizon_candles": 60.0}, {"side": 1.0}], ids=str)
def test_run_champion_of_another_horizon_or_side_is_none(project, inline, metrics):
    """Bots reject it, so nothing runs that a challenger would have to beat; the new one has its side."""
    root, settings, _, _ = project
    store = SqlStore(root / f"{next(iter(metrics))}.sqlite")
    store.write([make_record(NEW, time.time_ns() - 1, feeder_id="test1", metrics=metrics, **BAD)])
    summary = run(settings, store, root, pairs=(NEW,))
    assert summary.results[NEW].decided.outcome == "first"
    assert stored(store, NEW) == (2, DEFAULT)
    newest = store.latest("test1").records[NEW]
    assert newest.metrics["side"] == -1.0
    assert newest.metrics["market_hash"] == hash48("binance", "futures")
    assert newest.provenance["exchange"] == "binance"


def test_run_interrupted_decides_over_the_finished_pairs_and_goes_on(project, inline, monkeypatch):
    """Ctrl-C: finished pairs are written; the same command decides anew over all, as undisturbed."""
    root, settings, _, _ = project
    pairs = (CLOSE, NEW)
    stores = {name: SqlStore(root / f"{name}.sqlite") for name in ("interrupted", "undisturbed")}
    for store in stores.values():
        write_champion(store, CLOSE, NEARLY, 1)

    def interrupt(self, pair, result, error):
        raise KeyboardInterrupt

    store = stores["interrupted"]
    with monkeypatch.context() as patch:
        patch.setattr(Silence, "finished", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(settings, store, root, pairs=pairs)
    assert stored(store, CLOSE, CANDIDATES)[0] + stored(store, NEW)[0] == 1
    again = run(settings, store, root, pairs=pairs)
    whole = run(settings, stores["undisturbed"], root, pairs=pairs)
    for pair in pairs:
        first, second = (
            replace(s.results[pair].decided, champion_time_ns=None) for s in (again, whole)
        )
        assert first == second
        assert stored(store, pair)[1] == stored(stores["undisturbed"], pair)[1]


def test_run_with_more_trials_knows_what_the_interrupted_one_wrote(project, inline, monkeypatch):
    """Ctrl-C, then the same command with a larger --n-trials: its decision goes on top of the first."""
    root, settings, _, _ = project
    store = SqlStore(root / "more.sqlite")
    # Nothing beats the rule here: it is no reason to write the champion again.
    write_champion(store, CLOSE, NEARLY, 1, beats_rule=0.0)

    def interrupt(self, pair, result, error):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Silence, "finished", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(settings, store, root, pairs=(CLOSE,), promote="always")
    assert stored(store, CLOSE) == (2, DEFAULT)
    again = run(settings, store, root, pairs=(CLOSE,), n_trials=2)
    assert "interrupted command" in again.results[CLOSE].decided.reason
    assert stored(store, CLOSE) == (3, NEARLY)


@pytest.mark.slow
def test_run_with_a_halted_and_a_wicked_pair_leaves_the_others_as_they_are(tmp_path, caplog):
    """One pair halted for its last three days, one with a high of 1e9: no figure leaves its range."""
    root = tmp_path / "project"
    settings, store = make_project(root), SqlStore(tmp_path / "store.sqlite")
    plain = run(settings, store, root)
    frames = {pair: make_candles(40 * 288, seed) for pair, seed in SEEDS.items()}
    frames[CLOSE] = halted(frames[CLOSE], 3 * 288)
    wicked = frames[EQUAL]
    wicked.iloc[-1_000, wicked.columns.get_loc("high")] = 1e9
    write_candles(root / "candles", frames)
    caplog.clear()
    again = run(settings, SqlStore(tmp_path / "other.sqlite"), root)
    assert "Nothing traded for over an hour" in caplog.text
    assert f"count as missing, download them again pair={EQUAL} candles=1" in caplog.text
    assert set(again.results) == set(PAIRS)
    for pair in PAIRS:
        before, now = plain.results[pair], again.results[pair]
        assert abs(now.metrics["skill"]) < 1
        assert now.metrics["test_mae"] < 10 * before.metrics["test_mae"]
        assert abs(now.decided.pooled_skill - before.decided.pooled_skill) < 0.05


def test_run_with_a_risk_serves_all_pairs_at_one_level_also_where_parameters_stay(
    tmp_path, inline, caplog
):
    """Each tuning renews the level: the kept champion goes out with it, and with what was found."""
    settings = replace(make_project(tmp_path), max_unsafe_share=0.25, max_adverse_ratio="auto")
    store = SqlStore(tmp_path / "store.sqlite")
    write_champion(store, EQUAL, DEFAULT, 1)
    summary = run(settings, store, tmp_path)
    (chosen,) = {result.chosen_level for result in summary.results.values()}
    latest = store.latest("test1").records
    assert set(latest) == set(PAIRS)
    for record in latest.values():
        assert record.parameters["quantile_alpha"] == chosen.level
        assert record.metrics["unsafe_share"] == chosen.share
        assert record.metrics["unsafe_share_upper"] == chosen.upper
        assert record.metrics["defaults_won"] == 1.0
        assert record.metrics["feeder_won"] == 1.0
        assert record.metrics["auto_tolerance"] == record.metrics["max_adverse_ratio"]
    assert summary.results[EQUAL].decided.outcome == "kept"
    assert summary.results[EQUAL].decided.written == "running"
    assert chosen.level > 0.10
    assert chosen.is_kept
    assert chosen.upper <= 0.25
    assert "No level keeps" not in caplog.text


def test_run_with_a_risk_that_no_level_keeps_takes_the_least_and_warns(
    tmp_path, inline, caplog, monkeypatch
):
    """What was counted before an interruption is not counted again."""
    settings = replace(make_project(tmp_path), max_unsafe_share=0.01, max_adverse_ratio="auto")
    store = SqlStore(tmp_path / "store.sqlite")

    def interrupt(self, pair, result, error):
        raise KeyboardInterrupt

    def count(*_arguments):
        pytest.fail("counted again")

    with monkeypatch.context() as patch:
        patch.setattr(Silence, "finished", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(settings, store, tmp_path, pairs=(CLOSE, NEW))
    monkeypatch.setattr(_tasks, "count_pair_risk", count)
    summary = run(settings, store, tmp_path, pairs=(CLOSE, NEW))
    assert not summary.failures
    (chosen,) = {result.chosen_level for result in summary.results.values()}
    assert (chosen.level, chosen.is_kept) == (0.05, False)
    (said,) = {line for line in caplog.messages if line.startswith("No level keeps")}
    assert "feeder.max_unsafe_share=0.01" in said


def test_level_that_is_fixed_and_chosen_is_refused(tmp_path):
    """Two words on one thing: both are named."""
    settings = replace(make_project(tmp_path), max_unsafe_share=0.05)
    options = RunOptions(fixes={"quantile_alpha": 0.05})
    with pytest.raises(
        SettingsError, match=r"--fix quantile_alpha=0.05 and feeder.max_unsafe_share"
    ):
        check_options(settings, options)
