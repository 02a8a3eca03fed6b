"""A model of some ten thousand parameters of any family of causal language models in transformers,
made from the fields that its config has.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 64
LARGEST = 4_000_000  # parameters; a field that nobody knows has kept its default beyond that

# What a field of a config is set to where a family has it, by the name of the field.
SIZES = {
    1: """
        n_group topk_group num_expert_group num_nextn_predict_layers mamba_n_groups n_groups
        n_shared_experts num_shared_experts moe_num_shared_experts first_k_dense_replace
        num_dense_layers moe_layer_start_index o_groups prompt_length image_seq_length
        num_channels""",
    2: """
        num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers
        num_encoder_layers num_decoder_layers num_key_value_heads num_kv_heads
        swa_num_key_value_heads num_experts_per_tok moe_topk num_experts_per_token moe_k
        altup_num_inputs index_n_heads n_mamba_heads hc_mult hc_count num_layers_per_stack
        heads_per_ngram""",
    4: """
        num_attention_heads n_head n_heads num_heads decoder_attention_heads
        encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads
        swa_num_attention_heads num_experts n_routed_experts num_local_experts moe_num_experts
        rotary_dim mamba_d_conv mamba_dt_rank time_step_rank linear_num_key_heads
        linear_num_value_heads linear_num_heads qk_rope_head_dim gated_norm_rank hc_lowrank
        zero_expert_num mamba_n_heads mamba_num_heads laurel_rank""",
    8: """
        head_dim swa_head_dim qk_nope_head_dim v_head_dim index_head_dim sliding_window
        sliding_window_size window_size attention_window_size local_attention linear_key_head_dim
        linear_value_head_dim linear_head_dim mamba_d_head mamba_head_dim kv_channels
        mamba_d_state state_size ssm_state_size chunk_size mamba_chunk_size dim_head
        attention_head_size hidden_size_per_layer_input attention_chunk_size query_pre_attn_scalar
        dim_model_base block_size keep_window_size d_rel rel_extent""",
    12: """
        qk_head_dim""",
    16: """
        q_lora_rank kv_lora_rank o_lora_rank ple_embed_dim attention_head_dim""",
    32: """
        hidden_size d_model n_embd embed_dim emb_dim embedding_size input_embedding_size
        output_embedding_size word_embed_proj_dim lru_width attention_hidden_size
        backbone_hidden_size moe_intermediate_size shared_expert_intermediate_size
        shared_experts_intermediate_size shared_intermediate_size expert_ffn_hidden_size
        moe_shared_expert_intermediate_size mamba_d_ssm num_buckets prompt_mid_dim""",
    64: """
        index_topk intermediate_size ffn_dim d_ff dff dim_ff n_inner d_inner ffn_hidden_size
        decoder_ffn_dim encoder_ffn_dim intermediate_size_mlp dense_intermediate_size
        feed_forward_size vocab_size decoder_vocab_size vocab_size_per_layer_input
        unpadded_vocab_size""",
    128: """
        max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length
        original_max_position_embeddings""",
}
FIELDS = {name: size for size, names in SIZES.items() for name in names.split()}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
# What a family needs beside that, found by trying.
SET_ANYWAY = (
    "num_key_value_heads",
    "head_dim",
    "n_routed_experts",
    "num_experts_per_tok",
    "audio_vocab_size",
)
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_d_head": 16},
    "granitemoehybrid": {"mamba_d_head": 16},
    "mamba2": {"head_dim": 16},
    "blt": {"encoder_hash_byte_group_vocab": 16},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "dots1": {"n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "local"],
    },
    "roc_bert": {"shape_vocab_size": 8, "shape_embed_dim": 8, "pronunciation_embed_dim": 8},
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "zamba": {
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    # Every fourth layer attends; without one their own cache does not know its length.
    "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_5_moe_text": {"num_hidden_layers": 4},
    "qwen3_next": {"num_hidden_layers": 4},
    "olmo_hybrid": {"num_hidden_layers": 4},
    "qwen4_exp_text": {
        "num_hidden_layers": 4,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def small_config(family: str, **own: Any) -> PretrainedConfig:
    """A config of the family in which every size is small."""
    kind = CONFIG_MAPPING[family]
    return kind(**_small(kind, {**OWN.get(family, {}), **own}))


def _small(kind: type[PretrainedConfig], own: dict[str, Any]) -> dict[str, Any]:
    known = kind().to_dict()
    given: dict[str, Any] = {}
    for name, value in known.items():
        if name in FIELDS and isinstance(value, int | None) and not isinstance(value, bool):
            given[name] = FIELDS[name] if value is not None or name in SET_ANYWAY else None
        elif name in TOKENS:
            given[name] = TOKENS[name]
    for name in kind.sub_configs or {}:
        inner = CONFIG_MAPPING.get(known[name].get("model_type")) if known.get(name) else None
        inner = inner or kind.sub_configs[name]
        if name in known and hasattr(inner, "sub_configs"):
            given[name] = _small(inner, OWN.get(inner.model_type, {})) | {
                "model_type": inner.model_type
            }
    if "kv_lora_rank" in known:  # latent attention shares no heads
        given["num_key_value_heads"] = given.get("num_attention_heads")
        if "head_dim" in given:
            given["head_dim"] = given["qk_rope_head_dim"]
        given |= {name: 1 for name in ("n_group", "topk_group") if name in known}
    given |= own
    return {name: value for name, value in given.items() if value is not ...}


def small_model(family: str, seed: int = 0, spread: float = 0.3) -> Any:
    """A model of the family in fp32, random matrices wide enough for every part to matter."""
    config = small_config(family)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{family} has {size:,} parameters when made small")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and spread:
                parameter.normal_(0, spread)
    return model.eval()
