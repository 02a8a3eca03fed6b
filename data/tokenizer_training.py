"""Train a byte-level BPE: GPT-2's method at a vocabulary size that suits the corpus, with Podium's
special tokens.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data.template import CHAT_TEMPLATE, SPECIAL_TOKENS, prepare_tokenizer
from podium.errors import PodiumError

__all__ = [
    "as_pretrained",
    "learn_bpe",
    "train_bpe",
]

BYTES = 256
MAX_LENGTH = 1_000_000_000  # the model's context limits a sequence, not the tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of at most `vocab_size` entries, the special tokens first (ids 0 to
    5).

    Every text round-trips exactly and no `<unk>` exists, because all 256 bytes are in the
    vocabulary. A small corpus can run out of pairs to merge and give fewer entries. Raises
    PodiumError when `vocab_size` is too small for the bytes and special tokens.
    """
    return as_pretrained(learn_bpe(texts, vocab_size))


def learn_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The byte-level BPE alone, as the tokenizers library has it and as JSON holds it."""
    smallest = BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise PodiumError(
            f"a vocabulary of {vocab_size} cannot hold the {BYTES} bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens",
            fix=f"set vocab_size to at least {smallest}",
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.train_from_iterator(texts, trainer=trainer)
    return bpe


def as_pretrained(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer that models take, with Podium's special tokens and chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|endoftext|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    prepare_tokenizer(tokenizer)
    return tokenizer
