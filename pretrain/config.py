"""The config of the stage `pretrain`: what to pretrain and how, each key with the values of GPT-3,
OPT and LLaMA.
"""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from podium.engine import (
    EngineConfig,
)
from podium.guard import GuardConfig
from pretrain.batches import BatchRamp
from pretrain.blanks import Infilling
from pretrain.presets import PRESETS

__all__ = [
    "Config",
]


class Config(BaseModel):
    """What to pretrain and how. The defaults suit the embedded world on two CPU cores; the paper's
    value is named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = Field("llama-tiny", description=f"shape of a new model: {', '.join(PRESETS)}")
    init_from: str | None = Field(
        None, description="go on from this model (folder or hub id) instead of a preset"
    )
    initializer_range: float | None = Field(
        None,
        gt=0,
        description="spread of a new model's weights; null: the preset's (papers: OPT 0.006, "
        "LLaMA 0.02;"
        " llama-tiny 0.05). A 4 x 128 OPT learns far faster from 0.05",
    )
    tokenizer: str | None = Field(
        None, description="folder or hub id of a tokenizer; null trains a byte-level BPE"
    )
    vocab_size: int = Field(
        1024, gt=0, description="entries of a BPE trained here; GPT-3, OPT: 50,257; LLaMA: 32,000"
    )
    context: int = Field(160, gt=1, description="tokens a window; GPT-3, OPT, LLaMA: 2,048")
    tokens: int = Field(
        1_200_000,
        gt=0,
        description="tokens to read; GPT-3, OPT: 300 billion; LLaMA: 1.0-1.4 trillion",
    )
    batch_size: int = Field(
        4, gt=0, description="windows an update over all processes; GPT-3 175B: 3.2M tokens"
    )
    per_device_train_batch_size: int = Field(
        16, gt=0, description="windows a forward pass: what memory allows"
    )
    batch_ramp: BatchRamp | None = Field(
        None, description="grow the batch early on; GPT-3: from 32k tokens"
    )
    infilling: Infilling | None = Field(
        None,
        description="the objective: fill blanks as GLM does; `{}` takes what it says below; null: "
        "predict every token from those before it",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="peak; null takes the preset's published one"
    )
    warmup_tokens: int = Field(50_000, ge=0, description="linear warm-up; GPT-3: 375 million")
    decay_tokens: int | None = Field(
        None, gt=0, description="end of the cosine; null: `tokens`; GPT-3: 260 billion"
    )
    min_lr_rate: float = Field(
        0.1, ge=0, le=1, description="fraction of the peak the cosine ends at; all papers: 0.1"
    )
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="decay of AdamW's first moment; GPT-3, OPT, LLaMA: 0.9"
    )
    adam_beta2: float = Field(
        0.95, ge=0, lt=1, description="decay of AdamW's second moment; GPT-3, OPT, LLaMA: 0.95"
    )
    adam_epsilon: float = Field(1e-8, gt=0, description="keeps AdamW's step finite; GPT-3: 1e-8")
    weight_decay: float = Field(0.1, ge=0, description="on matrices only; GPT-3, OPT, LLaMA: 0.1")
    embedding_gradient: float = Field(
        1.0,
        gt=0,
        le=1,
        description="factor on the gradient of the input embedding, against spikes of the loss; "
        "GLM-130B: 0.1",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass to save memory"
    )
    compile: bool = Field(
        False,
        description="torch.compile: a minute at first, then a fifth less time an update; the same "
        "numbers to rounding",
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="ZeRO stage, offload, gradient clipping"
    )
    guard: GuardConfig = Field(
        default_factory=GuardConfig,
        description="what counts as divergence, and what is done about it",
    )
    eval_steps: int = Field(
        250, gt=0, description="updates between validation losses; also one at the end"
    )
    eval_tokens: int = Field(40_000, gt=0, description="validation tokens read each time")
    save_steps: int = Field(500, gt=0, description="updates between checkpoints")
    sample_prompt: str = Field(
        "", description="start of the sample text written at every evaluation"
    )

    @model_validator(mode="after")
    def _check_compile(self) -> "Config":
        if self.compile and self.engine.zero_stage == 3:
            raise ValueError("compile works on whole weights: not with engine.zero_stage 3")
        if self.compile and self.infilling is not None:
            raise ValueError(
                "compile works on batches of one shape, and blanks make every batch another: leave "
                "out compile or infilling"
            )
        return self
