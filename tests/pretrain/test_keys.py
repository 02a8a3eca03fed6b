"""Every key of pretraining does something: what it changes, or why that is shown elsewhere."""

import json

import pytest
import torch
from safetensors.torch import load_file

from podium.models import save_model
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from pretrain import train as stage_file
from pretrain.batches import BatchRamp
from pretrain.blanks import Infilling
from pretrain.config import Config
from tests.every_key import EveryKey

# key: another value, what it must change, and what that needs to be seen
CHANGES: dict[str, tuple[object, str, dict]] = {
    "preset": ("opt-tiny", "parameters", {}),
    "init_from": ("{base}", "parameters", {}),
    "initializer_range": (0.2, "first loss", {}),
    "tokenizer": ("{base}", "parameters", {}),
    "vocab_size": (280, "parameters", {}),
    "context": (16, "tokens an update", {}),
    "tokens": (32 * 4 * 5, "updates", {}),
    "batch_size": (2, "tokens an update", {}),
    "batch_ramp": ({"start": 1, "tokens": 300}, "tokens an update", {}),
    "infilling": ({}, "first loss", {}),
    "embedding_gradient": (0.1, "weights", {}),
    "learning_rate": (None, "learning_rate", {}),
    "warmup_tokens": (384, "learning_rate", {}),
    "decay_tokens": (300, "learning_rate", {}),
    "min_lr_rate": (0.9, "learning_rate", {}),
    "adam_beta1": (0.1, "weights", {}),
    "adam_beta2": (0.1, "weights", {}),
    "adam_epsilon": (1.0, "weights", {}),
    "weight_decay": (5.0, "weights", {}),
    "gradient_checkpointing": (True, "recomputes", {}),
    "engine": ({"gradient_clipping": 1e-9}, "weights", {}),
    "eval_steps": (1, "looks", {}),
    "eval_tokens": (32, "validation_loss", {}),
    "save_steps": (1, "saves", {}),
    "sample_prompt": ("Ana lives", "written", {}),
}
ELSEWHERE = {  # key: why not here
    "compile": "changes no number: test_compile.py",
    "guard": "nothing diverges here: test_guard.py, and each threshold in tests/podium/test_guard.py",
    "per_device_train_batch_size": "changes no number: "
    "test_micro_batches_and_zero_stages_give_the_same_update",
}
RAMP_CHANGES = {"start": 2, "tokens": 64}  # key of `batch_ramp`: another value
# of `infilling`, beside short spans alone
INFILLING_CHANGES = {"share": 0.5, "short": 0.0, "mask_rate": 0.4, "mean_span": 1.0}


def test_every_key_is_on_one_of_the_two_lists():
    """A new key must show what it does. Mutation seen red: a field added to Config."""
    assert CHANGES.keys() | ELSEWHERE.keys() == Config.model_fields.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()
    assert RAMP_CHANGES.keys() == BatchRamp.model_fields.keys()
    assert INFILLING_CHANGES.keys() == Infilling.model_fields.keys()


@pytest.fixture
def says(make_recipe, tiny_llama, tokenizer, tmp_path, monkeypatch):
    """`says(name, **config) -> what a training of three updates shows`."""
    save_model(tiny_llama, tokenizer, tmp_path / "base")
    saves: list[int] = []
    recomputes: list[bool] = []
    save, evaluate = StageContext.save_checkpoint, stage_file.evaluate

    def noted_save(stage, step, *how):
        saves.append(step)
        save(stage, step, *how)

    def noted_evaluate(engine, *args):
        recomputes.append(engine.module.model.is_gradient_checkpointing)
        return evaluate(engine, *args)

    monkeypatch.setattr(StageContext, "save_checkpoint", noted_save)
    monkeypatch.setattr(stage_file, "evaluate", noted_evaluate)

    def train(name: str, **config) -> dict[str, object]:
        saves.clear(), recomputes.clear()
        plain = {"tokens": 32 * 4 * 3, "warmup_tokens": 64, "save_steps": 2}
        filled = {
            key: value.format(base=tmp_path / "base") if isinstance(value, str) else value
            for key, value in (plain | config).items()
        }
        run_one(load_recipe(make_recipe(name, **filled)), "pretrain", tmp_path / "runs")
        folder = tmp_path / "runs" / name / "pretrain"
        lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        weights = load_file(folder / "final" / "model.safetensors")
        final = json.loads((folder / "final" / "stage.json").read_text())["metrics"]
        logbook = (folder / "logbook.md").read_text().splitlines()
        return final | {
            "weights": torch.cat([w.flatten() for w in weights.values()]).tolist(),
            "first loss": lines[0]["loss"],
            "updates": len(lines),
            "tokens an update": lines[1]["tokens"] - lines[0]["tokens"],
            "learning_rate": [line["learning_rate"] for line in lines],
            "looks": [line["step"] for line in lines if "validation_loss" in line],
            "written": [line.split(" ", 1)[-1] for line in logbook if "writes:" in line],
            "saves": list(saves),
            "recomputes": list(recomputes),
        }

    return train


@pytest.fixture(scope="module")
def every_key() -> EveryKey:
    return EveryKey()


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_does_something(says, every_key, key):
    """A key that nobody reads would change nothing."""
    every_key.check(says, key, CHANGES[key])


@pytest.mark.parametrize("key", RAMP_CHANGES)
def test_every_key_of_the_ramp_does_something(says, key):
    """Mutation seen red: a ramp that begins at 1 whatever `start` says."""
    ramp = {"start": 1, "tokens": 300}
    plain = says("plain", batch_ramp=ramp)
    changed = says("changed", batch_ramp=ramp | {key: RAMP_CHANGES[key]})
    assert plain["tokens an update"] != changed["tokens an update"]


@pytest.mark.parametrize("key", INFILLING_CHANGES)
def test_every_key_of_infilling_does_something(says, every_key, key):
    """Mutation seen red: the defaults whatever is said."""
    short = {"share": 1.0, "short": 1.0}
    changed = short | {key: INFILLING_CHANGES[key]}
    every_key.check(says, "infilling", (changed, "first loss", {"infilling": short}))
