"""The chat behind the labeling site's login, in a real browser: kept over refresh and restart, blind,
with a place in the line, and honest about a login that has ended.
"""

import json
import os
import re
import threading
from pathlib import Path

import pytest
from playwright.sync_api import expect
from sqlalchemy import delete, select

from app.chat.talk import Talk
from app.labeling.chat_tables import Chat, Vote
from app.labeling.site import Settings, open_site
from app.labeling.tables import LoginSession
from app.server import build_server
from app.serving import serving
from tests.app.chat.starting import GRADIO
from tests.app.labeling.looking import faults, violations
from tests.app.labeling.making import PASSWORD, add_person

pytestmark = pytest.mark.browser
PATIENCE = 30_000


@pytest.fixture
def site(chat_run, tmp_path):
    site = open_site(Settings(folder=tmp_path / "labeling", run=chat_run))
    for handle in ("lea", "ben"):
        add_person(site, handle)
    return site


@pytest.fixture
def visit(browser):
    """`visit(address, "lea")`: logged in, on the chat; any script error fails the test."""
    contexts, faults = [], []

    def open_page(
        address: str, handle: str, width: int = 1280, height: int = 800, touch: bool = False
    ):
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, has_touch=touch)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{address}/chat")
        page.fill("input[name=handle]", handle)
        page.fill("input[name=password]", PASSWORD)
        page.click("main button")
        page.wait_for_selector("#message textarea", timeout=PATIENCE)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def picture(page, name: str) -> None:
    if folder := os.environ.get("PODIUM_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"chat-{name}.png")


def ask(page, text: str) -> None:
    page.fill("#message textarea", text)
    page.click("#send")


def captions(page, side: int = 0):
    return page.locator(f"#log-{side} .thought .message-content")


def answered(page, count: int, side: int = 0) -> None:
    expect(captions(page, side)).to_have_count(count, timeout=PATIENCE)
    expect(captions(page, side).last).to_have_text(
        re.compile(r"(ended|cut off at the limit|stopped) · seed"), timeout=PATIENCE
    )
    expect(page.locator("#send")).to_be_visible(timeout=PATIENCE)


def test_a_blind_vote_and_a_chat_that_outlives_refresh_restart_and_others(site, visit, tmp_path):
    """Names come after the vote; the same conversation is there after a reload and another server
    start; nobody else sees it. Seen red: there was no blind mode and no history.
    """
    with serving(build_server(site)) as address:
        page = visit(address, "lea")
        page.check("#blind input")
        ask(page, "Tell me a story about an owl.")
        answered(page, 1)
        answered(page, 1, side=1)
        found = faults(page, "chat-blind", GRADIO)
        page.reload()
        answered(page, 1)
        expect(page.locator("#blind input")).to_be_checked()  # else the next message told the names
        before = captions(page).inner_text() + captions(page, 1).inner_text()
        assert "Model on the left" in before and "Model on the right" in before
        assert "reward" not in before and "ppo" not in before and "sft" not in before
        page.click("text=Right is better")
        expect(captions(page)).to_contain_text("reward", timeout=PATIENCE)
        after = captions(page).inner_text() + captions(page, 1).inner_text()
        assert "(ppo)" in after and "(sft)" in after
        found += faults(page, "chat-revealed", GRADIO)
        with page.expect_download() as download:
            page.click("#export")
        rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
        assert [row["meta"]["side"] for row in rows] == ["left", "right"]
        assert rows[0]["messages"][0]["content"] == "Tell me a story about an owl."
        page.reload()
        page.wait_for_selector("#message textarea", timeout=PATIENCE)
        answered(page, 1)
        assert "Tell me a story" in page.inner_text("#log-0") and "(sft)" in page.inner_text(
            "#logs"
        )
    again = open_site(site.settings)
    with serving(build_server(again)) as address:
        page = visit(address, "lea")
        answered(page, 1)
        answered(page, 1, side=1)
        page.click("#clear")
        expect(captions(page)).to_have_count(0)
        ask(page, "Something else.")
        answered(page, 1)
        page.click("#earlier input")
        found += faults(page, "chat-history", GRADIO)
        page.click("[role=option]:has-text('Tell me a story')")
        expect(page.locator("#log-0")).to_contain_text("Tell me a story", timeout=PATIENCE)
        page.click("#forget")
        expect(captions(page)).to_have_count(0, timeout=PATIENCE)
        other = visit(address, "ben")
        expect(captions(other)).to_have_count(0)
        assert "Something else" not in other.content()
        with again.database.read() as session:
            (vote,) = session.scalars(select(Vote))
            assert vote.blind and vote.choice == "right"
            assert [chat.title for chat in session.scalars(select(Chat))] == ["Something else."]
    assert found == []


def test_a_box_ticked_before_the_page_has_looked_for_a_kept_chat_stays_ticked(
    site, visit, monkeypatch
):
    """A slow database must not make a blind comparison an open one. Seen red: with nothing to
    restore, the answer took both ticks away again.
    """
    restore, asked, ticked = Talk.restore, threading.Event(), threading.Event()

    def late(self, *given):
        asked.set()
        assert ticked.wait(PATIENCE / 1000)
        return restore(self, *given)

    monkeypatch.setattr(Talk, "restore", late)
    with serving(build_server(site)) as address:
        page = visit(address, "lea")
        assert asked.wait(PATIENCE / 1000)
        page.check("#blind input")
        expect(page.locator("#compare input")).to_be_checked(timeout=PATIENCE)
        with page.expect_response("**/run/predict**"):
            ticked.set()
        page.wait_for_timeout(500)  # what would untick it has come by now
        expect(page.locator("#blind input")).to_be_checked()
        expect(page.locator("#compare input")).to_be_checked()


def tab_to(page, selector: str) -> None:
    """Press Tab until what `selector` names has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        page.wait_for_timeout(50)  # a list opens and closes as the focus comes and goes
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"no key leads to {selector}")


def test_the_whole_way_by_keyboard_alone_and_by_touch_alone(site, visit):
    """A blind comparison, its vote, another question, a new chat. Seen red: the Tab key that came
    by the list of earlier chats unticked Blind, and left each list open over the page.
    """
    right = "#votes button:nth-of-type(3)"
    with serving(build_server(site)) as address:
        page = visit(address, "lea")
        tab_to(page, "#blind input")
        page.keyboard.press("Space")
        expect(page.locator("#compare input")).to_be_checked(timeout=PATIENCE)
        tab_to(page, "#message textarea")
        expect(page.locator("ul[role=listbox]")).to_have_count(0)  # of the lists on the way
        page.keyboard.type("Tell me a story.")
        page.keyboard.press("Enter")
        answered(page, 1, side=1)
        tab_to(page, right)
        page.keyboard.press("Enter")
        expect(captions(page)).to_contain_text("reward", timeout=PATIENCE)
        tab_to(page, "#message textarea")
        page.keyboard.type("Another one.")
        tab_to(page, "#send")
        page.keyboard.press("Enter")
        answered(page, 2)
        tab_to(page, "#clear")
        page.keyboard.press("Enter")
        expect(captions(page)).to_have_count(0, timeout=PATIENCE)

        page = visit(address, "ben", 360, 740, touch=True)
        page.tap("#blind input")
        expect(page.locator("#compare input")).to_be_checked(timeout=PATIENCE)
        page.tap("#message textarea")
        page.keyboard.type("Tell me a story.")  # a phone's own keys
        page.tap("#send")
        answered(page, 1, side=1)
        page.tap(right)
        expect(captions(page)).to_contain_text("reward", timeout=PATIENCE)
        page.tap("#clear")
        expect(captions(page)).to_have_count(0, timeout=PATIENCE)
    with site.database.read() as session:
        votes = session.scalars(select(Vote)).all()
        assert [vote.blind for vote in votes] == [True, True]
        assert len({vote.choice for vote in votes}) == 1


def test_a_login_that_ends_in_mid_chat_says_so_and_the_chat_goes_on(site, visit):
    """Seen red: the message stayed in its box and nothing was said."""
    with serving(build_server(site)) as address:
        page = visit(address, "lea")
        ask(page, "Hello")
        answered(page, 1)
        with site.database.write() as session:
            session.execute(delete(LoginSession))
        ask(page, "Are you there?")
        expect(page.locator("#logged-out")).to_contain_text("Your login has ended")
        assert page.input_value("#message textarea") == "Are you there?"
        # Seen red: the word "Error" over both logs, and nothing of what was said.
        page.wait_for_selector("#log-0 [data-testid=status-tracker]", state="attached")
        expect(page.locator("#log-0 [data-testid=status-tracker]")).to_be_hidden()
        assert faults(page, "chat-logged-out", GRADIO) == []
        link = page.locator("#logged-out a")
        assert (link.get_attribute("href"), link.get_attribute("target")) == ("/login", "_blank")
        # not through the link: a headless browser draws hidden tabs late or never
        sent = {"handle": "lea", "password": PASSWORD}
        assert page.request.post(f"{address}/api/login", data=sent).ok
        page.click("#send")
        answered(page, 2)
        expect(page.locator("#logged-out")).to_be_hidden()


def test_a_visitor_in_the_line_sees_their_place_and_others_go_before_many_tabs(
    site, visit, slowly, monkeypatch
):
    """And whoever closes the page or presses Stop leaves the line. Seen red: one person's tabs took
    all the places, and the next one saw nothing for a minute. Mutation seen red: the ticket is kept
    when the answer is closed.
    """
    monkeypatch.setattr("app.chat.page.VISITORS_AT_ONCE", 1)
    monkeypatch.setattr("app.chat.page.EACH_AT_ONCE", 1)
    with serving(build_server(site)) as address:
        first = visit(address, "lea")
        first.click("#sampling > button")
        first.fill("#length input[type=number]", "400")
        first.press("#length input[type=number]", "Tab")
        second = visit(address, "lea")  # another window: a hidden tab does not draw
        ben = visit(address, "ben", 360, 740)
        ask(first, "One")
        expect(captions(first)).to_have_count(1, timeout=PATIENCE)
        ask(second, "Two")
        expect(second.locator("#place")).to_contain_text("number 1 in the line", timeout=PATIENCE)
        ask(ben, "Three")
        expect(ben.locator("#place")).to_contain_text("number 1 in the line", timeout=PATIENCE)
        picture(ben, "line-360")
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        assert violations(axe, ben, GRADIO) == []
        expect(second.locator("#place")).to_contain_text("number 2 in the line", timeout=PATIENCE)
        second.click("#stop")
        expect(second.locator("#place")).to_be_hidden(timeout=PATIENCE)
        assert second.input_value("#message textarea") == "Two"
        first.context.close()  # long before its answer is whole
        answered(ben, 1)
        expect(ben.locator("#place")).to_be_hidden()
