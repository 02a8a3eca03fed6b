"""New models of the presets' shapes: their Hugging Face configuration, and their first weights."""

import math
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OpenAIGPTConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from pretrain.presets import Preset, preset

__all__ = ["build_config", "build_model", "residual_writers"]

# of a layer's two matrices that write into the residual stream, by family
WRITERS = {
    "opt": ("out_proj.weight", "fc2.weight"),
    "llama": ("o_proj.weight", "down_proj.weight"),
    "openai-gpt": ("c_proj.weight",),
    "gpt2": ("c_proj.weight",),
    "gpt_neox": ("attention.dense.weight", "dense_4h_to_h.weight"),
}


def build_config(
    name: str, vocab_size: int, context: int, initializer_range: float | None = None
) -> PreTrainedConfig:
    """The Hugging Face configuration of a preset for a vocabulary and a context length, both in
    tokens.

    `initializer_range` replaces the preset's standard deviation of initial weights.
    Dropout is 0: one pass over the data does not overfit, and fine-tuning sets its own.
    """
    shape = preset(name)
    std = initializer_range or shape.initial_std
    builders = {"opt": _opt, "llama": _llama, "gpt1": _gpt, "gpt2": _gpt, "neox": _neox}
    return builders[shape.family](shape, vocab_size, context, std)


def _opt(shape: Preset, vocab_size: int, context: int, std: float | None) -> PreTrainedConfig:
    return OPTConfig(
        vocab_size=vocab_size,
        max_position_embeddings=context,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        ffn_dim=shape.inner or 4 * shape.hidden,
        word_embed_proj_dim=shape.embedding or shape.hidden,
        do_layer_norm_before=shape.norm_first,
        init_std=std or 0.006,
        dropout=0.0,
        attention_dropout=0.0,
    )


def _llama(shape: Preset, vocab_size: int, context: int, std: float | None) -> PreTrainedConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        max_position_embeddings=context,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads or shape.heads,
        intermediate_size=shape.inner or 4 * shape.hidden,
        tie_word_embeddings=shape.tied,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        initializer_range=std or 0.02,
    )


def _gpt(shape: Preset, vocab_size: int, context: int, std: float | None) -> PreTrainedConfig:
    """GPT-1's and GPT-2's configurations have the same fields."""
    kind: Any = OpenAIGPTConfig if shape.family == "gpt1" else GPT2Config
    found: PreTrainedConfig = kind(
        vocab_size=vocab_size,
        n_positions=context,
        n_layer=shape.layers,
        n_embd=shape.hidden,
        n_head=shape.heads,
        initializer_range=std or 0.02,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return found


def _neox(shape: Preset, vocab_size: int, context: int, std: float | None) -> PreTrainedConfig:
    return GPTNeoXConfig(
        vocab_size=vocab_size,
        max_position_embeddings=context,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner or 4 * shape.hidden,
        tie_word_embeddings=shape.tied,
        initializer_range=std or 0.02,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )


def build_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A freshly initialised causal model: N(0, 0.006) for OPT (OPT section 2.2), N(0, 0.02) for
    the others, biases 0.

    Every matrix that writes into the residual stream is scaled down by 1/sqrt(2 L), so that the sum
    of 2 L such writes starts with the variance of one (GPT-2 section 2.3; OPT section 2.2).
    """
    # transformers has no fused attention for GPT-1.
    attention = "eager" if config.model_type == "openai-gpt" else "sdpa"
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=attention, dtype=torch.float32
    )
    if config.model_type == "gpt2":  # transformers scales GPT-2's itself
        return model
    with torch.no_grad():
        for matrix in residual_writers(model):
            matrix.mul_(1.0 / math.sqrt(2 * config.num_hidden_layers))
    return model


def residual_writers(model: PreTrainedModel) -> list[torch.Tensor]:
    """The weights whose outputs are added to the residual stream: two a layer."""
    endings = WRITERS[model.config.model_type]
    return [parameter for name, parameter in model.named_parameters() if name.endswith(endings)]
