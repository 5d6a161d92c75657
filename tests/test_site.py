"""The documentation site as a reader's browser has it: silent, alone, as wide as the screen, searchable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium.find_chromium() is None,
        reason=f"no Chromium: none of {', '.join(chromium.NAMES)} is installed",
    ),
]

ROOT = Path(__file__).parents[1]
LOADED = "document.readyState === 'complete' && !!document.querySelector('.md-content h1')"
WIDER_THAN_SCREEN = (
    "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    " || document.body.scrollWidth > document.body.clientWidth"
)
TOO_FAINT = """
(() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
  const over = (colour, below) => {
    canvas.fillStyle = `rgb(${below.join(" ")})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    const chain = [];
    for (let e = element; e; e = e.parentElement) chain.unshift(e);
    return chain.reduce((below, e) => over(getComputedStyle(e).backgroundColor, below), [255, 255, 255]);
  };
  const found = new Set();
  for (const element of document.querySelectorAll(".md-content :is(p, li, td, th, h1, h2, h3, a, code, code span):not(.headerlink)")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !element.getClientRects().length) continue;
    const below = ground(element), ink = over(getComputedStyle(element).color, below);
    const [high, low] = [light(ink), light(below)].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) found.add(`${element.tagName}.${element.className} ${contrast.toFixed(2)} ${element.textContent.slice(0, 30)}`);
  }
  return [...found].slice(0, 5);
})()
"""


@pytest.fixture(scope="module")
def browse():
    """Give a function that visits one browser, each time with a new tab."""
    with chromium.running_browser() as browse:
        yield browse


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Give the folder of the site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def build(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of `root` into `folder`, as `make docs` does."""
    return subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
        capture_output=True,
        text=True,
    )


LINKS_TO_NOTHING = ("tune.md#nowhere", "gone.md", "../../feeder_mixin/schema.py")


@pytest.mark.parametrize(
    ("mistakes", "said"),
    [
        pytest.param([f"[x]({link})" for link in LINKS_TO_NOTHING], LINKS_TO_NOTHING, id="links"),
        pytest.param(["<!-- generated: gone -->"], ["KeyError: 'gone'"], id="table"),
    ],
)
def test_page_with_a_mistake_ends_the_build(tmp_path, mistakes, said):
    """What a reader would stumble over is red before it is published."""
    for name in ("docs", "config"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "feeder_mixin").symlink_to(ROOT / "feeder_mixin")
    page = tmp_path / "docs" / "use" / "report.md"
    whole = "\n\n".join([page.read_text(encoding="utf-8"), *mistakes])
    page.write_text(whole + "\n", encoding="utf-8")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert [words for words in said if words not in built.stderr] == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_page_is_silent_alone_readable_and_fits_the_screen(site, browse, width, dark):
    """No message, no request beside the files, contrast of 4.5 at least, nothing to scroll sideways."""
    pages = sorted(p for p in site.rglob("*.html") if p.name != "404.html")
    assert len(pages) > 30
    found = {}

    async def visit(tab):
        for page in pages:
            scheme = f"document.body.dataset.mdColorScheme === '{'slate' if dark else 'default'}'"
            await tab.open(page, width, dark=dark, until=f"{LOADED} && {scheme}")
            problems = [*tab.complaints, *await tab.evaluate(TOO_FAINT)]
            problems += [
                url for url in tab.requests if not url.startswith(("file:", "data:", "blob:"))
            ]
            if await tab.evaluate(WIDER_THAN_SCREEN):
                problems.append("wider than the screen")
            if problems:
                found[str(page.relative_to(site))] = problems
            tab.complaints.clear()
            tab.requests.clear()

    browse(visit)
    assert found == {}


def test_search_answers_in_a_page_that_was_opened_as_a_file(site, browse):
    """No server, no network: the index comes along."""

    async def visit(tab):
        await tab.open(site / "index.html", 1280, until=LOADED)
        await tab.evaluate(
            "(() => { const q = document.querySelector('[data-md-component=search-query]'); q.focus();"
            " q.value = 'kupiec'; q.dispatchEvent(new Event('keyup')); q.dispatchEvent(new Event('input')); })()"
        )
        results = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.getAttribute('href'))"
        for _ in range(chromium.PATIENCE_S):
            if links := await tab.evaluate(results):
                break
            await tab.evaluate("new Promise(r => setTimeout(r, 1000))")
        assert any("reference/records.html" in link for link in links), links
        assert tab.complaints == []

    browse(visit)
