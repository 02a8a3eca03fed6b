"""One bad row takes nothing else with it: refused at import, named and skipped on the way out, and a
batch can be taken out of everything.
"""

import json
import time

import pytest
from sqlalchemy import select, text

from app.labeling import accounts, importing
from app.labeling.batches import change_batch
from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.database import Database
from app.labeling.exporting import make_export
from app.labeling.problems import Problem
from app.labeling.queue import recount
from app.labeling.site import Settings, open_site
from app.labeling.tables import EventLog
from app.labeling.task_tables import Assignment, Batch, Prompt, Submission
from app.labeling.votes import VoteBox
from data.jsonl import read_jsonl
from data.records import Message, Ranking
from podium.errors import DataError
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to, candidates

POISON = [{"role": "user", "content": "Continue:"}, {"role": "assistant", "content": "Once"}]


def rank_all(site, handle: str) -> int:
    client, done = Browser(site, handle), 0
    while (task := client.next())["kind"] == "task":
        assert client.submit(task["assignment"], answer_to(task)).status_code == 200
        done += 1
    return done


def poison(site, task_prompt: str = "Question 0?") -> None:
    """Make one prompt what the last release imported: a conversation that ends with the answer."""
    with site.database.write() as session:
        for prompt in session.scalars(select(Prompt)):
            if prompt.messages[-1]["content"] == task_prompt:
                prompt.messages = POISON


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": POISON, "responses": ["a", "b"]}, "the last message is assistant's"),
        (
            {"prompt": [{"role": "user", "content": " \n"}], "responses": ["a", "b"]},
            "the last message is blank",
        ),
        (
            {
                "prompt": [{"role": "user", "content": "Q"}],
                "responses": ["a", "b"],
                "gold_ranks": [0, 1],
            },
            "gold_ranks",
        ),
        (
            {
                "prompt": [{"role": "user", "content": "Q"}],
                "responses": ["a", "b"],
                "demonstration": 2,
            },
            "demonstration",
        ),
    ],
)
def test_what_no_export_could_hold_is_refused_at_import(tmp_path, line, said):
    """Seen red: all of these were taken in."""
    good = {"prompt": [{"role": "user", "content": "Q"}], "responses": ["a", "b"]}
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(line)}\n")
    with pytest.raises(DataError, match="line 2") as refused:
        importing.read_candidates(path)
    assert said in str(refused.value) and "tasks.jsonl" in str(refused.value)


def test_a_broken_row_is_named_and_the_others_go_out(site, browser, caplog):
    """Seen red: export, agreement, disputed and the overview ended in a ValidationError."""
    add_batch(site, overlap=2)
    for handle in ("lea", "ben"):
        add_person(site, handle)
        assert rank_all(site, handle) == 3
    poison(site)
    made = make_export(site.database, site.exports, "rankings", ExportFilter(), None, time.time())
    assert (made.rows, made.broken) == (4, 2)
    assert len(read_jsonl(site.exports / made.file, Ranking)) == 4
    assert "2 broken rows" in made.card and "batch/0" in made.card and "assistant's" in made.card
    assert "batch/0" in caplog.text
    ada = browser("ada", role="admin")
    assert "2 left out" in ada.get("/admin/exports").text
    assert "broken rows" in str(ada.get("/api/admin/agreement").json()["lines"])
    for path in ("/admin", "/admin/disputed", "/admin/labelers"):
        assert ada.get(path).status_code == 200
    pairs = make_export(site.database, site.exports, "pairs", ExportFilter(), None, time.time())
    assert pairs.rows == 4 * 6 and pairs.broken == 2
    with site.database.read() as session:
        assert len(importing.stored_candidates(session)) == 2


def test_votes_on_a_broken_conversation_are_left_out(site):
    add_person(site, "lea")
    box = VoteBox(site.database)
    for content in ("Which?", " "):
        said = [Message(role="user", content=content)]
        box.record(said, "A", "B", "left", ("sft", "ppo"), "lea", blind=True)
    made = make_export(site.database, site.exports, "votes", ExportFilter(), None, time.time())
    assert (made.rows, made.broken) == (1, 1) and "vote-2" in made.card


