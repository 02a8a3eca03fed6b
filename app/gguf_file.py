"""`podium export --gguf`: a model as one file that llama.cpp loads: weights, tokenizer, chat
template and the token that ends an answer.

Families and tokenizers that are not here are refused by name: a file that loads and says other
things would be worse. llama.cpp's own `convert_hf_to_gguf.py` knows more of them, and reads the
same folders.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.template import prepare_tokenizer, stop_token_ids
from podium.errors import PlatformError, PodiumError
from podium.models import context_of, load_causal_lm, load_tokenizer, resize_for
from podium.storage import PARTIAL, writing

Width = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]


class Family(NamedTuple):
    """How llama.cpp calls an architecture, and whether it turns queries and keys in pairs of
    neighbours, so that their rows must be put in its order.
    """

    name: str
    pairs: bool


FAMILIES = {
    "LlamaForCausalLM": Family("llama", True),
    "MistralForCausalLM": Family("llama", True),
    "Qwen2ForCausalLM": Family("qwen2", False),
}
TENSORS = {  # of a layer; each has a weight, and queries, keys and values may have a bias
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ENDS = {"embed_tokens": "token_embd", "norm": "output_norm"}
# How texts are cut before they are merged. llama.cpp has each of these by name.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens


def export_gguf(folder: Path, file: Path, width: Width = "f16") -> Path:
    """Write the model of `folder` to `file`.

    Args:
        width: how large weights are kept; those of layers that do not divide into blocks of 32 stay
            f16 where blocks are asked for, and norms are always f32.

    Raises:
        PodiumError: names the family, the tokenizer or the setting that has no place in the file.
        PlatformError: the package `gguf` is missing.
    """
    try:
        import gguf
    except ImportError as error:
        raise PlatformError(
            "the package gguf is not installed", "pip install 'podium-rlhf[gguf]'"
        ) from error
    tokenizer, model = prepare_tokenizer(load_tokenizer(folder)), load_causal_lm(folder)
    resize_for(tokenizer, model)
    family = _family(model, folder)
    tokens = _tokenizer(tokenizer, folder, _rows(model))
    partial = file.with_name(file.name + PARTIAL)
    with writing(file.parent):
        writer = gguf.GGUFWriter(str(partial), family.name)
        _describe(writer, model, folder, width)
        _add_tokenizer(writer, tokenizer, tokens, stop_token_ids(tokenizer, model))
        for name, weight in _weights(model, family):
            _add_tensor(writer, name, weight, width)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(file)
    return file


def _family(model: PreTrainedModel, folder: Path) -> Family:
    """The architecture in llama.cpp's words, once nothing speaks against it."""
    name, config = type(model).__name__, model.config
    if name not in FAMILIES:
        raise PodiumError(
            f"{folder}: {name} is not exported; {', '.join(FAMILIES)} are",
            "llama.cpp's convert_hf_to_gguf.py knows other families",
        )
    family, rope = FAMILIES[name], getattr(config, "rope_parameters", None) or {}
    odd = {
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "hidden_act": config.hidden_act not in ("silu", "swish"),
        "attention_bias": family.pairs and getattr(config, "attention_bias", False),
        "mlp_bias": getattr(config, "mlp_bias", False),
        "sliding_window": getattr(config, "sliding_window", None) is not None
        and getattr(config, "use_sliding_window", True),
    }
    for key, unusual in odd.items():
        if unusual:
            raise PodiumError(
                f"{folder}/config.json: '{key}' is {getattr(config, key)}, which is not exported",
                "llama.cpp's convert_hf_to_gguf.py may know it",
            )
    return family


def _rows(model: PreTrainedModel) -> int:
    words: Any = model.get_input_embeddings()
    return int(words.weight.shape[0])


