"""The contract of every store, run against each backend by the `store` fixture."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from feeder_mixin.errors import FeederError, SchemaError, StoreConflictError, StoreError
from feeder_mixin.schema import (
    CANDIDATES,
    LATEST_TIME_NS,
    METRIC_NAMES,
    NANOSECONDS,
    PARAMETERS,
    ParameterRecord,
    default_parameters,
)
from feeder_mixin.settings import FREQAI_MODEL_TYPE
from feeder_mixin.stores.base import PASSED_OVER_LIMIT, Latest, load_stored_pairs
from tests.builders import make_full_record

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
DAY_NS = 86_400 * NANOSECONDS
FLOATS = {name: float(value) for name, value in default_parameters().items()}
HALF = {name: FLOATS[name] for name in ("learning_rate", "n_estimators", "num_leaves")}
HOSTILE = [
    "a'b",
    'a"b',
    "a,b=c d",
    "x'; DROP TABLE optimized_parameters; --",
    "日本/USDT",
    "$pair0",
]

finite = st.floats(allow_nan=False, allow_infinity=False)
records_of_floats = st.tuples(
    st.fixed_dictionaries(
        {
            p.name: st.integers(int(p.low), int(p.high))
            if p.is_integer
            else st.floats(p.low, p.high)
            for p in PARAMETERS
        }
    ),
    st.dictionaries(st.sampled_from(METRIC_NAMES), finite),
)


def test_latest_of_written_record_is_equal(backend, store, now):
    """A written record comes back whole: parameters, metrics, provenance, time."""
    record = make_full_record(PAIR, now - 1, feeder_id=backend.feeder)
    store.write([record])
    assert store.latest(backend.feeder, now=now) == Latest({PAIR: record})


def test_write_any_floats_reads_back_to_the_last_digit(backend, store, now):
    """Whatever finite floats a record has, a reader gets the same bits.

    A recording holds the written examples only: what Hypothesis draws changes with the code.
    """
    times = count(now - DAY_NS)

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit] if backend.is_recorded else list(Phase),
    )
    @example((default_parameters(), dict.fromkeys(METRIC_NAMES, 0.1 + 0.2)))
    @example((default_parameters() | {"reg_alpha": 5e-324}, dict.fromkeys(METRIC_NAMES, -1e-307)))
    @example(
        (default_parameters(), {METRIC_NAMES[0]: sys.float_info.max, METRIC_NAMES[1]: 2.0**53})
    )
    @given(records_of_floats)
    def check(values):
        record = ParameterRecord(backend.feeder, PAIR, next(times), *values)
        store.write([record])
        assert store.latest(backend.feeder, now=now).records[PAIR] == record

    check()


def test_latest_of_empty_store_is_empty(backend, store, now):
    """A store without points has no records, notes or errors, and answers a ping."""
    store.ping()
    assert store.latest(backend.feeder, now=now) == Latest()
    assert store.history(backend.feeder, PAIR) == []


def test_latest_takes_newest_record_not_newest_values(backend, store, now):
    """A newer record replaces an older one whole: metrics it lacks are not mixed in."""
    older = make_full_record(PAIR, now - 2, feeder_id=backend.feeder, num_leaves=40)
    newer = replace(
        make_full_record(PAIR, now - 1, feeder_id=backend.feeder), metrics={"skill": 0.5}
    )
    store.write([newer, older])
    assert store.latest(backend.feeder, now=now).records == {PAIR: newer}


def test_latest_half_written_newest_point_is_passed_over_and_noted(backend, store, now):
    """An incomplete point never becomes the latest, and a note names its missing fields."""
    record = make_full_record(PAIR, now - DAY_NS, feeder_id=backend.feeder)
    store.write([record])
    backend.write_raw(backend.feeder, PAIR, now - 1, HALF)
    latest = store.latest(backend.feeder, now=now)
    assert latest.records == {PAIR: record}
    assert [(note.pair, note.time_ns, note.field) for note in latest.notes] == [
        (PAIR, now - 1, "max_depth")
    ]
    assert "bagging_fraction" in latest.notes[0].reason


def test_latest_behind_many_incomplete_points_is_found(backend, store, now):
    """However many broken points are newer, the newest complete record is found, with its text."""
    record = make_full_record(PAIR, now - DAY_NS, feeder_id=backend.feeder)
    store.write([make_full_record(PAIR, now - 2 * DAY_NS, feeder_id=backend.feeder), record])
    for age in range(1, 2 * PASSED_OVER_LIMIT + 1):
        backend.write_raw(backend.feeder, PAIR, now - age, HALF)
    latest = store.latest(backend.feeder, now=now)
    assert latest.records == {PAIR: record}
    assert len(latest.notes) == PASSED_OVER_LIMIT


def test_latest_future_records_are_noted_and_passed_over(backend, store, now):
    """A record dated in the future does not count, and is reported however far it is off."""
    record = make_full_record(feeder_id=backend.feeder)
    future = [make_full_record(PAIR, now + 7 * 3600 * NANOSECONDS, feeder_id=backend.feeder)]
    future += [
        make_full_record(PAIR, LATEST_TIME_NS - i, feeder_id=backend.feeder) for i in range(6)
    ]
    store.write([record, *future])
    latest = store.latest(backend.feeder, now=now)
    assert latest.records == {PAIR: record}
    assert {note.time_ns for note in latest.notes} <= {point.time_ns for point in future}
    assert len(latest.notes) == PASSED_OVER_LIMIT
    assert all("in the future" in note.reason for note in latest.notes)


def test_latest_of_old_record_is_expired(backend, store, now):
    """A record older than the limit is named as expired, not used and not forgotten."""
    store.write([make_full_record(PAIR, now - 91 * DAY_NS, feeder_id=backend.feeder)])
    assert store.latest(backend.feeder, now=now) == Latest(expired={PAIR: now - 91 * DAY_NS})
    assert PAIR in store.latest(backend.feeder, now=now, max_age_days=92).records


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(5.0, id="too_large"),
        pytest.param(-1e300, id="hugely_negative"),
        pytest.param(1e300, id="huge"),
    ],
)
def test_latest_complete_record_out_of_range_is_rejected(backend, store, now, value):
    """An invalid newest record is rejected with its field; the older valid one is not tried."""
    store.write(
        [
            make_full_record(PAIR, now - 9, feeder_id=backend.feeder),
            make_full_record(OTHER, feeder_id=backend.feeder),
        ]
    )
    backend.write_raw(backend.feeder, PAIR, now - 8, FLOATS | {"reg_alpha": value})
    for age in range(1, PASSED_OVER_LIMIT + 2):
        backend.write_raw(backend.feeder, PAIR, now - age, HALF)
    latest = store.latest(backend.feeder, now=now)
    assert set(latest.records) == {OTHER}
    assert "reg_alpha" in latest.rejected[PAIR].reason
    assert "0 to 1" in latest.rejected[PAIR].reason


def test_write_equal_record_again_does_nothing(backend, store):
    """A repeated delivery is harmless and leaves one point."""
    record = make_full_record(feeder_id=backend.feeder)
    store.write([record])
    store.write([record, record])
    assert len(store.history(backend.feeder, PAIR)) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metrics": {"skill": 0.25}}, id="fields"),
        pytest.param({"provenance": {"seed": 8}}, id="provenance"),
    ],
)
def test_write_other_content_under_same_key_conflicts(backend, store, now, change):
    """A second writer's record of equal time is refused, and the first stays as it was."""
    record = make_full_record(feeder_id=backend.feeder)
    store.write([record])
    with pytest.raises(StoreConflictError, match=r"BTC/USDT:USDT at 20\d\d-.*other content"):
        store.write([replace(record, **change)])
    assert store.latest(backend.feeder, now=now).records == {PAIR: record}


