"""People's sessions in a real headless Chromium: keyboard alone, mouse alone, small and zoomed
screens.

Set PODIUM_SCREENSHOTS to a folder to keep the pictures.
"""

import os
import random
import re
import shutil
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from app.labeling.application import create_site
from app.labeling.importing import Candidates
from app.labeling.tables import Assignment, Draft, LoginSession, ResponseRating, Submission
from app.serving import serving
from data.records import Message
from tests.app.labeling.hostile import HOSTILE
from tests.app.labeling.making import PASSWORD, add_batch, add_person, candidates

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
WORDS = [
    "an",
    "old",
    "owl",
    "found",
    "a",
    "lantern",
    "in",
    "the",
    "barn",
    "while",
    "villagers",
    "slept",
]


@pytest.fixture(scope="module")
def chromium():
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def served(site):
    """The site's address; lea is a labeler, ada an admin."""
    add_person(site, "lea")
    add_person(site, "ada", role="admin")
    with serving(create_site(site)) as address:
        yield address


@pytest.fixture
def page(chromium, served):
    """A page of 1280 x 800; any script error or dialog fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, base_url=served)
    tab = context.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
    tab.on(
        "console",
        lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None,
    )
    yield tab
    context.close()
    assert faults == []


def picture(page, name: str) -> None:
    folder = os.environ.get("PODIUM_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def log_in(page, handle: str = "lea") -> None:
    page.goto("/login")
    page.wait_for_selector("input[name=handle]:focus")
    page.keyboard.type(handle)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/$"))


def tab_to(page, selector: str) -> None:
    """Press Tab until the element is focused, as somebody without a mouse does."""
    for _ in range(120):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard never reaches {selector}")


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def says(page, selector: str, text: str) -> None:
    """Wait until the element says so (by polling: the page's policy forbids Playwright's eval)."""
    sync_api.expect(page.locator(selector)).to_contain_text(text, timeout=20_000)


def wait_saved(page) -> None:
    says(page, "#saved", "draft saved")


def stored_ranks(site) -> dict[int, int]:
    """Ranks by position of the newest submission."""
    with site.database.read() as session:
        last = session.scalars(select(Submission.id).order_by(Submission.id.desc())).first()
        return {
            r.position: r.rank
            for r in session.scalars(
                select(ResponseRating).where(ResponseRating.submission_id == last)
            )
        }


def positions(page) -> list[int]:
    """The task's positions in the order of the letters."""
    return [int(c.get_attribute("data-position")) for c in page.query_selector_all(".card")]


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


def drag(page, source, target) -> None:
    source.scroll_into_view_if_needed()
    start, end = source.bounding_box(), target.bounding_box()
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(start["x"], start["y"] + 20, steps=3)
    page.mouse.move(end["x"] + end["width"] - 12, end["y"] + end["height"] / 2, steps=5)
    page.mouse.up()


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


def nine_long_answers() -> list[Candidates]:
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices(WORDS, k=rng.randint(280, 320))).capitalize() + "." for _ in range(9)
    ]
    prompt = "Write a long story about an owl and a lantern, with a sad ending."
    return [Candidates(prompt=[Message(role="user", content=prompt)], responses=texts)]


@pytest.mark.parametrize(
    ("width", "height"), [(1280, 800), (640, 400), (360, 740)], ids=["wide", "zoomed", "phone"]
)
def test_nine_answers_of_three_hundred_words(site, page, width, height):
    """Nothing is wider than the screen, every response is reached by its letter and every tier is
    in reach.
    """
    add_batch(site, records=nine_long_answers())
    log_in(page)
    page.set_viewport_size({"width": width, "height": height})
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")
    picture(page, f"rate-{width}")
    for number, letter in enumerate("abcdefghi"):
        press(page, letter, f"Shift+Digit{number % 7 + 1}")
        top = page.evaluate("document.activeElement.getBoundingClientRect().top")
        covered = (
            page.query_selector("#prompt").bounding_box() if width < 960 else {"y": 0, "height": 0}
        )
        assert covered["y"] + covered["height"] - 1 <= top <= height / 2, f"{letter} at {top}"
    press(page, "Control+Enter")
    picture(page, f"rank-{width}")
    for number, letter in enumerate("abcdefghi"):
        press(page, letter, str(number + 1))
    assert page.inner_text("#counts") == "9 of 9 placed"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1280:
        board = page.query_selector("#board").bounding_box()
        assert board["y"] >= 0 and board["y"] + board["height"] <= height
        assert page.evaluate(
            "const b = document.getElementById('board'); b.scrollHeight <= b.clientHeight + 120"
        )
    page.click("#shorten")
    picture(page, f"short-{width}")
    press(page, "Control+Enter")
    says(page, "#message", "Saved")


