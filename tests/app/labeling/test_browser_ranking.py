"""Rating and ranking: keys counted, focus that moves on, a start from the ratings, nine answers in one
view.
"""

import pytest
from sqlalchemy import select

from app.labeling.task_tables import Submission
from tests.app.labeling.acting import (
    nine_long_answers,
    positions,
    press,
    says,
    start,
    stored_ranks,
)
from tests.app.labeling.making import add_batch

pytestmark = pytest.mark.browser


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
    press(page, "v")
    page.set_viewport_size({"width": 640, "height": 400})  # zoomed to 200 %
    # Seen red: three columns that nobody can read, for the view was chosen once.
    page.wait_for_selector("#overview", state="hidden")
    assert page.evaluate("document.querySelector('.card').getBoundingClientRect().width") > 500
    scale = page.evaluate(
        "[...document.querySelectorAll('.card:first-child .choose label')].map(e => e.offsetTop)"
    )
    assert len(set(scale[:7])) == 1  # seen red: the first tier stood alone above the others