def test_write_two_contents_of_one_key_in_one_call_conflicts(backend, store, now):
    """Two contents under one key in one call never end as a mixture of both."""
    record = make_full_record(feeder_id=backend.feeder)
    other = replace(record, metrics={"skill": 0.25})
    with pytest.raises(StoreConflictError):
        store.write([record, other])
    assert store.latest(backend.feeder, now=now).records in ({}, {PAIR: record})


def test_write_metric_unknown_to_schema_is_refused(backend, store):
    """A metric that no reader would return is refused with its name."""
    record = replace(make_full_record(feeder_id=backend.feeder), metrics={"profit": 1.0})
    with pytest.raises(StoreError, match="no field profit"):
        store.write([record])
    assert store.history(backend.feeder, PAIR) == []


def test_record_with_nan_is_refused():
    """NaN can't reach a store: the record is refused when it is made."""
    with pytest.raises(SchemaError, match="skill"):
        replace(make_full_record(), metrics={"skill": float("nan")})


def test_history_is_newest_first_and_limited(backend, store, now):
    """History returns a pair's own points newest first, at most `limit`, with provenance."""
    times = [now - 3, now - 1, now - 2]
    store.write([make_full_record(PAIR, time, feeder_id=backend.feeder) for time in times])
    store.write([make_full_record(OTHER, feeder_id=backend.feeder)])
    history = store.history(backend.feeder, PAIR)
    assert [point.time_ns for point in history] == [now - 1, now - 2, now - 3]
    assert store.history(backend.feeder, PAIR, 2) == history[:2]
    assert history[2].build_record(backend.feeder) == make_full_record(
        PAIR, now - 3, feeder_id=backend.feeder
    )