def _describe(writer: Any, model: PreTrainedModel, folder: Path, width: Width) -> None:
    import gguf

    config: Any = model.config
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(folder.resolve().parent.name if folder.name == "final" else folder.name)
    writer.add_context_length(context_of(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads or heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float((config.rope_parameters or {}).get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(_rows(model))
    mostly = "ALL_F32" if width == "f32" else f"MOSTLY_{width.upper()}"
    writer.add_file_type(gguf.LlamaFileType[mostly])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _weights(model: PreTrainedModel, family: Family) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor by its name in the file; a tied head is the embedding, and is not repeated."""
    config: Any = model.config
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        weight = value.float().numpy()
        if name == "lm_head.weight":
            if not tied:
                yield "output.weight", weight
            continue
        path, kind = name.removeprefix("model.").rsplit(".", 1)
        if path in ENDS:
            yield f"{ENDS[path]}.{kind}", weight
            continue
        layer, inner = path.removeprefix("layers.").split(".", 1)
        if family.pairs and (count := heads.get(inner.split(".")[-1])):
            weight = _in_pairs(weight, count)
        yield f"blk.{layer}.{TENSORS[inner]}.{kind}", weight


def _in_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows (heads x size, d) of a head's two halves, put in turn: Hugging Face turns dimension i
    with i + size/2, llama.cpp 2i with 2i + 1.
    """
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _add_tensor(writer: Any, name: str, weight: np.ndarray, width: Width) -> None:
    import gguf

    blocks = width in ("q8_0", "q4_0") and weight.shape[-1] % 32 != 0
    kept = "f32" if weight.ndim == 1 else "f16" if blocks else width
    kind = gguf.GGMLQuantizationType[kept.upper()]
    writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)


class Tokens(NamedTuple):
    """A byte-level BPE: the name of how it cuts, a text and a type a row, the merges in order."""

    cut: str
    texts: list[str]
    types: list[int]
    merges: list[str]


def _tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, rows: int) -> Tokens:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    described = json.loads(backend.to_str()) if backend is not None else {}
    bpe, cut = described.get("model") or {}, _cut(described.get("pre_tokenizer"))
    if bpe.get("type") != "BPE" or bpe.get("byte_fallback") or cut is None:
        raise PodiumError(
            f"{folder}/tokenizer.json: only byte-level BPE that cuts texts as GPT-2, SmolLM, Qwen2 "
            "or Llama 3 do is exported",
            "llama.cpp's convert_hf_to_gguf.py knows other tokenizers",
        )
    if described.get("normalizer") is not None and described["normalizer"].get("type") != "NFC":
        raise PodiumError(
            f"{folder}/tokenizer.json: its normalizer has no place in the file",
            "llama.cpp's convert_hf_to_gguf.py may know it",
        )
    texts = [f"[PAD{row}]" for row in range(rows)]
    types = [UNUSED] * rows
    for text, row in bpe["vocab"].items():
        texts[row], types[row] = text, NORMAL
    for row, token in tokenizer.added_tokens_decoder.items():
        texts[row], types[row] = token.content, CONTROL if token.special else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]
    return Tokens(cut, texts, types, merges)


def _cut(steps: Any) -> str | None:
    """llama.cpp's name for how texts are cut, or None where it has none of these."""
    steps = steps or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    *first, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if not first:
        return "gpt-2" if last.get("use_regex", True) else None
    if len(first) > 1:
        return None
    if first[0].get("type") == "Digits" and first[0].get("individual_digits"):
        return "smollm" if last.get("use_regex", True) else None
    pattern = str((first[0].get("pattern") or {}).get("Regex"))
    if last.get("use_regex", True) or first[0].get("behavior") != "Isolated":
        return None
    return {QWEN2: "qwen2", LLAMA3: "llama-bpe"}.get(pattern)


def _add_tokenizer(
    writer: Any, tokenizer: PreTrainedTokenizerBase, tokens: Tokens, stops: tuple[int, ...]
) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokens.cut)
    writer.add_token_list(tokens.texts)
    writer.add_token_types(tokens.types)
    writer.add_token_merges(tokens.merges)
    read = tokenizer("x")["input_ids"]
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(bool(read) and read[0] == tokenizer.bos_token_id)
    writer.add_eos_token_id(stops[0])  # what ends an answer in the template
    writer.add_eot_token_id(stops[-1])
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(_without_marks(tokenizer.get_chat_template()))


def _without_marks(template: str) -> str:
    """transformers' marks of what is learned are no Jinja: a condition that always holds stands in
    their place, with the same white space around it.
    """
    template = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", template)
    return re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", template)
