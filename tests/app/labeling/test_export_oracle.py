"""What an export says of a small site, worked out by hand: last revisions, flags, ties, skips,
comments, and the agreement on its card and on the admin's page.

Two tasks of three answers, three labelers. Ranks by position (0, 1, 2):

              task 0                              task 1
    lea       1 2 3, changed to 2 1 2, then 3 1 2 1 2 3
    ben       3 1 2                               skipped
    cleo      2 2 1, changed to 1 1 2             3 1 2
"""

import json
import time

import pytest
from sqlalchemy import select

from app.labeling.accounts import pseudonym
from app.labeling.batches import change_batch
from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.exporting import BROKEN_SHOWN, about_broken, make_export, preference_pairs
from app.labeling.importing import IMPORTED
from app.labeling.progress import disputed_tasks, labeler_table
from app.labeling.tables import EventLog
from app.labeling.votes import VoteBox
from data.agreement import pairwise_agreement
from data.jsonl import read_jsonl
from data.records import Comparison, Message, Ranking
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to, candidates


def answer(tiers: list[list[int]], likert: list[int], comment: str, flags: list[list[str]]) -> dict:
    said = zip(likert, flags, strict=True)
    return {
        "tiers": tiers,
        "responses": [
            {"position": position, "likert": rating, "flags": ticked}
            for position, (rating, ticked) in enumerate(said)
        ],
        "comment": comment,
        "active_seconds": 20.0,
    }


NONE: list[list[str]] = [[], [], []]


@pytest.fixture
def worked(site):
    """The site of the table above, everything said through its own API."""
    add_batch(site, count=2, k=3, overlap=3)
    people = {handle: add_person(site, handle) for handle in ("lea", "ben", "cleo")}
    clients = {handle: Browser(site, handle) for handle in people}
    said = {
        "lea": {
            "Question 0?": [
                answer([[0], [1], [2]], [7, 5, 1], "first", [["harmful_advice"], [], []]),
                answer([[1], [0, 2]], [2, 6, 2], "second", NONE),
                answer(
                    [[1], [2], [0]], [1, 6, 3], "third", [[], [], ["denigrates", "harmful_advice"]]
                ),
            ],
            "Question 1?": [answer([[0], [1], [2]], [7, 5, 1], "plain", NONE)],
        },
        "ben": {"Question 0?": [answer([[1], [2], [0]], [2, 7, 4], "ben", NONE)]},
        "cleo": {
            "Question 0?": [
                answer([[2], [0, 1]], [4, 4, 6], "before", NONE),
                answer([[0, 1], [2]], [6, 6, 3], "after", NONE),
            ],
            "Question 1?": [answer([[1], [2], [0]], [5, 7, 1], "cleo", NONE)],
        },
    }
    for handle, client in clients.items():
        while (task := client.next())["kind"] == "task":
            answers = said[handle].get(task["prompt"][0]["content"], [])
            for number, one in enumerate(answers):
                verb = "submit" if number == 0 else "revise"
                assert client.submit(task["assignment"], one, verb=verb).status_code in (200, 201)
            if not answers:
                skipped = client.post(
                    f"/api/assignments/{task['assignment']}/skip", json={"reason": "unclear"}
                )
                assert skipped.status_code == 200
    return site


def make(site, kind: str = "rankings"):
    return make_export(site.database, site.exports, kind, ExportFilter(), None, time.time())


@pytest.fixture
def exported(worked) -> dict[tuple[str, str], Ranking]:
    """Records of the written file by task and comment."""
    records = read_jsonl(worked.exports / make(worked).file, Ranking)
    return {(record.task, record.meta["comment"]): record for record in records}


