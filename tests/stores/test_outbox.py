"""The outbox: nothing is lost, nothing is seen twice, whatever fails or dies."""

import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from feeder_mixin.errors import StoreConflictError, StoreError, StoreUnavailableError
from feeder_mixin.schema import CANDIDATES, MEASUREMENT
from feeder_mixin.stores.base import describe_key
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import TABLE, SqlStore
from tests.builders import FEEDER, make_full_record, make_record

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"


class FlakyStore(SqlStore):
    """An SQLite store that fails as told: for some pairs, or after so many writes."""

    def __init__(self, path):
        super().__init__(path)
        self.refused = set()
        self.writes_left = None
        self.seen = []

    def write(self, records, measurement=MEASUREMENT):
        """Write, unless told to fail before."""
        if self.writes_left == 0:
            raise StoreUnavailableError("store: connection refused")
        if self.writes_left is not None:
            self.writes_left -= 1
        for record in records:
            if record.pair in self.refused:
                raise StoreError(f"{record.pair} refused: field type conflict")
        super().write(records, measurement)
        self.seen += records


@pytest.fixture
def outbox(tmp_path):
    """Give an outbox whose file does not exist yet."""
    box = Outbox(tmp_path / "state" / "outbox.sqlite")
    yield box
    box.close()


@pytest.fixture
def target(tmp_path):
    """Give the store to deliver to."""
    return FlakyStore(tmp_path / "store.sqlite")


def test_outbox_without_file_is_empty(outbox, target, tmp_path):
    """An outbox never used has nothing pending, and looking makes no file."""
    assert outbox.pending() == []
    delivered = outbox.deliver(target)
    assert (delivered.records, delivered.remaining, delivered.error) == ((), 0, None)
    assert list(tmp_path.iterdir()) == []


def test_put_then_deliver_hands_over_whole_records_in_order(outbox, target, now):
    """Records arrive whole, oldest first, and are then no longer pending."""
    records = [make_full_record(pair, now + i) for i in (2, 0, 1) for pair in (PAIR, OTHER)]
    assert [outbox.put(record) for record in records] == records
    in_order = sorted(records, key=lambda r: (r.time_ns, r.pair))
    assert outbox.pending() == in_order
    delivered = outbox.deliver(target)
    delivered.check()
    assert delivered.records == tuple(in_order)
    assert target.seen == in_order
    assert outbox.pending() == []


def test_deliver_refused_for_one_reason_says_it_once(outbox, target, now, monkeypatch):
    """Fifty records that a full or foreign bucket refuses are one reason and the first names."""
    pairs = [f"P{i:02}/USDT:USDT" for i in range(50)]

    def refuse(records, *_):
        raise StoreError(f"store: field type conflict; not stored: {describe_key(records[0])}")

    for pair in pairs:
        outbox.put(make_full_record(pair))
    monkeypatch.setattr(target, "write", refuse)
    text = str(outbox.deliver(target).error)
    assert text.count("field type conflict") == 1
    assert describe_key(make_full_record(pairs[0])) in text
    assert "and 46 more" in text


def test_deliver_again_writes_nothing(outbox, target):
    """What was delivered is not sent again, not even when it is put again."""
    outbox.put(make_full_record())
    outbox.deliver(target)
    outbox.put(make_full_record())
    assert outbox.deliver(target).records == ()
    assert len(target.seen) == 1


@pytest.mark.parametrize("is_delivered", [False, True], ids=["pending", "delivered"])
def test_put_other_content_of_same_time_moves_on(outbox, target, now, is_delivered):
    """A record of a taken time gets the next free nanosecond before it enters."""
    first = outbox.put(make_full_record(num_leaves=20))
    second = outbox.put(make_full_record(num_leaves=21))
    if is_delivered:
        outbox.deliver(target)
    third = outbox.put(make_full_record(num_leaves=22))
    assert [first.time_ns, second.time_ns, third.time_ns] == [now, now + 1, now + 2]
    outbox.deliver(target)
    history = target.history(FEEDER, PAIR)
    assert [point.fields["num_leaves"] for point in history] == [22, 21, 20]


