"""The chain: which stages there are, in what order, which module runs each, and why it exists.

Modules are named, not imported: `podium --help` must not load torch.
"""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StageSpec:
    """One row of the chain.

    `module` holds `Config` and `main(config, stage)`. `parents` are the config fields that name
    other stages (or model folders or hub ids). `reads_all` marks a stage that looks at every stage
    before it, so a new one makes it run again. A stage that is not `distributed` runs on the main
    process of a launcher while the others wait.
    """

    module: str
    reason: str
    parents: tuple[str, ...] = ()
    reads_all: bool = False
    distributed: bool = True

    def load(self) -> Any:
        return importlib.import_module(self.module)


STAGES: dict[str, StageSpec] = {
    "world": StageSpec(
        "data.worlds",
        "write the embedded village's documents, demonstrations and prompts",
        distributed=False,
    ),
    "pretrain": StageSpec(
        "pretrain.train",
        "learn the language from documents: the base model",
        ("init_from", "tokenizer"),
    ),
    "sft": StageSpec("sft.train", "learn to answer from demonstrations", ("model",)),
    "rankings": StageSpec(
        "reward.collect", "sample K answers a prompt and let labelers rank them", ("models",)
    ),
    "reward": StageSpec(
        "reward.train", "learn what labelers prefer from their rankings", ("model", "rankings")
    ),
    "rl_init": StageSpec(
        "sft.train", "the short fine-tune that PPO starts from and stays close to", ("model",)
    ),
    "ppo": StageSpec(
        "ppo.train", "raise the reward, keep the language: PPO-ptx", ("model", "reward_model")
    ),
    "evals": StageSpec(
        "evals.evaluate",
        "measure every model of the chain and write the report",
        reads_all=True,
        distributed=False,
    ),
}

ARM_PREFIX = "ppo_"  # `ppo_arms: {plain: {...}}` in a recipe adds the stage `ppo_plain`


def spec_of(stage: str) -> StageSpec:
    """The row of a stage; an arm `ppo_<name>` shares PPO's row.

    Raises:
        KeyError: there is no such stage.
    """
    if stage not in STAGES and stage.startswith(ARM_PREFIX):
        return STAGES["ppo"]
    return STAGES[stage]


def command_of(stage: str) -> str:
    """The command that runs one stage, without its recipe."""
    if stage not in STAGES and stage.startswith(ARM_PREFIX):
        return f"podium ppo --arm {stage.removeprefix(ARM_PREFIX)}"
    return "podium run" if stage == "world" else f"podium {stage.replace('_', '-')}"
