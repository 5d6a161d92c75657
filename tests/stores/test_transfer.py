"""Records as JSON lines: nothing is lost, and nothing else is believed."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import NANOSECONDS
from feeder_mixin.stores.operations.transfer import (
    MEASUREMENTS,
    Entry,
    format_line,
    load_dump,
    read_lines,
)
from feeder_mixin.stores.sql import SqlStore
from tests import strategies

entries = st.builds(Entry, st.sampled_from(MEASUREMENTS), strategies.records)


@given(entries)
def test_line_read_back_is_the_record(entry):
    """Any record, to the last bit, nanosecond and character."""
    copy = read_lines([format_line(entry)], [entry.record.feeder_id])
    assert copy.entries == [entry]
    assert copy.entries[0].record.same_content(entry.record)


def test_store_exported_and_imported_is_equal(tmp_path):
    """Whatever records a store held, latest and history of the other are the same."""
    numbers = iter(range(1000))

    @strategies.examples(8)
    @given(st.lists(entries, max_size=6))
    def check(drawn):
        number = next(numbers)
        with (
            SqlStore(tmp_path / f"{number}-a.sqlite") as first,
            SqlStore(tmp_path / f"{number}-b.sqlite") as second,
        ):
            unique = {(e.measurement, e.record.pair, e.record.time_ns): e for e in drawn}
            feeders = {entry.record.feeder_id for entry in drawn}
            for entry in unique.values():
                first.write([entry.record], entry.measurement)
            lines = [
                format_line(entry) for f in sorted(feeders) for entry in load_dump(first, f).entries
            ]
            assert len(lines) == len(unique)
            for entry in read_lines(lines, feeders).entries:
                second.write([entry.record], entry.measurement)
            for feeder in feeders:
                assert load_dump(second, feeder) == load_dump(first, feeder)
                for m in MEASUREMENTS:
                    when = {"now": 2**62 // NANOSECONDS * NANOSECONDS, "measurement": m}
                    assert second.latest(feeder, **when) == first.latest(feeder, **when)
                    for pair in {e.record.pair for e in drawn}:
                        assert second.history(feeder, pair, measurement=m) == first.history(
                            feeder, pair, measurement=m
                        )

    check()


@given(st.text() | strategies.json_values.map(str), st.data())
def test_any_text_is_a_record_or_an_error_of_ours(text, data):
    """Garbage, and lines cut or changed at any place, never end in another exception."""
    with suppress(SettingsError):
        read_lines([text], ["f"])
    line = format_line(data.draw(entries))
    at = data.draw(st.integers(0, len(line)))
    with suppress(SettingsError):
        read_lines([line[:at] + text + line[at + 1 :]], ["f"])