def test_text_of_models_is_shown_as_text(site, page):
    """Scripts, templates, right-to-left text, emoji and a million characters."""
    texts = [
        "<script>alert(1)</script><img src=x onerror=alert(2)>",
        "${alert(3)} {{7*7}}",
        "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643\u0645",
        "\U0001f989\U0001f3fd " * 5,
        "word " * 200_000,
    ]
    add_batch(site, records=[candidates(1, k=5)[0].model_copy(update={"responses": texts})])
    log_in(page)
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")
    shown = page.evaluate("[...document.querySelectorAll('.answer')].map(a => a.textContent)")
    assert sorted(shown) == sorted(texts) and page.query_selector(".answer *") is None
    picture(page, "text")


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
    sync_api.expect(second.locator("#conflict")).to_be_hidden()
    assert second.inner_text("#counts") == "2 of 2 rated"
    press(second, "a", "Shift+Digit7")
    wait_saved(second)
    assert likert() == [2, 7]
    press(page, "b", "Shift+Digit3")
    says(page, "#conflict", "another tab")
    page.click("#conflict-mine")
    wait_saved(page)
    assert likert() == [3, 5]


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


def start(page, handle: str = "lea") -> None:
    """Log in, read the instructions, and be at the first task."""
    log_in(page, handle)
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")


def test_a_ranking_of_k_takes_2k_and_2_keys(site, page):
    """Rate and place in the order shown; focus moves on by itself. Seen red: 4 K + 2, a letter
    before every digit.
    """
    k = 5
    add_batch(site, count=2, k=k)
    start(page)
    keys = [f"Shift+Digit{n + 1}" for n in range(k)] + ["Control+Enter"]
    keys += [f"Digit{k - n}" for n in range(k)] + ["Control+Enter"]
    order = positions(page)
    press(page, *keys)
    says(page, "#message", "Saved on the server as answer")
    assert len(keys) == 2 * k + 2
    assert stored_ranks(site) == {p: k - n for n, p in enumerate(order)}
    says(page, "#counts", f"0 of {k} rated")
    press(page, "Shift+Digit4", "u", "Shift+Digit2")  # undo goes back to where it was
    assert page.inner_text(".place >> nth=0") == "rated 2"


def test_the_pointer_is_not_moved_on(site, page):
    """Who clicks looks where they click: nothing scrolls away under the hand."""
    add_batch(site, count=1, k=3)
    start(page)
    page.click(".card >> nth=1 >> .rate label >> nth=3")
    assert page.evaluate("document.activeElement.closest('.card').id") == page.get_attribute(
        ".card >> nth=1", "id"
    )


@pytest.mark.parametrize("ties", [True, False])
def test_starting_from_the_ratings(site, page, ties):
    """Only where the batch offers it, only before anything is placed, and the answer says so."""
    add_batch(site, count=1, k=3, start_from_ratings=True, ties_allowed=ties)
    start(page)
    press(page, "t", "Shift+Digit3", "Shift+Digit6", "Shift+Digit3")
    assert page.is_hidden("#from-ratings")  # step 1
    press(page, "Control+Enter", "t")
    assert page.is_hidden("#from-ratings")
    a, b, c = positions(page)
    if ties:
        assert page.inner_text("#counts") == "3 of 3 placed"
        wanted = {a: 2, b: 1, c: 2}
    else:
        assert page.inner_text("#counts") == "1 of 3 placed"
        press(page, "Digit2", "Digit3")
        wanted = {a: 2, b: 1, c: 3}
    press(page, "Control+Enter")
    says(page, "#message", "Saved")
    assert stored_ranks(site) == wanted
    with site.database.read() as session:
        assert session.scalars(select(Submission.from_ratings)).all() == [True]


def test_no_start_from_ratings_unless_the_batch_says_so(site, page):
    add_batch(site, count=1, k=2)
    start(page)
    press(page, "Shift+Digit3", "Shift+Digit6", "Control+Enter", "t")
    assert page.is_hidden("#from-ratings") and page.inner_text("#counts") == "0 of 2 placed"


