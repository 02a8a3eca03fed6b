"""The config of the stages `sft` and `rl_init`: what to fine-tune and how, each key with the
paper's value (InstructGPT, appendices C.1 and C.3).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from podium.engine import EngineConfig
from podium.guard import GuardConfig
from podium.lora import LoraConfig
from podium.rewards.specs import RewardSpec

__all__ = [
    "Config",
]


class Config(BaseModel):
    """What to fine-tune and how. The defaults suit the embedded world; the paper's value is
    named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "pretrain", description="a stage of this run, a stage or model folder, or a hub id"
    )
    num_train_epochs: float = Field(
        4, gt=0, description="passes over the demonstrations; C.1: 16, C.3: 2"
    )
    learning_rate: float = Field(
        1e-3, gt=0, description="peak; C.1: 9.65e-6 (1.3B, 6B), 5.03e-6 (175B); C.3: 5e-6"
    )
    batch_size: int = Field(
        32, gt=0, description="rows an update over all processes; C.1: 32 (1.3B, 6B), 8 (175B)"
    )
    per_device_train_batch_size: int = Field(
        32, gt=0, description="rows a forward pass: what memory allows"
    )
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="share of the updates to warm up in; C.1: none"
    )
    min_lr_rate: float = Field(
        0.1, ge=0, le=1, description="fraction of the peak the cosine ends at; C.1: 0.1"
    )
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="decay of AdamW's first moment; appendix C: 0.9"
    )
    adam_beta2: float = Field(
        0.95, ge=0, lt=1, description="decay of AdamW's second moment; appendix C: 0.95"
    )
    weight_decay: float = Field(0.0, ge=0, description="on matrices only; the paper names none")
    residual_dropout: float = Field(0.0, ge=0, lt=1, description="on each block's output; C.1: 0.2")
    max_prompt_tokens: int | None = Field(
        None, gt=0, description="longer ones are dropped; C: 1,024; null: context"
    )
    max_response_tokens: int | None = Field(
        None, gt=0, description="longer answers are dropped; C: 1,024"
    )
    aux_share: float = Field(
        0.0, ge=0, lt=1, description="share of each batch's rows from the documents; C.3: 0.1"
    )
    loss_on: Literal["answers", "last_answer"] = Field(
        "answers",
        description="every assistant turn, or the last one alone; a turn's `weight: 0` is never "
        "learned",
    )
    loss_on_thinking: bool = Field(
        True, description="learn what stands before </think> in an answer, too"
    )
    lora: LoraConfig | None = Field(
        None, description="train adapters only; null trains every weight"
    )
    select_by: Literal["validation_loss", "reward_score", "last"] = Field(
        "validation_loss", description="how the checkpoint is chosen; C.1: reward_score"
    )
    reward: RewardSpec | None = Field(
        None,
        description="for select_by: reward_score; a reward stage's folder, or as in ppo.reward",
    )
    reward_prompts: int = Field(
        128, gt=0, description="validation prompts answered for the reward score"
    )
    eval_steps: int | None = Field(
        None, gt=0, description="updates between evaluations; null: once an epoch"
    )
    save_steps: int | None = Field(
        None, gt=0, description="updates between checkpoints; null: as eval_steps"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass to save memory"
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="clipping; ZeRO and offload under DeepSpeed"
    )
    guard: GuardConfig = Field(
        default_factory=GuardConfig,
        description="what counts as divergence, and what is done about it",
    )
