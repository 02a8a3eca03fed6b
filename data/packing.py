"""Documents to full windows of tokens, and the resumable order in which rows are read.

Documents lie one after the other with a separator between, cut into windows of the context's length
(Brown et al. 2020, section 2.3), so a window never holds padding. Unlike GPT-3, a token attends to
its own document alone, as in LLaMA 3 (Grattafiori et al. 2024, section 3.2): a small model that
sees its neighbours' texts too does not learn to look up what the request named (the figures are in
docs/lab/results.md). `documents_apart` gives what every reader of windows needs.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count as count_from
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from podium.errors import DataError

__all__ = [
    "Apart",
    "additive_mask",
    "batches",
    "documents_apart",
    "encode_documents",
    "epoch_order",
    "looks_everywhere",
    "pack",
    "packed_inputs",
    "packs",
    "rows_at",
]

FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' names
PACKS = "podium_packs"  # where a model carries what `packs` measured
CHUNK = 1000  # documents tokenized at once; the tokenizer works on them in parallel


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text, int32, without special tokens: `<|end|>` inside a document stays
    characters.
    """
    encoded: list[np.ndarray] = []
    for start in range(0, len(texts), CHUNK):
        ids = _encode(tokenizer, list(texts[start : start + CHUNK]))
        encoded += [np.asarray(row, dtype=np.int32) for row in ids]
    return encoded


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """As calling the tokenizer does, in two thirds of the time: where in the text each token lies
    is not looked for. A class that has its own way of encoding is called.
    """
    own_way = getattr(type(tokenizer), "_encode_plus", None)
    if own_way is not PreTrainedTokenizerFast._encode_plus:
        called = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
        return list(called["input_ids"])
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


def pack(
    documents: Sequence[Sequence[int] | np.ndarray], context: int, separator_id: int
) -> np.ndarray:
    """Windows of `context` tokens, (N, context) int32, over the documents with `separator_id`
    before each.

    Every token lies in exactly one window, in order; the tail shorter than one window is left out,
    so N may be 0.
    """
    separator = np.asarray([separator_id], dtype=np.int32)
    parts = [
        part for document in documents for part in (separator, np.asarray(document, dtype=np.int32))
    ]
    stream = np.concatenate(parts) if parts else separator[:0]
    rows = len(stream) // context
    return stream[: rows * context].reshape(rows, context)


def packed_inputs(
    windows: torch.Tensor, separator_id: int, config: PretrainedConfig
) -> dict[str, Any]:
    """What to call a causal LM with on windows (B, T) so that no document sees another:
    `model(**packed_inputs(ids, separator_id, model.config))`.

    Positions start again at each `separator_id`. The mask (B, 1, T, T), 0 or -inf, is given whole
    because not every model of transformers makes one from such positions (OPT does not); attention
    must be "sdpa", "eager" or `podium.attention`'s. A mask given whole replaces the model's own, so
    the sliding window of a family that has one is in it; where only some layers slide, there is a
    mask for either kind.

    Raises:
        DataError: some layers look back in a way that no mask here expresses, and T is longer than
            they look.
    """
    index = torch.arange(windows.shape[1], device=windows.device)
    # (B, T) where each token's document begins
    starts = torch.where(windows == separator_id, index, 0).cummax(dim=1).values
    visible = (starts[:, :, None] == starts[:, None, :]) & (index[:, None] >= index)
    whole = additive_mask(visible)
    kinds, reach = _layer_kinds(config, windows.shape[1])
    near = additive_mask(visible & (index[:, None] - index < reach)) if reach else whole
    masks = {kind: near if kind == SLIDING else whole for kind in kinds}
    return {
        "input_ids": windows,
        "position_ids": index - starts,
        "attention_mask": masks if len(masks) > 1 else next(iter(masks.values())),
        "use_cache": False,
    }


class Apart(NamedTuple):
    """Windows as a model is to be called on them, so that no document sees another.

    inputs: of the call `model(**inputs)`, `input_ids` (R, L) among them. targets: (R, L) bool, True
    at the tokens that are predicted from what comes before them. window: (R,) the window that each
    row belongs to.
    """

    inputs: dict[str, Any]
    targets: torch.Tensor
    window: torch.Tensor


def documents_apart(windows: torch.Tensor, separator_id: int, model: Any) -> Apart:
    """Windows (B, T) with documents kept apart: packed, R = B, where the model can be told so by
    positions and a mask; where it cannot (Mamba, BART), each document in a row of its own with the
    same targets, which takes longer and gives the same numbers.
    """
    if packs(model, separator_id):
        try:
            inputs = packed_inputs(windows, separator_id, model.config)
        except DataError:  # at this length some layers look back in a way that no mask expresses
            return _unpacked(windows, separator_id)
        targets = torch.ones_like(windows, dtype=torch.bool)
        targets[:, 0] = False
        return Apart(inputs, targets, torch.arange(len(windows), device=windows.device))
    return _unpacked(windows, separator_id)


