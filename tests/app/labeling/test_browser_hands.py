"""The whole way of a labeler with the keyboard alone, with the mouse alone, and by touch alone."""

import pytest

from tests.app.labeling.acting import (
    drag,
    log_in,
    positions,
    press,
    says,
    start,
    stored_ranks,
    tab_to,
    wait_saved,
)
from tests.app.labeling.making import add_batch

pytestmark = pytest.mark.browser


def test_keyboard_alone(site, page):
    """Log in, read, rate, flag, rank with a tie, reload in the middle, submit, skip, edit, log out;
    no mouse.
    """
    add_batch(site, count=2, k=3)
    log_in(page)
    tab_to(page, "a.button[href='/work']")
    press(page, "Enter")
    page.wait_for_selector("#reading-done:visible")
    tab_to(page, "#reading-done")
    press(page, "Enter")
    page.wait_for_selector("#task:visible")

    press(page, "?")
    assert page.is_visible("#help-panel")
    press(page, "Escape", "a", "f", "Space", "Shift+Digit6", "b", "Shift+Digit3", "Control+Enter")
    assert "C is not rated yet" in page.inner_text("#message")  # told, and taken there
    press(page, "c", "Shift+Digit3")
    wait_saved(page)
    page.reload()
    page.wait_for_selector("#task:visible")
    assert page.inner_text("#counts") == "3 of 3 rated"

    press(page, "Control+Enter", "a", "3", "b", "1", "c", "1", "u", "c", "1")
    assert "C on tier 1, best, tied with B. 3 of 3 placed." in page.inner_text("#announce")
    assert page.is_visible(
        "#contradiction"
    ) and "A (rated 6) is below B (rated 3)" in page.inner_text("#contradiction")
    wait_saved(page)
    page.reload()
    page.wait_for_selector("#task:visible")
    assert page.inner_text("#counts") == "3 of 3 placed"
    a, b, c = positions(page)
    press(page, "Control+Enter")
    says(page, "#message", "Saved on the server as answer")
    assert stored_ranks(site) == {b: 1, c: 1, a: 2}

    says(page, "#counts", "0 of 3 rated")  # the next task, not the one just answered
    press(page, "s", "ArrowDown", "ArrowDown", "Enter")
    page.wait_for_selector("#empty:visible")
    assert "Task skipped (sensitive to me)" in page.inner_text("#message")

    tab_to(page, "nav a[href='/mine']")
    press(page, "Enter")
    page.wait_for_selector("text=My answers")
    tab_to(page, "td a")
    press(page, "Enter")
    page.wait_for_selector("#task:visible")
    press(page, "Control+Enter", "a", "1", "Control+Enter")
    says(page, "#message", "version 2")
    assert stored_ranks(site) == {a: 1, b: 1, c: 1}
    tab_to(page, "nav form button")
    press(page, "Enter")
    page.wait_for_url("**/login")


def test_a_key_between_two_tasks_is_for_neither(site, page):
    """Pressed while the next task is on its way, or cannot be had: the task that was just skipped is
    not skipped again, and keeps no draft. Mutation seen red: the task done stays on the page.
    """
    add_batch(site, count=3, k=2)
    start(page)
    held = []

    def asked_for_the_next():
        """The page's request for another task, held until it is answered."""
        while not held:
            page.wait_for_timeout(20)
        return held.pop()

    page.route("**/api/next", lambda route: held.append(route))
    skip = ("s", "Space", "Enter")
    press(page, *skip)
    coming = asked_for_the_next()
    press(page, *skip, "Shift+Digit3")
    assert page.is_hidden("#task")
    page.wait_for_timeout(100)  # what the keys would have started has begun
    coming.continue_()
    says(page, "#left", "2 left")
    says(page, "#message", "Task skipped")
    assert (
        page.evaluate("Object.keys(localStorage).filter(k => k.startsWith('podium-draft'))") == []
    )
    press(page, *skip)
    asked_for_the_next().abort()
    says(page, "#message", "The server cannot be reached")
    page.unroute("**/api/next")
    page.click("text=Load this page again")
    says(page, "#left", "1 left")