def test_candidates_are_kept_apart_from_records_of_the_same_key(backend, store, now):
    """Same pair and time, other content and provenance: each is read as it was written."""
    record = make_full_record(PAIR, now - 1, feeder_id=backend.feeder)
    candidate = replace(record, metrics={"skill": 0.5}, provenance={"seed": 99})
    store.write([record])
    store.write([candidate], CANDIDATES)
    assert store.latest(backend.feeder, now=now) == Latest({PAIR: record})
    assert store.latest(backend.feeder, now=now, measurement=CANDIDATES) == Latest(
        {PAIR: candidate}
    )
    (point,) = store.history(backend.feeder, PAIR)
    assert point.holds(record)
    (point,) = store.history(backend.feeder, PAIR, measurement=CANDIDATES)
    assert point.holds(candidate)


def test_candidates_keep_the_rules_of_records(backend, store, now):
    """Append only, equal is delivered, other content conflicts, newest first, limited."""
    candidates = [make_full_record(PAIR, now - age, feeder_id=backend.feeder) for age in (1, 2, 3)]
    store.write(candidates, CANDIDATES)
    store.write(candidates, CANDIDATES)
    history = store.history(backend.feeder, PAIR, 2, measurement=CANDIDATES)
    assert [point.time_ns for point in history] == [now - 1, now - 2]
    with pytest.raises(StoreConflictError, match="other content"):
        store.write([replace(candidates[0], metrics={"skill": 0.25})], CANDIDATES)


def test_candidate_alone_is_no_record(backend, store, now):
    """A pair whose only set was refused has nothing that a bot would read."""
    store.write([make_full_record(feeder_id=backend.feeder)], CANDIDATES)
    assert store.latest(backend.feeder, now=now) == Latest()
    assert store.history(backend.feeder, PAIR) == []


def make_freqai_record(backend, time_ns, **parameters):
    """Return a record of the other model type."""
    record = make_full_record(PAIR, time_ns, feeder_id=backend.feeder, **parameters)
    return replace(record, model_type=FREQAI_MODEL_TYPE)


def test_newer_record_of_other_model_type_hides_nothing(backend, store, now):
    """However many records of the other type are newer, each reader gets the newest of its own."""
    own = make_full_record(PAIR, now - 50, feeder_id=backend.feeder)
    freqai = make_freqai_record(backend, now - 60, num_leaves=40)
    newer = [make_freqai_record(backend, now - 59 + age) for age in range(PASSED_OVER_LIMIT + 2)]
    store.write([own, freqai, *newer])
    for pairs in (None, [PAIR]):
        assert store.latest(backend.feeder, pairs, now=now) == Latest({PAIR: own})
        latest = store.latest(backend.feeder, pairs, now=now, model_type=FREQAI_MODEL_TYPE)
        assert latest == Latest({PAIR: newer[-1]})
    assert [point.time_ns for point in store.history(backend.feeder, PAIR)] == [now - 50]
    history = store.history(backend.feeder, PAIR, 2, model_type=FREQAI_MODEL_TYPE)
    assert [point.build_record(backend.feeder) for point in history] == newer[:-3:-1]


