"""The page as text: nothing unescaped, nothing from outside, nothing failing for want of a key."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import plotly.graph_objects as go
import plotly.offline
import pytest

from feeder_mixin.reports._palette import COLOURS
from feeder_mixin.reports.documents import StoreContent, TunedPair
from feeder_mixin.reports.page import packed_library, render_page, report_document
from tests.many_pairs import make_many_tuned
from tests.reports import builder

BTC = "BTC/USDT:USDT"
HOSTILE = '<script>alert("x")</script>/USDT:USDT'
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Outline(HTMLParser):
    """What a browser would see: tags balanced, scripts, headings, ids, links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[dict] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        """Note a tag."""
        facts = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append(facts)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in facts:
            self.ids.append(facts["id"])
        self.links += [facts[name] for name in ("href", "src") if name in facts]

    def handle_endtag(self, tag):
        """Check that what is closed is what was opened last."""
        assert self.open.pop() == tag


def outline(html: str) -> Outline:
    """Return a page's outline."""
    seen = Outline()
    seen.feed(html)
    assert seen.open == []
    return seen


def plots_of(html: str) -> list[dict]:
    """Return the plots that a page carries."""
    packed = re.findall(r'<script type="text/plain">(.*?)</script>', html, re.DOTALL)
    return [json.loads(gzip.decompress(base64.b64decode(text))) for text in packed]


def unpacked(plot: dict) -> dict:
    """Return a plot with its columns as the page's script makes them of steps."""

    def column(value):
        if not (isinstance(value, dict) and "steps" in value):
            return value
        return [total / value.get("per", 1) for total in itertools.accumulate(value["steps"])]

    traces = [{name: column(value) for name, value in trace.items()} for trace in plot["data"]]
    return {**plot, "data": traces}


@pytest.fixture(scope="module")
def html():
    """Give the page of ten pairs with every key."""
    return render_page(builder.make_report()).html


def test_page_is_whole_and_in_order(html):
    """Tags are balanced, ids are unique, headings go down by one, links lead to sections."""
    seen = outline(html)
    assert seen.headings[0] == 1
    assert seen.headings.count(1) == 1
    assert all(
        after - before <= 1 for before, after in zip(seen.headings, seen.headings[1:], strict=False)
    )
    assert len(seen.ids) == len(set(seen.ids))
    assert seen.links
    assert all(link.startswith("#") and link[1:] in seen.ids for link in seen.links)
    assert '<html lang="en">' in html
    assert "<title>feeder120b" in html


def test_page_carries_the_library_once_and_unpacks_to_plotlys_own(html):
    """One copy, and byte for byte the pinned package's."""
    packed = packed_library()
    assert html.count(packed[:2000]) == 1
    assert gzip.decompress(base64.b64decode(packed)).decode() == plotly.offline.get_plotlyjs()
    assert len(html) < 3_000_000


def test_page_names_no_address_and_forbids_every_request(html):
    """Offline: nothing to load, and a policy that would refuse it."""
    own = html.replace(packed_library(), "")
    assert "default-src 'none'" in own
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", own)
    assert "http://" not in own
    assert "https://" not in own
    assert "@import" not in own
    assert "url(" not in own


def test_page_is_the_same_for_the_same_report(html):
    """No time or order of a hash gets in: a page can be compared with another."""
    assert render_page(builder.make_report()).html == html


def test_every_table_has_as_many_cells_as_titles(html):
    """A column without a title, or a title without a column, would shift what is read."""
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        n_titles = table.count('scope="col"')
        for row in re.findall(r"<tr>.*?</tr>", table.split("</thead>")[1], re.DOTALL):
            assert len(re.findall(r"<t[hd] ", row)) == n_titles


def test_hostile_names_are_shown_and_never_run():
    """Pair, host, store and reasons come from data: each stands as text, in tables and in plots."""
    result = builder.with_decision(
        builder.make_result(HOSTILE), reason="</td><script>alert(2)</script>"
    )
    facts = {**result.provenance, "host": "<img src=x onerror=alert(1)>"}
    known = TunedPair(replace(result, provenance=facts))
    report = builder.make_report({HOSTILE: known})
    stored = StoreContent("<b>store</b>", report.stored.records, {HOSTILE: 1}, ["<i>note</i>"])
    hostile = builder.make_report(report.results, stored=stored, feeder_id="<u>f</u>")
    html = render_page(hostile).html
    harmless = outline(
        render_page(
            builder.make_report(
                {HOSTILE.replace("<", "").replace(">", ""): report.results[HOSTILE]}
            )
        ).html
    )
    assert len(outline(html).scripts) == len(harmless.scripts)
    for text in ("<script>alert", "<img", "<b>store", "<i>note", "<u>f"):
        assert text not in html
    assert "&lt;script&gt;alert" in html


def test_plot_labels_escape_what_plotly_would_read_as_tags():
    """Plotly draws some tags in labels: a pair must be shown as it is spelled."""
    name = "<a href='http://x'>X</a>/USDT:USDT"
    report = builder.make_report({name: TunedPair(builder.make_result(name))})
    html = render_page(report).html
    assert plots_of(html)
    for plot in plots_of(html):
        assert "<" not in json.dumps(plot).replace("<b>", "").replace("</b>", "").replace(
            "<br>", ""
        ).replace("<extra></extra>", "")


