"""Models and tokenizers in and out of Hugging Face folders: the only place that loads or saves
them.

transformers takes seconds to import, so only the functions that need it do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from podium.errors import ParentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Model = TypeVar("Model", bound=torch.nn.Module)


def load_causal_lm(path: str | Path) -> PreTrainedModel:
    """A causal language model in fp32 (autocast brings bf16 where wanted), in eval mode.

    Raises:
        ParentError: the folder holds no model that transformers can load.
    """
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise ParentError(
            f"{path} holds no causal language model that transformers can load: {error}",
            "give a folder in Hugging Face layout (config.json, model.safetensors, "
            "tokenizer.json) or a hub id",
        ) from error


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, unchanged.

    Raises:
        ParentError: the folder holds no tokenizer that transformers can load.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path))
    except (OSError, ValueError) as error:
        raise ParentError(
            f"{path} holds no tokenizer that transformers can load: {error}",
            "save the tokenizer (tokenizer.json) in the model's folder",
        ) from error


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Weights (safetensors), tokenizer and chat template in Hugging Face layout. Only the main
    process writes.

    `state_dict` replaces the model's own: for weights sharded over processes,
    `podium.engine.full_state_dict`.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), state_dict=state_dict)
    tokenizer.save_pretrained(str(folder))


def resize_for(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Give the model a row for every token; new rows start as the mean embedding, so they favour no
    word.

    A model with spare rows (padded vocabularies) is left as it is.
    """
    words: Any = model.get_input_embeddings()
    rows = words.weight.shape[0]
    if len(tokenizer) <= rows:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables: list[Any] = [words] if head is None or head.weight is words.weight else [words, head]
    with torch.no_grad():
        for table in tables:
            table.weight[rows:] = table.weight[:rows].mean(dim=0)  # (new, hidden)


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
