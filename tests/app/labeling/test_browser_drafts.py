"""Unfinished answers outlive a reload, a lost server, a lost login and a second tab."""

import re

import pytest
from playwright.sync_api import expect
from sqlalchemy import delete, select

from app.labeling.tables import LoginSession
from app.labeling.task_tables import Assignment, Draft
from tests.app.labeling.acting import log_in, picture, press, says, stored_ranks, wait_saved
from tests.app.labeling.making import PASSWORD, add_batch

pytestmark = pytest.mark.browser


def test_drafts_outlive_the_server_and_a_lost_login(site, page):
    """While the server refuses, the draft stays in the browser and the page says why; afterwards it
    goes through.
    """
    add_batch(site, count=1, k=2)
    log_in(page)
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")
    page.route("**/draft", lambda route: route.abort())
    press(page, "a", "Shift+Digit5", "b", "Shift+Digit2")
    says(page, "#saved", "kept in this browser only")
    page.unroute("**/draft")
    page.reload()
    page.wait_for_selector("#task:visible")
    assert page.inner_text("#counts") == "2 of 2 rated"
    press(page, "Control+Enter", "a", "1", "b", "2")
    wait_saved(page)
    cookies = page.context.cookies()
    page.context.clear_cookies()
    press(page, "Control+Enter")
    says(page, "#message", "logged out")
    assert page.inner_text("#counts") == "2 of 2 placed"
    page.context.add_cookies(cookies)
    press(page, "Control+Enter")
    says(page, "#message", "Saved")
    with site.database.read() as session:
        assert session.scalars(select(Assignment.state)).all() == ["submitted"]


def test_after_a_login_in_another_tab_submit_stores(site, page):
    """The session ends in the middle of a task; the page says to log in in another tab, and that is
    enough. Seen red: the new session has another token, and the page said "reload" for ever, with
    "saving..." beside it.
    """
    add_batch(site, count=1, k=2)
    log_in(page)
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")
    press(page, "a", "Shift+Digit5", "b", "Shift+Digit2", "Control+Enter", "a", "1", "b", "2")
    with site.database.write() as session:
        session.execute(delete(LoginSession))
    press(page, "Control+Enter")
    says(page, "#message", "logged out")
    says(page, "#saved", "kept in this browser only")
    picture(page, "logged-out")
    with page.context.expect_page() as opened:
        page.click("text=Log in in a new tab")
    other = opened.value
    other.fill("input[name=handle]", "lea")
    other.fill("input[name=password]", PASSWORD)
    other.click("main button")
    other.wait_for_url(re.compile(r"/$"))
    page.click("#submit")
    says(page, "#message", "Saved on the server")
    assert sorted(stored_ranks(site).values()) == [1, 2]


def test_somebody_elses_login_does_not_send_this_persons_work(site, page):
    """Mutation seen red: `fetchToken` without the comparison of the handles."""
    add_batch(site, count=1, k=2)
    log_in(page)
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")
    press(page, "a", "Shift+Digit5", "b", "Shift+Digit2", "Control+Enter", "a", "1", "b", "2")
    page.context.clear_cookies()
    other = page.context.new_page()
    log_in(other, "ada")
    calls = []
    page.on("request", lambda request: calls.append(request.url))
    press(page, "Control+Enter")
    says(page, "#message", "Reload it and try again")
    says(page, "#saved", "kept in this browser only")
    assert sum(url.endswith("/submit") for url in calls) == 1


def test_a_second_tab_does_not_silently_win(site, page):
    """Two tabs on one task: the later draft is not stored over the other's; the labeler chooses,
    also after a reload. Seen red: the second tab's draft replaced the first's.
    """
    add_batch(site, count=1, k=2)
    log_in(page)
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")
    second = page.context.new_page()
    second.goto("/work")
    second.wait_for_selector("#task:visible")
    press(page, "a", "Shift+Digit5", "b", "Shift+Digit2")
    wait_saved(page)
    press(second, "a", "Shift+Digit1")
    says(second, "#conflict", "another tab")
    says(second, "#saved", "not saved")
    picture(second, "conflict")
    second.reload()  # the question does not go away with the page
    says(second, "#conflict", "another tab")

    def likert() -> list:
        with site.database.read() as session:
            draft = session.scalars(select(Draft)).one()
            return sorted(r["likert"] or 0 for r in draft.body["responses"])

    assert likert() == [2, 5]
    second.click("#conflict-theirs")
    expect(second.locator("#conflict")).to_be_hidden()
    assert second.inner_text("#counts") == "2 of 2 rated"
    press(second, "a", "Shift+Digit7")
    wait_saved(second)
    assert likert() == [2, 7]
    press(page, "b", "Shift+Digit3")
    says(page, "#conflict", "another tab")
    page.click("#conflict-mine")
    wait_saved(page)
    assert likert() == [3, 5]
