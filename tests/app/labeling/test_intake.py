"""An import says what it did with every line: taken, refused, a duplicate."""

import json
import time

import pytest
from typer.testing import CliRunner

from app.labeling import cli, intake
from app.labeling.importing import BatchRules, Candidates, add_batch
from app.labeling.task_tables import Task
from data.records import Message
from podium.errors import DataError


def row(prompt: str = "Why?", *responses: str, **more) -> dict:
    said = [{"role": "user", "content": prompt}]
    return {"prompt": said, "responses": list(responses or ("a", "b"))} | more


LINES = [
    row(),
    row("Why not?", "a", "a", "b"),  # an identical response is tied and shown once
    row("Why?", "b", "a", "a", generators=["x", "y", "z"]),  # asks the same as the first
    row("One answer", "a", "a"),
    row("No list") | {"responses": "a"},
    row("Ten", *(str(n) for n in range(10))),
    "{ no JSON",
    row("The answer is here") | {"prompt": [{"role": "assistant", "content": "x"}]},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [line if isinstance(line, str) else json.dumps(line) for line in LINES]
    path.write_text("\n\n".join(lines) + "\n")  # blank lines count as lines
    return path


def test_partly_takes_the_right_lines_and_names_the_others(site, file):
    """Mutation seen red: the number of the record in place of the line."""
    rows = intake.read_rows(file, partly=True)
    with site.database.write() as session:
        done, event = intake.take_in(session, BatchRules(name="b"), rows, time.time(), file="f")
    assert (done.rows, done.tasks, done.copies) == (8, 2, 1)
    told = [(left.line, left.kind) for left in done.left_out]
    assert told == [
        (5, "duplicate"),
        (7, "one response"),
        (9, "refused"),
        (11, "refused"),
        (13, "refused"),
        (15, "refused"),
    ]
    reasons = [left.reason for left in done.left_out]
    assert "the same prompt and responses as line 1" in reasons[0]
    assert reasons[2].startswith("responses: ") and "at most 9" in reasons[3]
    assert "user's" in reasons[5]
    assert event.detail["left_out"] == {"refused": 4, "duplicate": 1, "one response": 1}


def test_without_it_one_wrong_line_and_nothing_is_taken(file):
    with pytest.raises(DataError, match="line 9"):
        intake.read_rows(file)


def test_a_file_without_any_right_line_is_an_error_either_way(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n[]\n")
    with pytest.raises(DataError, match=r"line 1.*no line will do"):
        intake.read_rows(path, partly=True)


def test_a_batch_that_is_added_to_knows_the_tasks_it_has(site):
    """Of gold tasks the same file twice makes none twice. Mutation seen red: `known` left empty."""
    said = [Message(role="user", content="Why?")]
    gold = Candidates(prompt=said, responses=["a", "b"], gold_ranks=[1, 2])
    other = gold.model_copy(update={"responses": ["a", "c"]})
    rules = BatchRules(name="b")
    with site.database.write() as session:
        add_batch(session, rules, [gold], time.time())
        rows = intake.Rows([(1, gold), (2, other), (3, other)], [])
        done, _ = intake.take_in(session, rules, rows, time.time(), extend=True)
        assert (done.tasks, session.query(Task).count()) == (1, 2)
    assert [left.reason.rsplit("as ")[-1] for left in done.left_out] == [
        "task 0 of this batch",
        "line 2",
    ]


def test_by_page_and_by_command(site, browser, file, tmp_path):
    """Both say the same; the page can be looked at again from the event log."""
    ida = browser("ida", role="admin")
    for partly, status in ((None, 422), ("true", 303)):
        fields = {"csrf_token": ida.token, "name": "page", "cohorts": "train", "partly": partly}
        kept = {name: value for name, value in fields.items() if value}
        with file.open("rb") as content:
            reply = ida.http.post("/admin/batches", data=kept, files={"file": content})
        assert reply.status_code == status
    shown = ida.get(reply.headers["location"]).text
    assert "2 tasks of 8 rows" in shown and "as line 1" in shown and "at most 9" in shown
    assert reply.headers["location"] in ida.get("/admin/events").text
    assert ida.get("/admin/imports/9999").status_code == 404

    arguments = ["import", str(file), "--name", "command", "--folder", str(tmp_path)]
    refused = CliRunner().invoke(cli.app, arguments)
    assert refused.exit_code != 0 and "line 9" in refused.output
    said = CliRunner().invoke(cli.app, [*arguments, "--partly"]).output
    assert said.startswith(
        "batch 'command': 2 tasks of 8 rows; 1 identical responses tied and shown once; 4 refused"
    )
    assert "line 5, duplicate: the same prompt and responses as line 1" in said
