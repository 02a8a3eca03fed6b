"""`podium label` from the terminal, on a folder of its own."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from app.labeling.cli import app
from data.jsonl import read_jsonl, write_jsonl
from data.records import Message, Ranking
from tests.app.labeling.making import PASSWORD, Browser, answer_to, candidates


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in a site folder; returns its output, fails on another exit code."""
    monkeypatch.setenv("PODIUM_PASSWORD", PASSWORD)
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, result.output
        return result.output

    return command


def test_from_init_to_export(run, tmp_path):
    assert "added ada as admin" in run("init", "--admin", "ada")
    run("user", "add", "lea", "--cohort", "heldout")
    assert "lea" in run("user", "list") and "heldout" in run("user", "list")
    assert "http://127.0.0.1:8000/invite/" in run("invite")
    write_jsonl(tmp_path / "tasks.jsonl", candidates(3))
    assert "3 tasks" in run("import", "tasks.jsonl", "--name", "first", "--overlap", "2")
    assert "already a batch" in run("import", "tasks.jsonl", "--name", "first", code=2)
    assert "no rankings yet" in run("agreement")

    from app.labeling.site import Settings, open_site

    site = open_site(Settings(folder=tmp_path / "labeling"))
    for handle in ("ada", "lea"):
        client = Browser(site, handle)
        while (task := client.next())["kind"] == "task":
            client.submit(task["assignment"], answer_to(task))
    site.database.close()
    printed = run("agreement")
    assert "heldout x train" in printed and "ties drop: pairs that either labeler tied" in printed
    made = json.loads(run("export"))
    assert made["rows"] == 6 and len(read_jsonl(tmp_path / made["file"], Ranking)) == 6
    assert "100.0 %" in run("agreement", made["file"])
    assert json.loads(run("export", "--kind", "pairs", "--cohort", "train"))["rows"] == 3 * 6
    assert "nothing to export" in run("export", "--kind", "votes", code=2)


def test_people_invitations_and_batches(run, tmp_path):
    """What the People and Progress pages do, from a terminal."""
    run("init", "--admin", "ada")
    run("user", "add", "lea")
    assert "lea: researcher, heldout" in run(
        "user", "change", "lea", "--role", "researcher", "--cohort", "heldout"
    )
    assert "(disabled)" in run("user", "change", "lea", "--disable")
    assert "disabled" in run("user", "reset", "lea", code=2)
    run("user", "change", "lea", "--enable")
    assert "/reset/" in run("user", "reset", "lea", "--address", "https://label.example.org")
    assert "last admin" in run("user", "change", "ada", "--role", "labeler", code=2)
    assert "Nobody here is called 'eve'" in run("user", "reset", "eve", code=2)
    run("invite")
    assert "1 labeler" in run("invitations")
    assert "1 labeler" not in run("invitations", "--revoke", "1")
    write_jsonl(tmp_path / "tasks.jsonl", candidates(3))
    run("import", "tasks.jsonl", "--name", "first")
    assert "withdrawn" in run("batch", "set", "first", "withdrawn")
    run("batch", "set", "first", "deleted")
    assert "first (deleted 1)" in run("batch", "list")
    assert "there are: ['first (deleted 1)']" in run("batch", "set", "first", "open", code=2)


@pytest.mark.parametrize(
    "command",
    [
        ["user", "add", "lea"],
        ["user", "list"],
        ["user", "change", "lea"],
        ["user", "reset", "lea"],
        ["invite"],
        ["invitations"],
        ["import", "tasks.jsonl", "--name", "x"],
        ["sample", "run", "--name", "x"],
        ["agreement"],
        ["export"],
        ["simulate", "--world", "world"],
        ["batch", "list"],
        ["batch", "set", "x", "open"],
    ],
)
def test_a_wrong_folder_is_said_and_stays_as_it_was(run, tmp_path, command):
    """Seen red: each of these made an empty site."""
    write_jsonl(tmp_path / "tasks.jsonl", candidates(1))
    assert "no labeling site" in run(*command, code=4)
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.jsonl"]


def test_agreement_of_any_file_of_rankings(run, tmp_path):
    prompt = [Message(role="user", content="Which?")]
    write_jsonl(
        tmp_path / "r.jsonl",
        [
            Ranking(prompt=prompt, responses=["a", "b"], ranks=r, labeler=str(i))
            for i, r in enumerate([[1, 2], [2, 1], [1, 1]])
        ],
    )
    printed = run("agreement", "r.jsonl")
    assert "0.0 %" in printed and "2 pairs of rankings have no tau" in printed


def test_errors_are_sentences(run):
    assert "no such file" in run("import", "missing.jsonl", "--name", "x", code=2)
    assert "A password has" not in run("init", "--admin", "ada")
    assert "is taken" in run("user", "add", "ada", code=2)
    assert "no secret" in run("serve", "--host", "0.0.0.0", code=2)


def test_a_database_that_cannot_be_opened_is_a_sentence_without_the_password(run, tmp_path):
    """Seen red without the `except` in `opened`."""
    pytest.importorskip("psycopg")
    printed = run("serve", "--database", "postgresql://ada:secret-word@127.0.0.1:1/x", code=2)
    assert "cannot be opened" in printed and "secret-word" not in printed
    (tmp_path / "labeling").mkdir()
    (tmp_path / "labeling" / "labeling.sqlite").write_text("this is no database" * 100)
    assert "cannot be opened" in run("user", "list", code=2)


def test_the_site_and_its_commands_start_without_torch():
    code = (
        "import sys, app.labeling.cli, app.labeling.site, app.labeling.admin_routes, "
        "app.labeling.simulate, "
        "app.labeling.demo, app.server; sys.exit('torch' in sys.modules or 'gradio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
