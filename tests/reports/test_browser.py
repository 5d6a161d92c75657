"""The page as a reader's browser has it: drawn, silent, alone, and as wide as the screen."""

from __future__ import annotations

import time

import pytest

from feeder_mixin.reports.page import render_page
from tests import chromium
from tests.many_pairs import make_many_tuned
from tests.reports import builder
from tests.reports.picture import picture_of

pytestmark = pytest.mark.skipif(
    chromium.find_chromium() is None,
    reason=f"no Chromium: none of {', '.join(chromium.NAMES)} is installed",
)

HOSTILE = "<img src='http://127.0.0.1:9/x' onerror='window.hacked = 1'>/USDT:USDT"

WIDER_THAN_SCREEN = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
EMPTY_PLOTS = (
    "[...document.querySelectorAll('.plot')].filter(p => p.offsetParent"
    " && (!p.querySelector('svg.main-svg') || !p.querySelector('.trace, .scatterlayer > *')))"
    ".map(p => p.getAttribute('aria-label'))"
)
ONE_DRAWN = """
(() => {
  [...document.querySelectorAll('.plot')].find(p => p.offsetParent)?.scrollIntoView();
  return document.querySelector('.ytick text') !== null;
})()
"""
OVERLAPPING_LABELS = """
[...document.querySelectorAll('.plot')].filter(p => p.offsetParent).flatMap(plot => ['x', 'y'].flatMap(axis => {
  const boxes = [...plot.querySelectorAll(`.${axis}tick text`)].map(t => t.getBoundingClientRect());
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return boxes.some((a, i) => boxes.some((b, j) => i < j && meet(a, b)))
    ? [plot.getAttribute('aria-label').slice(0, 60)] : [];
}))
"""


@pytest.fixture(scope="module")
def browse():
    """Give a function that visits one browser, each time with a new tab."""
    with chromium.running_browser() as browse:
        yield browse


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Give the file of a page of ten pairs, one of them hostile, one of an older version."""
    results = builder.make_results((*builder.TEN_PAIRS[:9], HOSTILE))
    results[builder.TEN_PAIRS[8]] = builder.make_stored(results[builder.TEN_PAIRS[8]])
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(builder.make_report(results)).html, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("width", "dark"),
    [pytest.param(360, False, id="phone-light"), pytest.param(1280, True, id="desk-dark")],
)
def test_page_is_drawn_whole_in_silence_and_fits_the_screen(page, browse, width, dark):
    """No message, no request beside the file, every figure drawn, nothing to scroll sideways."""

    async def visit(tab):
        await tab.open(page, width, dark=dark)
        await tab.draw_all()
        assert tab.complaints == []
        assert [
            url for url in tab.requests if not url.startswith(("file:", "data:", "blob:"))
        ] == []
        assert await tab.evaluate(WIDER_THAN_SCREEN) is False
        assert await tab.evaluate("document.querySelectorAll('.plot').length") == 4 + 1 + 10 + 9
        assert await tab.evaluate(EMPTY_PLOTS) == []
        assert await tab.evaluate("window.hacked") is None
        without = "[...document.querySelectorAll('section')].filter(s => !s.querySelector('.plot, table, .numbers')).map(s => s.id)"
        assert await tab.evaluate(without) == []

    browse(visit)


def test_labels_of_ten_pairs_do_not_overlap_on_a_phone(browse, tmp_path):
    """What can't be read is not shown."""
    path = tmp_path / "report.html"
    path.write_text(render_page(builder.make_report()).html, encoding="utf-8")

    async def visit(tab):
        await tab.open(path, 360)
        await tab.draw_all()
        assert await tab.evaluate(OVERLAPPING_LABELS) == []

    browse(visit)


def test_colours_change_with_the_readers_scheme_without_loading_anew(page, browse):
    """At dusk the page follows: text of a figure is never dark on dark."""

    async def visit(tab):
        await tab.open(page, 360, until=ONE_DRAWN)
        ink = "getComputedStyle(document.querySelector('.ytick text')).fill"
        by_day = await tab.evaluate(ink)
        night = {"name": "prefers-color-scheme", "value": "dark"}
        await tab.call("Emulation.setEmulatedMedia", features=[night])
        changed = f"new Promise(r => setInterval(() => {ink} !== {by_day!r} && r(true), 50))"
        assert await tab.evaluate(changed)
        assert tab.complaints == []

    browse(visit)


def test_page_without_a_library_says_so_and_keeps_its_tables(page, browse, tmp_path):
    """A browser that can't unpack shows numbers, not nothing."""
    html = page.read_text(encoding="utf-8")
    start = html.index('id="library">') + len('id="library">')
    path = tmp_path / "broken.html"
    path.write_text(
        html[:start] + "AAAA" + html[html.index("</script>", start) :], encoding="utf-8"
    )

    async def visit(tab):
        await tab.open(path, 360)
        said = await tab.evaluate("document.getElementById('undrawn').textContent")
        assert "can't draw the figures" in said
        assert await tab.evaluate("document.querySelectorAll('table').length") >= 9

    browse(visit)


VISIBLE = "[...document.querySelectorAll('{}')].filter(item => item.offsetParent).length"
FIND = """
(text => {{
  const filter = document.getElementById('filter');
  filter.value = text;
  filter.dispatchEvent(new Event('input'));
}})('{}')
"""


@pytest.mark.slow
def test_page_of_163_pairs_answers_at_once_and_finds_a_pair(browse, tmp_path):
    """The reader gets the verdict, a few rows of each list, and any pair by typing its name."""
    path = tmp_path / "report.html"
    report = builder.make_report(make_many_tuned())
    path.write_text(render_page(report).html, encoding="utf-8")

    async def visit(tab):
        started = time.monotonic()
        await tab.open(path, 1280)
        assert time.monotonic() - started < 15  # 2 s on an idle machine
        assert await tab.evaluate(VISIBLE.format("#promotion tbody tr")) == 24
        assert await tab.evaluate(VISIBLE.format("#search figure")) == 1
        assert await tab.evaluate(VISIBLE.format("#candles figure")) == 1
        await tab.evaluate(FIND.format("1000000PEPE/USDT:USDT"))
        for part in ("#promotion tbody tr", "#search figure", "#candles figure"):
            assert await tab.evaluate(VISIBLE.format(part)) == 1, part
        assert await tab.evaluate("document.getElementById('found').textContent") == "1 of 163"
        await tab.draw_all()
        assert await tab.evaluate(EMPTY_PLOTS) == []
        await tab.evaluate(FIND.format(""))
        await tab.evaluate("document.querySelector('#promotion .more').click()")
        assert await tab.evaluate(VISIBLE.format("#promotion tbody tr")) == 163
        assert tab.complaints == []

    browse(visit)


@pytest.mark.slow
def test_picture_of_the_page_is_light_enough_for_the_readme(browse, tmp_path):
    """`make picture` makes a WebP that every clone can carry."""
    path = tmp_path / "report.html"
    path.write_text(render_page(builder.make_report()).html, encoding="utf-8")
    picture = browse(picture_of(path))
    assert picture[:4] + picture[8:12] == b"RIFFWEBP"
    assert 10_000 < len(picture) < 150_000
