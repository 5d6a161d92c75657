"""Stored records as a table; light imports, because ``feeder show`` should start at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from rich import box
from rich.table import Table

from feeder_mixin.schema import METRICS, PARAMETERS, ParameterRecord, format_time_ns
from feeder_mixin.settings import FREQAI_MODEL_TYPE, BotSettings, FeederSettings
from feeder_mixin.tolerance import Tolerance

_PERCENT_METRICS: Final = frozenset(m.name for m in METRICS if m.unit in {"share", "ratio"})


FEW_PAIRS: Final = 20
"""Up to so many pairs each is told in full; of more, a terminal shows the first so many lines."""

SIDE_BY_SIDE: Final = 6
"""Records that a terminal of 150 columns shows side by side."""


def percent(value: float | None, digits: int = 1) -> str:
    """Return a ratio as percent, ``-`` where it is absent.

    Examples
    --------
    >>> percent(0.0678), percent(None)
    ('6.8', '-')
    """
    return "-" if value is None else f"{100 * value:.{digits}f}"


def parameter_text(record: ParameterRecord, name: str) -> str:
    """Return a parameter as shown; a FreqAI record's level is none, each target has its own."""
    if name == "quantile_alpha" and record.model_type == FREQAI_MODEL_TYPE:
        return "by target"
    return f"{record.parameters[name]:.6g}"


def record_tolerance(settings: BotSettings, record: ParameterRecord) -> Tolerance | None:
    """Return the tolerance that the pair has with this record; None for a FreqAI bot's."""
    if not isinstance(settings, FeederSettings):
        return None
    return settings.tolerance(record.pair, record.metrics.get("auto_tolerance"))


def tolerance_text(tolerance: Tolerance | None) -> str:
    """Return a tolerance as shown, and where it is but the fallback.

    Examples
    --------
    >>> tolerance_text(Tolerance(0.0123, "record")), tolerance_text(Tolerance(0.01, "fallback"))
    ('1.23 %', '1.00 % (fallback)')
    """
    if tolerance is None:
        return "-"
    is_fallback = tolerance.origin == "fallback"
    return f"{percent(tolerance.ratio, 2)} %{' (fallback)' if is_fallback else ''}"


def describe_decision(record: ParameterRecord) -> str:
    """Return why a record was written, in the words of who decided it; empty where it does not say."""
    told = record.provenance
    parts = [f"rolled back from {told['rolled_back_from']}"] if "rolled_back_from" in told else []
    promotion = told.get("promotion")
    if isinstance(promotion, Mapping) and {"outcome", "reason"} <= promotion.keys():
        outcome = str(promotion["outcome"]).replace("_", " ")
        parts.append(f"{outcome}: {promotion['reason']}")
    return "; ".join(parts)


def record_lines(records: Sequence[ParameterRecord], settings: BotSettings) -> Table:
    """Return one line a record: when it was made, what it is, how good it was."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("pair", no_wrap=True)
    table.add_column("time", no_wrap=True)
    table.add_column("set", no_wrap=True)
    for name in ("skill", "exceed", "safe", "tolerance", "beats rule"):
        table.add_column(name, justify="right")
    for record in records:
        metrics = record.metrics
        table.add_row(
            record.pair,
            format_time_ns(record.time_ns)[:16] + "Z",
            "defaults" if metrics.get("defaults_won") else "tuned",
            percent(metrics.get("skill")),
            percent(metrics.get("exceedance")),
            percent(metrics.get("predicted_safe_share")),
            tolerance_text(record_tolerance(settings, record)),
            "-"
            if record.model_type == FREQAI_MODEL_TYPE
            else "no"
            if metrics.get("beats_rule") == 0.0
            else "yes",
        )
    return table


def record_table(records: Sequence[ParameterRecord], settings: BotSettings) -> Table:
    """Return records side by side: one column a pair, parameters above metrics."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for record in records:
        table.add_column(record.pair, justify="right", no_wrap=True)
    table.add_column("meaning", overflow="fold")
    table.add_row("time", *(format_time_ns(r.time_ns)[:19] + "Z" for r in records))
    table.add_section()
    for parameter in PARAMETERS:
        values = (parameter_text(r, parameter.name) for r in records)
        table.add_row(parameter.name, *values, parameter.description)
    table.add_section()
    for metric in METRICS:
        if any(metric.name in r.metrics for r in records):
            cells = (_cell(metric.name, r.metrics.get(metric.name)) for r in records)
            table.add_row(metric.name, *cells, metric.description)
    if isinstance(settings, FeederSettings):
        table.add_section()
        in_force = (tolerance_text(record_tolerance(settings, r)) for r in records)
        table.add_row(
            "tolerance", *in_force, "what this config and the record make of it, in force"
        )
    return table


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in {"candles_from_s", "candles_to_s"}:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M}"
    if name in _PERCENT_METRICS:
        return f"{percent(value, 3 if name.endswith('mae') else 2)} %"
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}"