def test_record_of_other_model_type_alone_is_none(backend, store, now):
    """A pair with records of the other type alone is a pair without a record."""
    store.write([make_freqai_record(backend, now - 1)])
    assert store.latest(backend.feeder, now=now) == Latest()
    assert store.history(backend.feeder, PAIR) == []
    assert load_stored_pairs(store, backend.feeder, now=now) == [PAIR]


def test_model_type_is_part_of_the_key(backend, store, now):
    """Two types may share pair and time: both are kept whole, and each is deleted alone."""
    own = make_full_record(PAIR, now - 1, feeder_id=backend.feeder)
    freqai = replace(make_freqai_record(backend, now - 1, num_leaves=40), provenance={"seed": 9})
    store.write([own, freqai])
    store.write([freqai, own])
    assert store.latest(backend.feeder, now=now).records == {PAIR: own}
    latest = store.latest(backend.feeder, now=now, model_type=FREQAI_MODEL_TYPE)
    assert latest.records == {PAIR: freqai}
    store.delete(backend.feeder, PAIR, [now - 1], model_type=FREQAI_MODEL_TYPE)
    assert store.history(backend.feeder, PAIR, model_type=FREQAI_MODEL_TYPE) == []
    assert store.latest(backend.feeder, now=now).records == {PAIR: own}


def test_reads_of_unknown_feeder_or_pair_are_empty(backend, store, now):
    """Another feeder in the same place, and a pair without points, have nothing."""
    store.write([make_full_record(feeder_id=backend.feeder)])
    stranger = backend.feeder.upper()
    assert store.latest(stranger, now=now) == Latest()
    assert store.history(stranger, PAIR) == []
    assert store.history(backend.feeder, OTHER) == []
    assert store.latest(backend.feeder, [OTHER], now=now) == Latest()
    assert store.latest(backend.feeder, [], now=now) == Latest()


def test_delete_removes_exactly_the_named_points(backend, store, now):
    """Neighbours a nanosecond away stay, and so do other pairs and the candidates, all whole."""
    records = [make_full_record(PAIR, now + i, feeder_id=backend.feeder) for i in range(-3, 2)]
    other, candidate = (
        make_full_record(OTHER, feeder_id=backend.feeder),
        make_full_record(feeder_id=backend.feeder),
    )
    store.write([*records, other])
    store.write([candidate], CANDIDATES)
    backend.write_raw(backend.feeder, PAIR, now - 9, HALF)
    store.delete(backend.feeder, PAIR, [now - 9, now - 2, now])
    kept = [point.build_record(backend.feeder) for point in store.history(backend.feeder, PAIR)]
    assert kept == [records[4], records[2], records[0]]
    assert store.history(backend.feeder, OTHER)[0].holds(other)
    assert store.history(backend.feeder, PAIR, measurement=CANDIDATES)[0].holds(candidate)
    store.delete(backend.feeder, PAIR, [now], CANDIDATES)
    assert store.history(backend.feeder, PAIR, measurement=CANDIDATES) == []
    assert len(store.history(backend.feeder, PAIR)) == 3


def test_delete_of_what_is_not_there_does_nothing(backend, store, now):
    """An unknown time, pair, feeder or an empty list is no error, and costs nobody a record."""
    store.delete(backend.feeder, PAIR, [now])
    store.write([make_full_record(feeder_id=backend.feeder)])
    store.delete(backend.feeder, PAIR, [])
    store.delete(backend.feeder, PAIR, [now - 1])
    store.delete(backend.feeder, OTHER, [now])
    assert len(store.history(backend.feeder, PAIR)) == 1


def test_delete_frees_the_key(backend, store, now):
    """What was deleted and is written again comes back whole, with its own provenance."""
    store.write([make_full_record(feeder_id=backend.feeder)])
    store.delete(backend.feeder, PAIR, [now])
    record = replace(
        make_full_record(feeder_id=backend.feeder, num_leaves=20), provenance={"seed": 8}
    )
    store.write([record])
    assert store.latest(backend.feeder, now=now).records == {PAIR: record}


