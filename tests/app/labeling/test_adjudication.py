"""An expert's ranking of a disputed task: stored beside the labelers', marked in exports, counted
as nobody's.
"""

import json
import time

import pytest
from sqlalchemy import select

from app.labeling import adjudication, exporting
from app.labeling.collecting import ExportFilter
from app.labeling.problems import Problem
from app.labeling.results import collect_results
from app.labeling.tables import EventLog
from app.labeling.task_tables import Adjudication
from data.agreement import agreement_report
from data.records import Ranking
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to, candidates


@pytest.fixture
def disputed(any_site):
    """One task with an identical pair, on which lea and hal differ; hal is held out."""
    record = candidates(1, k=3)[0]
    texts = [*record.responses, record.responses[0]]
    record = record.model_copy(update={"responses": texts, "generators": ["a", "b", "c", "d"]})
    add_batch(any_site, records=[record, *candidates(2)[1:]], overlap=2)
    for handle, cohort, order in (("lea", "train", [0, 1, 2]), ("hal", "heldout", [2, 1, 0])):
        add_person(any_site, handle, cohort=cohort)
        person = Browser(any_site, handle)
        task = person.next()
        person.submit(task["assignment"], answer_to(task, order))
    add_person(any_site, "ida", role="researcher")
    return any_site


def decide(site, ranks: dict[int, int], task: int = 1, note: str | None = "see the guide") -> None:
    with site.database.write() as session:
        adjudication.adjudicate(session, task, 3, ranks, note, time.time())


def exported(site, **chosen) -> list[Ranking]:
    made = exporting.make_export(
        site.database, site.exports, "rankings", ExportFilter(**chosen), None, time.time()
    )
    return [Ranking(**json.loads(line)) for line in (site.exports / made.file).open()]


def test_the_export_marks_it_and_agreement_leaves_it_out(disputed):
    """Mutations seen red: `by_labelers` keeps everything; `collect_adjudications` takes the first
    verdict; a copy without the rank of what it copies.
    """
    before = exported(disputed)
    decide(disputed, {0: 1, 1: 2, 2: 3})
    decide(disputed, {0: 2, 1: 1, 2: 2})
    rows = exported(disputed)
    assert rows[:2] == before
    (expert,) = rows[2:]
    assert expert.ranks == [2, 1, 2, 2]  # the fourth response is the first's copy
    assert (expert.cohort, expert.meta["adjudicated"]) == ("adjudication", True)
    assert expert.meta["comment"] == "see the guide" and expert.task == before[0].task
    assert expert.labeler.startswith("expert-") and "ida" not in expert.model_dump_json()
    assert agreement_report(rows) == agreement_report(before)
    card = next(disputed.exports.glob("export-0002*.md")).read_text()
    assert "of them 1 by experts" in card and "by 2 labelers" in card


def test_which_exports_have_it(disputed):
    decide(disputed, {0: 1, 1: 2, 2: 3})
    cohorts = [[r.cohort for r in exported(disputed, cohorts=c)] for c in (["train"], ["heldout"])]
    assert cohorts == [["train", "adjudication"], ["heldout"]]
    assert [r.cohort for r in exported(disputed, adjudications=False)] == ["train", "heldout"]
    assert len(exported(disputed, batches=["batch"])) == 3
    with pytest.raises(Problem, match="nothing to export"):
        exported(disputed, batches=["another"])


def test_it_counts_in_no_results_and_no_progress(disputed):
    with disputed.database.read() as session:
        before = collect_results(session, ExportFilter()).as_json()
    decide(disputed, {0: 1, 1: 2, 2: 3})
    with disputed.database.read() as session:
        assert collect_results(session, ExportFilter()).as_json() == before
        kinds = session.scalars(select(EventLog.kind)).all()
    assert kinds.count("adjudication") == 1


@pytest.mark.parametrize("ranks", [{0: 1, 1: 2}, {0: 1, 1: 2, 2: 3, 3: 4}, {0: 1, 1: 2, 5: 3}, {}])
def test_every_shown_response_is_ranked_exactly_once(disputed, ranks):
    with pytest.raises(Problem, match="exactly once"):
        decide(disputed, ranks)


def test_ties_only_where_the_batch_has_them_and_only_tasks_there_are(site):
    add_batch(site, count=1, k=2, ties_allowed=False)
    for handle in ("lea", "hal", "ida"):
        add_person(site, handle)
    with pytest.raises(Problem, match="Ties are not allowed"):
        decide(site, {0: 1, 1: 1})
    decide(site, {0: 7, 1: 3})
    with site.database.read() as session:
        assert session.scalars(select(Adjudication.tiers)).all() == [[[1], [0]]]
    with pytest.raises(Problem, match="no such task"):
        decide(site, {0: 1, 1: 2}, task=7)


def test_by_the_page(disputed):
    """From the disputed page to the stored ranking; ranks without their positions are refused."""
    ida = Browser(disputed, "ida")
    assert 'href="/admin/tasks/1#verdict"' in ida.get("/admin/disputed").text
    sent = {"positions": ["0", "1", "2"], "ranks": ["3", "1", "1"], "note": ""}
    assert ida.form("/admin/tasks/1/adjudicate", **sent).status_code == 303
    assert ida.form("/admin/tasks/1/adjudicate", **(sent | {"ranks": ["1"]})).status_code == 422
    twice = sent | {"positions": ["0", "1", "1"]}
    assert ida.form("/admin/tasks/1/adjudicate", **twice).status_code == 422
    with disputed.database.read() as session:
        assert session.scalars(select(Adjudication.tiers)).all() == [[[1, 2], [0]]]
    assert "Adjudicated by ida" in ida.get("/admin/tasks/1").text
    assert "adjudicated" in ida.get("/admin/disputed").text
    assert "batch/0" in ida.get("/admin/records?state=adjudicated").text
