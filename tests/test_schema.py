"""The schema: names, ranges, records, times."""

import dataclasses
import json
import math
import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.errors import SchemaError, SettingsError
from feeder_mixin.schema import (
    FIELD_NAMES,
    LATEST_TIME_NS,
    METRIC_NAMES,
    PARAMETER_BY_NAME,
    PARAMETER_NAMES,
    PARAMETERS,
    TAGS,
    ParameterRecord,
    bucket_name,
    build_record,
    default_parameters,
    describe_fields,
    format_time_ns,
    hash48,
    mismatch_reason,
    missing_parameters,
    parameter_problems,
    parse_time_ns,
)
from feeder_mixin.settings import LabelSpec
from tests import strategies
from tests.builders import make_record

PAIR = "BTC/USDT:USDT"
BY_PARAMETER = pytest.mark.parametrize("parameter", PARAMETERS, ids=PARAMETER_NAMES)
FIXED_TABLE = {
    "learning_rate": (0.001, 0.1, 0.01, "learning_rate", False),
    "n_estimators": (100, 1000, 100, "n_estimators", True),
    "num_leaves": (15, 63, 15, "num_leaves", True),
    "max_depth": (3, 12, 4, "max_depth", True),
    "min_child_samples": (10, 50, 50, "min_child_samples", True),
    "reg_alpha": (0.0, 1.0, 0.0, "reg_alpha", False),
    "reg_lambda": (0.0, 1.0, 1.0, "reg_lambda", False),
    "quantile_alpha": (0.05, 0.20, 0.10, "alpha", False),
    "feature_fraction": (0.6, 1.0, 0.6, "colsample_bytree", False),
    "bagging_fraction": (0.6, 1.0, 0.7, "subsample", False),
}


def test_parameters_compared_with_the_contract_are_equal():
    """Names, ranges, defaults, LightGBM names and integer flags are those users rely on."""
    there = {p.name: (p.low, p.high, p.default, p.lightgbm_name, p.is_integer) for p in PARAMETERS}
    assert there == FIXED_TABLE
    assert [p.name for p in PARAMETERS if p.is_log] == ["learning_rate"]


def test_metrics_compared_with_the_contract_are_all_there():
    """No metric that users and other repositories read by name is missing."""
    fixed = (
        "backtested_mae validation_mae train_mae test_mae safety_accuracy false_positive_rate "
        "false_negative_rate training_samples optimization_trials best_trial optimization_time "
        "defaults_won beats_rule horizon_candles timeframe_s candles_from_s candles_to_s "
        "context_hash feature_hash"
    )
    assert set(fixed.split()) <= set(METRIC_NAMES)
    assert TAGS == ("feeder_id", "pair", "optimized_for", "model_type")


def test_field_names_compared_pairwise_are_unique():
    """No name stands for two things, neither in the store nor in LightGBM."""
    assert max(Counter((*FIELD_NAMES, *TAGS)).values()) == 1
    assert max(Counter(p.lightgbm_name for p in PARAMETERS).values()) == 1
    assert set(PARAMETER_BY_NAME) == set(PARAMETER_NAMES)


def test_describe_fields_of_every_field_is_one_line():
    """Every field has a description fit for help texts and tables."""
    texts = describe_fields()
    assert list(texts) == list(FIELD_NAMES)
    assert all(text.strip() and "\n" not in text for text in texts.values())


def test_defaults_checked_as_a_record_are_valid():
    """The default set is a valid record and has the integers' own type."""
    record = make_record()
    assert parameter_problems(default_parameters()) == []
    assert dict(record.parameters) == default_parameters()
    whole = {name for name, value in record.parameters.items() if type(value) is int}
    assert whole == {p.name for p in PARAMETERS if p.is_integer}


@BY_PARAMETER
def test_parameter_at_both_ends_is_accepted(parameter):
    """Both ends of a range belong to it."""
    assert parameter.problem(parameter.low) is None
    assert parameter.problem(parameter.high) is None


@given(strategies.records)
def test_record_through_fields_comes_back_equal(record):
    """What a store holds, floats and one JSON text, makes the same record again."""
    stored = {name: float(value) for name, value in record.fields.items()}
    assert all(type(value) is float for value in record.fields.values())
    again = build_record(
        record.feeder_id, record.pair, record.time_ns, stored, record.provenance_json
    )
    assert again == record
    assert again.same_content(record)
    assert [type(v) for v in again.parameters.values()] == [
        type(v) for v in record.parameters.values()
    ]


@given(strategies.records)
def test_record_pickled_comes_back_equal_and_read_only(record):
    """Records travel between processes and stay immutable there."""
    again = pickle.loads(pickle.dumps(record))  # noqa: S301 - our own bytes
    assert again == record
    with pytest.raises(TypeError):
        again.parameters["num_leaves"] = 20
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.pair = "ETH/USDT:USDT"


