"""Researchers in a browser: a demo that stores nothing, and an adjudication by keyboard and by touch."""

import pytest
from sqlalchemy import func, select

from app.labeling.task_tables import Adjudication, Assignment, Draft, Submission
from tests.app.labeling.acting import log_in, press, says, tab_to
from tests.app.labeling.making import add_batch

pytestmark = pytest.mark.browser


def test_a_demo_stores_nothing(site, page):
    """Rate, rank, submit, skip: nothing is sent to the server and nothing kept in the browser."""
    add_batch(site, count=2, k=2)
    log_in(page, "ada")
    sent = []
    page.on("request", lambda r: sent.append(r.url) if r.method != "GET" else None)
    page.goto("/admin/batches/1/demo")
    page.wait_for_selector("#task:visible")
    says(page, "#left", "2 left")
    press(page, "Shift+Digit3", "Shift+Digit6", "Control+Enter", "1", "2")
    says(page, "#saved", "demo: not kept")
    press(page, "Control+Enter")
    says(page, "#left", "1 left")
    press(page, "s", "Space", "Enter")
    page.wait_for_selector("#empty:visible")
    assert sent == [] and page.evaluate("localStorage.length") == 0
    with site.database.read() as session:
        for table in (Assignment, Draft, Submission):
            assert session.scalar(select(func.count()).select_from(table)) == 0


@pytest.mark.parametrize("hand", ["keyboard", "touch"])
def test_an_adjudication(site, chromium, served, hand):
    add_batch(site, count=1, k=2)
    context = chromium.new_context(
        viewport={"width": 360, "height": 740}, base_url=served, has_touch=True
    )
    page = context.new_page()
    log_in(page, "ada")
    page.goto("/admin/tasks/1")
    if hand == "keyboard":
        for n, rank in enumerate("21"):
            tab_to(page, f"label.verdict:nth-of-type({n + 1}) select")
            press(page, rank)
        press(page, "Tab", "Tab", "Enter")
    else:
        for n, rank in enumerate("21"):
            page.tap(f"label.verdict >> nth={n} >> select")
            page.select_option(f"label.verdict >> nth={n} >> select", rank)
        page.tap("main form button")
    says(page, "main", "Adjudicated by ada")
    with site.database.read() as session:
        assert session.scalars(select(Adjudication.tiers)).all() == [[[1], [0]]]
    context.close()
