"""Dashboard, provisioning and compose file: they ask for what is written, and hold no secret.

Grafana and docker are not started here; what can be held against the code is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from feeder_mixin.live.state.metrics import METRICS
from feeder_mixin.schema import MEASUREMENT, PARAMETERS, bucket_name
from tests.test_systemd import UNITS

CONFIG = Path(__file__).parents[1] / "config"
GRAFANA = CONFIG / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "feeders.json").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((CONFIG / "docker-compose.yml").read_text(encoding="utf-8"))
SOURCES = yaml.safe_load(
    (GRAFANA / "provisioning" / "datasources" / "feeders.yml").read_text(encoding="utf-8")
)["datasources"]
FEEDERS = sorted(path.stem for path in CONFIG.glob("feeder*.json"))
PROMETHEUS = "feeder-prometheus"
SELECTOR = re.compile(r"(feeder_[a-z_]+?)(?:\{([^}]*)\})")
"""A metric in PromQL with its label matchers; ours never stand without."""


def queries() -> list[str]:
    """Return every PromQL expression of the dashboard: panels, variables, annotations."""
    found = [t["expr"] for p in DASHBOARD["panels"] for t in p["targets"] if "expr" in t]
    found += [a["expr"] for a in DASHBOARD["annotations"]["list"]]
    return found + [v["definition"] for v in variables().values() if v["type"] == "query"]


def variables() -> dict[str, dict]:
    """Return name -> variable of the dashboard."""
    return {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


def names_in(query: str) -> set[str]:
    """Return the metrics that a query names, and no label."""
    return set(re.findall(r"\bfeeder_[a-z_]+\b", query)) - {"feeder_id"}


@pytest.mark.parametrize("query", queries())
def test_query_names_metrics_and_labels_that_are_written(query):
    """A renamed metric would leave an empty panel behind, silently."""
    known = {metric.name: {"feeder_id", *metric.labels} for metric in METRICS}
    assert names_in(query)
    assert names_in(query) <= known.keys()
    labels = set.intersection(*(known[name] for name in names_in(query)))
    used = {part for by in re.findall(r"by \(([^)]*)\)", query) for part in by.split(", ")}
    for _, matchers in SELECTOR.findall(query):
        used |= set(re.findall(r"(\w+)\s*=~?", matchers))
    assert used <= labels
    assert set(re.findall(r"\$(\w+)", query)) <= variables().keys()


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda p: p["title"])
def test_legend_names_labels_that_the_query_leaves(panel):
    """A label that was summed away would show as nothing."""
    known = {metric.name: {"feeder_id", *metric.labels} for metric in METRICS}
    for target in panel["targets"]:
        if "expr" not in target:
            continue
        left = set.union(*(known[name] for name in names_in(target["expr"])))
        for by in re.findall(r"by \(([^)]*)\)", target["expr"]):
            left = set(by.split(", "))
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left


def test_every_metric_is_on_the_dashboard():
    """What nobody looks at need not be written."""
    assert {metric.name for metric in METRICS} == set().union(*map(names_in, queries()))


def test_panels_are_numbered_and_do_not_overlap():
    """Grafana would move one of them."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = []
    for panel in panels:
        g = panel["gridPos"]
        assert g["x"] + g["w"] <= 24
        cells += [
            (x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])
        ]
    assert len(cells) == len(set(cells))


def test_parameter_history_reads_the_schemas_measurement_and_parameters():
    """By InfluxQL, from the bucket of the feeder chosen."""
    (query,) = (t["query"] for p in DASHBOARD["panels"] for t in p["targets"] if "query" in t)
    assert query.startswith(f'SELECT "$parameter" FROM "{MEASUREMENT}" WHERE $timeFilter ')  # noqa: S608
    names = [parameter.name for parameter in PARAMETERS]
    assert variables()["parameter"]["query"].split(",") == names


def test_sources_are_prometheus_and_each_feeders_bucket():
    """Every source that the dashboard names is provisioned."""
    databases = {s["uid"]: s["jsonData"].get("dbName") for s in SOURCES}
    buckets = {f"optuna-{feeder}": bucket_name(feeder) for feeder in FEEDERS}
    assert databases == {PROMETHEUS: None, **buckets}
    uids = set(re.findall(r'"uid": "([^"]+)"', json.dumps(DASHBOARD["panels"])))
    assert uids == {PROMETHEUS, "${bucket}"}
    assert variables()["bucket"]["current"]["value"] in databases


def test_secrets_come_from_the_environment_and_must_be_set():
    """No default, no value: compose refuses to start without."""
    named = {}
    for service in COMPOSE["services"].values():
        named |= service.get("environment", {})
    secrets = {k: v for k, v in named.items() if re.search(r"PASSWORD|TOKEN|SECRET|KEY", k)}
    assert len(secrets) == 4
    for value in secrets.values():
        assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value)
    for source in SOURCES:
        for value in source.get("secureJsonData", {}).values():
            assert value == "Token $INFLUXDB_GRAFANA_TOKEN"
    assert "INFLUXDB_GRAFANA_TOKEN" in COMPOSE["services"]["grafana"]["environment"]


def test_services_are_pinned_kept_and_on_the_loopback_only():
    """An update is a choice, data outlives a container, and nothing listens to the network."""
    services = COMPOSE["services"]
    assert set(services) == {"influxdb", "prometheus", "grafana"}
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        mounts = [mount.split(":")[0] for mount in service["volumes"]]
        assert set(mounts) & COMPOSE["volumes"].keys()
        for mount in mounts:
            assert mount in COMPOSE["volumes"] or (CONFIG / mount).exists(), mount
    assert services["influxdb"]["ports"] == ["127.0.0.1:8086:8086"]
    assert "network_mode" not in services["influxdb"]
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_prometheus_scrapes_where_the_unit_serves():
    """One port, in three files."""
    config = yaml.safe_load((CONFIG / "prometheus.yml").read_text(encoding="utf-8"))
    ((target,),) = (s["targets"] for job in config["scrape_configs"] for s in job["static_configs"])
    host, port = target.split(":")
    assert host == "127.0.0.1"
    (unit,) = (path for path in UNITS if path.name == "feeder-metrics.service")
    assert f"feeder metrics --feeder all --port {port}\n" in unit.read_text(encoding="utf-8")
    page = CONFIG.parent / "docs" / "operate" / "monitoring.md"
    assert f"--port {port}" in page.read_text(encoding="utf-8")


def test_dashboard_is_where_the_provider_looks():
    """Provisioned path and mount are the same."""
    text = (GRAFANA / "provisioning" / "dashboards" / "feeders.yml").read_text(encoding="utf-8")
    (provider,) = yaml.safe_load(text)["providers"]
    mounts = [m.split(":") for m in COMPOSE["services"]["grafana"]["volumes"]]
    assert ["./grafana/dashboards", provider["options"]["path"], "ro"] in mounts
    assert ["./grafana/provisioning", "/etc/grafana/provisioning", "ro"] in mounts