@given(strategies.records)
def test_record_as_dict_is_json_of_the_fixed_form(record):
    """``show --json`` prints plain JSON whose time reads back to the nanosecond."""
    shown = json.loads(json.dumps(record.to_dict()))
    assert parse_time_ns(shown["time"]) == record.time_ns
    assert shown["parameters"] == dict(record.parameters)
    assert shown["metrics"] == dict(record.metrics)
    assert (shown["feeder_id"], shown["pair"]) == (record.feeder_id, record.pair)


def test_record_made_from_a_dict_does_not_follow_its_changes():
    """Changing the dicts a record was made from does not change the record."""
    parameters, metrics, provenance = default_parameters(), {"skill": 0.1}, {"seed": 1}
    record = ParameterRecord("feeder75a", PAIR, 1, parameters, metrics, provenance)
    parameters["num_leaves"], metrics["skill"], provenance["seed"] = 63, 9.0, 2
    assert record.parameters["num_leaves"] == 15
    assert (record.metrics["skill"], record.provenance["seed"]) == (0.1, 1)


@given(strategies.broken_parameter_sets())
def test_record_with_one_broken_parameter_is_rejected_with_reason(broken):
    """A missing or wrong value rejects the whole record, naming pair, field, value and range."""
    values, name = broken
    with pytest.raises(SchemaError) as caught:
        ParameterRecord("feeder75a", PAIR, 1, values)
    message = str(caught.value)
    assert PAIR in message
    assert PARAMETER_BY_NAME[name].range_text in message
    assert (f"{name}={values[name]!r}" if name in values else f"{name} is missing") in message


@BY_PARAMETER
@pytest.mark.parametrize(
    ("make_value", "reason"),
    [
        pytest.param(lambda p: math.nextafter(p.low, -math.inf), "outside", id="just-below"),
        pytest.param(lambda p: math.nextafter(p.high, math.inf), "outside", id="just-above"),
        pytest.param(lambda _: math.nan, "not finite", id="nan"),
        pytest.param(lambda _: math.inf, "not finite", id="infinity"),
        pytest.param(lambda _: 10**400, "not finite", id="beyond-floats"),
        pytest.param(lambda _: True, "not a number", id="bool"),
        pytest.param(lambda p: str(p.default), "not a number", id="text"),
        pytest.param(lambda _: None, "missing", id="none"),
    ],
)
def test_parameter_with_wrong_value_is_refused(parameter, make_value, reason):
    """Every kind of wrong value of every parameter is refused with its reason and range."""
    value = make_value(parameter)
    (problem,) = parameter_problems({**default_parameters(), parameter.name: value})
    assert problem.startswith(parameter.name)
    assert reason in problem
    assert parameter.range_text in problem
    with pytest.raises(SchemaError, match=PAIR):
        make_record(**{parameter.name: value})


@BY_PARAMETER
def test_parameter_with_a_fraction_is_refused_only_where_whole(parameter):
    """Integers must be whole; 20.0 is, 20.5 is not."""
    middle = int((parameter.low + parameter.high) / 2) + 0.5
    if parameter.is_integer:
        assert "not a whole number" in parameter.problem(middle)
        assert parameter.problem(middle - 0.5) is None
    else:
        assert parameter.problem((parameter.low + parameter.high) / 2) is None


def test_record_with_several_problems_names_all():
    """The reason lists every problem, not only the first."""
    with pytest.raises(SchemaError) as caught:
        make_record(num_leaves=14, max_depth=3.5, learning_rate=None, bogus=1.0)
    for text in ("num_leaves=14", "max_depth=3.5", "learning_rate is missing", "bogus is no"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(math.nan, id="nan"),
        pytest.param(-math.inf, id="infinity"),
        pytest.param(10**400, id="beyond-floats"),
        pytest.param(True, id="bool"),
        pytest.param("0.1", id="text"),
        pytest.param(None, id="none"),
    ],
)
def test_record_with_wrong_metric_is_rejected(value):
    """A metric that is no finite number rejects the record: absent metrics are left out."""
    with pytest.raises(SchemaError, match="skill="):
        ParameterRecord("feeder75a", PAIR, 1, default_parameters(), {"skill": value})


@pytest.mark.parametrize(
    "time_ns",
    [
        pytest.param(-1, id="before-epoch"),
        pytest.param(LATEST_TIME_NS + 1, id="beyond-stores"),
        pytest.param(1.5, id="fraction"),
        pytest.param(True, id="bool"),
        pytest.param("1", id="text"),
    ],
)
def test_record_with_wrong_time_is_rejected(time_ns):
    """A time that a store can't hold is refused at the door."""
    with pytest.raises(SchemaError, match="time_ns="):
        ParameterRecord("feeder75a", PAIR, time_ns, default_parameters())


def test_build_record_with_unknown_and_null_fields_drops_them():
    """A later version may write more fields; NULL means absent."""
    fields = {**default_parameters(), "skill": None, "test_mae": 0.01, "from_the_future": 3.0}
    record = build_record("feeder75a", PAIR, 1, fields)
    assert dict(record.metrics) == {"test_mae": 0.01}
    assert dict(record.provenance) == {}


