"""The status file: fixed keys, nothing believed that a bot would not write."""

from __future__ import annotations

import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.errors import StateError
from feeder_mixin.live.state.status import read_status, write_status
from feeder_mixin.schema import format_time_ns
from tests import strategies
from tests.live.fake_bot import PAIRS, make_status

times = strategies.times_ns.map(format_time_ns)
counts = st.integers(0, 10**9)
shares = st.floats(0, 1)
exceedances = st.fixed_dictionaries({"share": shares, "nominal": shares, "candles": counts})
tolerances = st.fixed_dictionaries(
    {
        "max_adverse_ratio": st.floats(1e-4, 1),
        "origin": st.sampled_from(("config", "record", "fallback")),
    }
)
models = st.fixed_dictionaries(
    {
        "state": st.sampled_from(("none", "training", "ready", "stale")),
        "version": st.none() | times,
        "generation": st.none() | counts,
        "trained_until": st.none() | times,
        "rows": st.none() | counts,
        "expected_rows": st.none() | counts,
        "context_share": st.none() | st.floats(0, 1),
        "error": st.none() | st.text(),
        "calibration": st.floats(0.1, 10),
    }
)
pairs = st.fixed_dictionaries(
    {
        "source": st.sampled_from(("store", "last_good", "default")),
        "version": st.none() | times,
        "parameters": strategies.parameter_sets,
        "rejected": st.none() | st.text(),
        "model": models,
        "exceedance": st.none() | exceedances,
        "last_good_at": st.none() | times,
        "passed_over": st.none() | st.text(),
        "last_candle": st.none() | times,
        "last_served": st.none() | times,
        "last_q": st.none() | st.floats(-1, 0),
        "last_safe": st.none() | st.booleans(),
        "tolerance": st.none() | tolerances,
        "unusual_share": st.none() | st.floats(0, 1),
    },
)
loads = st.fixed_dictionaries(
    {
        "succeeded": counts,
        "failed": counts,
        "last_success_at": st.none() | times,
        "last_duration_s": st.none() | st.floats(0, 1e6),
    }
)
statuses = st.fixed_dictionaries(
    {
        "feeder_id": strategies.feeder_ids,
        "pid": st.integers(1, 2**22),
        "generation": counts,
        "loaded_at": times,
        "reload": st.fixed_dictionaries(
            {
                "requested": counts,
                "completed": counts,
                "last_attempt_at": st.none() | times,
                "last_success_at": st.none() | times,
                "last_error": st.none() | st.text(),
                "loads": loads,
            }
        ),
        "pairs": st.dictionaries(strategies.pairs, pairs, max_size=3),
    }
)


@given(statuses)
def test_status_read_back_is_the_one_written(tmp_path_factory, status):
    """Every value of every key comes back."""
    path = tmp_path_factory.mktemp("state") / "status.json"
    write_status(path, status)
    assert read_status(path) == status


def test_status_file_is_private_and_has_the_fixed_keys(tmp_path):
    """Scripts rely on these names."""
    path = tmp_path / "status.json"
    write_status(path, make_status())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_text())
    assert list(document) == ["feeder_id", "pid", "generation", "loaded_at", "reload", "pairs"]
    assert list(document["reload"]) == [
        "requested",
        "completed",
        "last_attempt_at",
        "last_success_at",
        "last_error",
        "loads",
    ]
    assert list(document["reload"]["loads"]) == [
        "succeeded",
        "failed",
        "last_success_at",
        "last_duration_s",
    ]
    pair = document["pairs"][PAIRS[0]]
    assert list(pair) == [
        "source",
        "version",
        "parameters",
        "rejected",
        "model",
        "exceedance",
        "last_good_at",
        "passed_over",
        "last_candle",
        "last_served",
        "last_q",
        "last_safe",
        "tolerance",
    ]
    assert list(pair["model"]) == [
        "state",
        "version",
        "generation",
        "trained_until",
        "rows",
        "expected_rows",
        "context_share",
        "error",
        "calibration",
    ]
    assert len(pair["parameters"]) == 10


def test_status_unknown_keys_are_kept(tmp_path):
    """A later version may say more."""
    path = tmp_path / "status.json"
    path.write_text(json.dumps({**make_status(), "mood": "fine"}))
    assert read_status(path)["mood"] == "fine"


def test_write_status_with_nan_leaves_the_old_file(tmp_path):
    """JSON has no NaN; a file with one could be read by nobody else."""
    path = tmp_path / "status.json"
    status = make_status()
    write_status(path, status)
    before = path.read_bytes()
    status["pairs"][PAIRS[0]]["parameters"]["reg_alpha"] = float("nan")
    with pytest.raises(StateError, match=r"status\.json is not written"):
        write_status(path, status)
    assert path.read_bytes() == before


def test_read_status_missing_file_says_how_to_start_a_bot(tmp_path):
    """The bot never ran here, or it was looked for in the wrong folder."""
    with pytest.raises(StateError, match=r"status\.json does not exist.*never ran.*--userdir"):
        read_status(tmp_path / "status.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[" * 100_000, b"null", b"[]", b"{}", b'{"feeder_id": "x"}'],
    ids=["empty", "cut", "no text", "deep", "null", "list", "no keys", "one key"],
)
def test_read_status_damaged_file_is_refused_by_name(tmp_path, content):
    """No traceback, but the file and what to do."""
    path = tmp_path / "status.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"status\.json .*Delete it"):
        read_status(path)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        pytest.param(("pid",), 0, id="pid 0 would signal the whole group"),
        pytest.param(("pid",), -1, id="pid -1 would signal everybody"),
        pytest.param(("pid",), True, id="pid true"),
        pytest.param(("generation",), "1", id="generation text"),
        pytest.param(("loaded_at",), None, id="no time"),
        pytest.param(("loaded_at",), "2026-01-01 00:00", id="time without zone"),
        pytest.param(("reload",), [], id="reload list"),
        pytest.param(("reload", "requested"), -1, id="negative count"),
        pytest.param(("pairs", PAIRS[0]), None, id="no pair"),
        pytest.param(("pairs", PAIRS[0], "source"), "guess", id="unknown source"),
        pytest.param(("pairs", PAIRS[0], "source"), [], id="source list"),
        pytest.param(("pairs", PAIRS[0], "parameters"), {}, id="no parameters"),
        pytest.param(("pairs", PAIRS[0], "model"), None, id="no model"),
        pytest.param(("pairs", PAIRS[0], "model", "rows"), 1.5, id="half a row"),
        pytest.param(("reload", "loads"), 3, id="loads number"),
        pytest.param(("reload", "loads", "failed"), -1, id="negative loads"),
        pytest.param(("reload", "loads", "last_duration_s"), "1", id="duration text"),
        pytest.param(("pairs", PAIRS[0], "exceedance"), 0.1, id="exceedance number"),
        pytest.param(("pairs", PAIRS[0], "exceedance", "share"), None, id="no share"),
    ],
)
def test_read_status_wrong_value_is_refused_by_key(tmp_path, where, value):
    """What follows trusts types and ranges, the pid above all."""
    document = json.loads(json.dumps(make_status()))
    part = document
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    path = tmp_path / "status.json"
    path.write_text(json.dumps(document))
    with pytest.raises(StateError, match=rf"status\.json .*{where[-1].split('/')[0]}"):
        read_status(path)
