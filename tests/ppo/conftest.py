"""Four tiny models, a learner on them, and a recipe that trains in seconds."""

from pathlib import Path

import pytest
import torch
import yaml

from data.jsonl import write_jsonl
from data.records import Document, Message, Prompt

BOS = 0  # begins a document
SMALL = {
    "batch_size": 8,
    "total_episodes": 8,
    "num_mini_batches": 2,
    "response_length": 12,
    "warmup_iterations": 0,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 3,
    "ptx_context": 16,
    "ptx_coef": 0.0,
    "learning_rate": 1e-3,
    "value_learning_rate": 1e-3,
    "missing_eos_penalty": 0.0,
}


@pytest.fixture
def policy_folder(tiny_llama, tokenizer, tmp_path) -> Path:
    """What SFT would hand over."""
    from podium.models import save_model

    save_model(tiny_llama, tokenizer, tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def opt_folder(tiny_opt, tokenizer, tmp_path) -> Path:
    """The same in OPT's shape, trained with dropout as OPT is."""
    from podium.models import save_model

    tiny_opt.config.dropout = 0.1
    save_model(tiny_opt, tokenizer, tmp_path / "opt-policy")
    return tmp_path / "opt-policy"


@pytest.fixture
def reward_folder(policy_folder, tokenizer, tmp_path) -> Path:
    """A fresh reward model with a bias that is not 0."""
    from podium.rewards.model import new_reward_model, save_reward_model

    model = new_reward_model(policy_folder, tokenizer, seed=0)
    model.config.reward_bias = 0.25
    save_reward_model(model, tokenizer, tmp_path / "reward")
    return tmp_path / "reward"


@pytest.fixture
def make_learner(policy_folder, reward_folder):
    """`make_learner(seed=0, policy=folder, dtype="fp32", **config) -> Learner`, stop token 3."""
    from podium.models import load_causal_lm
    from podium.rewards.model import load_reward_model
    from podium.rewards.model_reward import ModelReward
    from ppo.config import Config
    from ppo.learner import Learner, Models

    def make(
        seed: int = 0,
        policy: Path = policy_folder,
        stop_token_ids: tuple[int, ...] = (3,),
        dtype: str = "fp32",
        absent_token_ids: tuple[int, ...] = (),
        **config,
    ) -> Learner:
        reward, value = (load_reward_model(reward_folder)[0] for _ in range(2))
        models = Models(load_causal_lm(policy), ModelReward(reward), value)
        return Learner(
            Config(**{**SMALL, **config}),
            models,
            1,
            stop_token_ids,
            seed,
            dtype,
            separator_id=BOS,
            absent_token_ids=absent_token_ids,
        )

    return make


@pytest.fixture
def windows() -> torch.Tensor:
    """Document windows (D, T) for ptx, a document every six tokens."""
    ids = torch.randint(5, 300, (16, 16), generator=torch.Generator().manual_seed(1))
    ids[:, ::6] = BOS
    return ids


@pytest.fixture
def make_recipe(policy_folder, reward_folder, tmp_path):
    """`make_recipe(name, **ppo_config) -> path` of a recipe with its own prompts and documents,
    fp32, one thread.
    """
    names, things = ["Ana", "Bram", "Cleo", "Dov"], ["owl", "lantern", "mill", "barn", "jam"]
    prompts = [
        Prompt(
            messages=[Message(role="user", content=f"Tell {name} about the {thing}.")], user=name
        )
        for name in names
        for thing in things
    ]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    texts = [
        f"{name} the baker lives in the {thing} and likes honey. " * 3
        for name in names
        for thing in things
    ]
    write_jsonl(tmp_path / "documents.jsonl", [Document(text=text) for text in texts])

    def make(name: str = "run", **config) -> Path:
        small = {
            **SMALL,
            "model": str(policy_folder),
            "reward": str(reward_folder),
            "total_episodes": 32,
            "save_steps": 2,
            "sample_steps": 2,
            "sample_prompts": 2,
            "ptx_coef": 0.5,
            "gradient_steps": 2,
            "guard": {"min_eos_rate": None, "min_explained_variance": None},
        }
        recipe = {
            "name": name,
            "seed": 3,
            "dtype": "fp32",
            "threads": 1,
            "ppo": small | config,
            "data": {
                "prompts": {"train": str(tmp_path / "prompts.jsonl")},
                "documents": {"train": str(tmp_path / "documents.jsonl")},
            },
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return make
