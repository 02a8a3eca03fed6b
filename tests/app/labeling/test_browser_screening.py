"""The quiz in a real headless Chromium: what candidates say of themselves, the researchers' page."""

import pytest

from tests.app.labeling.acting import log_in, picture, press, says, tab_to
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to
from tests.app.labeling.test_browser_pages import SMALL
from tests.app.labeling.test_screening import KNOWN, answer_all, make_quiz, ranked
from tests.app.labeling.test_writing import PROMPT, next_writing, send, turn, written_batch

pytestmark = pytest.mark.browser


def test_coverage_by_keyboard(site, page):
    add_person(site, "carl", cohort="screening")
    log_in(page, "carl")
    tab_to(page, "a[href='/coverage']")
    press(page, "Enter")
    page.wait_for_url("**/coverage")
    tab_to(page, "input[value=religion]")
    press(page, "Space")
    tab_to(page, "textarea")
    page.keyboard.type("Tamil")
    picture(page, "coverage")
    tab_to(page, "main button")
    press(page, "Enter")
    says(page, "main", "Saved on")
    assert page.is_checked("input[value=religion]") and page.input_value("textarea") == "Tamil"
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(SMALL) == []
    picture(page, "coverage-phone")


def test_a_researcher_makes_a_quiz_and_scores_by_keyboard(site, page):
    """ada answers, marks, and scores what a candidate wrote; the report has what came of it."""
    ada = Browser(site, "ada")
    add_batch(site, count=2, k=3)
    answer_all(ada, *KNOWN)
    written_batch(site, "demonstration", {"prompt": PROMPT})
    make_quiz(site, ada, batch=2)
    log_in(page, "ada")
    page.goto("/admin/screening")
    tab_to(page, "[aria-label='Make a quiz of batch']")
    press(page, "Enter")
    page.wait_for_selector("[aria-label='End the quiz batch']")
    add_person(site, "carl", cohort="screening")
    carl = Browser(site, "carl")
    answer_all(carl, ranked([[0], [2], [1]], {0: ["violent"]}, ["sensitive"]), KNOWN[1])
    send(carl, next_writing(carl)["assignment"], [turn("assistant", "Because it scatters.")])
    page.reload()
    says(page, "#report", "carl")
    tab_to(page, "input[name=score]")
    press(page, *["ArrowRight"] * 5)  # a score of 6
    tab_to(page, "[aria-label='Save the score of demonstration 1']")
    press(page, "Enter")
    says(page, "#report", "1 of 1 scored")
    says(page, "#report", "6.0")
    page.goto("/admin/screening")
    picture(page, "screening")
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/admin/screening")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    picture(page, "screening-phone")


def test_a_quiz_by_touch(site, phone):
    """A candidate's coverage and answers, then the researcher's mark and score: taps alone."""
    ada = Browser(site, "ada")
    add_batch(site, count=1, k=2)
    task = ada.next()
    ada.submit(task["assignment"], answer_to(task))
    written_batch(site, "demonstration", {"prompt": PROMPT}, cohorts=["screening"])
    make_quiz(site, ada)
    add_person(site, "carl", cohort="screening")
    page = phone
    log_in(page, "carl")
    page.tap("a[href='/coverage']")
    page.tap("label:has(input[value=religion])")
    page.tap("main button")
    says(page, "main", "Saved on")
    page.tap("main a[href='/']")
    page.tap("a.button")
    page.tap("#reading-done")
    page.wait_for_selector("#task:visible")
    for card in page.query_selector_all(".card"):
        card.query_selector(".rate label:nth-of-type(3)").tap()
    page.tap("#forward")
    page.tap(".card >> nth=0 >> .choose label:nth-of-type(1)")
    page.tap(".card >> nth=1 >> .choose label:nth-of-type(2)")
    page.tap("#submit")
    page.tap("#reading-done")
    page.fill("#text", "It scatters.")
    page.tap("#submit")
    page.wait_for_selector("#empty:visible")
    page.tap("nav form button")
    page.wait_for_url("**/login")

    log_in(page, "ada")
    page.goto("/admin/screening")
    page.tap("[aria-label='Make a quiz of demonstration']")
    page.tap("label:has(input[name=score][value='6'])")
    page.tap("[aria-label='Save the score of demonstration 1']")
    says(page, "#report", "1 of 1 scored")
    assert page.evaluate(SMALL) == []


def test_a_batch_is_imported_to_be_written_by_keyboard(site, page, tmp_path):
    """The file is chosen by the dialog; all else by keys. A model is named by an admin."""
    file = tmp_path / "topics.jsonl"
    file.write_text('{"brief": "Ask for a recipe."}\n')
    log_in(page, "ada")
    page.goto("/admin/writing")
    page.set_input_files("input[type=file]", file)
    tab_to(page, "input[name=kind]")
    press(page, "ArrowDown", "ArrowDown")  # dialogue
    tab_to(page, "input[name=name]")
    page.keyboard.type("talks")
    tab_to(page, "input[name=url]")
    page.keyboard.type("http://127.0.0.1:8001/v1")
    press(page, "Tab")
    page.keyboard.type("small, large")
    picture(page, "writing-admin")
    tab_to(page, "form.stack > button")
    press(page, "Enter")
    page.wait_for_url("**/admin")
    says(page, "#progress", "talks")
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/admin/writing")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    picture(page, "writing-admin-phone")
