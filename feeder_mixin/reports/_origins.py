"""The sections that say where results come from, and what is stored now."""

from __future__ import annotations

from collections.abc import Mapping

from feeder_mixin.reports._parts import Row, Section, Table, TableCell, labels_of
from feeder_mixin.reports._problems import MOST_NAMES
from feeder_mixin.reports.documents import (
    FeederReport,
    KnownPair,
    TunedPair,
    short_names,
    utc_text,
)
from feeder_mixin.schema import NANOSECONDS
from feeder_mixin.stores.notes import some


def provenance_section(report: FeederReport) -> Section:
    """Return what the results were made from, with what, and when."""
    labels = labels_of(report)
    untuned = [short_names(report.pairs)[p] for p in report.pairs if p not in report.results]
    rows: list[Row] = []
    for pair, result in report.results.items():
        metrics, days = result.metrics, result.labelled_days
        rows.append(
            [
                labels[pair],
                _day(metrics.get("candles_from_s")),
                _day(metrics.get("candles_to_s")),
                "-" if days is None else f"{days:.0f}",
                _number(metrics.get("training_samples")),
                _number(metrics.get("optimization_trials")),
                utc_text(result.time_ns / NANOSECONDS),
            ]
        )
    head = ["pair", "first candle", "last candle", "days", "rows", "trials", "tuned at, UTC"]
    return Section(
        "provenance",
        "Data and provenance",
        [
            (
                "Candles that were used, labelled days for folds and test window, training rows after "
                "thinning. Times are UTC."
            ),
        ],
        tables=[
            Table("Data", head, rows),
            Table(
                "Made with",
                ["fact", "value"],
                _facts(report, labels),
                texts=(0, 1),
                wraps=(1,),
                is_by_pair=False,
            ),
        ],
        missing=[f"No run and no record: {some(untuned, MOST_NAMES)}."] if untuned else [],
    )


def _facts(report: FeederReport, labels: Mapping[str, str]) -> list[Row]:
    """Return each fact of the provenance once, with the pairs that differ named."""
    facts: dict[str, dict[str, list[str]]] = {}
    for pair, result in report.results.items():
        metrics, provenance = result.metrics, result.provenance
        told = {
            "context pairs": _joined(provenance.get("context_pairs")),
            "versions": _joined(provenance.get("versions")),
            "seed": _plain(provenance.get("seed")),
            "fixed": _joined(provenance.get("fixes"), between="="),
            "host": _plain(provenance.get("host")),
            "feature hash": _whole(metrics.get("feature_hash")),
            "context hash": _whole(metrics.get("context_hash")),
        }
        for name, value in told.items():
            facts.setdefault(name, {}).setdefault(value, []).append(labels[pair])
    rows: list[Row] = []
    for name, values in facts.items():
        for value, pairs in values.items():
            if value:
                rows.append(
                    [name if len(values) == 1 else f"{name} ({some(pairs, MOST_NAMES)})", value]
                )
    return rows


def _day(seconds: float | None) -> str:
    return "-" if seconds is None else utc_text(seconds, with_time=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def _joined(value: object, between: str = " ") -> str:
    """Return the items of a list or an object in words; empty for whatever else a record holds."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}{between}{_plain(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else ""


def store_section(report: FeederReport) -> Section:
    """Return what the parameter store holds per pair now."""
    stored, labels = report.stored, short_names(report.pairs)
    if stored.error is not None:
        problem = f"The store {stored.name} could not be read: {stored.error}"
        return Section("store", "What is stored now", missing=[problem])
    rows: list[Row] = []
    # Results come in the order of what matters; behind them, pairs that have none.
    for pair in dict.fromkeys((*report.results, *report.pairs)):
        record, count = stored.records.get(pair), stored.counts.get(pair, 0)
        result = report.results.get(pair)
        rows.append(
            [
                labels[pair],
                TableCell("none", True)
                if record is None
                else utc_text(record.time_ns / NANOSECONDS),
                "-" if record is None else _origin(record.time_ns, result),
                "-" if record is None else f"{record.parameters['quantile_alpha']:g}",
                "-" if record is None else f"{record.parameters['n_estimators']:g}",
                str(count),
            ]
        )
    head = ["pair", "latest record, UTC", "it is", "level", "trees", "records"]
    text = [f"The latest record of each pair, which a bot loads, in {stored.name}."]
    if stored.n_waiting:
        text.append(f"{stored.n_waiting} more wait in the outbox: feeder flush delivers them.")
    return Section(
        "store",
        "What is stored now",
        text,
        tables=[Table("Latest records", head, rows, texts=(0, 2))],
        missing=list(stored.notes),
    )


def _origin(time_ns: int, known: KnownPair | None) -> str:
    """Return how the stored record stands to the result that the page shows."""
    if not isinstance(known, TunedPair):
        return "from elsewhere"
    if time_ns == known.time_ns:
        return "this page's result"
    if known.decision is not None and time_ns == known.decision.champion_time_ns:
        return "the champion, kept"
    return "another: older" if time_ns < known.time_ns else "another: newer"
