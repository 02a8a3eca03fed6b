"""Every key of the recipe that is no stage's does something, and every place for data is read."""

import json

import pytest
import torch

from podium.run.inputs import StageInputs
from podium.run.recipe import DataConfig, Recipe, SplitSources

CHANGES = {  # key: another value, what it must change
    "name": ("other", "folder"),
    "description": ("What the run is for.", "recipe.yaml"),
    "seed": (2, "weights"),
    "dtype": ("bf16", "dtype"),
    "threads": (2, "threads"),
    "trackers": (["tensorboard"], "mirrored"),
    "keep_checkpoints": (1, "checkpoints"),
    "data": ({"documents": {"train": "own.jsonl"}}, "documents"),
}
ELSEWHERE = {
    "sampler": "tests/podium/sampling/test_kinds.py: the kind that is named samples",
    "special_tokens": "tests/test_document_separators.py: both keys, in every stage",
}


def test_every_key_is_on_one_of_the_two_lists():
    """A new key must show what it does. Mutation seen red: a field added to Recipe."""
    assert CHANGES.keys() | ELSEWHERE.keys() == Recipe.model_fields.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()


@pytest.fixture
def says(run_demo, tmp_path, monkeypatch):
    """`says(**keys)` runs the demonstration stage and tells what can be seen of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"text": "Ana likes jam."}\n')

    def run(**keys) -> dict[str, object]:
        # Threads and trackers alone would make nothing anew.
        folder = run_demo(force=True, pretrain={"asks": ["documents"]}, **keys)
        final = folder / "pretrain" / "final"
        record = json.loads((final / "stage.json").read_text())
        return {
            "folder": folder.name,
            "recipe.yaml": (folder / "recipe.yaml").read_text(),
            "weights": (final / "weights.pt").read_bytes(),
            "dtype": record["dtype"],
            "threads": record["threads"],
            "mirrored": sorted(p.name for p in folder.rglob("events.out.*")),
            "checkpoints": sorted(p.name for p in folder.glob("pretrain/checkpoints/*")),
            "documents": [source["records"] for source in record["data"]],
        }

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_does_something(says, key):
    """Mutations seen red: the seed not set, no tracker opened, threads always 1."""
    value, observed = CHANGES[key]
    assert says()[observed] != says(**{key: value})[observed]


TEXT, MESSAGES = {"text": "{name}"}, [{"role": "user", "content": "{name}"}]
ANSWER = {"role": "assistant", "content": "Yes."}
LINES = {  # a kind: a record of it, with its file's name in it
    "documents": TEXT,
    "demonstrations": {"messages": [*MESSAGES, ANSWER]},
    "prompts": {"messages": MESSAGES},
    "rankings": {"prompt": MESSAGES, "responses": ["A.", "B."], "ranks": [1, 2]},
    "questions": {"question": "{name}", "choices": ["A.", "B."], "answer": 0},
}


@pytest.mark.parametrize("split", SplitSources.model_fields)
@pytest.mark.parametrize("kind", LINES)
def test_every_place_for_data_is_read_where_it_is_named(kind, split, tmp_path):
    """Fifteen files, all named at once: each kind and split gives its own. Mutations seen red: the
    split "train" whatever was asked, the source of documents for demonstrations.
    """
    assert {"world", *LINES} == DataConfig.model_fields.keys()  # test_worlds.py, test_context.py
    places: dict[str, dict[str, str]] = {}
    for each, record in LINES.items():
        for part in SplitSources.model_fields:
            file = tmp_path / f"{each}-{part}.jsonl"
            file.write_text(json.dumps(record).replace("{name}", file.name))
            places.setdefault(each, {})[part] = str(file)
    recipe = Recipe(name="x", data=DataConfig(**places))
    [found] = StageInputs("sft", recipe, tmp_path).records(kind, split)
    assert f"{kind}-{split}.jsonl" in found.model_dump_json()