def test_an_export_gives_the_last_revision_of_everything_that_was_not_skipped(exported):
    """Mutations seen red are in tests/mutants.py: the oldest revision, ratings of another one."""
    ranks = {key: record.ranks for key, record in exported.items()}
    assert ranks == {
        ("batch/0", "third"): [3, 1, 2],
        ("batch/0", "ben"): [3, 1, 2],
        ("batch/0", "after"): [1, 1, 2],
        ("batch/1", "plain"): [1, 2, 3],
        ("batch/1", "cleo"): [3, 1, 2],
    }
    likert = {comment: record.likert for (_, comment), record in exported.items()}
    assert likert["third"] == [1, 6, 3] and likert["after"] == [6, 6, 3]
    revisions = {comment: record.meta["revision"] for (_, comment), record in exported.items()}
    assert revisions == {"third": 3, "ben": 1, "after": 2, "plain": 1, "cleo": 1}
    ids = [record.id for record in exported.values()]
    assert len(set(ids)) == 5 and all(str(name).startswith("answer-") for name in ids)


def test_flags_are_those_that_were_ticked_last_and_of_their_response(exported):
    """What the first revision ticked on response 0 is gone. Mutations seen red are in
    tests/mutants.py: every flag that was asked.
    """
    flags = {comment: record.flags for (_, comment), record in exported.items()}
    assert sorted(map(sorted, flags.pop("third"))) == [[], [], ["denigrates", "harmful_advice"]]
    assert exported["batch/0", "third"].flags[2]
    assert all(ticked == NONE for ticked in flags.values())


def test_pairs_are_those_of_the_last_revisions_and_ties_say_nothing(worked):
    """Three of each ranking, two of the one with a tie. Mutation seen red: a tie as a preference."""
    made = make(worked, "pairs")
    rows = [json.loads(line) for line in (worked.exports / made.file).read_text().splitlines()]
    counted: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["prompt"][0]["content"] == "Question 0?":
            texts = row["chosen"][0]["content"], row["rejected"][0]["content"]
            counted[texts] = counted.get(texts, 0) + 1
    zero, one, two = (f"Answer {i} to 0." for i in range(3))
    assert counted == {(one, zero): 2, (one, two): 3, (two, zero): 2, (zero, two): 1}
    assert len(rows) == made.rows == 14


def test_agreement_is_that_of_the_last_revisions(worked, exported):
    """By hand. On task 0 lea and ben order all three pairs alike; cleo ties the first against both,
    orders the second unlike both and the third like both: 5 alike, 2 unlike, 2 ties against an
    order. On task 1 lea and cleo order one pair alike and two unlike. Together 6 alike, 4 unlike and
    2 half ties.

    Mutations seen red are in tests/mutants.py: the oldest revision exported.
    """
    records = list(exported.values())
    rates = {rule: pairwise_agreement(records, rule).value for rule in ("drop", "half", "match")}
    assert rates == pytest.approx({"drop": 6 / 10, "half": 7 / 12, "match": 6 / 12})
    card = make(worked).card
    assert "rankings: 5 of 2 tasks by 3 labelers; 15 pairs, 6.7 % tied" in card
    # cleo rated 0 above 2 on task 1 and ranked it below; one pair of the fifteen is tied
    assert "1 of 14 pairs ordered by both are reversed, 1 of 15 differ" in card
    assert "1 of 5 rankings hold a reversal" in card
    assert "flag harmful_advice: " in card and "ticked in 6.7 %" in card
    with worked.database.read() as session:
        disputed = disputed_tasks(session)
    assert [task.agreement for task in disputed] == pytest.approx([1 / 3, 6 / 9])


def test_the_admin_sees_answers_once_and_skips_apart(worked):
    """A revision is no second answer. Mutation seen red in tests/mutants.py: revisions counted."""
    with worked.database.read() as session:
        rows = {row.handle: row for row in labeler_table(session)}
    assert {handle: (row.answers, row.skips) for handle, row in rows.items()} == {
        "lea": (2, 0),
        "ben": (1, 1),
        "cleo": (2, 0),
    }


def test_a_copy_has_the_rank_of_the_answer_that_was_shown_in_its_place(site):
    """A copy of the second answer, not of the first. Mutation seen red in tests/mutants.py: every
    copy has the rating of the first answer.
    """
    record = candidates(1, k=4)[0].model_copy(update={"responses": ["a", "same", "b", "same"]})
    add_batch(site, records=[record])
    add_person(site, "lea")
    lea = Browser(site, "lea")
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task, [1, 0, 2]))
    made = make(site)
    exported = read_jsonl(site.exports / made.file, Ranking)[0]
    assert exported.responses == record.responses and exported.ranks == [2, 1, 3, 1]


