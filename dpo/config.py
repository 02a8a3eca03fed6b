"""The config of the stage `dpo`; the paper's value is named."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from podium.engine import EngineConfig
from podium.guard import GuardConfig
from podium.lora import LoraConfig

__all__ = ["Config"]


class Config(BaseModel):
    """How to learn from comparisons. The defaults suit the embedded world; the paper is Rafailov et
    al. 2023.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "sft",
        description="policy and reference: a stage of this run, a folder, a hub id; paper: SFT",
    )
    rankings: str | None = Field(
        "rankings",
        description="a rankings stage, a folder or a JSONL file; null = data.rankings",
    )
    beta: float = Field(
        0.1, gt=0, description="how dear the distance from the reference is; paper: 0.1"
    )
    num_train_epochs: float = Field(1, gt=0, description="passes over the pairs")
    batch_size: int = Field(64, gt=0, description="pairs an update over all processes; paper: 64")
    per_device_train_batch_size: int = Field(
        32, gt=0, description="pairs a forward pass: what memory allows"
    )
    learning_rate: float = Field(2e-4, gt=0, description="peak; paper: 1e-6, with RMSprop")
    warmup_ratio: float = Field(
        0.1, ge=0, lt=1, description="share of the updates to warm up in; paper: 150 updates"
    )
    min_lr_rate: float = Field(
        0.1, ge=0, le=1, description="fraction of the peak the cosine ends at; not in the paper"
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of AdamW's first moment")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="decay of AdamW's second moment")
    weight_decay: float = Field(0.0, ge=0, description="on matrices only; the paper names none")
    max_length: int | None = Field(
        None, gt=1, description="tokens of prompt + response; null: the model's context"
    )
    lora: LoraConfig | None = Field(
        None, description="train adapters only; null trains every weight"
    )
    select_by: Literal["validation_loss", "validation_accuracy", "last"] = Field(
        "validation_loss", description="how the checkpoint is chosen"
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
