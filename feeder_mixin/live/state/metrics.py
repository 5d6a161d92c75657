"""What a bot's state folder says, as Prometheus metrics: one table of names, kinds and meanings.

``feeder metrics`` asks; the bot takes no part beyond its status file. Values are the status file's
own. What is not known is absent, never 0, and so is all that only a running bot can have once none
runs. Moments are given as seconds since the epoch, from which a query makes ages (``time() - x``): an
age would stand still between two looks.

2026-11: not a text file of the bot's. The state folder is its owner's only (0700), where no
node_exporter may read; a file goes on saying what a dead bot said; and one process serves all feeders
on one port, where an endpoint in the bot would need six and run beside the candles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from feeder_mixin.live.state.status import ModelState, PairStatus, Source, Status
from feeder_mixin.schema import NANOSECONDS, parse_time_ns


@dataclass(frozen=True, slots=True)
class BotFacts:
    """One feeder at one moment.

    Attributes
    ----------
    status
        What the running bot says; None when none runs, or it has said nothing yet.
    status_written_s
        When its status file was written, in seconds since the epoch; None without a file.
    last_good_s
        When the store gave the oldest of the last good copies; None without any.
    """

    feeder_id: str
    is_running: bool
    status: Status | None
    status_written_s: float | None
    last_good_s: float | None


_Samples = Iterable[tuple[tuple[str, ...], float | None]]


@dataclass(frozen=True, slots=True)
class PrometheusMetric:
    """A metric's name as it is queried, what it means, its labels beside ``feeder_id``, its values."""

    name: str
    meaning: str
    labels: tuple[str, ...]
    read: Callable[[BotFacts], _Samples]

    @property
    def kind(self) -> Literal["counter", "gauge"]:
        """Return the kind that Prometheus' naming rule gives it."""
        return "counter" if self.name.endswith("_total") else "gauge"


def _of_bot(read: Callable[[BotFacts], float | None]) -> Callable[[BotFacts], _Samples]:
    return lambda bot: [((), read(bot))]


def _of_status(read: Callable[[Status], float | None]) -> Callable[[BotFacts], _Samples]:
    return _of_bot(lambda bot: None if bot.status is None else read(bot.status))


def _of_pairs(read: Callable[[PairStatus], float | None]) -> Callable[[BotFacts], _Samples]:
    return lambda bot: [((pair,), read(facts)) for pair, facts in _pairs(bot)]


def _pairs(bot: BotFacts) -> Iterable[tuple[str, PairStatus]]:
    return () if bot.status is None else bot.status["pairs"].items()


def _seconds(time_text: str | None) -> float | None:
    return None if time_text is None else parse_time_ns(time_text) / NANOSECONDS


def _load(status: Status, key: str) -> object:
    """Return what a bot says of its loads, None where it is of an earlier version."""
    return cast("dict[str, object]", status["reload"]["loads"]).get(key)


def _loads(bot: BotFacts) -> _Samples:
    for outcome in ("succeeded", "failed"):
        count = None if bot.status is None else cast("int | None", _load(bot.status, outcome))
        yield (outcome,), count


def _sources(bot: BotFacts) -> _Samples:
    for source in get_args(Source) if bot.status is not None else ():
        yield (source,), sum(facts["source"] == source for _, facts in _pairs(bot))


def _model_states(bot: BotFacts) -> _Samples:
    for pair, facts in _pairs(bot):
        for state in get_args(ModelState):
            yield (pair, state), float(facts["model"]["state"] == state)


def _tolerance(facts: PairStatus) -> float | None:
    found = facts.get("tolerance")
    return None if found is None else found["max_adverse_ratio"]


def _exceedance(key: Literal["share", "nominal", "candles"]) -> Callable[[BotFacts], _Samples]:
    def read(facts: PairStatus) -> float | None:
        found = facts["exceedance"]
        return None if found is None else found[key]

    return _of_pairs(read)


_PAIR: Final = ("pair",)