def test_records_and_candidates_are_delivered_in_order_each_to_its_own(outbox, target, now):
    """One line of time for both kinds; a candidate never arrives among the records."""
    kinds = [CANDIDATES, MEASUREMENT, CANDIDATES]
    entered = [outbox.put(make_full_record(PAIR, now + i), k) for i, k in enumerate(kinds)]
    assert outbox.pending() == entered
    assert outbox.deliver(target).records == tuple(entered)
    assert target.seen == entered
    assert outbox.deliver(target).records == ()
    assert [p.time_ns for p in target.history(FEEDER, PAIR)] == [now + 1]
    candidates = target.history(FEEDER, PAIR, measurement=CANDIDATES)
    assert [p.time_ns for p in candidates] == [now + 2, now]


def test_put_candidate_under_a_records_time_takes_no_key_from_it(outbox, target, now):
    """A refused set and the champion written again belong to one pair and time."""
    outbox.put(make_full_record())
    assert outbox.put(make_full_record(num_leaves=21), CANDIDATES).time_ns == now
    outbox.deliver(target)
    assert outbox.pending() == []
    assert target.history(FEEDER, PAIR)[0].fields["num_leaves"] == 15
    candidates = target.history(FEEDER, PAIR, measurement=CANDIDATES)
    assert candidates[0].fields["num_leaves"] == 21


def test_file_of_an_earlier_version_delivers_what_waits_and_takes_candidates(outbox, target, now):
    """An outbox without tables and columns that came later goes on with what it holds."""
    records = [outbox.put(make_full_record(PAIR, now + i)) for i in range(2)]
    target.writes_left = 1
    outbox.deliver(target)
    target.writes_left = None
    path = outbox.file.path
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE optimized_parameters DROP COLUMN gain")
        assert not db.execute(
            "SELECT 1 FROM sqlite_master WHERE name LIKE '%candidate%'"
        ).fetchall()
    again = Outbox(path)
    assert [r.time_ns for r in again.pending()] == [records[1].time_ns]
    candidate = again.put(make_full_record(), CANDIDATES)
    assert [r.time_ns for r in again.deliver(target).records] == [candidate.time_ns, now + 1]
    assert again.pending() == []


def test_latest_entered_is_the_newest_record_whether_delivered_or_not(outbox, now):
    """A store that is down leaves what this host wrote last; candidates are no records."""
    assert outbox.latest_entered(FEEDER, [PAIR]).records == {}
    old = make_full_record(PAIR, time.time_ns() - 2)
    new = outbox.put(replace(old, time_ns=old.time_ns + 1))
    outbox.put(old)
    outbox.put(make_full_record(PAIR, old.time_ns + 2), CANDIDATES)
    assert outbox.latest_entered(FEEDER, [PAIR, OTHER]).records == {PAIR: new}


def test_put_same_time_of_other_pair_or_feeder_stays(outbox, now):
    """Only the same feeder and pair share a time line."""
    for feeder, pair in ((FEEDER, PAIR), (FEEDER, OTHER), ("feeder2", PAIR)):
        assert outbox.put(make_full_record(pair, feeder_id=feeder)).time_ns == now


def test_deliver_to_store_that_is_down_keeps_the_rest(outbox, target, now):
    """An outage ends the delivery; the error names how many wait and the command to run."""
    for i in range(3):
        outbox.put(make_full_record(PAIR, now + i))
    target.writes_left = 1
    delivered = outbox.deliver(target)
    assert len(delivered.records) == 1
    assert delivered.remaining == 2
    with pytest.raises(
        StoreUnavailableError,
        match=r"2 records wait in the outbox.*refused.*feeder flush delivers later",
    ) as caught:
        delivered.check()
    assert isinstance(caught.value.__cause__, StoreUnavailableError)
    target.writes_left = None
    assert outbox.deliver(target).remaining == 0
    assert len(target.history(FEEDER, PAIR)) == 3


def test_deliver_refused_record_stays_and_holds_up_no_other(outbox, target, now):
    """A record refused for good is kept, named, tried again later, and blocks nobody."""
    refused = outbox.put(make_full_record())
    others = [outbox.put(make_full_record(OTHER, now + i)) for i in range(2)]
    target.refused.add(PAIR)
    delivered = outbox.deliver(target)
    assert delivered.records == tuple(others)
    assert delivered.remaining == 1
    assert not isinstance(delivered.error, StoreUnavailableError)
    assert "1 record waits" in str(delivered.error)
    assert "type conflict" in str(delivered.error)
    assert outbox.pending() == [refused]
    target.refused.clear()
    assert outbox.deliver(target).records == (refused,)


