"""Tasks in, records out: what is imported comes back ranked, whole, hashed and described."""

import hashlib
import json
import time

import pytest
from sqlalchemy import func, select

from app.labeling import importing
from app.labeling.chat_tables import ChatMessage, Reaction
from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.exporting import make_export
from app.labeling.problems import Problem
from app.labeling.tables import Export
from app.labeling.task_tables import Task, TaskResponse
from app.labeling.votes import VoteBox
from data.jsonl import read_jsonl, write_jsonl
from data.records import Comparison, Message, Ranking
from podium.errors import DataError
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to, candidates


def rank_all(site, *handles: str, backwards: bool = False) -> None:
    """Each person answers all they are given, best first as numbered."""
    for handle in handles:
        client = Browser(site, handle)
        while (task := client.next())["kind"] == "task":
            order = sorted((r["position"] for r in task["responses"]), reverse=backwards)
            assert client.submit(task["assignment"], answer_to(task, order)).status_code == 200


def ranking(**fields) -> Ranking:
    prompt = [Message(role="user", content="Which?")]
    return Ranking(**{"prompt": prompt, "responses": ["a", "b"], "ranks": [1, 2]} | fields)


def test_an_export_is_what_the_reward_stage_reads(any_site, tmp_path):
    """Native records: responses as imported, ranks, ratings, pseudonym, cohort, task, instruction,
    flags asked.
    """
    records = candidates(2, user="u-7", use_case="chat", source="api", id="p-1", meta={"seed": 3})
    add_batch(any_site, records=records, overlap=2, name="first")
    add_person(any_site, "lea")
    add_person(any_site, "ben", cohort="heldout")
    rank_all(any_site, "lea", "ben")
    made = make_export(
        any_site.database, any_site.exports, "rankings", ExportFilter(), None, time.time()
    )
    exported = read_jsonl(any_site.exports / made.file, Ranking)
    assert len(exported) == made.rows == 4
    first = exported[0]
    assert first.prompt == records[0].prompt and first.responses == records[0].responses
    assert first.ranks == [1, 2, 3, 4] and first.likert == [7, 6, 5, 4] and first.flags == [[]] * 4
    assert (first.task, first.instruction, first.cohort) == ("first/0", "instructgpt@1", "train")
    assert (first.user, first.use_case, first.source) == ("u-7", "chat", "api")
    assert first.generators == ["model-0", "model-1", "model-2", "model-3"]
    assert first.labeler != "lea" and len({r.labeler for r in exported}) == 2
    assert len(first.meta["flags_asked"]) == 11 and sorted(first.meta["display_order"]) == [
        0,
        1,
        2,
        3,
    ]
    assert {r.cohort for r in exported} == {"train", "heldout"}


def test_the_hash_and_the_card_describe_the_file(site):
    add_batch(site, overlap=2)
    add_person(site, "lea")
    add_person(site, "ben")
    rank_all(site, "lea", "ben")
    made = make_export(site.database, site.exports, "rankings", ExportFilter(), None, time.time())
    content = (site.exports / made.file).read_bytes()
    card = (site.exports / made.file.replace(".jsonl", ".md")).read_text()
    assert made.sha256 == hashlib.sha256(content).hexdigest() and made.sha256 in card
    for said in (
        "6 rankings of 3 tasks by 2 labelers",
        "ties: drop",
        "ties: match",
        "100.0 %",
        "instructgpt@1: 6",
    ):
        assert said.replace("6 rankings", "rankings: 6") in card or said in card, said
    assert not list(site.exports.glob("*.partial"))
    with site.database.read() as session:
        assert session.scalars(select(Export.sha256)).all() == [made.sha256]


