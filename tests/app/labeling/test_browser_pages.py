"""Pages fit their window, and what is operated has a name and a size."""

import pytest

from tests.app.labeling.acting import log_in, picture, press, says
from tests.app.labeling.making import add_batch

pytestmark = pytest.mark.browser


def test_everything_that_is_operated_has_a_name(site, page):
    """What a screen reader says for each control, in both steps and with all panels open."""
    add_batch(site, count=1, k=4)
    log_in(page)
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")
    press(page, "?", "s")
    nameless = """[...document.querySelectorAll('button, input:not([type=hidden]), select, textarea, a')].filter(e => {
        const labels = [...(e.labels || [])].map(label => label.textContent).join('');
        return !(e.getAttribute('aria-label') || e.textContent.trim() || labels.trim());
    }).map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.evaluate("[...document.querySelectorAll('[aria-live]')].length") >= 2


def test_admin_pages_at_two_widths(site, page):
    add_batch(site, count=2)
    log_in(page, "ada")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        for name in ("", "/labelers", "/disputed", "/exports", "/instructions", "/people"):
            page.goto(f"/admin{name}")
            if not name:
                page.wait_for_selector("#agreement table")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            picture(page, f"admin{name.replace('/', '-')}-{width}")


SMALL = """[...document.querySelectorAll('main button, main .button, main summary, main label, nav a, nav button, main select, main textarea, main input')]
    .filter(e => e.checkVisibility() && !e.closest('.unseen') && !(e.tagName === 'INPUT' && e.closest('label')) && !(e.tagName === 'SELECT' && e.closest('label')))
    .map(e => [e.outerHTML.slice(0, 90), e.getBoundingClientRect().width, e.getBoundingClientRect().height])
    .filter(([_, w, h]) => w < 43.9 || h < 43.9)"""


def test_targets_are_44_pixels_on_a_phone(site, phone):
    """Everything that is touched on the labeler's way, in both steps, with all panels open."""
    add_batch(site, count=1, k=9, view="rendered", start_from_ratings=True)
    page = phone
    log_in(page)
    assert page.evaluate(SMALL) == []
    page.goto("/work")
    page.wait_for_selector("#reading-done:visible")
    assert page.evaluate(SMALL) == []
    page.tap("#reading-done")
    page.wait_for_selector("#task:visible")
    page.tap("#help")
    page.tap("#about-prompt summary")
    page.tap("#skip")
    assert page.evaluate(SMALL) == []
    picture(page, "phone-rate-panels")
    page.tap("#skip-cancel")
    for card in page.query_selector_all(".card"):
        card.query_selector(".rate label:nth-of-type(4)").tap()
    page.tap("#forward")
    assert page.evaluate(SMALL) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    picture(page, "phone-rank")
    page.tap("#from-ratings")
    page.tap("#submit")
    says(page, "#message", "Saved")