def test_a_site_of_the_last_release_with_a_poisoned_row_migrates_and_exports(
    tmp_path, database_url
):
    """Schema 0002 as the last release left it: two answers, one on a prompt that is none, and a
    question from the chat that named who asked. Seen red: the export ended in a ValidationError,
    and held the handle.
    """
    database = Database(database_url)
    database.upgrade("0002")
    prompts = [
        (1, json.dumps([{"role": "user", "content": "Which?"}]), "chat", "lea"),
        (2, json.dumps(POISON), "file", "lea"),
    ]
    with database.write() as session:

        def put(statement: str, **values) -> None:
            session.execute(text(statement), values)

        put("INSERT INTO person VALUES (1, 'lea', 'x', 'labeler', 'train', 1.0, NULL)")
        put(
            "INSERT INTO site_setting VALUES ('pseudonym_salt', 'salt'), ('local_secret', 'secret')"
        )
        put("INSERT INTO instruction_set VALUES (1, 'instructgpt', 1, 'Be fair.', 1.0)")
        put(
            "INSERT INTO form_schema VALUES (1, 'short', 1, :body, 1.0)",
            body='{"likert": false}',
        )
        put(
            "INSERT INTO batch (id, name, purpose, cohorts, overlap, lease_minutes, ties_allowed, "
            "shuffle_seed, instruction_set_id, form_schema_id, state, created_at) VALUES "
            "(1, 'old', 'ranking', :cohorts, 1, 60, true, 0, 1, 1, 'open', 1.0)",
            cohorts='["train"]',
        )
        for number, messages, source, user in prompts:
            put(
                "INSERT INTO prompt (id, messages, text_hash, source, asked_by, meta) VALUES "
                "(:id, :messages, :hash, :source, :user, '{}')",
                id=number,
                messages=messages,
                hash=str(number),
                source=source,
                user=user,
            )
            for response in (0, 1):
                put(
                    "INSERT INTO response (id, prompt_id, text, sampling, is_demonstration) VALUES "
                    "(:id, :prompt, :text, '{}', false)",
                    id=2 * number + response,
                    prompt=number,
                    text=f"answer {response}",
                )
            put(
                "INSERT INTO task (id, batch_id, prompt_id, position, need, n_open, n_done) VALUES "
                "(:id, 1, :id, :id, 1, 0, 1)",
                id=number,
            )
            for response in (0, 1):
                put(
                    "INSERT INTO task_response (task_id, position, response_id) VALUES "
                    "(:task, :position, :response)",
                    task=number,
                    position=response,
                    response=2 * number + response,
                )
            put(
                "INSERT INTO assignment VALUES "
                "(:id, :id, 1, 'submitted', 'train', '[0, 1]', 3600.0, 1.0, 50.0)",
                id=number,
            )
            put(
                "INSERT INTO submission (id, assignment_id, revision, idempotency_key, tiers, "
                "active_seconds, instruction_set_id, form_schema_id, created_at) VALUES "
                "(:id, :id, 1, :key, '[[0], [1]]', 49.0, 1, 1, 50.0)",
                id=number,
                key=f"key-{number}",
            )
            put(
                "INSERT INTO response_rating VALUES (:id, 0, 1, NULL, '{}'), (:id, 1, 2, NULL, '{}')",
                id=number,
            )
            put("INSERT INTO prompt_rating VALUES (:id, '{}', NULL, NULL)", id=number)
    database.close()
    site = open_site(Settings(folder=tmp_path, database=database_url))
    made = make_export(site.database, site.exports, "rankings", ExportFilter(), None, time.time())
    (record,) = read_jsonl(site.exports / made.file, Ranking)
    assert made.broken == 1 and "answer-2 (old/2)" in made.card
    with site.database.read() as session:
        assert record.user == accounts.pseudonym(session, "lea")
        # what a file said of its own users is the file's
        assert session.get_one(Prompt, 2).user == "lea"
    site.database.close()


