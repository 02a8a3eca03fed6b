"""Models and tokenizers in and out of Hugging Face folders: the only place that loads or saves
them.

transformers takes seconds to import, so only the functions that need it do.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from podium.architectures import check_language_model
from podium.errors import ParentError
from podium.output_head import measure_output_head

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "LAYOUT",
    "UNSTATED_CONTEXT",
    "absent_in_words",
    "absent_token_ids",
    "check_reward_head",
    "check_rows",
    "context_of",
    "count_parameters",
    "device_of",
    "evaluating",
    "inside_peft",
    "keep_token_ids_alone",
    "load_causal_lm",
    "load_tokenizer",
    "load_whole",
    "moved",
    "remove_dropout",
    "resize_for",
    "rows_needed",
    "save_model",
    "silence_routers",
    "template_hash",
    "tokenizer_hash",
]

Model = TypeVar("Model", bound=torch.nn.Module)
# Tensors that old checkpoints hold and that models compute for themselves.
COMPUTED = re.compile(
    r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|embeddings\.(position|token_type)_ids$"
)
# What others call the scalar head of a reward model.
SCALAR_HEAD = re.compile(r"(^|\.)(v|value|reward|regression|rm|score)_?head(\.|$)|^summary\.")
LAYOUT = (
    "give a folder in Hugging Face layout (config.json, model.safetensors, tokenizer.json) or a "
    "hub id"
)
NAMED = 5  # weights that an error names, of however many
# A config may ask for more or for other outputs than the code that reads a model takes.
PLAIN_OUTPUTS = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
# What configs call the longest sequence; the first that is there counts.
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "n_ctx")
UNSTATED_CONTEXT = 2048  # tokens, for whoever must have a limit where the model states none


def load_causal_lm(path: str | Path) -> PreTrainedModel:
    """A causal language model in fp32 (autocast brings bf16 where wanted), in eval mode.

    Of its generation config only the token ids stay: a stranger's temperature, top_k or
    repetition penalty would change what is sampled elsewhere, and transformers refuses to save
    some of them. Routers of a mixture of experts do not report their logits.

    Raises:
        ParentError: the folder holds no language model that Podium can train (names the family and
            the reason), or a weight is missing, left over or of another shape.
    """
    from transformers import AutoModelForCausalLM

    check_language_model(read_config(path), path)
    model = load_whole(AutoModelForCausalLM, path, "causal language model").eval()
    keep_token_ids_alone(model)
    silence_routers(model)
    measure_output_head(model)
    return model


def read_config(path: str | Path) -> PretrainedConfig:
    """The config of a model folder or hub id.

    Raises:
        ParentError: there is none that transformers can read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(path))
    except Exception as error:  # of any kind: a family that is not installed, no JSON, a wrong type
        wrong = "validation error" in str(error).lower()
        raise ParentError(
            f"{path} holds no model whose config transformers can read: {_short(error)}",
            "give the field of its config.json a value of the type that is asked for"
            if wrong
            else LAYOUT,
        ) from error


def load_whole(
    kind: Any,
    path: str | Path,
    what: str,
    fresh: re.Pattern[str] | None = None,
    left_over: re.Pattern[str] | None = None,
    **arguments: Any,
) -> PreTrainedModel:
    """A model whose every weight comes from the folder, in fp32 unless `dtype` is given.

    transformers draws missing weights at random and only prints a report, so a checkpoint saved
    from inside a wrapper, or with its head under another name, would train on noise in silence.

    Args:
        kind: an auto class of transformers.
        what: what the folder is asked to hold, for errors.
        fresh: names of weights that may be missing or of another shape, since new ones are meant.
        left_over: names of weights that may stay unread, since the model is to have others.

    Raises:
        ParentError: names the weights that are missing, left over or of another shape.
    """
    arguments = {"dtype": torch.float32, "output_loading_info": True, **PLAIN_OUTPUTS, **arguments}
    try:
        with _quiet_loading():
            model, report = kind.from_pretrained(
                str(path), ignore_mismatched_sizes=True, **arguments
            )
    except Exception as error:  # of any kind: broken files make safetensors and torch raise theirs
        raise ParentError(
            f"{path} holds no {what} that transformers can load: {_short(error)}", LAYOUT
        ) from error
    missing = {n for n in report["missing_keys"] if not (fresh and fresh.search(n))}
    unexpected = {
        name
        for name in report["unexpected_keys"]
        if not COMPUTED.search(name) and not (left_over and left_over.search(name))
    }
    mismatched = {
        f"{name} {list(here)}"
        for name, here, *_ in report["mismatched_keys"]
        if not (fresh and fresh.search(name))
    }
    problems = []
    if missing:
        problems.append(f"holds no weights for {_listed(missing)}")
    if mismatched:
        problems.append(f"has weights of another shape: {_listed(mismatched)}")
    if unexpected:
        problems.append(f"holds {_listed(unexpected)}, which a {type(model).__name__} has not")
    if problems:
        raise ParentError(
            f"{path} {'; it '.join(problems)}",
            _rename_fix(missing, unexpected)
            or "save the whole model under the names that transformers gives its weights "
            "(model.save_pretrained of the unwrapped model), or give another folder",
        )
    return model


