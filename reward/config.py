"""The config of the stage `reward`: how to learn the labelers' preferences, each key with the
paper's value (InstructGPT, section 3.5 and appendix C.2).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from podium.engine import EngineConfig
from podium.guard import GuardConfig
from podium.lora import LoraConfig
from podium.rewards.folders import Combine
from reward.batches import Margin
from reward.loss import LossName

__all__ = [
    "Config",
    "RankingSet",
]


class RankingSet(BaseModel):
    """One of several sets of rankings, such as helpful ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="a rankings stage or folder, or a JSONL file of rankings")
    weight: float = Field(
        1.0, gt=0, description="how much one of its rankings counts; Bai et al. 2022 tried 1 to 10"
    )


class Config(BaseModel):
    """How to learn the labelers' preferences. The defaults suit the embedded world; the paper's
    value is named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "sft",
        description="where to start: a stage (sft, pretrain), a folder or a hub id; paper: SFT",
    )
    new_head: bool = Field(
        False,
        description="draw a new scalar head although `model` is a reward model and has one; "
        "members of an ensemble always do",
    )
    rankings: str | list[RankingSet] | None = Field(
        "rankings",
        description="a rankings stage, a folder, a JSONL file, weighted sets of these; null = "
        "data.rankings",
    )
    half: Literal["all", "first", "second", "split"] = Field(
        "all",
        description="prompts to learn from; split = the first half, and held_out/ gets a model "
        "of the second",
    )
    members: int = Field(1, ge=1, description="models that differ by seed and are read as one")
    combine: Combine = Field(
        "mean", description="how members become one score: mean, min or mean_minus_variance"
    )
    loss: LossName = Field("pairwise", description="pairwise (the paper's) or plackett_luce")
    margin: Margin = Field(
        "none", description="wider gaps for clear preferences, by likert or strength; paper: none"
    )
    margin_scale: float = Field(
        1.0, gt=0, description="nats of gap asked for per unit of likert or strength"
    )
    batching: Literal["rankings", "shuffled_pairs"] = Field(
        "rankings",
        description="shuffled_pairs is what the paper warns of; a batch then counts pairs",
    )
    num_train_epochs: int = Field(
        1, gt=0, description="passes over the rankings; paper: 1 (the second overfits)"
    )
    batch_size: int = Field(
        64, gt=0, description="rankings an update over all processes; paper: 64 prompts"
    )
    learning_rate: float = Field(3e-4, gt=0, description="peak; paper: 9e-6 for 6B")
    warmup_steps: int = Field(0, ge=0, description="updates of linear warm-up; paper: none")
    min_lr_rate: float = Field(
        0.1, ge=0, le=1, description="fraction of the peak the cosine ends at; paper: 0.1"
    )
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="decay of AdamW's first moment; paper: 0.9"
    )
    adam_beta2: float = Field(
        0.95, ge=0, lt=1, description="decay of AdamW's second moment; paper: 0.95"
    )
    adam_epsilon: float = Field(
        1e-8, gt=0, description="keeps AdamW's step finite; not in the paper"
    )
    weight_decay: float = Field(0.0, ge=0, description="on matrices only; not in the paper")
    max_length: int | None = Field(
        None, gt=1, description="tokens of prompt + response; null: the model's context"
    )
    micro_batch_tokens: int = Field(
        4096, gt=0, description="padded tokens a backward pass holds in memory"
    )
    shared_prefix: bool = Field(
        False, description="compute a prompt once for its K answers; pays for long prompts"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass to save memory"
    )
    lora: LoraConfig | None = Field(
        None, description="train low-rank adapters instead of all weights; merged in final/"
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="ZeRO stage, offload, clipping"
    )
    guard: GuardConfig = Field(
        default_factory=GuardConfig,
        description="what counts as divergence, and what is done about it",
    )
    eval_steps: int = Field(
        10, gt=0, description="updates between looks at the validation rankings; also at the end"
    )
    eval_rankings: int = Field(
        200, gt=0, description="validation rankings read each time; the report reads all"
    )
    save_steps: int = Field(25, gt=0, description="updates between checkpoints")

    @model_validator(mode="after")
    def _one_way_to_save_memory(self) -> "Config":
        if self.shared_prefix and self.gradient_checkpointing:
            raise ValueError(
                "shared_prefix needs the prompt's keys and values, which "
                "gradient_checkpointing throws away; "
                "switch one of them off, or lower micro_batch_tokens"
            )
        return self
