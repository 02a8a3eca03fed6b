"""What labelers write teaches: SFT trains on exported demonstrations, edits and dialogues, the reward
model on exported comparisons of red teaming and edits.
"""

import hashlib
import json
from pathlib import Path

import torch
import yaml

from app.labeling.collecting import ExportFilter
from app.labeling.exporting import make_export
from data.jsonl import read_jsonl
from data.records import Comparison, Demonstration, Message
from data.template import encode_conversation
from podium.models import load_tokenizer, save_model
from podium.rewards.model import load_reward_model
from podium.rewards.score import score_texts
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from sft.batches import IGNORED
from sft.train import FineTuner
from tests.app.labeling.making import Browser, add_person
from tests.app.labeling.test_writing import next_writing, send, suggested, turn, written_batch

PROMPTS = [[{"role": "user", "content": f"Who lives in mill {n}?"}] for n in range(24)]
KIND, CRUEL = "Ana lives in the old mill.", "honey jam jam"


def export(site, kind: str) -> Path:
    return (
        site.exports
        / make_export(site.database, site.exports, kind, ExportFilter(), None, 1.0).file
    )


def trained(folder: Path, tokenizer, model, stage: str, exported: Path, **config) -> Path:
    """The stage's folder after it has trained on an export."""
    save_model(model, tokenizer, folder / "base")
    settings = {"model": str(folder / "base"), "batch_size": 8, "learning_rate": 3e-3}
    kind = "demonstrations" if stage == "sft" else "rankings"
    recipe = {
        "name": "run",
        "seed": 3,
        "dtype": "fp32",
        "threads": 1,
        stage: settings | config,
        "data": {kind: {"train": str(exported), "validation": str(exported)}},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe))
    run_one(load_recipe(folder / "run.yaml"), stage, folder / "runs")
    return folder / "runs" / "run" / stage


def names_its_file(stage: Path, exported: Path) -> bool:
    """Whether the model's lineage has the hash that the site shows."""
    about = json.loads((stage / "final" / "stage.json").read_text())
    used = {file["sha256"] for source in about["data"] for file in source["files"]}
    return used == {hashlib.sha256(exported.read_bytes()).hexdigest()}


def test_sft_trains_on_what_was_written_edited_and_talked(
    site, tiny_llama, tokenizer, tmp_path, monkeypatch
):
    """On every answer of the labelers, and on no word of a prompt; an edit teaches the text as it was
    left, a dialogue each of the assistant's turns.
    """
    add_person(site, "lea")
    lea = Browser(site, "lea")
    written_batch(site, "demonstration", *[{"prompt": prompt} for prompt in PROMPTS[:8]])
    written_batch(site, "edit", *[{"prompt": p, "responses": [CRUEL]} for p in PROMPTS[8:12]])
    written_batch(site, "dialogue", {"brief": "Ask for a story."})
    for n in range(12):
        task = next_writing(lea)
        reply = send(lea, task["assignment"], [turn("assistant", f"{KIND} {n}")], key=f"{n:08d}")
        assert reply.status_code == 200, reply.text
    talk = [
        ("user", "A story?"),
        ("assistant", "An owl."),
        ("user", "And?"),
        ("assistant", "Bread."),
    ]
    send(lea, next_writing(lea)["assignment"], [turn(*said) for said in talk], key="k" * 9)
    exported = export(site, "demonstrations")

    seen: set[tuple[tuple[int, ...], tuple[bool, ...]]] = set()
    original = FineTuner.compute_loss

    def watch(self, model, inputs, **kwargs):
        for ids, labels, on in zip(
            inputs["input_ids"], inputs["labels"], inputs["attention_mask"], strict=True
        ):
            length = int(on.sum())
            taught = (labels[:length] != IGNORED).tolist()
            seen.add((tuple(ids[:length].tolist()), tuple(taught)))
        return original(self, model, inputs, **kwargs)

    monkeypatch.setattr(FineTuner, "compute_loss", watch)
    torch.manual_seed(0)
    stage = trained(tmp_path, tokenizer, tiny_llama, "sft", exported, num_train_epochs=1)
    records = read_jsonl(exported, Demonstration)
    assert len(records) == 13 and not any(CRUEL in r.messages[-1].content for r in records)
    known = load_tokenizer(tmp_path / "base")
    encoded = [encode_conversation(known, record.messages) for record in records]
    assert seen == {(tuple(ids), tuple(map(bool, mask))) for ids, mask in encoded}
    assert names_its_file(stage, exported)


def test_the_reward_model_learns_from_red_teaming_and_edits(site, tiny_llama, tokenizer, tmp_path):
    """Labelers pick the crueler answer of two, and mend cruel ones: the model scores kindness higher.
    Mutation seen red: red teaming exported with what was picked as `chosen`.
    """
    add_person(site, "lea")
    lea = Browser(site, "lea")
    attacks = [{"prompt": prompt, "responses": [KIND, CRUEL]} for prompt in PROMPTS[:20]]
    written_batch(site, "red_team", *attacks)
    written_batch(site, "edit", *[{"prompt": p, "responses": [CRUEL]} for p in PROMPTS[20:]])
    for n in range(20):
        number = next_writing(lea)["assignment"]
        pair = suggested(lea, number, []).json()["suggestions"]
        side = [one["text"] for one in pair].index(CRUEL)
        ids = [one["id"] for one in pair]
        picked = turn("assistant", CRUEL, pair=ids, strength=(-3, 3)[side])
        assert send(lea, number, [picked], key=f"red{n:05d}").status_code == 200
    for n in range(4):
        number = next_writing(lea)["assignment"]
        send(lea, number, [turn("assistant", KIND)], key=f"edit{n:04d}")
    exported = export(site, "comparisons")
    records = read_jsonl(exported, Comparison)
    assert [r.meta["kind"] for r in records] == ["red_team"] * 20 + ["edit"] * 4
    assert {(r.chosen, r.rejected) for r in records} == {(KIND, CRUEL)}

    stage = trained(
        tmp_path,
        tokenizer,
        tiny_llama,
        "reward",
        exported,
        rankings=str(exported),
        num_train_epochs=4,
    )
    model, known = load_reward_model(stage / "final")
    asked = [Message(role="user", content="Who lives in mill 99?")]
    kind, cruel = score_texts(model, known, [asked, asked], [KIND, CRUEL])
    assert kind - cruel > 1
    assert names_its_file(stage, exported)
