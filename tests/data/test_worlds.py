"""The files of a world: complete, readable by `data.jsonl`, the same bytes twice, and enough to
rebuild the world.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from data.jsonl import read_jsonl
from data.records import Demonstration, Document, Prompt, Question
from data.worlds import Config, load_world, main, make_records, open_world, write_world
from podium.errors import DataError

SMALL = Config(
    seed=2,
    documents=800,
    validation_documents=100,
    demonstrations=300,
    validation_demonstrations=60,
    test_demonstrations=60,
    prompts=500,
    validation_prompts=80,
    test_prompts=80,
)
TYPES = {
    "documents": Document,
    "demonstrations": Demonstration,
    "prompts": Prompt,
    "questions": Question,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world") / "willowbrook"
    write_world(SMALL, out)
    return out


def test_every_file_loads_and_has_as_many_records_as_asked(folder):
    counts = {
        path.name: len(read_jsonl(path, TYPES[path.name.split(".")[0]]))
        for path in folder.glob("*.jsonl")
    }
    assert counts == {
        "documents.train.jsonl": 800,
        "documents.validation.jsonl": 100,
        "demonstrations.train.jsonl": 300,
        "demonstrations.validation.jsonl": 60,
        "demonstrations.test.jsonl": 60,
        "prompts.train.jsonl": 500,
        "prompts.validation.jsonl": 80,
        "prompts.test.jsonl": 80,
        "questions.jsonl": 64 * 9 + 200,
    }


def test_another_process_writes_the_same_bytes(folder, tmp_path):
    """Strings are hashed differently in every process: nothing may depend on that."""
    config = SMALL.model_dump()
    code = f"from pathlib import Path; from data.worlds import *; write_world(Config(**{config}), Path('x'))"
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    for path in sorted(folder.iterdir()):
        assert (tmp_path / "x" / path.name).read_bytes() == path.read_bytes(), path.name


def test_no_prompt_occurs_twice_and_no_document_crosses_the_splits(folder):
    said = []
    for path in sorted(folder.glob("prompts.*.jsonl")):
        said += [tuple(m.content for m in p.messages) for p in read_jsonl(path, Prompt)]
    for path in sorted(folder.glob("demonstrations.*.jsonl")):
        said += [tuple(m.content for m in d.messages[:-1]) for d in read_jsonl(path, Demonstration)]
    assert len(said) == len(set(said)) == 300 + 60 + 60 + 500 + 80 + 80
    train, validation = (
        read_jsonl(folder / f"documents.{split}.jsonl", Document)
        for split in ("train", "validation")
    )
    assert not {d.text for d in train} & {d.text for d in validation}


def test_ids_are_unique_and_no_user_asks_more_than_two_hundred_times(folder):
    prompts = read_jsonl(folder / "prompts.train.jsonl", Prompt)
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    users = [prompt.user for prompt in prompts]
    assert max(users.count(user) for user in set(users)) <= 200


def test_a_world_is_rebuilt_from_its_folder(folder):
    opened, made = open_world(folder), load_world("willowbrook", seed=2)
    prompt = read_jsonl(folder / "prompts.test.jsonl", Prompt)[0]
    assert opened.name == "willowbrook"
    assert opened.gold(prompt, made.oracle(prompt)) == made.gold(prompt, made.oracle(prompt)) > 4


def test_a_folder_without_a_world_is_named(tmp_path):
    with pytest.raises(DataError, match=r"world\.json"):
        open_world(tmp_path)
    (tmp_path / "world.json").write_text(json.dumps({"format": 99, "config": {}}))
    with pytest.raises(DataError, match="another Podium"):
        open_world(tmp_path)


def test_an_unknown_world_or_key_is_refused():
    with pytest.raises(DataError, match="willowbrook"):
        load_world("middlemarch")
    with pytest.raises(ValidationError, match="vilagers"):
        Config(vilagers=70)


def test_the_data_card_names_every_file_and_shows_examples(folder):
    card = (folder / "README.md").read_text()
    for path in folder.glob("*.jsonl"):
        assert f"`{path.name}`" in card
    assert "Known limits" in card
    assert '"role": "assistant"' in card


def test_the_stage_writes_the_same_files(folder, tmp_path):
    class OnePlace:
        """Stands in for podium.run.context.StageContext: writes final/ where it is told."""

        def finish(self, save, metrics, card, tokens=0):
            save(tmp_path)
            self.metrics, self.card = metrics, card

    stage = OnePlace()
    main(SMALL, stage)
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for path in folder.iterdir()
    } - {"README.md"}
    assert (tmp_path / "prompts.test.jsonl").read_bytes() == (
        folder / "prompts.test.jsonl"
    ).read_bytes()
    assert stage.metrics["documents.train"] == 800
    assert stage.card == (folder / "README.md").read_text()


# key of the world: another value, and a file that it must change
CHANGES = {
    "seed": (1, "prompts.train.jsonl"),
    "villagers": (80, "questions.jsonl"),
    "users": (60, "prompts.train.jsonl"),
    "documents": (4, "documents.train.jsonl"),
    "validation_documents": (4, "documents.validation.jsonl"),
    "demonstrations": (4, "demonstrations.train.jsonl"),
    "validation_demonstrations": (4, "demonstrations.validation.jsonl"),
    "test_demonstrations": (4, "demonstrations.test.jsonl"),
    "prompts": (4, "prompts.train.jsonl"),
    "validation_prompts": (4, "prompts.validation.jsonl"),
    "test_prompts": (4, "prompts.test.jsonl"),
}


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_of_the_world_does_something(key):
    """And none is without an entry; `name` has one value. Mutations seen red: a field added; the
    seed left out of the world and of its prompts.
    """
    assert CHANGES.keys() | {"name"} == Config.model_fields.keys()
    small = dict.fromkeys(CHANGES, 6) | {"seed": 0, "villagers": 64, "users": 30}
    value, file = CHANGES[key]
    plain, changed = make_records(Config(**small)), make_records(Config(**small | {key: value}))
    assert plain[file] != changed[file]
