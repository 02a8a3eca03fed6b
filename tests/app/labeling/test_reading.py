"""How texts are shown and rankings begun is the batch's choice, and an answer says what was seen;
what a labeler is told of their own work.
"""

import pytest

from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.own import MIN_GOLD_PAIRS
from tests.app.labeling.making import add_batch, answer_to, candidates


def test_rendered_texts_come_with_their_sources_and_only_where_the_batch_says(site, browser):
    texts = ["**a**", "b", "c" * 30_000]
    records = [candidates(1, k=3)[0].model_copy(update={"responses": texts})]
    add_batch(site, records=records, view="rendered")
    add_batch(site, records=candidates(1), name="plain", cohorts=["heldout"])
    task = browser("lea").next()
    assert task["view"] == "rendered" and task["prompt"][0]["html"] == "<p>Question 0?</p>\n"
    html = {r["text"][:5]: r["html"] for r in task["responses"]}
    assert html == {"**a**": "<p><strong>a</strong></p>\n", "b": "<p>b</p>\n", "ccccc": None}
    plain = browser("hal", cohort="heldout").next()
    assert plain["view"] == "text" and not any("html" in r for r in plain["responses"])


@pytest.mark.parametrize(
    ("rules", "said", "seen"),
    [
        ({}, {}, "text"),
        ({"view": "rendered"}, {}, "rendered"),
        ({"view": "rendered"}, {"seen": "both"}, "both"),
        ({"view": "rendered"}, {"seen": "text"}, "text"),
    ],
)
def test_what_the_labeler_saw_is_stored_and_exported(site, browser, rules, said, seen):
    """Mutation seen red: `seen` left out of `_store`."""
    add_batch(site, count=1, **rules)
    lea = browser("lea")
    task = lea.next()
    assert lea.submit(task["assignment"], answer_to(task) | said).status_code == 200
    stored = lea.get(f"/api/assignments/{task['assignment']}").json()["answer"]
    assert (stored["seen"], stored["from_ratings"]) == (seen, False)
    with site.database.read() as session:
        meta = collect_rankings(session, ExportFilter())[0].meta
    assert (meta["seen"], meta["from_ratings"]) == (seen, False)


@pytest.mark.parametrize(
    ("rules", "said", "status"),
    [
        ({}, {"seen": "rendered"}, 422),
        ({}, {"seen": "upside down"}, 422),
        ({}, {"from_ratings": True}, 422),
        ({"start_from_ratings": True}, {"from_ratings": True}, 200),
    ],
)
def test_an_answer_cannot_claim_what_its_batch_does_not_offer(site, browser, rules, said, status):
    """Mutation seen red: `_check` without its two refusals."""
    add_batch(site, count=1, **rules)
    lea = browser("lea")
    task = lea.next()
    assert lea.submit(task["assignment"], answer_to(task) | said).status_code == status


def test_own_progress(site, browser):
    """Left counts what this person may still get; agreement with gold waits for enough pairs, and
    then is of pairs.
    """
    gold = [r.model_copy(update={"gold_ranks": [1, 2, 3, 4]}) for r in candidates(5)]
    add_batch(site, records=gold[:3], name="gold", gold_every=1)
    add_batch(site, count=4, cohorts=["train"])
    lea, hal = browser("lea"), browser("hal", cohort="heldout")
    assert lea.get("/api/me/progress").json()["left"] == 4
    assert hal.get("/api/me/progress").json()["left"] == 0
    told = []
    for order in ([0, 1, 2, 3], [0, 1, 2, 3], [3, 2, 1, 0]):
        task = lea.next()
        assert task["batch"] == "gold"
        assert lea.submit(task["assignment"], answer_to(task, order)).status_code == 200
        told.append(lea.get("/api/me/progress").json()["gold_agreement"])
    lea.next()
    own = lea.get("/api/me/progress").json()
    assert (own["done"], own["left"], own["median_seconds"]) == (3, 4, 30.0)
    assert own["gold_pairs"] == 18 < MIN_GOLD_PAIRS and told == [None, None, None]
    add_batch(site, records=gold[3:], name="more gold", gold_every=1)
    lea.submit(lea.next()["assignment"], answer_to(task))
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task, [0, 1, 2, 3]))
    own = lea.get("/api/me/progress").json()
    assert own["gold_pairs"] == 24 and own["gold_agreement"] == pytest.approx(18 / 24)
    assert "75 % of the 24" in " ".join(lea.get("/").text.split())


def test_instructions_of_a_task_are_read_beside_it(site, browser):
    add_batch(site, count=1)
    lea, eve = browser("lea"), browser("eve")
    path = f"/api/assignments/{lea.next()['assignment']}/instructions"
    assert lea.get(path).json()["body"].startswith("# What you do")
    assert eve.get(path).status_code == 404
