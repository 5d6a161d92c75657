"""The file of blackouts: what it may hold, and which candles it covers."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.errors import SettingsError
from feeder_mixin.market.blackouts import NO_BLACKOUTS, Blackout, Blackouts, load_blackouts
from feeder_mixin.market.blackouts import read_blackouts as read
from tests.builders import make_settings

HEAD = "time,minutes_before,minutes_after,name\n"
NOON_S = int(pd.Timestamp("2026-12-10 12:00Z").timestamp())


@pytest.fixture
def written(tmp_path):
    """Give a function that writes a file of blackouts and returns its path."""

    def write(text: str | bytes):
        path = tmp_path / "blackouts.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def closes_covered(blackouts, *closes_s):
    """Return which closes of 5m candles are covered."""
    return blackouts.cover(np.array(closes_s) - 300, 300).tolist()


def test_candle_is_blacked_out_by_its_close_both_ends_included(written):
    """The decision is made at the close: that moment lies within the window or does not."""
    found = read(written(HEAD + "2026-12-10T12:00Z,10,5,CPI\n"))
    assert closes_covered(
        found, NOON_S - 601, NOON_S - 600, NOON_S, NOON_S + 300, NOON_S + 301
    ) == [
        False,
        True,
        True,
        True,
        False,
    ]


windows = st.builds(
    lambda start_s, length_s: Blackout(start_s, start_s + length_s),
    st.integers(0, 20_000),
    st.integers(0, 9_000),
)


@given(st.lists(windows, max_size=8), st.integers(0, 600))
def test_candles_covered_by_any_windows_are_those_of_a_plain_loop(some, shift_s):
    """Overlapping, nested, unsorted, of no length: the lookup is that of asking every window."""
    opens_s = np.arange(100) * 300 + shift_s
    found = Blackouts(tuple(some)).cover(opens_s, 300)
    expected = [any(w.start_s <= t + 300 <= w.end_s for w in some) for t in opens_s]
    assert found.tolist() == expected


def test_file_as_traders_write_it_is_read(written):
    """Unsorted, overlapping, comments, empty lines, a spreadsheet's mark and line ends, no name."""
    text = (
        "\ufefftime, minutes_before, minutes_after, name\r\n\r\n# Fed\r\n"
        '2027-01-27T19:00Z,150,60,"FOMC, press"\r\n2026-12-10 12:00+00:00,0,0\r\n'
        "2026-12-10T13:00:30+01:00,1.5,0,\r\n"
    )
    found = read(written(text))
    fomc_s = pd.Timestamp("2027-01-27 19:00Z").timestamp()
    assert found.windows == (
        Blackout(NOON_S - 60, NOON_S + 30, ""),
        Blackout(NOON_S, NOON_S, ""),
        Blackout(fomc_s - 9_000, fomc_s + 3_600, "FOMC, press"),
    )
    assert str(found.windows[-1]) == "2027-01-27T16:30Z to 2027-01-27T20:00Z (FOMC, press)"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param("2026-12-10T12:00,1,1,", "time='2026-12-10T12:00'", id="naive"),
        pytest.param("2026-12-10,1,1,", "with the zone", id="date"),
        pytest.param("10/12/2026 12:00Z,1,1,", "2026-12-10T19:00Z", id="ambiguous"),
        pytest.param("0206-12-10T12:00Z,1,1,", "years 2000 to 2199", id="year"),
        pytest.param(",1,1,", "time=''", id="no time"),
        pytest.param("2026-12-10T12:00Z,-1,1,", "minutes_before='-1'", id="negative"),
        pytest.param("2026-12-10T12:00Z,1,nan,", "minutes_after='nan'", id="nan"),
        pytest.param("2026-12-10T12:00Z,1,1h,", "minutes from 0 to 10080", id="words"),
        pytest.param("2026-12-10T12:00Z,1,99999,", "minutes_after='99999'", id="too long"),
        pytest.param("2026-12-10T12:00Z,1", "2 values", id="few"),
        pytest.param("2026-12-10T12:00Z,1,1,a,b", "5 values", id="many"),
        pytest.param("2026-12-10T12:00Z,1,1,\x1b[31m", "name=", id="control characters"),
        pytest.param('2026-12-10T12:00Z,1,1,"a', "not CSV", id="quote"),
    ],
)
def test_bad_line_is_named_with_file_line_value_and_what_was_expected(written, line, words):
    """A trader finds the place and what belongs there."""
    path = written(HEAD + "2026-12-09T12:00Z,1,1,\n" + line + "\n")
    with pytest.raises(SettingsError) as error:
        read(path)
    assert f"{path} line 3: " in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("# nothing\n", "is empty", id="comments"),
        pytest.param("2026-12-10T12:00Z,1,1,\n", "expected the header", id="no header"),
        pytest.param(HEAD.replace(",", ";"), "expected the header", id="semicolons"),
        pytest.param(b"\xff\xfe\x00", "not UTF-8", id="binary"),
    ],
)
def test_file_of_another_form_is_refused_by_name(written, content, words):
    """Never read as something else, and never as no blackouts."""
    path = written(content)
    with pytest.raises(SettingsError, match=words) as error:
        read(path)
    assert str(path) in str(error.value)


def test_relative_path_starts_at_the_parent_of_user_data_dir(tmp_path):
    """As all paths of a config; a missing file names where it was looked for."""
    settings = make_settings(tmp_path / "user_data", blackouts="config/times.csv")
    with pytest.raises(SettingsError) as error:
        load_blackouts(settings)
    assert f"{tmp_path / 'config' / 'times.csv'} can't be read: No such file" in str(error.value)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "times.csv").write_text(HEAD)
    assert load_blackouts(settings) == NO_BLACKOUTS
    assert load_blackouts(make_settings(tmp_path)) is NO_BLACKOUTS


def test_next_window_is_the_one_in_force_else_the_one_to_come(written):
    """What status and log show; None when all are past."""
    found = read(written(HEAD + "2026-12-10T12:00Z,10,0,a\n2026-12-10T13:00Z,10,0,b\n"))
    names = [getattr(found.next_at(NOON_S + s), "name", None) for s in (-9_999, 0, 1, 3_601)]
    assert names == ["a", "a", "b", None]


def test_thousands_of_lines_are_read_and_looked_up_at_once(written):
    """A list of ten years costs no candle anything."""
    times = pd.date_range("2026-01-01", periods=5_000, freq="17h", tz="UTC")
    path = written(HEAD + "".join(f"{t.isoformat()},150,60,x\n" for t in times))
    began = time.process_time()
    found = read(path)
    assert time.process_time() - began < 1.0
    assert len(found.windows) == 5_000
    began = time.process_time()
    for _ in range(100):
        found.cover(np.arange(499) * 300 + NOON_S, 300)
    assert time.process_time() - began < 0.1
