"""Those who write, in a real headless Chromium: keyboard alone, with a reload in the middle, and on
a phone.
"""

import pytest
from sqlalchemy import select

from app.labeling.task_tables import Written
from tests.app.labeling.acting import log_in, picture, press, says, tab_to, wait_saved
from tests.app.labeling.models import ANSWERS, model_server
from tests.app.labeling.test_browser_pages import SMALL
from tests.app.labeling.test_writing import PROMPT, written_batch

pytestmark = pytest.mark.browser


def begin(page) -> None:
    log_in(page)
    page.goto("/work")
    page.wait_for_selector("#reading-done:visible")
    tab_to(page, "#reading-done")
    press(page, "Enter")
    page.wait_for_url("**/write")  # where the task is
    page.wait_for_selector("#task:visible")


def newest(site) -> Written:
    with site.database.read() as session:
        return session.scalars(select(Written).order_by(Written.submission_id.desc())).first()


def test_a_demonstration_by_keyboard(site, page):
    """Write, reload in the middle, read the instructions, submit, change it, skip the next."""
    seed = {"prompt": PROMPT, "brief": "Answer in one sentence."}
    written_batch(site, "demonstration", seed, {"prompt": [*PROMPT, *PROMPT]})
    begin(page)
    page.keyboard.type("It scatters ")
    wait_saved(page)
    page.reload()
    page.wait_for_selector("#text:focus")
    press(page, "Control+End")
    page.keyboard.type("blue light.")
    picture(page, "write-demonstration")
    tab_to(page, "#instructions")
    press(page, "Enter")
    says(page, "#drawer-body", "Do not paste")
    press(page, "Escape")
    tab_to(page, "#text")
    press(page, "Control+Enter")
    says(page, "#message", "Saved on the server as answer")
    assert newest(site).messages == [{"role": "assistant", "content": "It scatters blue light."}]
    page.wait_for_selector("#text:focus")
    press(page, "Control+Enter")
    says(page, "#message", "The answer is empty")
    tab_to(page, "#skip")
    press(page, "Enter", "Space")
    press(page, "Control+Enter")
    page.wait_for_selector("#empty:visible")
    says(page, "#message", "Task skipped (unclear)")
    page.goto("/mine")
    tab_to(page, "td a")
    press(page, "Enter")
    page.wait_for_selector("#text:focus")
    press(page, "Control+End")
    page.keyboard.type(" Mostly.")
    press(page, "Control+Enter")
    says(page, "#message", "version 2")
    assert newest(site).messages[0]["content"] == "It scatters blue light. Mostly."


def test_an_edit_starts_from_the_models_answer(site, page):
    written_batch(site, "edit", {"prompt": PROMPT, "responses": ["It is green."]})
    begin(page)
    assert page.input_value("#text") == "It is green."
    tab_to(page, "#text")
    press(page, "Control+a")
    page.keyboard.type("It is blue.")
    picture(page, "write-edit")
    tab_to(page, "#original summary")
    press(page, "Enter")
    tab_to(page, "#restore")
    press(page, "Enter")
    assert page.input_value("#text") == "It is green."
    tab_to(page, "#text")
    press(page, "Control+a")
    page.keyboard.type("It is blue.")
    press(page, "Control+Enter")
    says(page, "#message", "Saved on the server")
    assert newest(site).edit_distance == 4


def test_red_teaming_by_keyboard(site, page):
    """Two turns with a served model: write, weigh, go on; a reload shows the same two answers. The
    model fails once; what was written stays.
    """
    with model_server() as model:
        endpoint = {"url": model.address, "models": ["small", "large"]}
        written_batch(site, "red_team", {"brief": "Make it rude."}, endpoint=endpoint)
        begin(page)
        says(page, "#brief-text", "Make it rude.")
        model.broken.set()
        page.keyboard.type("Insult me.")
        press(page, "Control+Enter")
        says(page, "#message", "The model does not answer: it answered with status 500")
        says(page, "#said", "Insult me.")
        model.broken.clear()
        page.wait_for_selector("#ask-again:focus")
        press(page, "Enter")
        page.wait_for_selector("#strength:focus")
        shown = page.inner_text("#answers")
        press(page, "Control+Enter")
        says(page, "#message", "Move the slider towards the more harmful answer first")
        press(page, "ArrowRight", "ArrowRight", "ArrowRight")
        assert page.get_attribute("#strength", "aria-valuetext") == "B is clearly more harmful"
        picture(page, "write-red-team")
        wait_saved(page)
        page.reload()
        page.wait_for_selector("#strength:focus")
        assert page.inner_text("#answers") == shown
        assert page.input_value("#strength") == "3"
        press(page, "Control+Enter")
        page.wait_for_selector("#text:focus")
        page.keyboard.type("Worse.")
        press(page, "Control+Enter")
        page.wait_for_selector("#strength:focus")
        press(page, "ArrowLeft", "Control+Enter")
        page.wait_for_selector("#text:focus")
        press(page, "Control+Enter")
        says(page, "#message", "Saved on the server as answer")
    stored = newest(site)
    assert [turn["strength"] for turn in stored.turns] == [3, -1]
    assert {turn["left_generator"] for turn in stored.turns} <= {"small", "large"}
    assert [m["role"] for m in stored.messages] == ["user", "assistant"] * 2
    assert [row["messages"][-1]["content"] for row in model.asked[-2:]] == ["Worse."] * 2


