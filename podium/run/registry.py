"""The registry: one row a stage. Everything else that lists stages derives from this table.

Who adds a stage writes a folder whose module has `Config` and `main(config, stage)`, and a row
here. The command line, the recipe's sections, the chain, the doctor, the evaluation, the report,
its pictures and the chat's list of models follow from the row.

Modules are named, not imported: `podium --help` must not load torch.
"""

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "STAGES",
    "StageSpec",
    "chain_of",
    "command_of",
    "is_stage",
    "label_of",
    "packages",
    "rows_with",
    "spec_of",
    "split_arm",
]

# Says what a stage of a recipe will take in memory (`podium.run.fitting`).
PLANNER = "pretrain.plans"
Settings = Mapping[str, Any]  # a stage's own section of the recipe, as read from YAML
Role = Literal["records", "base", "demonstrated", "start", "policy", "reward", "report"]


@dataclass(frozen=True)
class StageSpec:
    """One row of the chain.

    Attributes:
        module: holds `Config` and `main(config, stage)`.
        config: the module that `Config` comes from, where importing all that trains only to read a
            recipe would take seconds.
        reason: what the stage is for, as a part of a sentence: the chain, `--help` and the recipe
            reference say it.
        parents: the config fields that name other stages (or model folders or hub ids).
        rewards: the config fields that name a reward (`podium.rewards.kinds`).
        role: what the others do with the output. `records` and `report`: nothing is loaded from it.
            `base`: the model before it was taught to answer. `demonstrated`: the model that wins
            are counted against. `start`: a model to talk to, not compared. `policy`: a model that
            evaluation compares and that the chat opens with. `reward`: scores answers.
        label: what people call the model, or a function that tells it from the stage's settings.
        colour: of its line in pictures.
        arms: the recipe may hold `<stage>_arms: {name: what differs}`, each a further run of it.
        reads_all: the stage looks at every stage before it, so a new one makes it run again.
        distributed: False runs on the main process of a launcher while the others wait.
        amendable: the keys that may change while the stage is under way (`podium.run.amend`): what
            they say is looked up at every update, and no checkpoint holds it.
    """

    module: str
    reason: str
    parents: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()
    role: Role = "records"
    label: str | Callable[[Settings], str] = ""
    colour: str = "#8a8a8a"
    arms: bool = False
    reads_all: bool = False
    distributed: bool = True
    amendable: tuple[str, ...] = ()
    config: str = ""

    def load(self) -> Any:
        """The stage's module."""
        return importlib.import_module(self.module)

    def config_class(self) -> Any:
        """What the stage's section of a recipe holds."""
        return importlib.import_module(self.config or self.module).Config


