"""`podium data prepare`: a recipe's documents as tokens, ahead of the stage that reads them."""

import json

import pytest
from typer.testing import CliRunner

from data import tokens
from podium.cli.prepare import app


@pytest.fixture
def prepare(tmp_path):
    path = tmp_path / "documents.jsonl"
    lines = [json.dumps({"text": f"Ana likes honey {i} times."}) for i in range(50)]
    path.write_text("\n".join(lines))
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        f"name: own\ndata: {{documents: {{train: {path}, validation: {path}}}}}\n"
        "pretrain: {vocab_size: 300}\n"
    )

    def run(*sets: str):
        options = [part for one in sets for part in ("--set", one)]
        place = ["--runs-dir", str(tmp_path / "runs")]
        return CliRunner().invoke(app, ["prepare", str(recipe), *place, *options])

    return run


def test_it_says_how_much_there_is_and_does_it_once(prepare, monkeypatch):
    """The second call, and the stage after it, read what is there. Mutation seen red: the store of
    a split written without its last file.
    """
    first = prepare()
    assert first.exit_code == 0, first.output
    assert "train: 50 documents" in first.output and "vocabulary of 300" in first.output
    monkeypatch.setattr(tokens, "encode_documents", None)  # would be called
    monkeypatch.setattr(tokens, "learn_bpe", None)
    assert prepare().output == first.output


def test_without_pretraining_it_says_who_makes_the_tokens(prepare):
    done = prepare("pretrain=null")
    assert done.exit_code != 0 and "no section 'pretrain'" in done.output
