"""What a stage read, as its record tells it and compares it: whole entries against ones written by
hand, and each sentence about a change.
"""

import hashlib
from pathlib import Path

import pytest

from data.jsonl import write_jsonl
from data.records import Message, Prompt
from podium.errors import DataError, Interrupted
from podium.models import save_model
from podium.run.context import StageContext, checkpoint_record
from podium.run.lineage import absolute, changes, fingerprint, relative, source_files, source_of
from podium.run.recipe import Recipe, validate

TREE = {
    "name": "run",
    "seed": 5,
    "dtype": "fp32",
    "threads": 1,
    "sft": {"model": "base"},
    "ppo": {},
    "evals": {},
}


def recipe(**more) -> Recipe:
    return validate({**TREE, **more}, "test")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prompts(path: Path, *texts: str) -> Path:
    write_jsonl(path, [Prompt(messages=[Message(role="user", content=text)]) for text in texts])
    return path


@pytest.fixture
def stage(tmp_path, tiny_llama, tokenizer):
    """`stage(recipe) -> StageContext` of SFT in a run beside a base model and some prompts."""
    save_model(tiny_llama, tokenizer, tmp_path / "base")
    prompts(tmp_path / "a.jsonl", "One?", "Two?")
    opened = []

    def make(loaded: Recipe) -> StageContext:
        opened.append(StageContext("sft", loaded, tmp_path / "runs" / "run"))
        return opened[-1]

    yield make
    for context in opened:
        context.close()


def test_a_record_holds_each_thing_that_was_read_and_what_was_not_there(stage, tmp_path):
    """Mutations seen red: a file's hash or size left out; a source that was not found not noted; the
    sampler not noted.
    """
    loaded = recipe(data={"prompts": {"train": str(tmp_path / "a.jsonl")}})
    context = stage(loaded)
    folder = context.parent(str(tmp_path / "base"))
    assert folder == tmp_path / "base"
    assert [p.messages[0].content for p in context.records("prompts")] == ["One?", "Two?"]
    assert not context.has_records("demonstrations", "validation")
    assert not context.has_file(tmp_path / "none.jsonl") and context.world() is None
    (tmp_path / "mine.py").write_text("x = 1\n")
    context.code(tmp_path / "mine.py")
    assert context.read(tmp_path / "a.jsonl", Prompt) == context.records("prompts")
    context.sampler()
    context.save_checkpoint(3, lambda folder: (folder / "state").write_text("x"))
    record = checkpoint_record(context.dir)
    a = tmp_path / "a.jsonl"
    file = {"path": str(a), "sha256": digest(a), "bytes": a.stat().st_size}
    nothing = {"records": 0, "dropped": {}, "files": []}
    assert record["data"] == [
        {"kind": "prompts", "split": "train", "source": str(a), "records": 2, "dropped": {},
         "files": [file]},
        {"kind": "demonstrations", "split": "validation", "source": None, **nothing},
        {"kind": None, "split": None, "source": str(tmp_path / "none.jsonl"), "records": 0,
         "dropped": {}, "files": [
             {"path": str(tmp_path / "none.jsonl"), "sha256": None, "bytes": 0}]},
        {"kind": "world", "split": None, "source": None, **nothing},
        {"kind": None, "split": None, "source": str(a), "records": 2, "dropped": {},
         "files": [file]},
    ]  # fmt: skip
    (parent,) = record["parents"]
    assert parent == {
        "ref": str(folder), "path": str(folder), "sha256": parent["sha256"], "stage": None
    }  # fmt: skip
    assert record["code"] == [
        {"path": str(tmp_path / "mine.py"), "sha256": digest(tmp_path / "mine.py")}
    ]
    assert record["sampler"] == loaded.sampler.model_dump(mode="json")
    assert record["config"] == fingerprint(loaded, "sft") and record["config"]["seed"] == 5
    assert (record["step"], record["threads"]) == (3, 1)
    assert context.dir == tmp_path / "runs" / "run" / "sft" and context.is_main
    with pytest.raises(DataError, match="no source in the recipe"):
        context.records("documents")


