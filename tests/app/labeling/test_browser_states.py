"""Pages in the states that people bring them into, under axe's rules: panels open, refusals shown,
texts half written.
"""

import pytest

from app.labeling.importing import Candidates
from data.records import Message
from tests.app.labeling.acting import log_in, says, start
from tests.app.labeling.lived_in import LONG, RENDERED
from tests.app.labeling.looking import faults
from tests.app.labeling.making import Browser, add_batch, add_person
from tests.app.labeling.models import model_server
from tests.app.labeling.test_screening import KNOWN, answer_all, make_quiz, ranked
from tests.app.labeling.test_writing import PROMPT, next_writing, send, turn, written_batch

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_both_steps_of_a_ranking(site, page):
    """Help, instructions, flags and the panel to skip open; refused for what is missing; ranked
    against the ratings.
    """
    asked = [Message(role="user", content=f"Why do owls see at night? {LONG}")]
    texts = [RENDERED, LONG * 2, "Magic.", "\u0645\u0631\u062d\u0628\u0627", ""]
    records = [Candidates(prompt=asked, responses=texts)]
    add_batch(site, records=records, view="rendered", start_from_ratings=True)
    start(page)
    page.click("#forward")
    says(page, "#message", "are not rated yet")
    found = faults(page, "rate-refused")
    page.click("#help")
    page.click("#about-prompt summary")
    for summary in page.query_selector_all(".flag-box summary"):
        summary.click()
    page.click("#skip")
    page.click("#raw")
    found += faults(page, "rate-panels")
    page.click("#skip-cancel")
    page.click("#instructions")
    found += faults(page, "rate-drawer")
    page.click("#drawer-close")
    for card in page.query_selector_all(".card"):
        card.query_selector(".rate input[value='4']").click()
    page.click("#forward")
    assert page.inner_text("#message") == ""  # nothing is missing any more
    found += faults(page, "rank")
    page.click("#from-ratings")
    page.click("#step-rate")
    page.click(".card >> nth=0 >> .rate input[value='7']")
    page.click("#step-rank")
    page.click(".card >> nth=0 >> .choose input[value='5']")
    page.click("#overview")
    page.click("#instructions")
    found += faults(page, "rank-against-ratings")
    assert found == []


def test_every_kind_of_writing(site, page):
    """As it is opened, with what can be opened in it, with suggestions and with two answers."""
    with model_server() as model:
        endpoint = {"url": model.address, "models": ["small"]}
        written_batch(site, "demonstration", {"prompt": PROMPT, "brief": "In one sentence."})
        written_batch(site, "edit", {"prompt": PROMPT, "responses": [f"It is green. {LONG}"]})
        written_batch(site, "dialogue", {"brief": "Ask for a recipe."}, endpoint=endpoint)
        written_batch(site, "red_team", {"brief": "Make it rude."}, endpoint=endpoint)
        log_in(page)
        page.goto("/write")
        page.wait_for_selector("#reading-done:visible")
        found = faults(page, "write-instructions")

        page.click("#reading-done")
        page.wait_for_selector("#text:visible")
        page.click("#submit")
        says(page, "#message", "The answer is empty")
        page.click("#instructions")
        page.click("#skip")
        found += faults(page, "write-demonstration")
        page.click("#drawer-close")
        page.fill("#text", "It scatters.")
        page.click("#submit")

        page.click("#reading-done")
        page.click("#original summary")
        page.fill("#text", "It is blue.")
        found += faults(page, "write-edit")
        page.click("#submit")

        page.click("#reading-done")
        page.fill("#text", "A soup?")
        page.click("#add")
        page.click("#suggest")
        page.click("#suggestions button >> nth=0")
        found += faults(page, "write-dialogue")
        page.click("#add")
        page.click("#submit")

        page.click("#reading-done")
        model.broken.set()
        page.fill("#text", "Insult me.")
        page.click("#add")
        page.wait_for_selector("#ask-again:visible")
        found += faults(page, "write-model-fails")
        model.broken.clear()
        page.click("#ask-again")
        page.wait_for_selector("#strength:visible")
        page.fill("#strength", "2")
        found += faults(page, "write-red-team")
        page.click("#pick")
        page.wait_for_selector("#text:visible")
        page.click("#submit")
        page.wait_for_selector("#empty:visible")
        found += faults(page, "write-empty")
        page.goto("/mine")
        says(page, "table", "Ask for a recipe.")  # no prompt: what was asked of them
        found += faults(page, "mine-written")
    assert found == []


def test_screening_from_both_sides(site, page):
    """The candidate's start page and what they say of themselves; the researcher's report, texts to
    score and batches. Seen red: a column without a word at its head.
    """
    ada = Browser(site, "ada")
    add_batch(site, count=2, k=3)
    answer_all(ada, *KNOWN)
    written_batch(site, "demonstration", {"prompt": PROMPT})
    make_quiz(site, ada)
    make_quiz(site, ada, batch=2)
    for handle in ("carl", "cora"):
        add_person(site, handle, cohort="screening")
    carl = Browser(site, "carl")
    answer_all(carl, ranked([[0], [2], [1]], {0: ["violent"]}, ["sensitive"]), KNOWN[1])
    send(carl, next_writing(carl)["assignment"], [turn("assistant", LONG)])
    carl.form("/coverage", groups=["religion", "politics"], others="Tamil, and the slang of Pune")
    log_in(page, "cora")
    found = faults(page, "home-candidate")
    page.goto("/coverage")
    page.check("input[value=religion]")
    page.click("main button")
    says(page, "main", "Saved on")
    found += faults(page, "coverage")
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")
    found += faults(page, "quiz")
    page.context.clear_cookies()
    log_in(page, "ada")
    page.goto("/admin/screening")
    found += faults(page, "screening")
    assert found == []
