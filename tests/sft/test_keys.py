"""Every key of SFT does something: what it changes, or why that is shown elsewhere."""

import json

import pytest
import torch
from safetensors.torch import load_file

from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from podium.run.trainer import StageTrainer
from sft.config import Config
from tests.every_key import EveryKey

REWARDS = """
def users(prompts, responses):
    return [float(prompt.user[-1]) for prompt in prompts]

def sevens(prompts, responses):
    return [7.0 for _ in prompts]
"""
SCORED = {"select_by": "reward_score", "reward": "{rewards}:users", "max_response_tokens": 24}

# key: another value, what it must change, and what that needs to be seen
CHANGES: dict[str, tuple[object, str, dict]] = {
    "num_train_epochs": (2, "updates", {}),
    "learning_rate": (1e-2, "weights", {}),
    "batch_size": (16, "updates", {}),
    "warmup_ratio": (0.5, "learning_rate", {}),
    "min_lr_rate": (0.9, "learning_rate", {}),
    "adam_beta1": (0.1, "weights", {}),
    "adam_beta2": (0.1, "weights", {}),
    "weight_decay": (0.5, "weights", {}),
    "residual_dropout": (0.5, "weights", {}),
    "max_prompt_tokens": (28, "demonstrations", {}),
    "max_response_tokens": (5, "demonstrations", {}),
    "aux_share": (0.25, "aux_token_share", {}),
    "lora": ({"r": 4}, "trained_parameters", {}),
    "select_by": ("last", "chosen", {"learning_rate": 1.0, "eval_steps": 1}),
    "reward": ("{rewards}:sevens", "reward_score", SCORED),
    "reward_prompts": (5, "reward_score", SCORED),
    "eval_steps": (2, "looks", {}),
    "save_steps": (2, "saves", {}),
    "gradient_checkpointing": (True, "recomputes", {}),
    "engine": ({"gradient_clipping": 1e-9}, "weights", {}),
}
ELSEWHERE = {  # key: why not here
    "guard": "nothing diverges here: test_guard.py, and each threshold in tests/podium/test_guard.py",
    "loss_on": "one answer each here: tests/data/test_tool_turns.py",
    "loss_on_thinking": "nobody thinks here: tests/data/test_tool_turns.py",
    "model": "a folder: test_a_foreign_base_gets_a_template_and_rows_for_its_tokens",
    "per_device_train_batch_size": "changes no number: test_it_is_the_same_as_a_plain_loop",
}


def test_every_key_is_on_one_of_the_two_lists():
    """A new key must show what it does. Mutation seen red: a field added to Config."""
    assert CHANGES.keys() | ELSEWHERE.keys() == Config.model_fields.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()


@pytest.fixture
def says(make_recipe, tmp_path, monkeypatch):
    """`says(name, **config) -> what a training of five updates shows`."""
    (tmp_path / "rewards.py").write_text(REWARDS)
    saves: list[int] = []
    recomputes: list[bool] = []
    save, evaluate = StageContext.save_checkpoint, StageTrainer.evaluate

    def noted_save(stage, step, *how):
        saves.append(step)
        save(stage, step, *how)

    def noted_evaluate(trainer, *args, **kwargs):
        recomputes.append(trainer.model.is_gradient_checkpointing)
        return evaluate(trainer, *args, **kwargs)

    monkeypatch.setattr(StageContext, "save_checkpoint", noted_save)
    monkeypatch.setattr(StageTrainer, "evaluate", noted_evaluate)

    def train(name: str, **config) -> dict[str, object]:
        saves.clear(), recomputes.clear()
        if "reward" in config:
            config["reward"] = config["reward"].format(rewards=tmp_path / "rewards.py")
        plain = {"num_train_epochs": 1, "eval_steps": 5, "save_steps": 5}
        run_one(load_recipe(make_recipe(name, **plain | config)), "sft", tmp_path / "runs")
        folder = tmp_path / "runs" / name / "sft"
        lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        weights = load_file(folder / "final" / "model.safetensors")
        final = json.loads((folder / "final" / "stage.json").read_text())["metrics"]
        return final | {
            "weights": torch.cat([w.flatten() for w in weights.values()]).tolist(),
            "updates": len(lines),
            "learning_rate": [line["learning_rate"] for line in lines],
            "chosen": final["step"],
            "looks": [line["step"] for line in lines if "validation_loss" in line],
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


def test_checkpoints_follow_the_looks_unless_the_key_says_otherwise(says):
    """And the last update is saved. Mutation seen red: `save_steps` of its own, 500."""
    assert says("follows", eval_steps=2, save_steps=None)["saves"] == [2, 4, 5]