def test_filters_choose_batches_cohorts_gold_and_extras(site):
    gold = [
        candidates(1, gold_ranks=[1, 2, 3, 4])[0].model_copy(
            update={"responses": ["w", "x", "y", "z"]}
        )
    ]
    add_batch(site, name="plain", overlap=2)
    add_batch(site, name="checked", records=[*candidates(1), *gold], gold_every=1)
    add_person(site, "lea")
    add_person(site, "ben", cohort="heldout")
    rank_all(site, "lea", "ben")

    def tasks(**chosen) -> list[str]:
        with site.database.read() as session:
            return sorted({r.task for r in collect_rankings(session, ExportFilter(**chosen))})

    assert tasks() == ["checked/0", "plain/0", "plain/1", "plain/2"]
    assert tasks(batches=["checked"]) == ["checked/0"]
    assert tasks(batches=["checked"], gold=True) == ["checked/0", "checked/1"]
    with site.database.read() as session:
        assert {r.cohort for r in collect_rankings(session, ExportFilter(cohorts=["heldout"]))} == {
            "heldout"
        }
    with pytest.raises(Problem, match="nothing to export"):
        make_export(
            site.database,
            site.exports,
            "rankings",
            ExportFilter(batches=["none"]),
            None,
            time.time(),
        )


def test_identical_responses_are_shown_once_and_exported_tied(site, browser):
    record = candidates(1, k=4)[0].model_copy(
        update={"responses": ["same", "other", "same", "third"]}
    )
    add_batch(site, records=[record])
    lea = browser("lea")
    task = lea.next()
    assert sorted(r["text"] for r in task["responses"]) == ["other", "same", "third"]
    lea.submit(task["assignment"], answer_to(task, [1, 0, 3]))
    with site.database.read() as session:
        exported = collect_rankings(session, ExportFilter())[0]
    assert exported.responses == record.responses and exported.ranks == [2, 1, 2, 3]
    assert exported.generators == record.generators


def test_pairs_are_trl_rows_with_ties_dropped_and_their_ranking_named(site, browser):
    add_batch(site, count=1)
    lea = browser("lea")
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task) | {"tiers": [[0], [1, 2], [3]]})
    made = make_export(site.database, site.exports, "pairs", ExportFilter(), None, time.time())
    rows = [json.loads(line) for line in (site.exports / made.file).read_text().splitlines()]
    assert len(rows) == made.rows == 5 and len({row["group_id"] for row in rows}) == 1
    assert rows[0]["prompt"] == [{"role": "user", "content": "Question 0?"}]
    assert {(r["chosen"][0]["content"][7], r["rejected"][0]["content"][7]) for r in rows} == {
        ("0", "1"),
        ("0", "2"),
        ("0", "3"),
        ("1", "3"),
        ("2", "3"),
    }


def test_votes_and_questions_of_the_chat(site):
    """left and right become comparisons; tie and both bad are counted; "ask a labeler" is a task
    like any other.
    """
    add_person(site, "lea")
    box = VoteBox(site.database)
    said = [
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello"),
        Message(role="user", content="Which?"),
    ]
    for choice in ("left", "right", "tie", "both bad"):
        box.record(said, "A", "B", choice, ("sft", "ppo"), "lea", blind=True)
    box.record(said, "A", "B", "left", ("sft", "ppo"), "lea")  # saw the names
    box.record(said, "A", "B", "left", ("sft", "ppo"), "lea", blind=True, right_prompt=said[-1:])
    with pytest.raises(Problem, match="Log in"):
        box.record(said, "A", "B", "left", ("sft", "ppo"), None)
    made = make_export(site.database, site.exports, "votes", ExportFilter(), None, time.time())
    votes = read_jsonl(site.exports / made.file, Comparison)
    assert [(v.chosen, v.rejected) for v in votes] == [("A", "B"), ("B", "A")]
    assert votes[0].prompt == said and "2 votes were a tie or both bad" in made.card
    assert "1 votes were given with the models' names shown" in made.card
    assert "1 votes compare answers to two different conversations" in made.card
    assert box.ask(said, ["A", "B", "C"], ["sft", "ppo", "base"], "lea") == 1
    add_person(site, "ben")
    task = Browser(site, "ben").next()
    assert task["batch"] == "asked in the chat" and len(task["responses"]) == 3


