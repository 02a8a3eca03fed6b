"""Handing out and taking back: every rule of labeling.md's "Concurrency", on both databases."""

import random
import threading
import time
import uuid
from collections import Counter

import pytest
from sqlalchemy import func, select, text

from app.labeling import answers, queue
from app.labeling.forms import Answer, DraftBody, SkipAnswer
from app.labeling.problems import Problem
from app.labeling.site import Site
from app.labeling.task_tables import (
    Assignment,
    Draft,
    InstructionRead,
    ResponseRating,
    Submission,
    Task,
)
from tests.app.labeling.making import add_batch, add_person, candidates

NOW = 1_000_000.0
HOUR = 3600.0


def read_instructions(site: Site, *people: int) -> None:
    with site.database.write() as session:
        session.add_all(
            [InstructionRead(person_id=person, instruction_set_id=1, at=NOW) for person in people]
        )


def claim(site: Site, person: int, now: float = NOW) -> Assignment | None:
    with site.database.write() as session:
        queue.expire_leases(session, now)
    with site.database.write() as session:
        found = queue.claim(session, person, now)
        assert not isinstance(found, queue.MustRead)
        return found


def complete(assignment: Assignment, backwards: bool = False) -> Answer:
    positions = sorted(assignment.display_order, reverse=backwards)
    return Answer.model_validate(
        {
            "tiers": [[p] for p in positions],
            "responses": [{"position": p, "likert": 4} for p in positions],
        }
    )


def submit(
    site: Site, person: int, assignment: Assignment, key: str | None = None, now: float = NOW
) -> answers.Stored:
    with site.database.write() as session:
        return answers.submit(
            session, person, assignment.id, key or uuid.uuid4().hex, complete(assignment), now
        )


def counters(site: Site) -> list[tuple[int, int]]:
    with site.database.read() as session:
        assert queue.recount(session) == []
        return [
            tuple(row)
            for row in session.execute(select(Task.n_open, Task.n_done).order_by(Task.id))
        ]


@pytest.fixture
def people(any_site) -> list[int]:
    made = [add_person(any_site, f"labeler-{n}") for n in range(4)]
    read_instructions(any_site, *made)
    return made


def test_tasks_are_handed_out_in_order_and_never_twice_to_one_person(any_site, people):
    add_batch(any_site, count=3)
    seen = []
    for _ in range(3):
        assignment = claim(any_site, people[0])
        seen.append(assignment.task_id)
        submit(any_site, people[0], assignment)
    assert seen == sorted(set(seen)) and claim(any_site, people[0]) is None
    assert counters(any_site) == [(0, 1)] * 3


def test_asking_again_returns_the_task_in_hand(any_site, people):
    add_batch(any_site)
    assert claim(any_site, people[0]).id == claim(any_site, people[0]).id
    assert counters(any_site)[0] == (1, 0)


def test_a_full_task_is_passed_over(any_site, people):
    add_batch(any_site, count=2, overlap=1)
    first, second = claim(any_site, people[0]), claim(any_site, people[1])
    assert first.task_id != second.task_id and claim(any_site, people[2]) is None


def test_instructions_come_before_the_first_task(any_site):
    add_batch(any_site)
    person = add_person(any_site, "new")
    with any_site.database.write() as session:
        assert queue.claim(session, person, NOW) == queue.MustRead(1)
    assert counters(any_site)[0] == (0, 0)


def test_a_lease_runs_out_and_the_task_goes_to_the_next(any_site, people):
    add_batch(any_site, count=1, overlap=1, lease_minutes=60)
    first = claim(any_site, people[0])
    assert claim(any_site, people[1], NOW + HOUR - 1) is None
    second = claim(any_site, people[1], NOW + HOUR + 1)
    assert second.task_id == first.task_id
    assert counters(any_site) == [(1, 0)]


def test_a_late_answer_to_a_task_with_room_counts(any_site, people):
    add_batch(any_site, count=1, overlap=1)
    first = claim(any_site, people[0])
    with any_site.database.write() as session:
        assert queue.expire_leases(session, NOW + 2 * HOUR) == 1
    assert not submit(any_site, people[0], first, now=NOW + 3 * HOUR).submission.extra
    assert counters(any_site) == [(0, 1)]


def test_a_late_answer_to_a_full_task_is_kept_as_an_extra(any_site, people):
    add_batch(any_site, count=1, overlap=1)
    late = claim(any_site, people[0])
    on_time = claim(any_site, people[1], NOW + 2 * HOUR)
    assert not submit(any_site, people[1], on_time, now=NOW + 2 * HOUR).submission.extra
    assert submit(any_site, people[0], late, now=NOW + 3 * HOUR).submission.extra
    assert counters(any_site) == [(0, 1)]


def test_my_expired_task_comes_back_to_me_with_its_draft(any_site, people):
    add_batch(any_site, count=2, overlap=1)
    first = claim(any_site, people[0])
    with any_site.database.write() as session:
        queue.save_draft(session, people[0], first.id, DraftBody(comment="half done"), NOW)
    again = claim(any_site, people[0], NOW + 5 * HOUR)
    assert again.id == first.id and again.state == "open"
    with any_site.database.read() as session:
        assert session.get_one(Draft, again.id).body["comment"] == "half done"