METRICS: Final = (
    PrometheusMetric(
        "feeder_up", "1 when a bot of the feeder runs, else 0", (), _of_bot(lambda b: b.is_running)
    ),
    PrometheusMetric(
        "feeder_status_timestamp_seconds",
        "when the status file was written, about once a candle",
        (),
        _of_bot(lambda b: b.status_written_s),
    ),
    PrometheusMetric(
        "feeder_generation",
        "generation of the parameters in force, 1 at start",
        (),
        _of_status(lambda s: s["generation"]),
    ),
    PrometheusMetric(
        "feeder_loads_total",
        "loads from the store since the bot's start, by outcome: succeeded, failed",
        ("outcome",),
        _loads,
    ),
    PrometheusMetric(
        "feeder_last_load_ok",
        "1 when the last load succeeded, else 0",
        (),
        _of_status(lambda s: s["reload"]["last_error"] is None),
    ),
    PrometheusMetric(
        "feeder_last_successful_load_timestamp_seconds",
        "when the store last answered this process",
        (),
        _of_status(lambda s: _seconds(cast("str | None", _load(s, "last_success_at")))),
    ),
    PrometheusMetric(
        "feeder_last_load_duration_seconds",
        "time from request to swap in the last successful load",
        (),
        _of_status(lambda s: cast("float | None", _load(s, "last_duration_s"))),
    ),
    PrometheusMetric(
        "feeder_pairs",
        "pairs by source of their parameters: store, last_good, default",
        ("source",),
        _sources,
    ),
    PrometheusMetric(
        "feeder_last_good_timestamp_seconds",
        "when the store gave the oldest of the last good copies",
        (),
        _of_bot(lambda b: b.last_good_s),
    ),
    PrometheusMetric(
        "feeder_pair_rejected",
        "1 when the store's newest record of the pair was refused, else 0",
        _PAIR,
        _of_pairs(lambda p: p["rejected"] is not None),
    ),
    PrometheusMetric(
        "feeder_parameters_timestamp_seconds",
        "when the record that the pair runs on was stored; absent on defaults",
        _PAIR,
        _of_pairs(lambda p: _seconds(p["version"])),
    ),
    PrometheusMetric(
        "feeder_model_state",
        "1 for the state that the pair's model is in: none, training, ready, stale; else 0",
        ("pair", "state"),
        _model_states,
    ),
    PrometheusMetric(
        "feeder_model_trained_until_timestamp_seconds",
        "end of the serving model's training data; absent without a model",
        _PAIR,
        _of_pairs(lambda p: _seconds(p["model"]["trained_until"])),
    ),
    PrometheusMetric(
        "feeder_model_rows",
        "rows that the serving model was trained on; absent without a model",
        _PAIR,
        _of_pairs(lambda p: p["model"]["rows"]),
    ),
    PrometheusMetric(
        "feeder_model_expected_rows",
        "rows that it would have with no candle missing since the pair's listing",
        _PAIR,
        _of_pairs(lambda p: p["model"]["expected_rows"]),
    ),
    PrometheusMetric(
        "feeder_last_served_timestamp_seconds",
        "open of the newest candle with a prediction; stops when freqtrade drops the pair",
        _PAIR,
        _of_pairs(lambda p: _seconds(p["last_served"])),
    ),
    PrometheusMetric(
        "feeder_max_adverse_ratio",
        "tolerance of the pair: how far price may go against a position on a safe candle",
        _PAIR,
        _of_pairs(_tolerance),
    ),
    PrometheusMetric(
        "feeder_unusual_ratio",
        "share of the last day's candles that were out of the ordinary, so never safe",
        _PAIR,
        _of_pairs(lambda p: p.get("unusual_share")),
    ),
    PrometheusMetric(
        "feeder_calibration_factor",
        "calibration factor of the pair's forecasts, 1 at the beginning",
        _PAIR,
        _of_pairs(lambda p: p["model"]["calibration"]),
    ),
    PrometheusMetric(
        "feeder_exceedance_ratio",
        "share of the last day's candles whose excursion exceeded the forecast",
        _PAIR,
        _exceedance("share"),
    ),
    PrometheusMetric(
        "feeder_exceedance_nominal_ratio",
        "quantile level of those forecasts: the share should be near it",
        _PAIR,
        _exceedance("nominal"),
    ),
    PrometheusMetric(
        "feeder_exceedance_candles",
        "candles counted: predicted, horizon over; at most a day or freqtrade's frame",
        _PAIR,
        _exceedance("candles"),
    ),
)


def build_families(bots: Iterable[BotFacts]) -> Iterator[Family]:
    """Return every metric with the values of all feeders, in the order of `METRICS`."""
    known = list(bots)
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
    for metric in METRICS:
        family = kinds[metric.kind](
            metric.name, metric.meaning, labels=("feeder_id", *metric.labels)
        )
        for bot in known:
            for labels, value in metric.read(bot):
                if value is not None:
                    family.add_metric((bot.feeder_id, *labels), float(value))
        yield family