def test_votes_say_who_chose_what_and_of_whom(site):
    """Mutations seen red: the pseudonym of nobody, no cohort, no source, left and right exchanged
    in what the card of a vote says.
    """
    for handle, cohort in (("lea", "train"), ("ben", "heldout")):
        add_person(site, handle, cohort=cohort)
        said = [Message(role="user", content=f"{handle} asks")]
        VoteBox(site.database).record(said, "A", "B", "right", ("sft", "ppo"), handle, blind=True)
    made = make(site, "votes")
    lea, ben = read_jsonl(site.exports / made.file, Comparison)
    with site.database.read() as session:
        known = [pseudonym(session, handle) for handle in ("lea", "ben")]
    assert [lea.labeler, ben.labeler] == known and len(set(known)) == 2
    assert (lea.cohort, ben.cohort) == ("train", "heldout")
    assert (lea.source, lea.group_id, ben.group_id) == ("chat", "vote-1", "vote-2")
    assert lea.meta == {"choice": "right", "left": "sft", "right": "ppo"}
    assert [record.prompt[0].content for record in (lea, ben)] == ["lea asks", "ben asks"]


def test_an_export_is_noted_with_who_made_it_and_when(worked):
    """In the site's table and among its events. Mutations seen red: nobody made it, no time."""
    ada = add_person(worked, "ada", role="admin")
    chosen = ExportFilter(cohorts=["train"])
    made = make_export(worked.database, worked.exports, "rankings", chosen, ada, 1234.5)
    assert (made.kind, made.filter["cohorts"], made.broken) == ("rankings", ["train"], 0)
    assert (made.created_by, made.created_at) == (ada, 1234.5)
    with worked.database.read() as session:
        event = session.scalars(select(EventLog).where(EventLog.kind == "export")).one()
        assert (event.person_id, event.at) == (ada, 1234.5)
        assert event.detail == {"file": made.file, "sha256": made.sha256, "broken": []}


def test_pairs_have_the_form_that_trl_reads():
    """Mutation seen red: the role of the answer that lost under another name."""
    asked = [Message(role="user", content="Q")]
    ranking = Ranking(prompt=asked, responses=["good", "bad"], ranks=[1, 2], id="answer-7")
    [row] = preference_pairs([ranking])
    assert row["prompt"][0]["role"] == "user" and row["group_id"] == "answer-7"
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["rejected"] == [{"role": "assistant", "content": "bad"}]


def test_what_was_withdrawn_comes_out_by_name_and_what_was_deleted_never(worked):
    """Mutation seen red: a withdrawn batch that is named stays in."""

    def exported(**chosen) -> int:
        with worked.database.read() as session:
            return len(collect_rankings(session, ExportFilter(**chosen)))

    counts = [(exported(), exported(batches=["batch"]))]
    for state in ("withdrawn", "deleted"):
        with worked.database.write() as session:
            change_batch(session, 1, state, None, time.time())
        counts.append((exported(), exported(batches=["batch"])))
    assert counts == [(5, 5), (0, 5), (0, 0)]


def test_which_answer_was_a_demonstration_comes_out_again(site):
    """Mutation seen red: the second of those there are, which is none."""
    record = candidates(1, k=3)[0].model_copy(update={"demonstration": 2})
    add_batch(site, records=[record])
    add_person(site, "lea")
    lea = Browser(site, "lea")
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task))
    [exported] = read_jsonl(site.exports / make(site).file, Ranking)
    assert exported.meta[IMPORTED]["demonstration"] == 2


def test_a_card_names_twenty_broken_rows_and_counts_the_others():
    """Mutation seen red: the others not counted."""
    assert about_broken([]) == []
    few, many = (about_broken([f"row {n}" for n in range(count)]) for count in (20, 23))
    assert len(few) == 1 + BROKEN_SHOWN and "20 broken rows" in few[0] and "row 19" in few[-1]
    assert many[1:-1] == few[1:] and many[-1] == "  - and 3 more"