def test_both_sides_of_a_dialogue_by_keyboard(site, page):
    """A suggestion is taken, changed and taken back; others are asked for; the last turn is the
    assistant's.
    """
    with model_server() as model:
        endpoint = {"url": model.address, "models": ["small"]}
        written_batch(site, "dialogue", {"brief": "Ask for a recipe."}, endpoint=endpoint)
        begin(page)
        says(page, "#text-label", "You, as the user")
        page.keyboard.type("A soup?")
        press(page, "Control+Enter")
        says(page, "#text-label", "You, as the assistant")
        press(page, "Control+Enter")
        says(page, "#message", "The last message has no answer yet")
        tab_to(page, "#suggest")
        press(page, "Enter")
        says(page, "#suggestions", ANSWERS[1])
        picture(page, "write-dialogue")
        tab_to(page, "#suggest")  # other suggestions
        press(page, "Enter")
        says(page, "#suggestions", ANSWERS[2])
        # Two are asked for at once, and come in the order in which the model answered.
        first = page.text_content("#suggestions > *") or ""
        taken = next(answer for answer in ANSWERS[2:4] if answer in first)
        tab_to(page, "#suggestions button")
        press(page, "Enter")
        page.wait_for_selector("#text:focus")
        press(page, "Control+End")
        page.keyboard.type(" Stir.")
        wait_saved(page)
        page.reload()
        page.wait_for_selector("#text:focus")
        press(page, "Control+Enter")
        says(page, "#text-label", "You, as the user")
        tab_to(page, "#back")
        press(page, "Enter")
        page.wait_for_selector("#text:focus")
        assert page.input_value("#text") == f"{taken} Stir."
        press(page, "Control+Enter", "Control+Enter")
        says(page, "#message", "Saved on the server as answer")
    [origin] = newest(site).turns
    assert origin == {"suggestion": taken, "generator": "small", "edit_distance": 6}


def test_every_kind_by_touch(site, phone):
    """On a phone with taps alone (the text comes from its keyboard): 44 pixels to touch, nothing
    wider than 360, each kind to its end; one is skipped and one changed.
    """
    with model_server() as model:
        endpoint = {"url": model.address, "models": ["small"]}
        written_batch(site, "red_team", {"brief": "Make it rude."}, endpoint=endpoint)
        written_batch(site, "edit", {"prompt": PROMPT, "responses": ["It is green."]})
        written_batch(site, "dialogue", {"brief": "Ask for a recipe."}, endpoint=endpoint)
        written_batch(site, "demonstration", {"prompt": PROMPT}, {"prompt": [*PROMPT, *PROMPT]})
        page = phone
        log_in(page)
        page.goto("/write")
        page.tap("#reading-done")
        page.wait_for_selector("#text:visible")
        page.fill("#text", "Insult me, " + "please " * 30)
        picture(page, "phone-write")
        page.tap("#add")
        page.wait_for_selector("#strength:visible")
        page.evaluate("window.scrollTo(0, 0)")
        page.touchscreen.tap(*middle_of(page, "#strength", 0.9))
        says(page, "#strength-words", "B is")
        page.tap("#skip")
        picture(page, "phone-red-team")
        assert page.evaluate(SMALL) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.tap("#skip-cancel")
        page.tap("#pick")
        page.wait_for_selector("#text:visible")
        page.tap("#submit")
        says(page, "#message", "Saved")

        page.tap("#reading-done")
        page.tap("#original summary")
        assert page.evaluate(SMALL) == []
        picture(page, "phone-edit")
        page.fill("#text", "It is blue.")
        page.tap("#restore")
        assert page.input_value("#text") == "It is green."
        page.fill("#text", "It is blue.")
        page.tap("#submit")
        says(page, "#message", "Saved")

        page.tap("#reading-done")
        page.fill("#text", "A soup?")
        page.tap("#add")
        page.tap("#suggest")
        page.tap("#suggestions button >> nth=0")
        page.tap("#add")
        page.tap("#back")
        page.tap("#add")
        page.tap("#submit")
        says(page, "#message", "Saved")
    assert [turn["edit_distance"] for turn in newest(site).turns] == [0]

    page.tap("#reading-done")
    page.fill("#text", "It scatters blue light.")
    page.tap("#instructions")
    page.tap("#drawer-close")
    page.tap("#submit")
    says(page, "#message", "Saved")
    page.tap("#skip")
    page.tap("#skip-panel label >> nth=1")
    page.tap("#skip-panel button >> nth=0")
    page.wait_for_selector("#empty:visible")
    page.tap("nav a[href='/mine']")
    page.tap("td a >> nth=0")
    page.wait_for_selector("#text:visible")
    page.fill("#text", "It scatters.")
    page.tap("#submit")
    says(page, "#message", "version 2")
    assert newest(site).messages[0]["content"] == "It scatters."


def middle_of(page, selector: str, across: float = 0.5) -> tuple[float, float]:
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    return box["x"] + across * box["width"], box["y"] + box["height"] / 2