def test_working_on_a_draft_prolongs_the_lease(any_site, people):
    add_batch(any_site, count=1, overlap=1, lease_minutes=60)
    mine = claim(any_site, people[0])
    with any_site.database.write() as session:
        queue.save_draft(session, people[0], mine.id, DraftBody(), NOW + HOUR - 1)
    assert claim(any_site, people[1], NOW + HOUR + 1) is None


def test_the_same_key_again_returns_what_is_stored(any_site, people):
    add_batch(any_site)
    mine = claim(any_site, people[0])
    first, second = (submit(any_site, people[0], mine, key="the same key") for _ in range(2))
    assert first.is_new and not second.is_new and first.submission.id == second.submission.id
    assert counters(any_site)[0] == (0, 1)


def test_another_key_for_an_answered_task_is_a_conflict(any_site, people):
    add_batch(any_site)
    mine = claim(any_site, people[0])
    submit(any_site, people[0], mine)
    with pytest.raises(Problem) as refused:
        submit(any_site, people[0], mine)
    assert (refused.value.status, refused.value.code) == (409, "already_answered")


def test_a_key_of_another_task_is_a_conflict_and_shows_nothing_of_it(any_site, people):
    add_batch(any_site)
    submit(any_site, people[0], claim(any_site, people[0]), key="a key used once")
    theirs = claim(any_site, people[1])
    with pytest.raises(Problem) as refused:
        submit(any_site, people[1], theirs, key="a key used once")
    assert refused.value.code == "key_reused"


def test_somebody_elses_assignment_does_not_exist(any_site, people):
    add_batch(any_site)
    mine = claim(any_site, people[0])
    with pytest.raises(Problem) as refused:
        submit(any_site, people[1], mine)
    assert refused.value.status == 404


def test_a_skip_puts_the_task_back_for_others_only(any_site, people):
    add_batch(any_site, count=1, overlap=1)
    mine = claim(any_site, people[0])
    for _ in range(2):
        with any_site.database.write() as session:
            queue.skip(
                session, people[0], mine.id, SkipAnswer(reason="too long", note="endless"), NOW
            )
    assert counters(any_site) == [(0, 0)]
    assert claim(any_site, people[0]) is None and claim(any_site, people[1]).task_id == mine.task_id
    with pytest.raises(Problem) as refused:
        submit(any_site, people[0], mine)
    assert refused.value.status == 410


def test_a_revision_is_a_new_row_and_the_count_stays(any_site, people):
    add_batch(any_site, edit_minutes=60)
    mine = claim(any_site, people[0])
    submit(any_site, people[0], mine)
    with any_site.database.write() as session:
        stored = answers.revise(
            session, people[0], mine.id, "revision", complete(mine, backwards=True), NOW + 60
        )
        assert stored.submission.revision == 2
        again = answers.revise(session, people[0], mine.id, "revision", complete(mine), NOW + 60)
        assert again.submission.id == stored.submission.id
    with any_site.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Submission)) == 2
        ratings = session.scalars(
            select(ResponseRating).where(ResponseRating.submission_id == stored.submission.id)
        )
        assert {r.position: r.rank for r in ratings} == {3: 1, 2: 2, 1: 3, 0: 4}
    assert counters(any_site)[0] == (0, 1)
    with any_site.database.write() as session, pytest.raises(Problem) as refused:
        answers.revise(session, people[0], mine.id, "too late", complete(mine), NOW + 3601)
    assert refused.value.status == 410


def test_empty_tiers_are_kept_and_ranks_are_dense(any_site, people):
    add_batch(any_site)
    mine = claim(any_site, people[0])
    tiers = [[], [2], [], [0, 3], [1]]
    answer = Answer.model_validate(
        {"tiers": tiers, "responses": [{"position": p, "likert": 1} for p in range(4)]}
    )
    with any_site.database.write() as session:
        submission = answers.submit(
            session, people[0], mine.id, "with gaps", answer, NOW
        ).submission
    with any_site.database.read() as session:
        assert session.get_one(Submission, submission.id).tiers == tiers
        ratings = session.scalars(
            select(ResponseRating).where(ResponseRating.submission_id == submission.id)
        )
        assert {r.position: r.rank for r in ratings} == {2: 1, 0: 2, 3: 2, 1: 3}


@pytest.mark.parametrize(
    ("tiers", "rated", "said"),
    [
        ([[0, 1], [2]], 4, "3 of 4 are placed"),
        ([[0, 1], [2, 2, 3]], 4, "exactly once"),
        ([[0, 1], [2], [3]], 3, "1 of 4 have no rating"),
        ([[0], [1], [2], [7]], 4, "3 of 4 are placed"),
    ],
    ids=["one left out", "one twice", "one unrated", "one of another task"],
)
def test_an_answer_that_does_not_fit_is_refused_with_a_sentence(
    any_site, people, tiers, rated, said
):
    add_batch(any_site)
    mine = claim(any_site, people[0])
    answer = Answer.model_validate(
        {"tiers": tiers, "responses": [{"position": p, "likert": 5} for p in range(rated)]}
    )
    with any_site.database.write() as session, pytest.raises(Problem) as refused:
        answers.submit(session, people[0], mine.id, "a bad answer", answer, NOW)
    assert refused.value.status == 422 and said in refused.value.message
    assert counters(any_site)[0] == (1, 0)


