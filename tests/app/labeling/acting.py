"""What people do in a browser, and what tests look at afterwards.

Set PODIUM_SCREENSHOTS to a folder to keep the pictures.
"""

import os
import random
import re
from pathlib import Path

from playwright.sync_api import expect
from sqlalchemy import select

from app.labeling.importing import Candidates
from app.labeling.task_tables import ResponseRating, Submission
from data.records import Message
from tests.app.labeling.making import PASSWORD


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


def start(page, handle: str = "lea") -> None:
    """Log in, read the instructions, and be at the first task."""
    log_in(page, handle)
    page.goto("/work")
    page.click("#reading-done")
    page.wait_for_selector("#task:visible")


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
    expect(page.locator(selector)).to_contain_text(text, timeout=20_000)


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


def drag(page, source, target) -> None:
    source.scroll_into_view_if_needed()
    start, end = source.bounding_box(), target.bounding_box()
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(start["x"], start["y"] + 20, steps=3)
    page.mouse.move(end["x"] + end["width"] - 12, end["y"] + end["height"] / 2, steps=5)
    page.mouse.up()


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


def nine_long_answers() -> list[Candidates]:
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices(WORDS, k=rng.randint(280, 320))).capitalize() + "." for _ in range(9)
    ]
    prompt = "Write a long story about an owl and a lantern, with a sad ending."
    return [Candidates(prompt=[Message(role="user", content=prompt)], responses=texts)]