@pytest.mark.parametrize(
    "provenance",
    [pytest.param("{", id="broken"), pytest.param("[1]", id="list")],
)
def test_build_record_with_bad_provenance_is_rejected(provenance):
    """Provenance that is no JSON object is an error that names the pair."""
    with pytest.raises(SchemaError, match=f"{PAIR}: provenance"):
        build_record("feeder75a", PAIR, 1, default_parameters(), provenance)


def test_missing_parameters_of_partial_fields_names_them():
    """Null and absent parameters are missing; metrics do not count."""
    fields = {**default_parameters(), "max_depth": None}
    del fields["reg_alpha"]
    assert missing_parameters(fields) == ["max_depth", "reg_alpha"]
    assert missing_parameters(default_parameters()) == []


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        pytest.param({}, None, id="absent"),
        pytest.param({"side": 1.0}, None, id="same-side"),
        pytest.param({"side": -1.0}, "side=short, but this feeder is long", id="other-side"),
        pytest.param({"side": 0.5}, "side=0.5, but this feeder is long", id="no-side"),
        pytest.param({"horizon_candles": 30, "timeframe_s": 300}, None, id="equal"),
        pytest.param({"horizon_candles": 60}, "horizon_candles=60", id="other-horizon"),
        pytest.param({"timeframe_s": 60}, "timeframe_s=60", id="other-timeframe"),
    ],
)
def test_mismatch_reason_of_a_record_names_what_differs(metrics, expected):
    """A record of another side, horizon or timeframe can't serve; one that doesn't say is not refused."""
    record = ParameterRecord("feeder75a", PAIR, 1, default_parameters(), metrics)
    reason = mismatch_reason(record, LabelSpec("long", 30, 300))
    assert (reason is None) if expected is None else (expected in reason)


def test_same_content_at_another_time_is_true_until_a_value_changes():
    """Content is tags, values and provenance, not the time."""
    record = make_record()
    assert record.same_content(dataclasses.replace(record, time_ns=2))
    assert not record.same_content(make_record(num_leaves=16))
    assert not record.same_content(dataclasses.replace(record, provenance={"seed": 1}))
    assert not record.same_content(dataclasses.replace(record, pair="ETH/USDT:USDT"))


@given(st.lists(st.text()))
def test_hash48_as_float_is_exact(parts):
    """The hash survives being stored as a float."""
    value = hash48(*parts)
    assert 0 <= value < 2**48
    assert int(float(value)) == value


def test_hash48_of_other_parts_differs():
    """Order and the borders between parts count."""
    assert hash48("ab", "c") != hash48("a", "bc")
    assert hash48("a", "b") != hash48("b", "a")
    assert hash48("a", "b") == hash48("a", "b")


@given(strategies.times_ns)
def test_time_formatted_and_parsed_is_exact(time_ns):
    """Times keep every nanosecond through their text."""
    text = format_time_ns(time_ns)
    assert parse_time_ns(text) == time_ns
    assert len(text) == len("2026-01-01T00:00:00.000000000Z")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("1970-01-01T00:00:00Z", 0, id="no-fraction"),
        pytest.param("1970-01-01T07:00:00.5+07:00", 500_000_000, id="other-zone"),
        pytest.param("1969-12-31T19:30:00.000000001-04:30", 1, id="west"),
        pytest.param(" 1970-01-01T00:00:01Z ", 1_000_000_000, id="spaces"),
    ],
)
def test_parse_time_of_other_forms_is_utc(text, expected):
    """Any RFC 3339 offset means the same instant."""
    assert parse_time_ns(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("2026-01-01T00:00:00", id="naive"),
        pytest.param("2026-01-01T00:00:00.0000000001Z", id="ten-decimals"),
        pytest.param("2026-01-01T00:00:00,5Z", id="comma"),
        pytest.param("2026-13-01T00:00:00Z", id="month-13"),
        pytest.param("2026-01-01Z", id="no-time"),
        pytest.param("2026-01-01+07:00", id="no-time-offset"),
        pytest.param("yesterday", id="words"),
        pytest.param("", id="empty"),
    ],
)
def test_parse_time_of_unclear_text_is_refused(text):
    """A time without zone, or that is none, is an error that quotes it."""
    with pytest.raises(SettingsError, match="RFC 3339"):
        parse_time_ns(text)


def test_bucket_name_of_a_feeder_is_upper_case():
    """The bucket is OPTUNA_ and the upper-case id."""
    assert bucket_name("feeder75a") == "OPTUNA_FEEDER75A"


@pytest.mark.parametrize("feeder_id", ["", "a b", "a/b", "fütter", "a\n"], ids=repr)
def test_bucket_name_of_a_bad_id_is_refused(feeder_id):
    """An id with other than letters, digits, _ and - has no bucket."""
    with pytest.raises(SettingsError, match="not valid"):
        bucket_name(feeder_id)


@pytest.mark.parametrize("text", ["1" * 5_000, "[" * 9_000], ids=["digits", "depth"])
def test_build_record_provenance_beyond_pythons_limits_is_rejected(text):
    """A foreign document must not end a load with an error that is none of ours."""
    with pytest.raises(SchemaError, match="provenance is not JSON"):
        build_record("feeder1", "BTC/USDT:USDT", 1, default_parameters(), text)
