"""A whole run in miniature: every stage's folder as Podium writes it, with untrained models of 40k
parameters.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerBase,
)

from data.worlds import Config as WorldConfig
from data.worlds import write_world
from evals.evaluate import Config
from podium.models import save_model
from podium.run.context import StageContext
from podium.run.recipe import DataConfig, Recipe, dump_recipe

CONTEXT = 512  # a byte-level vocabulary of 320 makes long prompts
WORLD = WorldConfig(
    documents=60,
    validation_documents=40,
    demonstrations=20,
    validation_demonstrations=5,
    test_demonstrations=5,
    prompts=20,
    validation_prompts=5,
    test_prompts=20,
)


class Section(BaseModel):
    """A stage's section of the recipe, as far as evaluation looks at it."""

    model: str = "sft"
    reward: str = "reward"
    ptx_coef: float = 1.0
    response_length: int = 8


def make_recipe(evals: Config, world: bool = True, **sections: Any) -> Recipe:
    """The recipe of the miniature run: base, SFT, reward, PPO-ptx and the arm `plain`."""
    chain = {
        "sft": Section(model="pretrain"),
        "pretrain": Section(),
        "reward": Section(),
        "ppo": Section(),
    }
    return Recipe(
        name="mini",
        threads=1,
        dtype="fp32",
        data=DataConfig(world=WORLD if world else None),
        **{"ppo_arms": {"plain": {"ptx_coef": 0.0}}, "evals": evals} | chain | sections,
    )


def make_run(
    runs_dir: Path, tokenizer: PreTrainedTokenizerBase, evals: Config
) -> tuple[Recipe, Path]:
    """Write the run up to, and without, its evaluation; the policies differ from SFT by a nudge to
    every weight.
    """
    recipe = make_recipe(evals)
    run_dir = runs_dir / recipe.name
    run_dir.mkdir(parents=True)
    (run_dir / "recipe.yaml").write_text(dump_recipe(recipe))
    _finish("world", recipe, run_dir, lambda folder: write_world(WORLD, folder))
    for number, stage in enumerate(["pretrain", "sft", "reward", "ppo", "ppo_plain"]):
        model = (
            make_reward_model(tokenizer)
            if stage == "reward"
            else make_model(tokenizer, nudge=0.02 * number)
        )
        logged = {"loss": 3.0, "objective/kl": 0.5 * number, "objective/scores": 0.1 * number}
        _finish(
            stage,
            recipe,
            run_dir,
            lambda folder, model=model: save_model(model, tokenizer, folder),
            logged,
        )
    return recipe, run_dir


def make_model(tokenizer: PreTrainedTokenizerBase, nudge: float = 0.0) -> LlamaForCausalLM:
    """A causal LM; two of different `nudge` say different things."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(_shape(tokenizer)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += nudge * torch.randn(weight.shape, generator=generator)
    return model


def make_reward_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForSequenceClassification:
    """A reward model with a bias in its config, as the reward stage saves it."""
    torch.manual_seed(2)
    config = _shape(tokenizer)
    config.num_labels, config.reward_bias = 1, 0.25
    return LlamaForSequenceClassification(config).eval()


def _shape(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


PARENTS = {"sft": ["pretrain"], "reward": ["sft"], "ppo": ["sft", "reward"]}


def _finish(
    name: str, recipe: Recipe, run_dir: Path, save: Any, logged: dict[str, float] | None = None
) -> None:
    stage = StageContext(name, recipe, run_dir)
    for parent in PARENTS.get(name.removesuffix("_plain"), []):
        stage.parent(parent)
    for step in range(1, 4):
        stage.log(step, {key: value / step for key, value in (logged or {}).items()})
    stage.finish(save, {"loss": 1.0}, "# A stage of the miniature run")
    stage.close()