@pytest.mark.parametrize("pair", [pytest.param(p, id=f"pair{i}") for i, p in enumerate(HOSTILE)])
def test_delete_hostile_pair_is_only_a_name(backend, store, now, pair):
    """A pair full of quotes or operators deletes its own point and no other's."""
    store.write(
        [
            make_full_record(feeder_id=backend.feeder),
            make_full_record(pair, feeder_id=backend.feeder),
        ]
    )
    store.delete(backend.feeder, f'{pair}" OR pair!="x', [now])
    assert len(store.history(backend.feeder, pair)) == 1
    store.delete(backend.feeder, pair, [now])
    assert store.history(backend.feeder, pair) == []
    assert len(store.history(backend.feeder, PAIR)) == 1


def test_stored_pairs_are_all_that_have_a_point(backend, store, now):
    """Valid, invalid, expired or half-written: whoever looks at everything sees each pair."""
    store.write(
        [
            make_full_record(feeder_id=backend.feeder),
            make_full_record("OLD", 1, feeder_id=backend.feeder),
        ]
    )
    backend.write_raw(backend.feeder, "BAD", now - 1, FLOATS | {"reg_alpha": 5.0})
    backend.write_raw(backend.feeder, "HALF", now - 1, HALF)
    store.write([make_full_record("CANDIDATE", feeder_id=backend.feeder)], CANDIDATES)
    assert load_stored_pairs(store, backend.feeder, now=now) == ["BAD", PAIR, "HALF", "OLD"]
    assert load_stored_pairs(store, backend.feeder, CANDIDATES, now=now) == ["CANDIDATE"]


@pytest.mark.parametrize("pair", [pytest.param(p, id=f"pair{i}") for i, p in enumerate(HOSTILE)])
def test_hostile_pair_is_only_a_name(backend, store, now, pair):
    """A pair full of quotes, commas or statements is stored and read as that text."""
    record, hostile = (
        make_full_record(feeder_id=backend.feeder),
        make_full_record(pair, feeder_id=backend.feeder),
    )
    store.write([record, hostile])
    assert store.latest(backend.feeder, now=now).records == {PAIR: record, pair: hostile}
    assert store.latest(backend.feeder, [pair], now=now).records == {pair: hostile}
    assert len(store.history(backend.feeder, pair)) == 1
    assert store.history(backend.feeder, f"{pair}' OR 'a'='a") == []


def test_hostile_feeder_is_refused(store, now):
    """A feeder id that is no identifier never reaches the backend."""
    hostile = "x'; DROP TABLE optimized_parameters; --"
    for call in (
        lambda: store.latest(hostile, now=now),
        lambda: store.history(hostile, PAIR),
        lambda: store.delete(hostile, PAIR, [now]),
        lambda: store.write([make_full_record(feeder_id=hostile)]),
    ):
        with pytest.raises(FeederError, match="not valid"):
            call()


def test_latest_of_many_pairs_finds_each(backend, store, now):
    """Many pairs are written and read at once, all or by name; a recording has fewer of them."""
    n_pairs = 45 if backend.is_recorded else 400
    records = [
        make_full_record(f"P{i}/USDT:USDT", now - i, feeder_id=backend.feeder)
        for i in range(n_pairs)
    ]
    store.write(records)
    assert store.latest(backend.feeder, now=now).records == {r.pair: r for r in records}
    wanted = [record.pair for record in records[: n_pairs - 5]]
    assert set(store.latest(backend.feeder, wanted, now=now).records) == set(wanted)


def test_write_by_threads_at_once_loses_nothing(backend, now):
    """First writers at the same time, on their own stores, all succeed; equal records merge."""
    shared = make_full_record(feeder_id=backend.feeder)

    def write(worker):
        with backend.open() as store:
            for i in range(5):
                store.write(
                    [make_full_record(f"W{worker}/USDT", now - i, feeder_id=backend.feeder), shared]
                )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with backend.open() as store:
        assert [len(store.history(backend.feeder, f"W{w}/USDT")) for w in range(4)] == [5] * 4
        assert len(store.history(backend.feeder, PAIR)) == 1


def test_close_twice_does_nothing(store):
    """Closing again is harmless."""
    store.close()
    store.close()


def test_description_names_the_place_without_secret(backend, store):
    """The description names the kind of store and repeats no secret."""
    assert store.description.startswith(backend.name)
    assert "token" not in store.description + repr(store)
