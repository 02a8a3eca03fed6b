"""The stage end to end: what it writes, its loss, its reference, resuming, and adapters."""

import json
import math
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from data.records import Message
from data.template import encode_prompt, encode_response
from dpo.train import Config
from dpo.trainer import PreferenceTrainer
from podium.errors import DataError, Interrupted, RecipeError
from podium.models import load_causal_lm
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from tests.launching import begin


def train(recipe: Path, runs: Path, *sets: str) -> Path:
    loaded = load_recipe(recipe, list(sets))
    run_one(loaded, "dpo", runs)
    return runs / loaded.name / "dpo"


def lines_of(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final/model.safetensors")


def logprob(model, prompt, response) -> float:
    """Of a whole response, by plain torch."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    nll = F.cross_entropy(logits, ids[0, 1:], reduction="none")
    return -float(nll[len(prompt) - 1 :].sum())


def stop_after(patch, step: int) -> None:
    """Ctrl-C as seen by the stage at this update."""
    original = StageContext.log

    def log(self, number, found):
        original(self, number, found)
        self.signal_seen = signal.SIGINT if number == step else self.signal_seen

    patch.setattr(StageContext, "log", log)


def test_it_learns_what_was_preferred_and_writes_a_policy(make_recipe, tmp_path, start, tokenizer):
    """Mutation seen red: chosen and rejected exchanged in `encode_pairs`."""
    folder = train(make_recipe(num_train_epochs=2), tmp_path / "runs")
    lines = lines_of(folder)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference agree
    assert lines[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    last = lines[-1]
    assert last["validation_accuracy"] > 0.9 and last["validation_loss"] < 0.6
    record = json.loads((folder / "final/stage.json").read_text())
    assert record["parents"][0]["ref"] == str(start)
    assert record["metrics"]["pairs"] == 200 and record["metrics"]["dropped_pairs"] == 40
    assert [entry["kind"] for entry in record["data"]] == ["rankings", "rankings"]
    assert "40 ties (dropped)" in (folder / "logbook.md").read_text()
    assert "trained with DPO" in (folder / "final/README.md").read_text()
    model = load_causal_lm(folder / "final")  # nothing of TRL's head is left in it
    assert model(torch.tensor([[5, 6, 7]])).logits.shape[1] == 3
    before = load_causal_lm(start)
    prompt = encode_prompt(tokenizer, [Message(role="user", content="What does Ana like today?")])
    best, worst = (
        logprob(model, prompt, ids) - logprob(before, prompt, ids)
        for ids in (encode_response(tokenizer, t) for t in ("honey and figs", "nothing at all"))
    )
    assert best > worst + 1
    assert not list(folder.glob("reference-*")) and not (folder / "best").exists()


def test_the_training_loss_is_equation_7(make_recipe, tmp_path, start, monkeypatch):
    """With a reference that is not the policy. Mutations seen red: the sign of the margin; the
    reference of chosen and rejected exchanged; reference 0.
    """
    seen = {}
    read = PreferenceTrainer._read_reference

    def shifted(self):
        generator = torch.Generator().manual_seed(1)
        found = read(self)
        noise = (5 * torch.randn(len(found), generator=generator)).tolist()
        seen["reference"] = {
            key: value + by for (key, value), by in zip(found.items(), noise, strict=True)
        }
        seen["pairs"] = [self.pairs["train"][i] for i in self.order[:16]]
        return seen["reference"]

    monkeypatch.setattr(PreferenceTrainer, "_read_reference", shifted)
    folder = train(make_recipe(beta=0.3, num_train_epochs=0.08), tmp_path / "runs")
    model, losses = load_causal_lm(start), []
    for pair in seen["pairs"]:
        inside = 0.0
        for side, sign in ((pair.chosen, 1), (pair.rejected, -1)):
            reference = seen["reference"][pair.prompt, side]
            inside += sign * 0.3 * (logprob(model, pair.prompt, side) - reference)
        losses.append(math.log1p(math.exp(-inside)))
    assert lines_of(folder)[0]["loss"] == pytest.approx(sum(losses) / 16, rel=1e-4)


def test_the_reference_is_the_start_and_is_read_once(make_recipe, tmp_path, start, monkeypatch):
    """Of each different response, although three pairs hold it. Mutations seen red: the prompt's
    tokens counted; the kept file not looked for.
    """
    read, kept = [], {}
    original, look = PreferenceTrainer._logprobs, PreferenceTrainer._read_reference

    def count(self, model, sequences):
        read.append(len(sequences))
        return original(self, model, sequences)

    def keep(self):
        kept.update(look(self))
        return kept

    monkeypatch.setattr(PreferenceTrainer, "_logprobs", count)
    monkeypatch.setattr(PreferenceTrainer, "_read_reference", keep)
    recipe = make_recipe()
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "runs")
    assert read == [4 * 48, 4 * 8]  # 40 and 8 rankings of four; the validation at update 3
    model = load_causal_lm(start)
    for (prompt, response), value in list(kept.items())[:6]:
        assert value == pytest.approx(logprob(model, prompt, response), abs=1e-3)
    train(recipe, tmp_path / "runs")
    assert read[2:] == [4 * 8]  # the last validation alone


@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.1}], ids=["full", "lora"])
def test_resume_is_bit_exact(make_recipe, tmp_path, monkeypatch, lora):
    """Optimizer, schedule, random numbers, position. Mutation seen red: `resume_from_checkpoint`
    left out.
    """
    whole = train(make_recipe("whole", lora=lora), tmp_path / "runs")
    recipe = make_recipe("broken", lora=lora)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "runs")
    resumed = train(recipe, tmp_path / "runs")
    assert lines_of(resumed) == lines_of(whole)
    left, right = weights(resumed), weights(whole)
    assert left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.slow
def test_kill_9_at_random_moments_gives_the_same_final_weights(make_recipe, tmp_path):
    """Reading the reference, training, saving: wherever it falls."""
    whole = train(make_recipe("whole"), tmp_path / "runs")
    recipe, rng = make_recipe("killed"), random.Random(0)
    log = tmp_path / "runs/killed/dpo/metrics.jsonl"
    for _ in range(4):
        options = recipe, "--runs-dir", tmp_path / "runs"
        process = begin("dpo.train", *options, output=tmp_path / "output.txt")
        before = log.stat().st_size if log.exists() else 0
        while process.is_alive() and (not log.exists() or log.stat().st_size <= before):
            time.sleep(0.01)
        time.sleep(rng.random())
        process.kill()
        process.join()
    resumed = train(recipe, tmp_path / "runs")
    assert lines_of(resumed) == lines_of(whole)
    left, right = weights(resumed), weights(whole)
    assert all(torch.equal(left[n], right[n]) for n in left)


def test_lora_trains_adapters_alone_from_the_same_reference(make_recipe, tmp_path, start):
    folder = train(make_recipe(lora={"r": 4}, learning_rate=1e-2), tmp_path / "runs")
    assert lines_of(folder)[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    before, after = load_file(start / "model.safetensors"), weights(folder)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert 0 < torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 4
    assert (folder / "final/adapter/adapter_config.json").is_file()


def test_rankings_of_ties_alone_teach_nothing(make_recipe, tmp_path):
    recipe = make_recipe()
    for split in ("train", "validation"):
        path = tmp_path / f"rankings.{split}.jsonl"
        tied = [json.loads(line) | {"ranks": [1] * 4} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in tied))
    with pytest.raises(DataError, match=r"nothing to learn from: 240 ties"):
        train(recipe, tmp_path / "runs")


def test_a_recipe_that_does_not_ask_has_no_dpo(make_recipe, tmp_path):
    """It is an optional stage: `podium run` of the shipped recipes does not take it."""
    assert "dpo" not in load_recipe("willowbrook").chain()
    with pytest.raises(RecipeError, match="no section 'dpo'"):
        run_one(load_recipe("willowbrook"), "dpo", tmp_path)


@pytest.mark.slow
def test_a_run_that_diverges_begins_again_from_a_healthy_checkpoint(make_recipe, tmp_path):
    """More slowly; all of it is in the log once. Mutation seen red: the guard not asked."""
    wild = {
        "learning_rate": 1.0,
        "num_train_epochs": 1.6,  # twenty updates
        "warmup_ratio": 0.9,
        "guard": {"window": 1, "max_loss_rise": 0.2, "max_grad_norm": None},
    }
    folder = train(make_recipe(**wild), tmp_path / "runs")
    said = [x for x in (folder / "logbook.md").read_text().splitlines() if "guard: update" in x]
    assert said and "back to the state after update" in said[0]
    lines = lines_of(folder)
    assert [line["step"] for line in lines] == list(range(1, 21))
    record = json.loads((folder / "final/stage.json").read_text())
    assert record["metrics"]["rollbacks"] == len(said)
    assert lines[-1]["learning_rate"] < 0.3 ** len(said)


# ---- every key does something --------

# key: another value, and what of the log or the weights it must change
CHANGES: dict[str, tuple[object, str]] = {
    "beta": (0.9, "rewards/margins"),
    "num_train_epochs": (0.2, "lines"),
    "batch_size": (8, "lines"),
    "learning_rate": (1e-4, "loss"),
    "warmup_ratio": (0.8, "learning_rate"),
    "min_lr_rate": (0.9, "learning_rate"),
    "adam_beta1": (0.1, "loss"),
    "adam_beta2": (0.1, "loss"),
    "weight_decay": (0.9, "loss"),
    "max_length": (28, "tokens"),
    "eval_steps": (2, "evaluations"),
    "engine": ({"gradient_clipping": 1e-3}, "loss"),
    "lora": ({"r": 4}, "loss"),
}
ELSEWHERE = {
    "guard": "test_a_run_that_diverges_begins_again_from_a_healthy_checkpoint",
    "model": "test_the_reference_is_the_start_and_is_read_once",
    "rankings": "test_registry.py: a parent of the row; here null",
    "per_device_train_batch_size": "changes no number: memory alone",
    "select_by": "test_the_best_model_is_chosen_as_the_key_says",
    "save_steps": "test_resume_is_bit_exact: what is there to go on from",
    "gradient_checkpointing": "changes no number: memory alone",
}


def says(folder: Path) -> dict[str, object]:
    lines = lines_of(folder)
    found = {name: [line.get(name) for line in lines] for name in lines[0]}
    evaluations = sum("validation_loss" in line for line in lines)
    return found | {"lines": len(lines), "evaluations": evaluations}


def test_every_key_is_on_one_of_the_two_lists():
    """Mutation seen red: a field added to Config."""
    assert CHANGES.keys() | ELSEWHERE.keys() == Config.model_fields.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()


@pytest.fixture(scope="module")
def plain() -> dict:
    """What the run without a change says, made once."""
    return {}


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_does_something(make_recipe, tmp_path, plain, key):
    value, observed = CHANGES[key]
    if not plain:
        plain.update(says(train(make_recipe("plain"), tmp_path / "runs")))
    changed = says(train(make_recipe("changed", **{key: value}), tmp_path / "runs"))
    assert plain[observed] != changed[observed]


@pytest.mark.parametrize("select_by", ["validation_loss", "last"])
def test_the_best_model_is_chosen_as_the_key_says(make_recipe, tmp_path, monkeypatch, select_by):
    """Mutation seen red: `select_by` not handed on."""
    losses = iter([0.3, 0.5])
    monkeypatch.setattr(
        PreferenceTrainer,
        "preferences",
        lambda self, model: {"validation_loss": next(losses), "validation_accuracy": 0.5},
    )
    folder = train(make_recipe(select_by=select_by), tmp_path / "runs")
    record = json.loads((folder / "final/stage.json").read_text())
    assert record["metrics"]["step"] == (3 if select_by == "validation_loss" else 5)


def test_it_trains_with_attention_and_products_of_a_cpu(make_recipe, attended, evened, tmp_path):
    """Mutations seen red: the attention left to the model; the products left to it."""
    train(make_recipe(num_train_epochs=1), tmp_path / "runs")
    assert attended[True] and evened[True]
