"""The config of the stage `evals`: which models to compare, and on how much."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from evals.people import JudgeSpec
from podium.rewards.specs import RewardSpec
from podium.widths import Weights

__all__ = ["Config"]


class Config(BaseModel):
    """Which models to compare, and on how much. Null parents are taken from the chain."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str | None = Field(None, description="model before SFT; null: what SFT started from")
    sft: str = Field(
        "sft", description="the model to win against; paper: the SFT model chosen by reward"
    )
    reference: str | None = Field(
        None, description="KL is measured from it; null: what PPO started from"
    )
    reward: RewardSpec | None = Field(
        None,
        description="scores answers and picks best-of-n, as in ppo.reward; null: the chain's",
    )
    judge: JudgeSpec | None = Field(
        None,
        description="decides wins where there is no world: an independent reward, as in "
        "ppo.reward, {endpoint: ...}, an AI that compares pairs, or {people: EXPORT}, rankings of "
        "final/candidates.jsonl from the labeling site",
    )
    prompts: int = Field(
        200,
        gt=0,
        description="held-out test prompts; +-3 % at 85 % takes 540, 200 give about +-5 %",
    )
    samples: int = Field(
        4, gt=0, description="answers a prompt and model; the interval is over prompts all the same"
    )
    best_of: int = Field(
        16,
        ge=0,
        description="SFT answers a prompt that the reward model picks from; 0 leaves it out",
    )
    max_new_tokens: int | None = Field(
        None, gt=0, description="longest answer; null: as in PPO; paper: 1,000"
    )
    temperature: float = Field(1.0, ge=0, description="of sampling; PPO samples at 1")
    top_p: float = Field(1.0, gt=0, le=1, description="share of probability that is sampled from")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="texts before which every model's answer ends, beside its end token"
    )
    documents_tokens: int = Field(
        40_000, gt=1, description="held-out text for the pretraining loss"
    )
    questions: int = Field(600, ge=0, description="fact questions to ask; 0 asks none")
    tasks: list[str] = Field(
        [],
        description="tasks of lm-eval, asked of every model; `opt` and `instructgpt` are groups "
        "of them",
    )
    task_files: str | None = Field(
        None, description="a folder of your own tasks as lm-eval's YAML files, for evals.tasks"
    )
    num_fewshot: list[int] | None = Field(
        None,
        description="examples before a task's question; each number is asked; null: none, or as a "
        "group's paper did (OPT: 0, 1, 32)",
    )
    task_limit: int | None = Field(None, gt=0, description="questions a task; null: all")
    familiar_prompts: int = Field(
        400,
        ge=0,
        description="training prompts that test prompts are compared with, to flag those unlike "
        "them; 0: none is flagged",
    )
    weights: Weights = Field(
        "fp32",
        description="width of the measured models' weights, for inference alone: bf16, or by "
        "torchao int8, int4; the reward model keeps its own",
    )
    save_steps: int = Field(512, gt=0, description="answers between checkpoints")
