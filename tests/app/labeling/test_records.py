"""Looking through the site: tasks by batch, words, state and labeler, page by page, and one task
with all that was said of it.
"""

import pytest

from app.labeling import records
from app.labeling.accounts import pseudonym
from app.labeling.importing import Candidates
from app.labeling.problems import Problem
from app.labeling.records import Search
from data.records import Message
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to, candidates


def found(site, after: int = 0, limit: int = 50, **wanted) -> list[str]:
    with site.database.read() as session:
        tasks, _ = records.find_tasks(session, Search(**wanted), after, limit)
    return [f"{task.batch}/{task.position}" for task in tasks]


def about(prompt: str, *responses: str) -> Candidates:
    return Candidates(prompt=[Message(role="user", content=prompt)], responses=list(responses))


@pytest.fixture
def village(any_site):
    """Three owls and a cake in one batch, two plain tasks in another; lea answers one and skips
    one, and holds the third.
    """
    owls = [
        about("Was frißt eine EULE?", "Mäuse.", "Nichts."),
        about('Say "yes" 100 %', "an owl's yes", "no"),
        about("Bake a cake", "the content", "of C:\\cakes"),
    ]
    add_batch(any_site, records=owls, name="owls", overlap=2)
    add_batch(any_site, count=2, name="plain", cohorts=["heldout"])
    add_person(any_site, "lea")
    lea = Browser(any_site, "lea")
    first = lea.next()
    assert lea.submit(first["assignment"], answer_to(first) | {"comment": "hm"}).status_code == 200
    second = lea.next()
    body = {"reason": "unclear", "note": "which yes?"}
    assert lea.post(f"/api/assignments/{second['assignment']}/skip", json=body).status_code == 200
    lea.next()
    return any_site


@pytest.mark.parametrize(
    ("wanted", "tasks"),
    [
        ({}, ["owls/0", "owls/1", "owls/2", "plain/0", "plain/1"]),
        ({"batch": "plain"}, ["plain/0", "plain/1"]),
        ({"batch": "none"}, []),
        ({"text": "eule"}, ["owls/0"]),
        ({"text": "MÄUSE"}, ["owls/0"]),  # in JSON and in SQLite's LIKE an umlaut is no letter
        ({"text": "fri\u00dft"}, ["owls/0"]),
        ({"text": 'say "YES"'}, ["owls/1"]),
        ({"text": "100 %"}, ["owls/1"]),
        ({"text": "c:\\CAKES"}, ["owls/2"]),
        ({"text": "content"}, ["owls/2"]),  # a key of every message, but a word of one response
        ({"text": "user"}, []),
        ({"state": "answered"}, ["owls/0"]),
        ({"state": "skipped"}, ["owls/1"]),
        ({"state": "in hand"}, ["owls/2"]),
        ({"state": "full"}, []),
        ({"state": "waiting", "batch": "owls"}, ["owls/0", "owls/1", "owls/2"]),
        ({"state": "adjudicated"}, []),
        ({"labeler": "lea", "text": "owl"}, ["owls/1"]),
        ({"labeler": "lea"}, ["owls/0", "owls/1", "owls/2"]),
    ],
)
def test_tasks_are_found(village, wanted, tasks):
    """Mutation seen red: `_matching` believes what the database found (then `user` finds all)."""
    assert found(village, **wanted) == tasks


def test_a_labeler_is_found_by_their_pseudonym_and_a_stranger_is_not(village):
    with village.database.read() as session:
        name = pseudonym(session, "lea")
        with pytest.raises(Problem, match="no labeler 'nobody'"):
            records.find_tasks(session, Search(labeler="nobody"), 0, 10)
    assert found(village, labeler=name, state="answered") == ["owls/0"]


def test_pages_follow_each_other_without_a_gap(site, monkeypatch):
    """Also where the rows that are read at once end inside a page."""
    monkeypatch.setattr(records, "CHUNK", 3)
    add_batch(
        site, records=[about(f"{'odd' if n % 2 else 'even'} {n}", "a", "b") for n in range(17)]
    )
    seen, after = [], 0
    with site.database.read() as session:
        while after is not None:
            tasks, after = records.find_tasks(session, Search(text="odd"), after, 4)
            seen.append([task.position for task in tasks])
    assert seen == [[1, 3, 5, 7], [9, 11, 13, 15]]


def test_one_task_with_everything_that_was_said_of_it(village):
    with village.database.read() as session:
        answered, skipped = (records.task_record(session, n) for n in (1, 2))
        with pytest.raises(Problem, match="no such task"):
            records.task_record(session, 99)
        assert records.neighbours(session, skipped.task) == (1, 3)
    (given,) = answered.given
    assert (given.state, given.comment, given.ranks, given.likert) == (
        "submitted",
        "hm",
        {0: 1, 1: 2},
        {0: 7, 1: 6},
    )
    assert [r.text for r in answered.responses] == ["Mäuse.", "Nichts."]
    assert skipped.given[0].state == "skipped" and skipped.given[0].comment == "unclear: which yes?"


def test_the_pages_show_it_under_pseudonyms_to_researchers_alone(site, browser):
    add_batch(site, records=[*candidates(51, k=2)])
    lea = browser("lea")
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task))
    for path in ("/admin/records", "/admin/tasks/1", "/admin/batches/1/demo"):
        assert lea.get(path).status_code == 403
    ida = browser("ida", role="researcher")
    listed = ida.get("/admin/records").text
    assert listed.count("/admin/tasks/") == 50 and "after=50" in listed
    assert ida.get("/admin/records?after=50").text.count("/admin/tasks/") == 1
    with site.database.read() as session:
        name = pseudonym(session, "lea")
    shown = ida.get("/admin/tasks/1").text
    assert name in shown and "lea" not in shown.replace("release", "")
    assert "no labeler" in ida.get("/admin/records?labeler=nobody").text
    assert ida.get("/admin/records?state=odd").status_code == 422
    assert ida.get("/admin/tasks/99").status_code == 404
