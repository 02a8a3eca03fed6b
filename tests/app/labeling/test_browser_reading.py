"""What is read: texts as text, rendered texts, hostile ones, long ones, and the instructions beside them."""

import pytest
from sqlalchemy import select

from app.labeling.importing import Candidates
from app.labeling.task_tables import Submission
from data.records import Message
from tests.app.labeling.acting import log_in, nine_long_answers, picture, press, says, start
from tests.app.labeling.hostile import HOSTILE
from tests.app.labeling.making import add_batch, candidates

pytestmark = pytest.mark.browser


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
            prompt=[Message(role="user", content=f"Row {n}: " + "\n\n".join(texts))],
            responses=texts,
        )
        for n, texts in enumerate(rows)
    ]
    add_batch(site, records=records, view="rendered")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    start(page)
    shown = []
    for n, row in enumerate(rows):
        says(page, "#prompt", f"Row {n}:")  # this task, not the one just skipped
        says(page, "#counts", f"0 of {len(row)} rated")
        page.wait_for_timeout(150)  # whatever would run on its own has run
        assert (
            page.query_selector(".answer script, .answer img, .answer a, .answer [style]") is None
        )
        press(page, "r")
        shown += page.evaluate("[...document.querySelectorAll('.answer')].map(a => a.textContent)")
        press(page, "r", "s", "Space", "Enter")
    says(page, "#message", "Task skipped")
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