def test_stored_records_say_what_they_lack_in_each_section():
    """Pairs tuned elsewhere make a page, with the sections that a record can fill."""
    results = {pair: builder.make_stored(known) for pair, known in builder.make_results().items()}
    page = render_page(builder.make_report(results))
    for what in ("decision value", "A decision", "calibration tests", "No candles", "interval"):
        assert any(what in line for line in page.missing), what
    assert all(line in page.html for line in page.missing)
    assert "any pair" in page.missing[0]
    outline(page.html)


def test_mixed_pairs_name_those_that_lack_a_part():
    """One stored record among results is named; the others are shown."""
    results = builder.make_results()
    first, *_ = results
    results[first] = builder.make_stored(results[first])
    page = render_page(builder.make_report(results))
    lines = [line for line in page.missing if "BTC" in line]
    assert len(lines) == 6  # interval, decision value, risk, decision, search, tests
    assert all("only its stored record is known" in line for line in lines)
    assert "ETH" not in "".join(lines)


def test_result_without_a_decision_is_shown_and_said():
    """A command that was killed between a search's end and its decision."""
    results = {BTC: TunedPair(builder.make_result(decision=None))}
    page = render_page(builder.make_report(results))
    assert page.missing == ["A decision: not available for any pair (its run has none)."]


def test_store_that_can_not_be_read_is_said_and_the_rest_is_shown():
    """The journal alone makes the page."""
    stored = StoreContent("postgresql db", error="connection refused")
    page = render_page(builder.make_report(stored=stored))
    assert any("connection refused" in line for line in page.missing)
    assert "Better than the ATR rule" in page.html


def test_chart_pair_without_candles_is_said():
    """The wanted pair is not silently replaced by another."""
    results = builder.make_results()
    first, second, *_ = results
    results[second] = builder.make_stored(results[second])
    report = builder.make_report(results)
    assert f"No candles are kept for {second}." in render_page(report, [second]).missing
    third = builder.TEN_PAIRS[2]
    html = render_page(report, [third]).html
    assert html.index(f"{third}: ") < html.index(f"{first}: ")


@pytest.mark.parametrize("side", ["long", "short"])
def test_report_document_is_json_with_the_verdict(side):
    """What `--json` prints: no NaN, and the figures of the page."""
    report = builder.make_report(side=side)
    page = render_page(report)
    document = json.loads(json.dumps(report_document(report, page), allow_nan=False))
    assert document["side"] == side
    assert document["verdict"]["pooled_skill"] == 0.0642
    assert list(document["pairs"]) == list(builder.TEN_PAIRS)
    assert document["pairs"][builder.TEN_PAIRS[0]]["decision"]["outcome"] == "promoted"


def test_decisions_name_what_was_written_and_what_went_to_the_candidates():
    """A refused set is somewhere, and where nothing ran there is no gain to tell."""
    refused = builder.make_result(outcome="refused")
    refused = builder.with_decision(refused, candidate=True, pooled_gain=None)
    html = render_page(builder.make_report({refused.pair: TunedPair(refused)})).html
    assert "nothing, tuned kept as candidate" in html
    assert "All pairs pooled: skill +6.4 ± 0.8." in html
    assert "All pairs pooled: gain +0.31" in render_page(builder.make_report()).html


def test_every_plot_is_one_that_plotly_accepts(html):
    """Figures are made without plotly's classes: those would refuse what is misspelt."""
    for plot in plots_of(html):
        go.Figure(unpacked(plot))


def test_page_of_163_pairs_is_below_five_megabytes_and_quickly_made():
    """163 pairs of 100 trials: 4.4 MB, made in 2 CPU-seconds where an idle machine does it."""
    report = builder.make_report(make_many_tuned())
    packed_library()
    started = time.process_time()
    page = render_page(report)
    assert time.process_time() - started < 12
    assert len(page.html.encode()) < 5_000_000
    assert page.html.count('class="plot"') == 4 + 1 + 10 + 163
    assert all(len(line) < 600 for line in (*page.missing, *page.verdict.warnings))


def test_page_has_no_room_for_candles_without_end(monkeypatch):
    """Candles of one minute take five times the room: what is left out is said, with how to see it."""
    monkeypatch.setattr("feeder_mixin.reports._candles.MOST_CANDLES", 2 * 576)
    report = builder.make_report()
    page = render_page(report, [builder.TEN_PAIRS[5]])
    assert page.html.count(" candles breached (") == 2
    assert f"{builder.TEN_PAIRS[5]}: " in page.html
    assert any("BNB" in line and "feeder report --pairs" in line for line in page.missing)


def luminance(colour: str) -> float:
    """Return a colour's relative luminance (WCAG 2.2)."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "muted", "bad"])
@pytest.mark.parametrize("ground", ["card", "page"])
def test_text_stands_out_from_its_ground(scheme, text, ground):
    """A contrast of at least 4.5."""
    lights = sorted(luminance(getattr(COLOURS[name], scheme)) for name in (text, ground))
    assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5