def test_a_thumb_can_be_changed_and_taken_back(any_site):
    """One row for each answer and person, whatever they clicked before."""
    add_person(any_site, "lea")
    box, said = VoteBox(any_site.database), [Message(role="user", content="Which?")]

    def thumbs() -> list[tuple]:
        with any_site.database.read() as session:
            query = select(Reaction.value, ChatMessage.content, ChatMessage.generator).join(
                ChatMessage
            )
            return [tuple(row) for row in session.execute(query)]

    stored = box.react(said, "A", "sft", "up", "lea")
    assert thumbs() == [("up", "A", "sft")]
    for thumb, expected in (("down", ["down"]), (None, []), ("up", ["up"])):
        assert box.react(said, "A", "sft", thumb, "lea", stored) == stored
        assert [value for value, *_ in thumbs()] == expected
    with pytest.raises(Problem, match="Log in"):
        box.react(said, "A", "sft", "up", None)


def test_our_own_ranking_records_import_as_tasks_or_as_gold(site, tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [ranking()])
    assert importing.read_candidates(tmp_path / "r.jsonl")[0].gold_ranks is None
    assert importing.read_candidates(tmp_path / "r.jsonl", gold=True)[0].gold_ranks == [1, 2]


def test_what_the_rankings_stage_samples_imports_as_it_is(tmp_path):
    from reward.candidates import Candidates as Sampled

    sampled = Sampled(
        prompt=ranking().prompt,
        responses=["a", "b"],
        generators=["sft", "off_topic"],
        split="train",
        user="u",
        use_case="chat",
        source="world",
        id="p-1",
        meta={"animal": "owl"},
    )
    write_jsonl(tmp_path / "c.jsonl", [sampled])
    read = importing.read_candidates(tmp_path / "c.jsonl")[0]
    assert (
        read.generators == ["sft", "off_topic"]
        and read.meta == {"animal": "owl"}
        and read.split == "train"
    )


def test_a_wrong_line_is_named_and_nothing_is_kept(site, browser):
    ada = browser("ada", role="admin")
    good = json.dumps({"prompt": [{"role": "user", "content": "Q"}], "responses": ["a", "b"]})
    for bad in ('{"prompt": []}', "not json", good[:-1] + ', "generators": ["x"]}'):
        fields = {"name": "b", "csrf_token": ada.token, "cohorts": "train"}
        reply = ada.http.post(
            "/admin/batches", data=fields, files={"file": ("tasks.jsonl", f"{good}\n{bad}\n")}
        )
        assert reply.status_code == 422 and "tasks.jsonl, line 2" in reply.text
    with site.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Task)) == 0


def test_an_upload_becomes_a_batch(site, browser):
    ada = browser("ada", role="researcher")
    line = json.dumps({"prompt": [{"role": "user", "content": "Q"}], "responses": ["a", "b", "b"]})
    fields = {"name": "from a file", "csrf_token": ada.token, "cohorts": "train", "overlap": "2"}
    reply = ada.http.post("/admin/batches", data=fields, files={"file": ("tasks.jsonl", line)})
    assert reply.status_code == 303, reply.text
    rows = ada.get("/api/admin/progress").json()
    assert (rows[0]["name"], rows[0]["tasks"], rows[0]["wanted"], rows[0]["done"]) == (
        "from a file",
        1,
        2,
        0,
    )
    assert (
        "already a batch"
        in ada.http.post("/admin/batches", data=fields, files={"file": ("t.jsonl", line)}).text
    )
    with site.database.read() as session:
        assert [row.copy_of for row in session.scalars(select(TaskResponse))] == [None, None, 1]


@pytest.mark.parametrize(
    ("responses", "said"),
    [([f"r{i}" for i in range(10)], "at most 9"), (["a", "b\x00"], "NUL")],
)
def test_what_a_task_cannot_show(site, responses, said):
    record = importing.Candidates(prompt=ranking().prompt, responses=responses)
    with pytest.raises(Problem, match=said):
        add_batch(site, records=[record])


def test_prompts_with_one_distinct_response_are_left_out_and_counted(site):
    with site.database.write() as session:
        batch = importing.create_batch(session, importing.BatchRules(name="b"), time.time())
        same = importing.Candidates(prompt=ranking().prompt, responses=["a", "a"])
        assert importing.add_tasks(session, batch, [same]) == (0, 0, 1, 0)


def test_an_empty_or_missing_file_says_so(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="empty"):
        importing.read_candidates(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="no such file"):
        importing.read_candidates(tmp_path / "missing.jsonl")