def test_deliver_conflict_in_store_keeps_the_record(outbox, target):
    """Other content in the store under the key is reported; the time is not moved any more."""
    target.write([make_full_record(num_leaves=20)])
    record = outbox.put(make_full_record(num_leaves=21))
    delivered = outbox.deliver(target)
    assert isinstance(delivered.error.__cause__, StoreConflictError)
    assert outbox.pending() == [record]


def test_deliver_passes_over_record_of_another_schema(outbox, target):
    """A pending record that is no longer valid stays, is named, and blocks nobody."""
    outbox.put(make_full_record())
    outbox.put(make_full_record(OTHER))
    with outbox.file.write_connection() as connection:
        connection.execute(sa.update(TABLE).where(TABLE.c.pair == PAIR).values(num_leaves=9999))
    delivered = outbox.deliver(target)
    assert [record.pair for record in delivered.records] == [OTHER]
    assert "num_leaves=9999" in str(delivered.error)


def fill(outbox):
    """Put more records than a page holds."""
    for i in range(100):
        outbox.put(make_record(f"P{i}/USDT", 10**18))


def test_put_on_full_disk_is_an_error(outbox):
    """Without room for the record there is an error that says so, not a silent loss."""
    outbox.put(make_full_record())
    sa.event.listen(
        outbox.file.engine, "connect", lambda c, _: c.execute("PRAGMA max_page_count=1")
    )
    with pytest.raises(StoreError, match=r"outbox .*full"):
        fill(outbox)


def test_put_is_flushed_to_the_disk_before_it_returns(outbox):
    """WAL with synchronous=FULL, whatever SQLite was built with: a power cut takes no commit back."""
    outbox.put(make_full_record())
    with outbox.file.write_connection() as connection:
        modes = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous")
        ]
    assert modes == ["wal", 2]


class OutboxMachine(RuleBasedStateMachine):
    """Puts, outages and deliveries in any order: every record put ends in the store, once."""

    folder: Path

    @initialize()
    def begin(self):
        """Take fresh files."""
        number = sum(1 for _ in self.folder.iterdir())
        self.target = FlakyStore(self.folder / f"{number}-store.sqlite")
        self.outbox = Outbox(self.folder / f"{number}-outbox.sqlite")
        self.entered = set()

    @rule(leaves=st.integers(15, 18), pair=st.sampled_from([PAIR, OTHER]), time=st.integers(0, 3))
    def put(self, leaves, pair, time):
        """Enter a record, perhaps under a time that is taken."""
        entered = self.outbox.put(make_record(pair, 10**18 + time, num_leaves=leaves))
        self.entered.add((pair, entered.time_ns, leaves))

    @rule(writes=st.integers(0, 2))
    def deliver_in_part(self, writes):
        """Deliver to a store that goes down after some writes."""
        self.target.writes_left = writes
        self.outbox.deliver(self.target)
        self.target.writes_left = None

    @invariant()
    def store_and_pending_are_what_was_put(self):
        """Check that what was put is in the store or pending."""
        if hasattr(self, "outbox"):
            pending = {
                (r.pair, r.time_ns, r.parameters["num_leaves"]) for r in self.outbox.pending()
            }
            stored = {
                (point.pair, point.time_ns, point.fields["num_leaves"])
                for pair in (PAIR, OTHER)
                for point in self.target.history(FEEDER, pair)
            }
            assert pending | stored == self.entered

    def teardown(self):
        """Deliver the rest: nothing may remain."""
        if hasattr(self, "outbox"):
            assert self.outbox.deliver(self.target).remaining == 0


def test_any_order_of_puts_and_outages_loses_nothing(tmp_path):
    """Whatever happens in whatever order, each record is pending or stored, and ends stored."""
    machine = type("Machine", (OutboxMachine,), {"folder": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=8, stateful_step_count=10, deadline=None, derandomize=True),
    )


def test_put_by_two_outboxes_on_one_file_keeps_both(outbox, now):
    """Two processes that enter other records at one time get two times."""
    second = Outbox(outbox.file.path)
    record = make_full_record()
    assert outbox.put(record).time_ns == now
    assert second.put(replace(record, provenance={"host": "b"})).time_ns == now + 1
    assert len(outbox.pending()) == 2
