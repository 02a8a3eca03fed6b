"""Every key of a source does something to what is read from it, or says where that is shown."""

import json

import pytest

from data.readers import read_source
from data.records import Document
from data.sources import Source

# key: another value. `says` shows that it changes what is read.
CHANGES = {
    "path": "{here}/other.jsonl",
    "format": "text",
    "fields": {"text": "id"},
    "split": "later",
    "config": "second",
    "separator": "|",
    "skip": 2,
    "limit": 2,
    "weight": 3.0,
}


def test_every_key_is_listed():
    """A new key must show what it does. Mutation seen red: a field added to Source."""
    assert CHANGES.keys() == Source.model_fields.keys()


@pytest.fixture
def says(tmp_path, monkeypatch):
    """`says(key, value) -> the texts read` with that key, or without it where there is none."""
    rows = [{"text": f"Text {n}.", "id": f"Id {n}."} for n in range(4)]
    for name, lines in (("own.jsonl", rows), ("other.jsonl", rows[1:]), ("own.data", rows)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "own.txt").write_text("One|two.<|endoftext|>Three.")
    # A folder is read as the hub is: here two configurations with two splits each.
    hub = tmp_path / "hub"
    head = ["configs:"]
    for config in ("first", "second"):
        head += [f"- config_name: {config}", *(["  default: true"] * (config == "first"))]
        head += ["  data_files:"]
        for split in ("train", "later"):
            (hub / config).mkdir(parents=True, exist_ok=True)
            (hub / config / f"{split}.jsonl").write_text(json.dumps({"text": f"{config} {split}"}))
            head += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
    (hub / "README.md").write_text("\n".join(["---", *head, "---"]))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def read(key: str, value: object = None) -> list[str]:
        spec: dict[str, object] = {"path": str(tmp_path / "own.jsonl")}
        changed = {} if value is None else {key: value}
        if key == "path" and value:
            changed["path"] = str(value).format(here=tmp_path)
        if key in ("split", "config"):
            spec["path"] = str(hub)
        if key == "separator":
            spec["path"] = str(tmp_path / "own.txt")
        if key == "format":
            spec["path"] = str(tmp_path / "own.data")  # rows, or one text
        if key == "weight":
            other = {"path": str(tmp_path / "other.jsonl"), "weight": 1}
            return [d.text for d in read_source([spec | {"weight": 1} | changed, other], Document)]
        return [d.text for d in read_source(spec | changed, Document)]

    return read


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_does_something(says, key):
    """A key that nobody reads would change nothing. Mutations seen red: `split` and `config` not
    handed to the library, `skip` not in islice, every weight 1.
    """
    assert says(key, CHANGES[key]) != says(key)
