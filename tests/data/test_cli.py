"""`podium data clean` as a person types it."""

import json

import pytest
from typer.testing import CliRunner

from data.jsonl import read_jsonl, write_jsonl
from data.records import Document, Message, Prompt, Ranking
from podium.cli.main import app


def podium(*arguments):
    return CliRunner().invoke(app, ["data", "clean", *map(str, arguments)])


def prompt(text, user=None, id=None):
    return Prompt(messages=[Message(role="user", content=text)], user=user, id=id)


def test_the_splits_are_written_and_bad_input_is_refused(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [prompt(f"question number {i}", f"u{i}") for i in range(50)])
    shares = ("--shares", "train=0.5,test=0.5")
    done = podium(tmp_path / "in.jsonl", tmp_path / "out", "--kind", "prompts", *shares)
    assert done.exit_code == 0 and "50 records read" in done.output
    kept = [
        read_jsonl(tmp_path / "out" / f"prompts.{split}.jsonl", Prompt)
        for split in ("train", "test")
    ]
    assert sum(map(len, kept)) == 50
    missing = podium(tmp_path / "none.jsonl", tmp_path / "out2", "--kind", "prompts")
    assert missing.exit_code == 2 and "no such file" in missing.output
    assert not (tmp_path / "out2").exists()
    wrong = podium(
        tmp_path / "in.jsonl", tmp_path / "out2", "--kind", "prompts", "--shares", "train"
    )
    assert wrong.exit_code == 2 and "train=0.8,test=0.2" in wrong.output


BOTH_OFF = ("--no-common-prefix", "--no-near-duplicates")
# options -> how many of the five prompts below are left
SWITCHES = {
    (): 2,
    ("--no-common-prefix",): 2,
    ("--no-near-duplicates",): 2,
    BOTH_OFF: 4,
    ("--no-common-prefix", "--near-duplicate", "1"): 3,
    ("--no-near-duplicates", "--prefix-characters", "5000"): 3,
    (*BOTH_OFF, "--personal-data", "keep"): 5,
    (*BOTH_OFF, "--personal-data", "redact"): 5,
    (*BOTH_OFF, "--user-cap", "2"): 2,
}


@pytest.mark.parametrize("options", SWITCHES, ids=" ".join)
def test_every_rule_has_a_switch(tmp_path, options):
    """One person's prompts: two are equal, a third has another last word, one holds a mail
    address. Seen red with each option left out of the rules in turn.
    """
    long = " ".join(f"word{i}" for i in range(100))
    asked = [f"{long} {end}" for end in ("well", "well", "mill")]
    asked += ["My mail is a@b.org, is it right?", "Who bakes?"]
    write_jsonl(tmp_path / "in.jsonl", [prompt(text, "ana") for text in asked])
    done = podium(
        tmp_path / "in.jsonl", tmp_path, "--kind", "prompts", "--shares", "train=1", *options
    )
    assert done.exit_code == 0, done.output
    left = (tmp_path / "prompts.train.jsonl").read_text().splitlines()
    assert len(left) == SWITCHES[options], done.output


def test_the_user_cap_has_a_switch(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [prompt(f"question {i}", "ana") for i in range(202)])
    for options, left in (((), 200), (("--no-user-cap",), 202)):
        done = podium(
            tmp_path / "in.jsonl", tmp_path, "--kind", "prompts", "--shares", "train=1", *options
        )
        assert f"{left} kept: train" in done.output


def test_what_is_dropped_is_written_with_the_reason(tmp_path):
    """Seen red with the file written from the first examples only."""
    prompts = [prompt("Who bakes the bread?", id=f"p-{i}") for i in range(8)]
    write_jsonl(tmp_path / "in.jsonl", prompts)
    dropped = tmp_path / "gone" / "dropped.jsonl"
    done = podium(tmp_path / "in.jsonl", tmp_path, "--kind", "prompts", "--dropped", dropped)
    assert "7 dropped: common prefix of 200 characters" in done.output
    assert "record 2 (p-1): as record 1 (p-0)" in done.output
    rows = [json.loads(line) for line in dropped.read_text().splitlines()]
    assert [row["number"] for row in rows] == [2, 3, 4, 5, 6, 7, 8]
    assert rows[0]["rule"] == "common prefix of 200 characters"
    assert rows[0]["why"] == "as record 1 (p-0)"
    assert Prompt.model_validate(rows[0]["record"]) == prompts[1]


def test_rankings_and_documents_get_their_own_rules(tmp_path):
    """Seen red with one set of rules for all kinds."""
    asked = [Message(role="user", content="Name a fruit.")]
    rankings = [
        Ranking(prompt=asked, responses=["Plum.", "No."], ranks=[1, 2], labeler=labeler)
        for labeler in ("ana", "bram", "cleo")
    ]
    write_jsonl(tmp_path / "r.jsonl", rankings)
    one = ("--shares", "train=1")
    assert podium(tmp_path / "r.jsonl", tmp_path, "--kind", "rankings", *one).exit_code == 0
    assert read_jsonl(tmp_path / "rankings.train.jsonl", Ranking) == rankings
    write_jsonl(tmp_path / "d.jsonl", [Document(text="Ask ana@mill.org about the well.")])
    held_out = tmp_path / "held.txt"
    held_out.write_text("address about the well")
    more = ("--held-out", held_out, "--overlap-words", "4")
    done = podium(tmp_path / "d.jsonl", tmp_path, "--kind", "documents", *one, *more)
    assert "1 dropped: 4 words in common with a held-out text" in done.output
    done = podium(
        tmp_path / "d.jsonl", tmp_path, "--kind", "documents", *one, *more, "--overlap", "keep"
    )
    assert "1 kept: train" in done.output and "1 changed: personal data redacted" in done.output
    refused = podium(tmp_path / "r.jsonl", tmp_path, "--kind", "rankings", "--overlap", "cut")
    assert refused.exit_code == 2 and "only documents can be cut" in refused.output