def test_ties_can_be_forbidden(any_site, people):
    add_batch(any_site, ties_allowed=False)
    mine = claim(any_site, people[0])
    rated = [{"position": p, "likert": 5} for p in range(4)]
    tied = Answer.model_validate({"tiers": [[0, 1], [2], [3]], "responses": rated})
    with any_site.database.write() as session, pytest.raises(Problem, match="own tier"):
        answers.submit(session, people[0], mine.id, "a tie", tied, NOW)


def test_the_order_shown_is_a_persons_own_and_stays(any_site, people):
    add_batch(any_site, count=1, k=9, overlap=4)
    orders = [claim(any_site, person).display_order for person in people]
    assert (
        all(sorted(order) == list(range(9)) for order in orders)
        and len({tuple(o) for o in orders}) == 4
    )
    assert [claim(any_site, person).display_order for person in people] == orders


def test_cohorts_and_paused_batches(any_site, people):
    screening = add_person(any_site, "on-trial", cohort="screening")
    read_instructions(any_site, screening)
    assert add_batch(any_site, name="real", cohorts=["train"]).state == "open"
    assert claim(any_site, screening) is None
    test_batch = add_batch(any_site, name="trial", cohorts=["screening"])
    assert claim(any_site, screening).cohort == "screening"
    with any_site.database.write() as session:
        session.merge(test_batch).state = "paused"
    other = add_person(any_site, "on-trial-too", cohort="screening")
    read_instructions(any_site, other)
    assert claim(any_site, other) is None


def test_gold_tasks_come_every_so_many_answers_once_each(any_site, people):
    gold = candidates(1, gold_ranks=[1, 2, 3, 4])
    gold[0] = gold[0].model_copy(update={"responses": ["best", "good", "poor", "worst"]})
    batch = add_batch(any_site, gold_every=2, records=[*candidates(4), *gold])
    with any_site.database.read() as session:
        gold_task = session.scalars(select(Task.id).where(Task.gold_ranks.is_not(None))).one()
    order = []
    while (assignment := claim(any_site, people[0])) is not None:
        order.append(assignment.task_id == gold_task)
        submit(any_site, people[0], assignment)
    assert order == [False, True, False, False, False] and batch.gold_every == 2


def test_a_task_that_filled_up_while_somebody_waited_for_it_is_not_kept_locked(any_site, people):
    """Two who each kept one and waited for the other's were a deadlock, which the test below met
    once. Mutations seen red (PostgreSQL): no savepoint; the savepoint kept.
    """
    add_batch(any_site, count=1, overlap=1)
    if any_site.database.is_sqlite:
        assert claim(any_site, people[0]) and claim(any_site, people[1]) is None
        return
    waits, found = threading.Event(), []

    def second(session):
        waits.set()
        found.append(queue.claim(session, people[1], NOW))
        # Somebody else can have the task's row at once, although this one has not ended.
        with any_site.database.write() as other:
            other.execute(select(Task.id).with_for_update(nowait=True)).all()

    def work() -> None:
        try:
            with any_site.database.write() as session:
                second(session)
        except Exception as error:
            found.append(error)

    with any_site.database.write() as first:
        assert queue.claim(first, people[0], NOW)
        thread = threading.Thread(target=work)
        thread.start()
        waits.wait()
        wait_for_a_lock(any_site)
    thread.join()
    assert found == [None]


def wait_for_a_lock(site: Site) -> None:
    """Until a connection of PostgreSQL waits for another's row."""
    waiting = text("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
    for _ in range(1000):
        with site.database.read() as session:
            if session.scalar(waiting):
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


def test_many_people_at_once_collect_exactly_what_is_wanted(any_site):
    """16 threads want 40 tasks x 3 rankings. Mutation seen red: a claim that reads before it takes
    the write lock.
    """
    workers = [add_person(any_site, f"worker-{n}") for n in range(16)]
    read_instructions(any_site, *workers)
    add_batch(any_site, count=40, overlap=3)
    stored: Counter[int] = Counter()
    failures: list[Exception] = []

    def work(person: int, skips: float = 0.1) -> None:
        rng = random.Random(person)
        try:
            while (assignment := claim(any_site, person)) is not None:
                if rng.random() < skips:
                    with any_site.database.write() as session:
                        queue.skip(session, person, assignment.id, SkipAnswer(reason="other"), NOW)
                else:
                    submit(any_site, person, assignment)
                    stored[assignment.task_id] += 1
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(person,)) for person in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for person in workers:  # a skip at the very end frees a place when everybody has already left
        work(person, skips=0)
    assert not failures
    assert sum(stored.values()) == 120 and set(stored.values()) == {3}
    assert counters(any_site) == [(0, 3)] * 40