def _tuned_by(settings: Settings) -> str:
    """`PPO-ptx`, `PPO`, `RLOO-ptx`, ...: named by how actions are judged, and by the mix."""
    judged = settings.get("advantage", "gae")
    name = "PPO" if judged == "gae" else str(judged).upper()
    return f"{name}-ptx" if settings.get("ptx_coef", 1) else name


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
        role="base",
        label="base",
        amendable=(
            "learning_rate",
            "min_lr_rate",
            "engine.gradient_clipping",
            "guard",
            "eval_steps",
            "save_steps",
            "sample_prompt",
        ),
        config="pretrain.config",
    ),
    "sft": StageSpec(
        "sft.train",
        "learn to answer from demonstrations",
        ("model",),
        rewards=("reward",),
        role="demonstrated",
        label="SFT",
        colour="#2b7a78",
        amendable=("learning_rate", "engine.gradient_clipping", "guard"),
        config="sft.config",
    ),
    "rankings": StageSpec(
        "reward.collect",
        "sample K answers a prompt and let labelers rank them",
        ("models",),
        rewards=("reward",),
    ),
    "reward": StageSpec(
        "reward.train",
        "learn what labelers prefer from their rankings",
        ("model", "rankings"),
        role="reward",
        label="reward model",
        colour="#7b5ea7",
        amendable=(
            "learning_rate",
            "min_lr_rate",
            "engine.gradient_clipping",
            "guard",
            "eval_steps",
            "save_steps",
        ),
        config="reward.config",
    ),
    "rl_init": StageSpec(
        "sft.train",
        "the short fine-tune that PPO starts from and stays close to (InstructGPT C.3)",
        ("model",),
        rewards=("reward",),
        role="start",
        label="RL start",
        colour="#6a9f58",
        amendable=("learning_rate", "engine.gradient_clipping", "guard"),
        config="sft.config",
    ),
    "ppo": StageSpec(
        "ppo.train",
        "raise the reward, keep the language: PPO-ptx",
        ("model", "value_model"),
        rewards=("reward",),
        role="policy",
        label=_tuned_by,
        colour="#1f5fa8",
        arms=True,
        amendable=(
            "learning_rate",
            "value_learning_rate",
            "clip_range",
            "clip_range_value",
            "guard",
            "save_steps",
            "sample_steps",
        ),
        config="ppo.config",
    ),
    "dpo": StageSpec(
        "dpo.train",
        "learn from the rankings without a reward model: DPO, a baseline beside PPO",
        ("model", "rankings"),
        role="policy",
        label="DPO",
        colour="#b5179e",
        arms=True,
        amendable=("learning_rate", "engine.gradient_clipping", "guard"),
        config="dpo.config",
    ),
    "evals": StageSpec(
        "evals.evaluate",
        "measure every model of the chain and write the report",
        rewards=("reward", "judge"),
        role="report",
        reads_all=True,
        distributed=False,
        config="evals.config",
    ),
}


def split_arm(stage: str) -> tuple[str, str | None]:
    """The row of a stage and its arm: `ppo_plain` -> ("ppo", "plain"), `sft` -> ("sft", None).

    A name that is neither is returned as it came.
    """
    if stage not in STAGES:
        for row, spec in STAGES.items():
            if spec.arms and stage.startswith(f"{row}_"):
                return row, stage.removeprefix(f"{row}_")
    return stage, None


def is_stage(name: str) -> bool:
    """Whether a name means a stage, of this run or of any."""
    return split_arm(name)[0] in STAGES


def spec_of(stage: str) -> StageSpec:
    """The row of a stage; an arm shares its stage's.

    Raises:
        KeyError: there is no such stage.
    """
    return STAGES[split_arm(stage)[0]]


def rows_with(role: Role) -> list[str]:
    """The rows whose output the others use in this way, in the chain's order."""
    return [row for row, spec in STAGES.items() if spec.role == role]


def chain_of(present: Collection[str], arms: Mapping[str, Collection[str]]) -> list[str]:
    """The stages in the order they run: those that are `present`, each followed by its arms.

    Args:
        present: rows that a recipe has a section for.
        arms: row -> the names of its arms.
    """
    names = []
    for row in STAGES:
        if row in present:
            names += [row, *(f"{row}_{arm}" for arm in arms.get(row, ()))]
    return names


def command_of(stage: str) -> str:
    """The command that runs one stage, without its recipe."""
    row, arm = split_arm(stage)
    if row == "world":
        return "podium run"
    return f"podium {row.replace('_', '-')}" + (f" --arm {arm}" if arm else "")


def label_of(stage: str, settings: Settings | None = None) -> str:
    """What people call the model of a stage, everywhere the same: `base`, `SFT`, `PPO-ptx`, `PPO`.

    An arm is called by what it is and its name, `PPO kl10`; the arm `plain` needs no name, nor does
    `rloo` where that is what it is.
    """
    row, arm = split_arm(stage)
    label = STAGES[row].label
    text = label if isinstance(label, str) else label(settings or {})
    said = arm is None or arm == "plain" or arm.lower() == text.lower().split("-")[0]
    return (text or row) if said else f"{text} {str(arm).replace('_', ' ')}"


def packages() -> tuple[str, ...]:
    """The top-level packages that hold stages."""
    return tuple(dict.fromkeys(spec.module.split(".")[0] for spec in STAGES.values()))