def _rename_fix(missing: set[str], unexpected: set[str]) -> str | None:
    """What to do where a reward head only has another name (DeepSpeed-Chat, trlX, UltraRM)."""
    heads = [name for name in sorted(unexpected) if SCALAR_HEAD.search(name)]
    if missing != {"score.weight"} or not heads:
        return None
    return f"if '{heads[0]}' is the reward head, rename it to 'score.weight' in the weights' file"


def keep_token_ids_alone(model: PreTrainedModel) -> None:
    """Replace the generation config by one that only says which tokens begin, end and pad."""
    from transformers import GenerationConfig

    kept = model.generation_config
    if kept is not None:
        ids = {
            name: getattr(kept, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
        model.generation_config = GenerationConfig(**ids)


def silence_routers(model: PreTrainedModel) -> None:
    """A mixture of experts answers without its router's logits, whose masks fit no cached step."""
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        if getattr(config, "output_router_logits", False):
            config.output_router_logits = False


def check_reward_head(config: PretrainedConfig, name: str) -> None:
    """Whether transformers can put a scalar head on a model of this family.

    Raises:
        ParentError: it cannot; `name` says whose model it is.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ParentError(
            f"{name}: transformers has no reward head for {config.model_type} (no "
            "...ForSequenceClassification)",
            "start the reward model from another architecture, or take a reward that is none: a "
            "Python function, or a reward model of another family",
        )


def context_of(config: PretrainedConfig) -> int | None:
    """The longest sequence in tokens that a model's config states; None where it states none.

    A model whose positions are relative (BLOOM, Mamba) has no limit of its own; whoever must have
    one takes `UNSTATED_CONTEXT` and says so. Of rotary positions that are scaled by the length of
    the row at hand (Phi-3 128k's longrope, dynamic NTK) the limit is the length before scaling:
    beyond it a row that grows token by token is read otherwise than the same row at once, so that
    sampler and trainer would differ.
    """
    text = config.get_text_config()
    stated = [getattr(text, key, None) for key in CONTEXT_KEYS]
    rope = getattr(text, "rope_parameters", None)
    if isinstance(rope, dict) and rope.get("rope_type") in ("longrope", "dynamic"):
        first = rope.get("original_max_position_embeddings")
        stated.insert(0, first or getattr(text, "original_max_position_embeddings", None))
    return next((value for value in stated if isinstance(value, int) and value > 0), None)


def _short(error: Exception) -> str:
    """An error of transformers in a sentence: some list every class that there is."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def _listed(names: set[str]) -> str:
    """A few names and how many more there are."""
    first = sorted(names)[:NAMED]
    more = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return ", ".join(first) + more


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without transformers' own report of what it drew at random: what matters is raised here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, unchanged.

    Raises:
        ParentError: the folder holds no tokenizer that transformers can load, or a config, which is
            read for it too, that transformers cannot read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    except Exception as error:  # of any kind, as above: files of the wrong form raise their own
        if (Path(path) / "config.json").is_file():
            read_config(path)
        raise ParentError(
            f"{path} holds no tokenizer that transformers can load: {_short(error)}",
            "save the tokenizer (tokenizer.json) in the model's folder",
        ) from error
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        raise ParentError(
            f"{path}: the tokenizer has the chat templates {', '.join(sorted(templates))} and none "
            "of them is the default",
            "save the one that conversations are to be written by as chat_template.jinja, alone",
        )
    return cast("PreTrainedTokenizerBase", tokenizer)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Weights (safetensors), tokenizer and chat template in Hugging Face layout. Only the main
    process writes.

    `state_dict` replaces the model's own: for weights sharded over processes,
    `podium.sharding.full_state_dict`.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), state_dict=state_dict)
    tokenizer.save_pretrained(str(folder))


def resize_for(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Give the model a row for every token; new rows start as the mean embedding, so they favour no
    word.

    A model with spare rows (padded vocabularies) is left as it is; `absent_token_ids` names them.
    """
    words: Any = model.get_input_embeddings()
    rows, needed = words.weight.shape[0], rows_needed(tokenizer)
    if needed <= rows:
        return
    model.resize_token_embeddings(needed, mean_resizing=False)
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables: list[Any] = [words] if head is None or head.weight is words.weight else [words, head]
    with torch.no_grad():
        for table in tables:
            table.weight[rows:] = table.weight[:rows].mean(dim=0)  # (new, hidden)


def rows_needed(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the tokenizer's largest id, which is not its length where ids leave gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def check_rows(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, path: str | Path
) -> None:
    """Whether the model can read every id of its tokenizer.

    Raises:
        ParentError: it has too few rows, so that an id would end in an error of the library.
    """
    words: Any = model.get_input_embeddings()
    rows, needed = words.weight.shape[0], rows_needed(tokenizer)
    if rows < needed:
        raise ParentError(
            f"{path}: the tokenizer has ids up to {needed - 1}, the model's embedding {rows} rows",
            "fine-tune the model with `podium sft` first, which adds the rows, or give the "
            "tokenizer that the model was trained with",
        )


def absent_token_ids(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> tuple[int, ...]:
    """The ids that the model can say and the tokenizer has no token for, as in vocabularies padded
    to a round number (Qwen2.5: 271 of 151,936). A sampler must never draw them: they have no text,
    and another model of the same tokenizer may have no row for them.
    """
    rows = range(config.get_text_config().vocab_size)
    return tuple(sorted(set(rows) - set(tokenizer.get_vocab().values())))


def absent_in_words(absent: tuple[int, ...]) -> str:
    """For a logbook: what is done about ids that have no token."""
    first, last = absent[0], absent[-1]
    return (
        f"the model has rows for {len(absent)} ids without a token in its tokenizer ({first} to "
        f"{last}): they are never drawn; log-probabilities stay those of all rows"
    )


def inside_peft(model: torch.nn.Module) -> Any:
    """The Hugging Face model inside a PEFT wrapper, or the model itself; adapters stay in force."""
    get_base_model: Any = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def moved(model: Model, device: torch.device, dtype: torch.dtype = torch.float32) -> Model:
    """The model itself, on this device in this type. (No call of transformers' own `to` passes a
    type check.)
    """
    return torch.nn.Module.to(model, device, dtype)


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's parameters lie."""
    return next(model.parameters()).device


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off inside, the model's former mode restored after."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def remove_dropout(model: Model) -> Model:
    """Every dropout of the model set to 0, in place: as a module, and as the number that a module
    or the model's config keeps.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for holder in (module, getattr(module, "config", None)):
            # Families call it dropout, attn_pdrop, attention_probs_dropout_prob, layerdrop, ...
            for field, value in list(vars(holder).items()) if holder is not None else []:
                if "drop" in field and isinstance(value, float):
                    setattr(holder, field, 0.0)
    return model


def count_parameters(model: torch.nn.Module) -> int:
    """Parameters of the model; tied ones count once. Right under ZeRO-3 too, where each process
    holds a shard.
    """
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())


def tokenizer_hash(folder: str | Path) -> str | None:
    """SHA-256 of what turns text into ids: vocabulary, merges, normalisation, special tokens. None
    without a tokenizer.

    Padding and truncation, which training code leaves behind in tokenizer.json, do not count.
    """
    path = Path(folder) / "tokenizer.json"
    if path.is_file():
        state = json.loads(path.read_text(encoding="utf-8"))
    elif (Path(folder) / "tokenizer_config.json").is_file() or (
        Path(folder) / "vocab.json"
    ).is_file():
        state = json.loads(load_tokenizer(folder).backend_tokenizer.to_str())
    else:
        return None
    state.pop("truncation", None)
    state.pop("padding", None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def template_hash(folder: str | Path) -> str | None:
    """SHA-256 of the chat template; None where the folder has none."""
    path = Path(folder) / "chat_template.jinja"
    config = Path(folder) / "tokenizer_config.json"
    if path.is_file():
        template = path.read_text(encoding="utf-8")
    elif config.is_file():
        template = json.loads(config.read_text(encoding="utf-8")).get("chat_template") or ""
    else:
        return None
    return hashlib.sha256(str(template).encode()).hexdigest() if template else None
