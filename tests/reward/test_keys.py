"""Every key of the reward stage does something: what it changes, or why that is shown elsewhere."""

import json

import pytest
import torch

from data.jsonl import read_jsonl, write_jsonl
from data.records import Ranking
from podium.engine import init_distributed
from podium.rewards.model import save_reward_model
from podium.run.context import StageContext
from podium.run.recipe import load_recipe
from reward.batches import encode_rankings
from reward.config import Config
from reward.planning import initial_model, plan_training, ranking_sets
from reward.train import keeps_head, train_models

# key: another value, what it must change, and what that needs to be seen
CHANGES: dict[str, tuple[object, str, dict]] = {
    "half": ("split", "models", {}),
    "members": (2, "models", {}),
    "loss": ("plackett_luce", "weights", {}),
    "margin": ("likert", "weights", {}),
    "margin_scale": (3.0, "weights", {"margin": "likert"}),
    "batching": ("shuffled_pairs", "weights", {}),
    "num_train_epochs": (2, "updates", {}),
    "batch_size": (16, "updates", {}),
    "learning_rate": (1e-2, "weights", {}),
    "warmup_steps": (3, "learning_rate", {}),
    "min_lr_rate": (0.9, "learning_rate", {}),
    "adam_beta1": (0.1, "weights", {}),
    "adam_beta2": (0.1, "weights", {}),
    "adam_epsilon": (1.0, "weights", {}),
    "weight_decay": (0.5, "weights", {}),
    "max_length": (30, "tokens", {}),
    "lora": ({"r": 4}, "names", {}),
    "engine": ({"gradient_clipping": 1e-9}, "weights", {}),
    "eval_steps": (1, "looks", {}),
    "save_steps": (1, "checkpoints", {}),
}
ELSEWHERE = {  # key: why not here
    "guard": "nothing diverges here: test_guard.py, and each threshold in tests/podium/test_guard.py",
    "new_head": "below",
    "model": "a folder: tests/reward/test_score.py reads its shape back",
    "rankings": "test_train.py and test_sources.py: files, folders, weighted sets",
    "combine": "test_score.py: members become one score",
    "micro_batch_tokens": "changes no number: test_updates_do_not_depend_on_the_cut",
    "shared_prefix": "changes no number: test_updates_do_not_depend_on_the_cut",
    "gradient_checkpointing": "changes no number: test_updates_do_not_depend_on_the_cut",
    "eval_rankings": "how many validation rankings are read, in `main`",
}


def test_every_key_is_on_one_of_the_two_lists():
    """A new key must show what it does. Mutation seen red: a field added to Config."""
    assert CHANGES.keys() | ELSEWHERE.keys() == Config.model_fields.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()


@pytest.fixture
def says(make_recipe, tmp_path):
    """`says(name, **config) -> what a training shows`, without the report at its end."""
    records = read_jsonl(tmp_path / "rankings.jsonl", Ranking)
    rated = [
        record.model_copy(update={"likert": [1 + 6 * (rank == 1) for rank in record.ranks]})
        for record in records
    ]
    write_jsonl(tmp_path / "rankings.jsonl", rated)

    def train(name: str, **config) -> dict[str, object]:
        init_distributed()
        recipe = load_recipe(make_recipe(name, **{"num_train_epochs": 1, **config}))
        stage = StageContext("reward", recipe, tmp_path / "runs" / name)
        initial = initial_model(tmp_path / "base", recipe.reward.max_length)
        sets = ranking_sets(recipe.reward.rankings, stage)
        validation = [r for splits, _ in sets for r in splits.validation]
        watched, _ = encode_rankings(validation, initial.tokenizer, initial.max_length)
        plans = plan_training(recipe.reward, stage, sets, initial)
        trained, tokens = train_models(recipe.reward, stage, initial, plans, watched)
        stage.close()
        lines = [json.loads(x) for x in (stage.dir / "metrics.jsonl").read_text().splitlines()]
        return {
            "models": len(trained),
            "names": sorted(trained[0]),
            "weights": torch.cat([w.flatten() for w in trained[0].values()]).tolist(),
            "tokens": tokens,
            "updates": len(lines),
            "learning_rate": [line["learning_rate"] for line in lines],
            "looks": sum("validation_accuracy" in line for line in lines),
            "checkpoints": sorted(p.name for p in (stage.dir / "checkpoints").iterdir()),
        }

    return train


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_does_something(says, key):
    """Mutations seen red are in tests/mutants.py: keys that nobody reads."""
    value, observed, needed = CHANGES[key]
    assert says("plain", **needed)[observed] != says("changed", **{**needed, key: value})[observed]


def test_a_head_is_kept_unless_a_new_one_is_asked_for_or_members_must_differ(
    reward_model, base_folder, tokenizer, tmp_path
):
    """Seen red with `new_head` ignored, and with members that all keep one head."""
    save_reward_model(reward_model, tokenizer, tmp_path / "rm")
    assert keeps_head(tmp_path / "rm", new_head=False, members=1)
    assert not keeps_head(tmp_path / "rm", new_head=True, members=1)
    assert not keeps_head(tmp_path / "rm", new_head=False, members=3)
    assert not keeps_head(base_folder, new_head=False, members=1)
