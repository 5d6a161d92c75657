"""Metrics: the status file's own values, in Prometheus' format; what is not known is absent."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from feeder_mixin.live.state.metrics import METRICS, BotFacts, build_families
from feeder_mixin.schema import parse_time_ns
from tests.builders import PAIRS
from tests.live.fake_bot import make_status
from tests.live.test_status import statuses

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read_samples(text: str) -> Samples:
    """Return (name, labels) -> value of Prometheus' text, by its own parser; none twice."""
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def samples_of(*bots: BotFacts) -> Samples:
    """Return the samples of bots, by way of the text that Prometheus reads."""

    class Collector:
        def collect(self):
            return build_families(bots)

    registry = CollectorRegistry()
    registry.register(Collector())
    return read_samples(generate_latest(registry).decode())


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return the key of a sample."""
    return name, frozenset(labels.items())


def seconds(time_text: str) -> float:
    """Return a time of the status file as Prometheus counts."""
    return parse_time_ns(time_text) / 10**9  # of integers: rounded once


def expected_of(status: dict) -> Samples:
    """Return what a status file says, read off key by key."""
    f, reload = status["feeder_id"], status["reload"]
    loads = reload.get("loads", {})
    said = {
        key("feeder_up", feeder_id=f): 1,
        key("feeder_status_timestamp_seconds", feeder_id=f): 5.5,
        key("feeder_last_good_timestamp_seconds", feeder_id=f): 3.25,
        key("feeder_generation", feeder_id=f): status["generation"],
        key("feeder_last_load_ok", feeder_id=f): float(reload["last_error"] is None),
        key("feeder_loads_total", feeder_id=f, outcome="succeeded"): loads.get("succeeded"),
        key("feeder_loads_total", feeder_id=f, outcome="failed"): loads.get("failed"),
        key("feeder_last_load_duration_seconds", feeder_id=f): loads.get("last_duration_s"),
    }
    if (at := loads.get("last_success_at")) is not None:
        said[key("feeder_last_successful_load_timestamp_seconds", feeder_id=f)] = seconds(at)
    for source in ("store", "last_good", "default", "config"):
        n = len([p for p in status["pairs"].values() if p["source"] == source])
        said[key("feeder_pairs", feeder_id=f, source=source)] = n
    for pair, facts in status["pairs"].items():
        own, model = {"feeder_id": f, "pair": pair}, facts["model"]
        said[key("feeder_pair_rejected", **own)] = float(facts["rejected"] is not None)
        if facts["version"] is not None:
            said[key("feeder_parameters_timestamp_seconds", **own)] = seconds(facts["version"])
        for state in ("none", "training", "ready", "stale"):
            said[key("feeder_model_state", **own, state=state)] = float(model["state"] == state)
        if (until := model["trained_until"]) is not None:
            said[key("feeder_model_trained_until_timestamp_seconds", **own)] = seconds(until)
        said[key("feeder_model_rows", **own)] = model["rows"]
        said[key("feeder_model_expected_rows", **own)] = model.get("expected_rows")
        if (last := facts.get("last_served")) is not None:
            said[key("feeder_last_served_timestamp_seconds", **own)] = seconds(last)
        said[key("feeder_calibration_factor", **own)] = model.get("calibration")
        tolerance = facts.get("tolerance") or {}
        said[key("feeder_max_adverse_ratio", **own)] = tolerance.get("max_adverse_ratio")
        said[key("feeder_unusual_ratio", **own)] = facts.get("unusual_share")
        exceedance = facts.get("exceedance") or {}
        said[key("feeder_exceedance_ratio", **own)] = exceedance.get("share")
        said[key("feeder_exceedance_nominal_ratio", **own)] = exceedance.get("nominal")
        said[key("feeder_exceedance_candles", **own)] = exceedance.get("candles")
    return {k: v for k, v in said.items() if v is not None}


@given(statuses)
def test_every_sample_is_the_status_files_value_and_none_is_missing(status):
    """Through text and parser, for any status that a bot, or one of an earlier version, writes."""
    assert samples_of(BotFacts(status["feeder_id"], True, status, 5.5, 3.25)) == expected_of(status)


def test_without_a_running_bot_nothing_is_made_up():
    """A dead bot runs on nothing: its last words are no values, and unknown is not 0."""
    assert samples_of(BotFacts("f1", False, None, None, None)) == {
        key("feeder_up", feeder_id="f1"): 0
    }


def test_feeders_are_told_apart_by_their_label():
    """One scrape for all feeders: each metric once, with every feeder's values."""
    bots = [BotFacts(f, True, make_status(f), 1.0, 2.0) for f in ("f1", "f2")]
    both = samples_of(*bots)
    assert both == samples_of(bots[0]) | samples_of(bots[1])
    assert both[key("feeder_pairs", feeder_id="f2", source="store")] == 2
    assert both[key("feeder_exceedance_ratio", feeder_id="f1", pair=PAIRS[0])] == 0.125


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_metric_follows_prometheus_naming(metric):
    """Prefix, base units, a unit that ends the name, a help text of one line."""
    assert re.fullmatch(r"feeder_[a-z_]+", metric.name)
    assert not re.search(r"_(ms|minutes|hours|days|percent|age|info)(_|$)", metric.name)
    assert ("timestamp" in metric.name) <= metric.name.endswith("_timestamp_seconds")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert "\n" not in metric.meaning
    assert metric.meaning


def test_metric_names_are_unique():
    """Prometheus takes no metric twice in one scrape."""
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
