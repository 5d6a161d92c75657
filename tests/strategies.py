"""All Hypothesis strategies of the tests."""

import math

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from feeder_mixin.schema import (
    LATEST_TIME_NS,
    METRIC_NAMES,
    PARAMETER_BY_NAME,
    PARAMETERS,
    Parameter,
    ParameterRecord,
)

pairs = st.sampled_from(("BTC/USDT:USDT", "1000PEPE/USDT:USDT", "ETH/USDT"))
feeder_ids = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
times_ns = st.integers(0, LATEST_TIME_NS)
finite_floats = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite_floats | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
provenances = st.dictionaries(st.text(), json_values, max_size=4)
metrics = st.dictionaries(st.sampled_from(METRIC_NAMES), finite_floats)


def values_of(parameter: Parameter) -> st.SearchStrategy[float]:
    """Return values inside a parameter's range, both ends included."""
    if parameter.is_integer:
        return st.integers(int(parameter.low), int(parameter.high))
    return st.floats(parameter.low, parameter.high)


def bad_values_of(parameter: Parameter) -> st.SearchStrategy[object]:
    """Return values that a parameter can't have: of every kind there is."""
    below = math.nextafter(parameter.low, -math.inf)
    above = math.nextafter(parameter.high, math.inf)
    outside = st.floats(max_value=below) | st.floats(min_value=above)
    kinds = [outside, st.sampled_from((math.nan, 10**400)), st.booleans(), st.text(max_size=4)]
    if parameter.is_integer:
        inside = st.floats(parameter.low, parameter.high)
        kinds.append(inside.filter(lambda value: value != int(value)))
    return st.one_of(kinds)


parameter_sets = st.fixed_dictionaries({p.name: values_of(p) for p in PARAMETERS})


@st.composite
def broken_parameter_sets(draw: st.DrawFn) -> tuple[dict[str, object], str]:
    """Draw a parameter set with one bad or missing value, and the name of that parameter."""
    values: dict[str, object] = dict(draw(parameter_sets))
    name = draw(st.sampled_from(sorted(values)))
    if draw(st.booleans()):
        del values[name]
    else:
        values[name] = draw(bad_values_of(PARAMETER_BY_NAME[name]))
    return values, name


records = st.builds(
    ParameterRecord, feeder_ids, pairs, times_ns, parameter_sets, metrics, provenances
)

ratios = st.floats(-0.2, 0.05)


@st.composite
def forecasts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw excursions, forecasts and reference forecasts of one length; ties are common."""
    n = draw(st.integers(1, 40))
    few = st.sampled_from((-0.02, -0.01, 0.0))
    return tuple(draw(st_np.arrays(np.float64, n, elements=ratios | few)) for _ in range(3))


layouts = st.fixed_dictionaries(
    {
        "history_days": st.floats(1.0, 400.0),
        "days_back": st.sampled_from((10.0, 30.0, 59.9, 60.0, 135.0, 180.0, 365.0))
        | st.floats(10.0, 400.0),
        "horizon": st.integers(1, 288),
        "timeframe_s": st.sampled_from((60, 300, 900, 3600)),
        "last_candle": st.integers(5_000_000, 6_000_000),
    }
)