def test_a_withdrawn_batch_leaves_hands_and_exports_and_comes_back(any_site):
    """Seen red without `_take_back`: the task stayed in hand."""
    batch = add_batch(any_site)
    add_person(any_site, "lea")
    ada = add_person(any_site, "ada", role="admin")
    client = Browser(any_site, "lea")
    first = client.next()
    client.submit(first["assignment"], answer_to(first))
    in_hand = client.next()

    def change(to: str) -> None:
        with any_site.database.write() as session:
            change_batch(session, batch.id, to, ada, time.time())  # type: ignore[arg-type]

    def exported(**chosen) -> int:
        with any_site.database.read() as session:
            return len(collect_rankings(session, ExportFilter(**chosen)))

    change("withdrawn")
    assert client.next()["kind"] == "empty"
    assert (exported(), exported(batches=["batch"])) == (0, 1)
    # an answer under way is never thrown away
    assert client.submit(in_hand["assignment"], answer_to(in_hand)).status_code == 200
    with any_site.database.read() as session:
        assert recount(session) == []
        event = session.scalars(select(EventLog).where(EventLog.kind == "batch")).one()
        assert event.person_id == ada and event.detail["taken_back"] == 1
    change("deleted")
    assert exported(batches=["batch"]) == 0 == exported(batches=["batch (deleted 1)"])
    with pytest.raises(Problem, match="deleted"):
        change("open")
    add_batch(any_site, count=1, name="batch")  # its name is free again
    change("restored")
    change("open")
    assert exported() == 2
    assert client.next()["batch"] == "batch (deleted 1)"
    with any_site.database.read() as session:
        assert session.scalar(select(Submission.id).limit(1)) and session.get_one(Batch, batch.id)
        assert session.scalars(select(Assignment.state)).all().count("submitted") == 2


def test_the_admin_withdraws_and_deletes_on_the_page(site, browser):
    add_batch(site)
    ada, lea = browser("ada", role="researcher"), browser("lea")
    for state in ("paused", "withdrawn", "deleted"):
        assert ada.form(f"/admin/batches/1/{state}").status_code == 303
    assert ada.get("/api/admin/progress").json() == [] and lea.next()["kind"] == "empty"
    assert "Restore" in ada.get("/admin").text
    assert ada.form("/admin/batches/1/erased").status_code == 404
    assert ada.form("/admin/batches/1/restored").status_code == 303
    assert ada.get("/api/admin/progress").json()[0]["state"] == "paused"


def test_what_is_imported_comes_back_from_an_export(site, tmp_path):
    """Every field of the file, through a labeler's hands, and in again. Seen red: `meta`, `id`,
    `language`, `split`, `sampling` and `demonstration` were lost, and a prompt asked twice under
    two ids lost the second.
    """
    whole = {
        "user": "u-7",
        "use_case": "chat",
        "language": "de",
        "source": "api",
        "split": "train",
        "meta": {"seed": 3, "nested": {"a": [1, None]}},
        "sampling": {"temperature": 0.7},
        "demonstration": 2,
    }
    records = [*candidates(2, id="p-1", **whole), *candidates(1, id="p-2"), *candidates(1)]
    add_batch(site, records=records)
    add_person(site, "lea")
    client = Browser(site, "lea")
    while (task := client.next())["kind"] == "task":
        answer = answer_to(task) | {"comment": "Hm.", "language": "en", "use_case": "rewrite"}
        client.submit(task["assignment"], answer)
    made = make_export(site.database, site.exports, "rankings", ExportFilter(), None, time.time())
    exported = read_jsonl(site.exports / made.file, Ranking)
    assert [r.meta["comment"] for r in exported] == ["Hm."] * 4
    assert exported[0].meta["active_seconds"] == 30.0 and exported[0].meta["language"] == "en"
    assert exported[0].generators == records[0].generators
    again = importing.read_candidates(site.exports / made.file)
    assert again == records
    gold = importing.read_candidates(site.exports / made.file, gold=True)
    assert gold[0].gold_ranks == [1, 2, 3, 4]


def test_no_export_holds_a_handle(site):
    """Whoever labels, votes, asks and exports: the files know pseudonyms. Seen red: "Ask a labeler"
    stored the handle as the prompt's user.
    """
    handles = ["zebra-lea", "zebra-ben", "zebra-ada"]
    ids = [add_person(site, handle) for handle in handles]
    add_batch(site, records=candidates(2, user="u-7"))
    box = VoteBox(site.database)
    said = [Message(role="user", content="Which?")]
    for handle in handles:
        box.ask([Message(role="user", content=f"{len(handle)}?")], ["A", "B"], ["m", "n"], handle)
        box.record(said, "A", "B", "left", ("m", "n"), handle, blind=True)
        box.react(said, "A", "m", "up", handle)
    rank_all(site, handles[1])
    for kind in ("rankings", "pairs", "votes"):
        make_export(site.database, site.exports, kind, ExportFilter(), ids[2], time.time())
    files = list(site.exports.iterdir())
    assert len(files) == 6
    for file in files:
        assert "zebra" not in file.read_text(), file