def test_no_hostile_text_does_anything_in_either_view(site, page):
    """All of them at once, as prompts and as responses, rendered and raw: no dialog, no request to
    anywhere else, no breach of the policy, and the page still works. The raw view is the text to
    the letter.

    Mutation seen red: `sanitise` returns what it is given (the policy is then what stops it, and
    says so).
    """
    rows = [HOSTILE[n : n + 9] for n in range(0, len(HOSTILE), 9)]
    rows[-1] += ["filling"] * (2 - len(rows[-1]))
    records = [
        Candidates(
            prompt=[Message(role="user", content=f"{n} " + "\n\n".join(texts))], responses=texts
        )
        for n, texts in enumerate(rows)
    ]
    add_batch(site, records=records, view="rendered")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    start(page)
    shown = []
    for row in rows:
        page.wait_for_selector("#task:visible")
        says(page, "#counts", f"0 of {len(row)} rated")
        page.wait_for_timeout(150)  # whatever would run on its own has run
        assert (
            page.query_selector(".answer script, .answer img, .answer a, .answer [style]") is None
        )
        press(page, "r")
        shown += page.evaluate("[...document.querySelectorAll('.answer')].map(a => a.textContent)")
        press(page, "r", "s", "Space", "Enter")
        page.wait_for_timeout(50)
        sync_api.expect(page.locator("#message")).to_contain_text("Task skipped", timeout=20_000)
    assert sorted(shown) == sorted(text for row in rows for text in row)
    origin = page.url.split("/work")[0]
    assert [url for url in asked if not url.startswith((origin, "data:,"))] == []


def test_rendered_and_raw(site, page):
    """Markdown, code, tables and formulas; the raw text is one key away, and the answer tells."""
    text = (
        "# Owls\n\n| eyes | $n$ |\n|---|---|\n| two | \\(x^2\\) |\n\n```python\nprint(1 < 2)\n```"
    )
    records = [candidates(1, k=2)[0].model_copy(update={"responses": [text, "**plain**"]})]
    add_batch(site, records=records, view="rendered")
    start(page)
    assert page.locator(".answer table td math msup").count() == 1
    assert page.locator(".answer pre code").inner_text().strip() == "print(1 < 2)"
    assert page.locator(".answer strong").count() == 1
    picture(page, "rendered")
    press(page, "r")
    assert page.query_selector(".answer *") is None
    picture(page, "raw")
    press(page, "r", "Shift+Digit3", "Shift+Digit6", "Control+Enter", "1", "2", "Control+Enter")
    says(page, "#message", "Saved")
    with site.database.read() as session:
        assert session.scalars(select(Submission.seen)).all() == ["both"]


def test_instructions_in_a_drawer_and_what_is_left(site, page):
    add_batch(site, count=3, k=2)
    start(page)
    says(page, "#left", "3 left")
    press(page, "n")
    says(page, "#drawer-body", "What makes an answer good")
    assert page.is_visible("#cards")
    picture(page, "drawer")
    press(page, "Shift+Digit3")  # the task goes on beside it
    says(page, "#counts", "1 of 2 rated")
    press(page, "Escape")
    assert page.is_hidden("#drawer")


def test_nine_responses_are_ranked_in_one_view(site, page):
    """At 1280 x 800 all nine cards, their tier buttons and the board are inside the window at once,
    and `V` gives them their full length.
    """
    add_batch(site, records=nine_long_answers())
    start(page)
    press(page, *(f"Shift+Digit{n % 7 + 1}" for n in range(9)), "Control+Enter")
    boxes = "[...document.querySelectorAll('.card, .choose label, #board')].map(e => { const b = e.getBoundingClientRect(); return [b.top, b.left, b.bottom, b.right, b.width, b.height]; })"
    found = page.evaluate(boxes)
    assert len(found) == 9 + 9 * 9 + 1
    for top, left, bottom, right, width, height in found:
        assert top >= 0 and left >= 0 and bottom <= 800 and right <= 1280
        assert width >= 24 and height >= 24  # WCAG 2.5.8
    press(page, "v")
    assert page.evaluate("document.querySelector('.card').getBoundingClientRect().height") > 400
    names = page.evaluate(
        "[...document.querySelectorAll('.card:first-child .choose input')].map(e => e.ariaLabel)"
    )
    assert (names[0], names[1], names[8]) == ("tier 1, best", "tier 2", "tier 9, worst")
    assert page.inner_text(".choose >> nth=0").split()[-1] == "worst"


SMALL = """[...document.querySelectorAll('main button, main .button, main summary, main label, nav a, nav button, main select, main textarea, main input')]
    .filter(e => e.checkVisibility() && !e.closest('.unseen') && !(e.tagName === 'INPUT' && e.closest('label')) && !(e.tagName === 'SELECT' && e.closest('label')))
    .map(e => [e.outerHTML.slice(0, 90), e.getBoundingClientRect().width, e.getBoundingClientRect().height])
    .filter(([_, w, h]) => w < 43.9 || h < 43.9)"""


def test_targets_are_44_pixels_on_a_phone(site, chromium, served):
    """Everything that is touched on the labeler's way, in both steps, with all panels open."""
    add_batch(site, count=1, k=9, view="rendered", start_from_ratings=True)
    context = chromium.new_context(
        viewport={"width": 360, "height": 740}, base_url=served, has_touch=True, is_mobile=True
    )
    page = context.new_page()
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
    context.close()