def test_mouse_alone(site, page):
    """The same way with clicks and drags only (after typing the password)."""
    add_batch(site, count=2, k=3)
    log_in(page)
    page.click("a.button")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")
    page.click("#forward")
    assert "A, B, C are not rated yet" in page.inner_text("#message")
    for card, points in zip(page.query_selector_all(".card"), (7, 4, 4), strict=True):
        card.query_selector(f".rate input[value='{points}']").click()
    page.click(".card >> nth=1 >> summary")
    page.click(".card >> nth=1 >> .flags input >> nth=2")
    page.click("#forward")

    page.click("#submit")
    assert "not placed yet" in page.inner_text("#message")  # an untouched order cannot be submitted
    tier = "[data-tier='{}']".format
    cards = page.query_selector_all(".card")
    drag(page, cards[0].query_selector(".handle"), page.query_selector(tier(1)))
    drag(page, page.query_selector(".tier.unplaced .chip >> nth=0"), page.query_selector(tier(2)))
    cards[2].query_selector(".choose input[value='3']").click()
    drag(page, page.query_selector(tier(3) + " .chip"), page.query_selector(tier(2)))
    assert "2, tie" in page.inner_text(tier(2))
    page.click("#undo")
    assert "C" in page.inner_text(tier(3))
    drag(page, page.query_selector(tier(3) + " .chip"), page.query_selector(tier(2)))
    order = [c.get_attribute("data-position") for c in page.query_selector_all(".card")]
    wait_saved(page)
    page.reload()
    page.wait_for_selector("#task:visible")
    # cards never move
    assert [c.get_attribute("data-position") for c in page.query_selector_all(".card")] == order
    a, b, c = positions(page)
    page.click("#submit")
    says(page, "#message", "Saved")
    assert stored_ranks(site) == {a: 1, b: 2, c: 2}

    says(page, "#counts", "0 of 3 rated")  # the next task, not the one just answered
    page.click("#skip")
    page.click("#skip-panel input >> nth=0")
    page.click("#skip-panel button >> nth=0")
    page.wait_for_selector("#empty:visible")
    page.click("nav a[href='/mine']")
    page.click("td a")
    page.wait_for_selector("#task:visible")
    page.click("#step-rank")
    page.click(".card >> nth=2 >> .choose input[value='3']")
    page.click("#submit")
    says(page, "#message", "version 2")
    page.click("nav form button")
    page.wait_for_url("**/login")


def test_touch_alone(site, phone):
    """The same way on a phone with taps only (after typing the password): what is missing is told, a
    tie, a reload in the middle, undo, skip, an answer changed.
    """
    add_batch(site, count=2, k=3)
    page = phone
    log_in(page)
    page.tap("a.button")
    page.tap("#reading-done")
    page.wait_for_selector("#task:visible")
    page.tap("#forward")
    says(page, "#message", "A, B, C are not rated yet")
    for card, points in zip(page.query_selector_all(".card"), (7, 4, 4), strict=True):
        card.query_selector(f".rate label:nth-of-type({points})").tap()
    page.tap(".card >> nth=1 >> summary")
    page.tap(".card >> nth=1 >> .flags label >> nth=2")
    page.tap("#forward")
    page.tap("#submit")
    says(page, "#message", "not placed yet")
    tier = ".card >> nth={} >> .choose label:nth-of-type({})".format
    page.tap(tier(0, 1))
    page.tap(tier(1, 2))
    page.tap(tier(2, 3))
    page.tap("#undo")
    page.tap(tier(2, 2))
    assert "2, tie" in page.inner_text("[data-tier='2']")
    wait_saved(page)
    page.reload()
    page.wait_for_selector("#task:visible")
    a, b, c = positions(page)
    page.tap("#submit")
    says(page, "#message", "Saved on the server as answer")
    assert stored_ranks(site) == {a: 1, b: 2, c: 2}

    says(page, "#counts", "0 of 3 rated")
    page.tap("#skip")
    page.tap("#skip-panel label >> nth=0")
    page.tap("#skip-panel button >> nth=0")
    page.wait_for_selector("#empty:visible")
    page.tap("nav a[href='/mine']")
    page.tap("td a")
    page.wait_for_selector("#task:visible")
    page.tap("#step-rank")
    page.tap(tier(2, 3))
    page.tap("#submit")
    says(page, "#message", "version 2")
    assert stored_ranks(site) == {a: 1, b: 2, c: 3}
    page.tap("nav form button")
    page.wait_for_url("**/login")
