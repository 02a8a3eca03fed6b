"""Reward models that somebody else trained: another vocabulary, another template, other habits."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from data.tokenizer_training import train_bpe

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = ["A lantern for the mill.", "Who likes plum jam? Bram does.", "Assistant and user talk."] * 4


def tokenizer_of_a_stranger(pairs: bool = False) -> PreTrainedTokenizerFast:
    """290 entries, ChatML; with `pairs` no template, but tokens that part two texts."""
    from tokenizers.processors import TemplateProcessing

    backend = train_bpe(TEXT, vocab_size=290).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    if not pairs:
        tokenizer.chat_template = CHATML
        return tokenizer
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer.add_special_tokens(names)
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return tokenizer


def save_stranger(folder: Path, labels: int = 1, context: int = 128, **config: Any) -> str:
    """A LLaMA with `labels` scalar outputs. Unless told, its config names no pad token."""
    tokenizer = tokenizer_of_a_stranger()
    torch.manual_seed(4)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=context,
        initializer_range=0.3,
        num_labels=labels,
        **config,
    )
    LlamaForSequenceClassification(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_encoder(folder: Path) -> str:
    """A BERT that reads question and answer as a pair, as OpenAssistant's DeBERTa does."""
    tokenizer = tokenizer_of_a_stranger(pairs=True)
    torch.manual_seed(4)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=96,
        initializer_range=0.3,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertForSequenceClassification(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