def test_each_change_is_told_by_its_own_sentence(stage, tmp_path):
    """And nothing where nothing differs. Mutations seen red: a parent, the code, the sampler not
    compared; the chain not part of a report.
    """
    loaded = recipe(data={"prompts": {"train": str(tmp_path / "a.jsonl")}})
    context = stage(loaded)
    context.parent(str(tmp_path / "base"))
    context.records("prompts")
    context.has_records("documents")
    (tmp_path / "mine.py").write_text("x = 1\n")
    context.code(tmp_path / "mine.py")
    context.sampler()
    context.save_checkpoint(1, lambda folder: None)
    record, run = checkpoint_record(context.dir), context.run_dir

    def told(now: Recipe = loaded, known: dict = record) -> list[str]:
        return changes(known, now, "sft", run)

    def other(**more) -> Recipe:
        data = {"prompts": {"train": str(tmp_path / "a.jsonl")}}
        return recipe(**{"data": data} | more)

    assert told() == []
    assert told(other(seed=6)) == ["seed was 5 and is 6"]
    assert told(other(sft={"model": "base", "learning_rate": 0.5}))[0].startswith("learning_rate ")
    assert told(other(sampler={"max_tokens": 7}))[0].startswith("sampler.max_tokens was ")
    assert told(known=record | {"sampler": None}) == []
    both = {"prompts": {"train": str(tmp_path / "b.jsonl")}, "documents": {"train": "d.jsonl"}}
    assert told(recipe(data=both)) == [
        "data.prompts.train names another source",
        "data.documents.train had no source and has one",
    ]
    (tmp_path / "mine.py").write_text("x = 2\n")
    assert told() == [f"the code in {tmp_path / 'mine.py'} has other content"]
    assert told(known=record | {"code_failed": True}) == []
    (tmp_path / "mine.py").unlink()
    assert told() == [], "what is gone is no change"
    prompts(tmp_path / "a.jsonl", "One?", "Too?")
    (tmp_path / "base" / "more.txt").write_text("x")
    assert told() == [
        f"the parent '{tmp_path / 'base'}' was made anew",
        f"the data file {tmp_path / 'a.jsonl'} has other content",
    ]
    chain = fingerprint(loaded, "evals")["chain"]
    assert chain == ["sft", "ppo"] and "chain" not in fingerprint(loaded, "sft")


def test_where_records_come_from(tmp_path):
    """The recipe's own data, else the world's; rankings are no world's. Mutations seen red: a split
    of the world beside one of the recipe's; the questions by split.
    """
    world = {"world": {"name": "willowbrook"}}
    own = {"prompts": {"train": "mine.jsonl"}}
    with_world, both, alone = (recipe(data=data) for data in (world, world | own, own))

    def source(loaded: Recipe, kind: str, split: str | None):
        return source_of(loaded, tmp_path / "run", kind, split)

    assert source(with_world, "prompts", "test") == "world/final/prompts.test.jsonl"
    assert source(with_world, "questions", "test") == "world/final/questions.jsonl"
    assert source(with_world, "rankings", "train") is None
    assert source(with_world, "world", None) == "world" and source(alone, "world", None) is None
    assert source(both, "prompts", "train") == "mine.jsonl"
    assert source(both, "prompts", "test") is None
    assert source(both, "documents", "train") == "world/final/documents.train.jsonl"
    assert source(alone, "documents", "train") is None


def test_paths_are_whole_to_read_and_short_to_note(tmp_path, monkeypatch):
    """Mutation seen red: a hidden file of a folder noted; a path of the world taken for one of the
    working directory.
    """
    run = tmp_path / "run"
    (run / "world" / "final").mkdir(parents=True)
    inside = prompts(run / "world" / "final" / "p.jsonl", "One?")
    monkeypatch.setenv("DATA", str(tmp_path))
    assert absolute("world/final/p.jsonl", run) == str(inside)
    assert absolute("world/final/none.jsonl", run) == "world/final/none.jsonl"
    assert absolute([{"path": "$DATA/x"}, {"hub": "y"}], run) == [
        {"path": str(tmp_path / "x")}, {"hub": "y"}
    ]  # fmt: skip
    assert relative(inside, run) == "world/final/p.jsonl"
    assert relative(tmp_path / "x", run) == str(tmp_path / "x")
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    kept = prompts(folder / "a.jsonl", "One?"), prompts(tmp_path / "folder" / "b.jsonl", "Two?")
    (folder / ".hidden").write_text("x")
    found = source_files([{"path": str(tmp_path / "folder")}, "world/final/p.jsonl", "gone"], run)
    assert [(f["path"], f["sha256"], f["bytes"]) for f in found] == [
        (str(kept[1]), digest(kept[1]), kept[1].stat().st_size),
        (str(kept[0]), digest(kept[0]), kept[0].stat().st_size),
        ("world/final/p.jsonl", digest(inside), inside.stat().st_size),
    ]


