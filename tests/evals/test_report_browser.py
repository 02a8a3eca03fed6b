"""The report's page in a real headless Chromium: on a phone, and in dark mode.

Set PODIUM_SCREENSHOTS to a folder to keep the pictures.
"""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from evals.report import render

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
READABLE = 4.5  # WCAG 2.1 AA for text of ordinary size

CONTRASTS = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    if (![...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim())) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, node.tagName + ": " + node.textContent.slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def chromium():
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, mini_run):
    """The miniature run's page, all details open: `opened(width, scheme)` -> a tab."""
    page, contexts = render(mini_run), []

    def open_page(width: int, scheme: str):
        viewport = {"width": width, "height": 800}
        contexts.append(chromium.new_context(viewport=viewport, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.goto(page.resolve().as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        folder = os.environ.get("PODIUM_SCREENSHOTS")
        if folder:
            tab.screenshot(path=Path(folder) / f"report-{width}-{scheme}.png", full_page=True)
        return tab

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_never_scrolls_sideways(opened, width):
    """Tables scroll in their own box. Seen red without `overflow-x` on that box."""
    tab = opened(width, "light")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    boxes = tab.evaluate("[...document.querySelectorAll('.wide')].map(b => b.scrollWidth)")
    assert max(boxes) > 360, "the tables are wider than a phone, so the box is what scrolls"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(opened, scheme):
    """Seen red with the light page's grey on the dark page."""
    found = opened(360, scheme).evaluate(CONTRASTS)
    assert len(found) > 100
    assert [text for ratio, text in found if ratio < READABLE] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_have_the_pages_ground_and_ink_that_stands_out(opened, scheme):
    """Seen red without the filter: dark ink on a dark page."""
    picture = opened(1280, scheme).locator("figure img").first.screenshot()
    light = imread(io.BytesIO(picture))[..., :3].mean(axis=-1)  # (H, W), 0 is black
    ground = float(np.median(light))
    assert ground > 0.95 if scheme == "light" else ground < 0.15
    ink = light.min() if scheme == "light" else light.max()
    assert abs(float(ink) - ground) > 0.6


def test_a_phone_opens_with_the_three_sentences(opened):
    tab = opened(360, "light")
    sentences = tab.locator(".opening li")
    assert sentences.count() == 3
    first, second, third = sentences.all_inner_texts()
    assert "PPO-ptx" in first and "SFT" in first and "judged by" in first
    assert second.startswith("The price: ") and third.startswith("Best of 4, ")
    assert sentences.first.bounding_box()["y"] < 200
