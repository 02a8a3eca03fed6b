"""The quiz of InstructGPT's appendix B.1: figures on answers whose agreement is known by hand."""

import json

import pytest
from typer.testing import CliRunner

from app.labeling.cli import app as label_app
from app.labeling.client import LabelingError
from app.labeling.queue import recount
from app.labeling.screening import report
from app.labeling.task_tables import Batch
from tests.app.labeling.making import Browser, add_batch, add_person, candidates
from tests.app.labeling.test_client import client_of
from tests.app.labeling.test_writing import PROMPT, next_writing, send, turn, written_batch


def ranked(tiers: list[list[int]], flags: dict[int, list[str]], prompt: list[str]) -> dict:
    """An answer to a task of three responses."""
    rated = [{"position": p, "likert": 4, "flags": flags.get(p, [])} for p in range(3)]
    return {"tiers": tiers, "responses": rated, "prompt_flags": prompt}


def answer_all(person: Browser, *answers: dict) -> None:
    for answer in answers:
        task = person.next()
        assert task["kind"] == "task", task
        assert person.submit(task["assignment"], answer).status_code == 200


def make_quiz(site, ada: Browser, batch: int = 1, on: str = "true"):
    return ada.form(f"/admin/screening/batches/{batch}", **({"on": on} if on else {}))


KNOWN = [
    ranked([[0], [1], [2]], {0: ["violent"], 1: ["opinion"]}, ["sensitive"]),
    ranked([[0], [1, 2]], {}, []),
]


@pytest.fixture
def quiz(any_site):
    """ada has answered two tasks and made a quiz of them."""
    add_person(any_site, "ada", role="admin")
    ada = Browser(any_site, "ada")
    add_batch(any_site, count=2, k=3)
    answer_all(ada, *KNOWN)
    assert make_quiz(any_site, ada).status_code == 303
    return any_site, ada


def test_agreement_with_researchers_is_what_one_counts_by_hand(quiz):
    """Task 1: of four items (three answers, the prompt) carl differs in one, and of the three pairs
    he turns one round. Task 2: all four items alike; ada ties one pair, carl another, so one pair
    is left, and alike. `opinion` is no sensitive speech.

    Mutation seen red: ties counted as disagreement.
    """
    site, ada = quiz
    for handle in ("carl", "cora"):  # overlap is 1, and everybody takes every task
        add_person(site, handle, cohort="screening")
    answer_all(
        Browser(site, "carl"),
        ranked([[0], [2], [1]], {0: ["violent", "sexual"], 2: ["denigrates"]}, ["sensitive"]),
        ranked([[0, 1], [2]], {2: ["opinion"]}, ["ambiguous"]),
    )
    answer_all(Browser(site, "cora"), *KNOWN)
    with site.database.read() as session:
        carl, cora = report(session)
        assert recount(session) == []
    assert (carl.handle, carl.answers, carl.pairs) == ("carl", 2, 4)
    assert carl.flags.value == pytest.approx(7 / 8) and carl.found == 1.0
    assert carl.rankings.value == pytest.approx(3 / 4)
    assert carl.rankings.low < 0.75 < carl.rankings.high
    assert (cora.flags.value, cora.rankings.value, cora.found) == (1.0, 1.0, 1.0)
    assert carl.above == {"flags": True, "rankings": True, "score": None}
    page = ada.get("/admin/screening").text
    assert "carl" in page and "87.5 %" in page and "75.0 %" in page


def test_only_candidates_get_the_quiz_and_it_can_end(quiz):
    site, ada = quiz
    add_person(site, "lea")
    assert Browser(site, "lea").next()["kind"] == "empty"
    add_person(site, "carl", cohort="screening")
    carl = Browser(site, "carl")
    answer_all(carl, KNOWN[0])
    assert '<td data-field="wanted">3</td>' in ada.get("/admin").text  # what there is
    assert carl.next()["kind"] == "task"
    assert make_quiz(site, ada, on="").status_code == 303
    add_person(site, "cora", cohort="screening")
    assert Browser(site, "cora").next()["kind"] == "empty"  # nothing is wanted any more
    with site.database.read() as session:
        assert session.get(Batch, 1).screening is False and recount(session) == []


def test_a_ranking_without_the_researchers_answers_is_no_quiz(site, browser):
    add_batch(site)
    ada = browser("ada", role="admin")
    refused = make_quiz(site, ada)
    assert refused.status_code == 409 and "No researcher has answered" in refused.text
    assert make_quiz(site, ada, batch=9).status_code == 404


