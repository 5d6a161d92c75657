"""All Hypothesis strategies of the tests."""

import math

import numpy as np
from hypothesis import settings
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

FAST_EXAMPLES = 25
"""How many examples a property has in the fast tests; `make test-slow` draws twenty times as many."""


def examples(fast: int) -> settings:
    """Return the settings of a property whose examples take long: `fast` of them in the fast tests."""
    return settings(max_examples=fast * settings.default.max_examples // FAST_EXAMPLES)


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
        "newer_candles": st.just(0) | st.integers(-20_000, 20_000),
    }
)

wild_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from((10**400, -(10**400), 2**63, 1e308, -0.0))
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
"""What Python's JSON reader can return, numbers beyond any range and NaN among them."""


@st.composite
def mutated_documents(draw: st.DrawFn, document: object) -> object:
    """Draw `document` with one value, at any depth, replaced, taken out or put beside."""
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 4)) == 0:
        return draw(wild_values)
    changed = document.copy()
    keys = sorted(document) if isinstance(document, dict) else range(len(document))
    key = draw(st.sampled_from(keys))
    kind = draw(st.sampled_from(("deeper", "deeper", "deeper", "drop", "add")))
    if kind == "deeper":
        changed[key] = draw(mutated_documents(document[key]))
    elif kind == "drop":
        del changed[key]
    elif isinstance(changed, dict):
        changed[draw(st.text(max_size=8))] = draw(wild_values)
    else:
        changed.append(draw(wild_values))
    return changed


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw `content` with bytes changed, cut off, put in or swept to zero, or something else."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(damaged) - 1, 0)))
        kind = draw(st.sampled_from(("change", "cut", "insert", "zero")))
        if kind == "change" and damaged:
            damaged[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del damaged[at:]
        elif kind == "insert":
            damaged[at:at] = draw(st.binary(min_size=1, max_size=20))
        else:
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
    return bytes(damaged)