def _unpacked(windows: torch.Tensor, separator_id: int) -> Apart:
    """A row for each document of each window, padded on the right, with the token that begins the
    next document as its last target.
    """
    length = windows.shape[1]
    rows, owners = [], []
    for number, window in enumerate(windows):
        starts = sorted({0, *(window == separator_id).nonzero().flatten().tolist()})
        for start, end in pairwise([*starts, length]):
            rows.append(window[start : min(end + 1, length)])
            owners.append(number)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=separator_id)
    lengths = torch.tensor([len(row) for row in rows], device=windows.device)
    columns = torch.arange(ids.shape[1], device=windows.device)
    targets = (columns > 0) & (columns < lengths[:, None])
    inputs = {"input_ids": ids, "use_cache": False}
    return Apart(inputs, targets, torch.tensor(owners, device=windows.device))


@torch.no_grad()
def packs(model: Any, separator_id: int) -> bool:
    """Whether `packed_inputs` keeps documents apart in this model, measured once by two short ones
    and noted on the model. Some families count positions for themselves, or carry a state on.
    """
    found = getattr(model, PACKS, None)
    if found is None:
        training = model.training
        model.eval()
        found = _keeps_apart(model, separator_id)
        model.train(training)
        setattr(model, PACKS, found)
    return found


def _keeps_apart(model: Any, separator_id: int) -> bool:
    words = [i for i in range(3, 20) if i != separator_id]
    first, second = [separator_id, *words[:5]], [separator_id, *words[5:12]]
    weight = model.get_input_embeddings().weight
    window = torch.tensor([first + second], device=weight.device)
    try:
        together = model(**packed_inputs(window, separator_id, model.config)).logits[0].float()
        alone = [
            model(input_ids=torch.tensor([ids], device=weight.device), use_cache=False).logits[0]
            for ids in (first, second)
        ]
    except Exception:  # of any kind: a model's own code met a mask that it does not know
        return False
    expected = torch.cat(alone).float()
    tolerance = 1e-3 if weight.dtype == torch.float32 else 0.1
    return bool((together - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1))


def additive_mask(visible: torch.Tensor) -> torch.Tensor:
    """(B, T, T) bool -> (B, 1, T, T), 0 where a token sees another and -inf where not."""
    mask = torch.zeros(visible.shape, device=visible.device)
    return mask.masked_fill(~visible, float("-inf"))[:, None]


def looks_everywhere(config: PretrainedConfig, length: int) -> bool:
    """Whether every layer sees the whole of a row of `length` tokens, so that one mask does."""
    try:
        return _layer_kinds(config, length) == ({FULL}, None)
    except DataError:  # some layers look back in a way that no mask expresses
        return False


def _layer_kinds(config: PretrainedConfig, length: int) -> tuple[set[str], int | None]:
    """The kinds of attention in a model's layers, and how many tokens back the sliding ones look;
    where `length` tokens are within that reach, all layers see alike.
    """
    text = config.get_text_config()
    reach = getattr(text, "sliding_window", None)
    chunk = getattr(text, "attention_chunk_size", None)
    kinds = set(getattr(text, "layer_types", None) or [SLIDING if reach else FULL])
    unknown = kinds - {FULL, SLIDING}
    if unknown and (chunk is None or length > chunk):
        raise DataError(
            "documents",
            problem=f"{text.model_type} has layers of kind {', '.join(sorted(unknown))}, in which "
            f"documents of one window of {length} tokens cannot be kept from each other",
            fix="set a context within their reach, or start from another family",
        )
    if reach is None or length <= reach:
        return {FULL}, None
    return kinds - unknown, reach


def batches(count: int, batch_size: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Endless batches of row indices, (batch_size,) each, from batch number `start` on.

    They are the stream of `rows_at`, cut into pieces of one size; a batch may span two epochs. So
    the number of batches already read is the whole position: to resume, give it as `start`.
    """
    if count < 1 or batch_size < 1:
        raise ValueError(
            f"batches needs rows and a batch size, not count={count} and batch_size={batch_size}"
        )
    for number in count_from(start):
        yield rows_at(number * batch_size, batch_size, count, seed)


def rows_at(start: int, count: int, total_rows: int, seed: int) -> np.ndarray:
    """The row indices, (count,), at positions start .. start + count of an endless stream of
    shuffled epochs.

    Every row appears once an epoch; each epoch has its own order, fixed by (seed, epoch) alone.
    """
    positions = np.arange(start, start + count)
    epochs, within = np.divmod(positions, total_rows)
    rows = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = epoch_order(total_rows, seed, int(epoch))[within[here]]
    return rows


@lru_cache(maxsize=2)  # neighbouring pieces of the stream read from one epoch, or from two
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of rows 0 .. count - 1 in one epoch, (count,), not to be written to."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order