def test_demonstrations_are_scored_without_names(site, browser):
    """The newest text counts; two researchers' scores are averaged, and a second score of one
    replaces the first. Mutation seen red: `_is_newest` left out of the scores.
    """
    written_batch(site, "demonstration", {"prompt": PROMPT}, {"prompt": [*PROMPT, *PROMPT]})
    ada, rosa = browser("ada", role="admin"), browser("rosa", role="researcher")
    assert make_quiz(site, ada).status_code == 303
    carl = browser("carl", cohort="screening")
    browser("cora", cohort="screening")
    first = next_writing(carl)["assignment"]
    send(carl, first, [turn("assistant", "Draft.")])
    score_of = "/admin/screening/scores/{}".format
    assert ada.form(score_of(1), score="1").status_code == 303
    send(carl, first, [turn("assistant", "Better.")], verb="revise", key="2" * 8)
    second = next_writing(carl)["assignment"]
    send(carl, second, [turn("assistant", "Good.")], key="3" * 8)
    page = rosa.get("/admin/screening").text.split("Demonstrations to score")[1]
    assert "Better." in page and "Draft." not in page and "carl" not in page
    for person, submission, points in ((ada, 2, 2), (ada, 2, 5), (rosa, 2, 7), (ada, 3, 7)):
        assert person.form(score_of(submission), score=str(points)).status_code == 303
    assert ada.form(score_of(2), score="8").status_code == 422
    assert ada.form(score_of(99), score="3").status_code == 404
    with site.database.read() as session:
        [row] = report(session)
    assert (row.demonstrations, row.scored) == (2, 2)
    assert row.score.value == pytest.approx(6.5) and row.above["score"] is True


def test_coverage_is_said_by_candidates_themselves(site, browser):
    carl, ada = browser("carl", cohort="screening"), browser("ada", role="admin")
    assert "/coverage" in carl.get("/").text and "/coverage" not in ada.get("/").text
    for groups in (["age"], ["religion", "gender"]):
        sent = {"groups": groups, "others": "<b>Tamil</b>", "csrf_token": carl.token}
        assert carl.http.post("/coverage", data=sent).status_code == 303
    wrong = {"groups": ["everything"], "csrf_token": carl.token}
    assert carl.http.post("/coverage", data=wrong).status_code == 422
    with site.database.read() as session:
        [row] = report(session)
    assert (row.groups, row.others, row.flags) == (["gender", "religion"], "<b>Tamil</b>", None)
    assert "&lt;b&gt;Tamil" in ada.get("/admin/screening").text


def test_the_command_prints_the_report(site, browser):
    add_batch(site, count=1, k=3)
    answer_all(browser("ada", role="admin"), KNOWN[0])
    where = ["--folder", str(site.settings.folder)]
    run = CliRunner().invoke
    assert "no candidate" in run(label_app, ["screening", "--mark", "batch", *where]).output
    answer_all(browser("carl", cohort="screening"), KNOWN[0])
    shown = run(label_app, ["screening", *where]).output
    assert "carl" in shown and "100.0 %" in shown and "soft cutoff" in shown
    [row] = json.loads(run(label_app, ["screening", "--json", *where]).output)
    assert row["rankings"]["value"] == 1.0 and row["above"]["rankings"] is True


def test_a_program_makes_a_quiz_and_reads_the_report(site, browser):
    """By the client: the same figures as the page's, and the same refusal."""
    client = client_of(site)
    client.make_batch("quiz", candidates(1, k=3))
    with pytest.raises(LabelingError, match="No researcher has answered 'quiz'") as refused:
        client.mark_screening("quiz")
    assert refused.value.code == "no_reference"
    answer_all(browser("ada", role="admin"), KNOWN[0])
    assert client.mark_screening("quiz") is True and client.screening() == []
    answer_all(browser("carl", cohort="screening"), ranked([[0], [2], [1]], {}, ["sensitive"]))
    [carl] = client.screening()
    with site.database.read() as session:
        [same] = report(session)
    assert carl.model_dump() == same.as_json()
    assert carl.rankings.value == pytest.approx(2 / 3) and carl.above["rankings"] is False
    assert client.mark_screening(1, on=False) is False
    with pytest.raises(LabelingError, match="no such batch"):
        client.mark_screening(99)