def test_a_mixture_is_drawn_as_often_as_it_takes(stage, tmp_path):
    """Mutation seen red: what is read whole in every pass drawn too."""
    parts = [{"path": str(tmp_path / "a.jsonl"), "weight": 1}]
    context = stage(recipe(data={"prompts": {"train": parts, "test": str(tmp_path / "a.jsonl")}}))
    draws = [context.draws("prompts", passes) for passes in (0.2, 1.0, 2.1)]
    assert draws == [1, 1, 3] and context.draws("prompts", 2.1, "test") == 1
    assert context.draws("documents", 5.0) == 1


def test_documents_come_as_tokens_with_a_note_of_what_was_read(stage, tmp_path, tokenizer):
    """Of a mixture: what each source drops is added up, and the passes are drawn. Mutations seen
    red: the last source's drops alone; the tokens of the validation split; one pass drawn.
    """
    for name, count, broken in (("a", 3, 2), ("b", 2, 1)):
        rows = [f'{{"text": "Ana likes {name} {i}."}}' for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*rows, *['{"text": ""}'] * broken]))
    held = {"path": str(tmp_path / "b.jsonl"), "format": "text"}
    parts = [held | {"path": str(tmp_path / f"{name}.jsonl"), "weight": 1} for name in "ab"]
    context = stage(recipe(data={"documents": {"train": parts, "validation": held}}))
    assert context.token_folder == (tmp_path / "runs" / ".tokens").resolve()

    def texts(*how, **more) -> list[str]:
        documents = context.document_tokens(tokenizer, *how, **more)
        return [tokenizer.decode(ids[1:].tolist()) for ids in documents]

    records = [document.text for document in context.records("documents")]
    assert texts() == records and len(records) > 3
    (noted,) = context._data.values()  # as `document_tokens` left it, the last to read
    assert sum(noted["dropped"].values()) == 3 and noted["records"] == len(records)
    assert texts(passes=3) == [d.text for d in context.records("documents", passes=3)]
    assert texts("validation") == ["Ana likes b 0.", "Ana likes b 1."]
    context.save_checkpoint(1, lambda folder: None)
    train, validation = checkpoint_record(context.dir)["data"]
    assert (train["kind"], train["split"]) == ("documents", "train")
    assert (validation["kind"], validation["split"]) == ("documents", "validation")
    assert (validation["records"], sum(validation["dropped"].values())) == (2, 1)
    assert sum(train["dropped"].values()) == 3
    assert [f["path"] for f in train["files"]] == [part["path"] for part in parts]
    told = (context.dir / "logbook.md").read_text()
    assert "documents (train, for 3 passes): " in told and "documents (validation): 2 " in told


def test_a_tokenizer_is_learned_from_the_training_documents_once(stage, tmp_path):
    """Mutations seen red: another size; learned anew by the next stage; a signal not obeyed."""
    (tmp_path / "d.jsonl").write_text('{"text": "Ana likes honey and Bram likes honey."}\n' * 30)
    context = stage(recipe(data={"documents": {"train": str(tmp_path / "d.jsonl")}}))
    context.signal_seen = 2
    with pytest.raises(Interrupted):
        context.trained_tokenizer(280)
    context.signal_seen = None
    learned = context.trained_tokenizer(280)
    assert len(learned) == 280
    (kept,) = context.token_folder.glob("*/tokenizer.json")
    written = kept.stat().st_mtime_ns
    assert context.trained_tokenizer(280).get_vocab() == learned.get_vocab()
    assert kept.stat().st_mtime_ns == written
