"""Packing loses and repeats nothing; the order of batches depends on seed and epoch alone, from any
start.
"""

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM

from data.packing import (
    PACKS,
    _unpacked,
    batches,
    encode_documents,
    epoch_order,
    pack,
    packed_inputs,
    packs,
    rows_at,
)
from podium.errors import DataError

BOS = 0
DOCUMENTS = st.lists(st.lists(st.integers(1, 50), max_size=12), max_size=8)


@given(documents=DOCUMENTS, context=st.integers(1, 9))
def test_every_token_lies_in_one_window_in_order(documents, context):
    """Seen red with the separator left out of `pack`, and with its last row cut off."""
    stream = [token for document in documents for token in [BOS, *document]]
    rows = pack(documents, context, BOS)
    assert rows.shape == (len(stream) // context, context)
    assert rows.ravel().tolist() == stream[: len(stream) // context * context]


def test_a_document_longer_than_a_window_goes_on_in_the_next():
    windows = pack([[1, 2, 3, 4, 5], [6, 7]], 4, BOS)
    assert windows.tolist() == [[0, 1, 2, 3], [4, 5, 0, 6]] and windows.dtype == np.int32


@given(count=st.integers(1, 30), size=st.integers(1, 40), seed=st.integers(0, 5))
def test_an_epoch_reads_every_row_once(count, size, seed):
    """Seen red with `permutation` replaced by draws with replacement."""
    read = np.concatenate(list(itertools.islice(batches(count, size, seed), 4 * count)))
    for epoch in range(4 * count * size // count):
        assert sorted(read[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(count=st.integers(1, 30), size=st.integers(1, 40), start=st.integers(0, 20))
def test_a_resumed_run_reads_what_the_unbroken_one_would_have(count, size, start):
    """Seen red with `within` forgotten after a resume."""
    unbroken = itertools.islice(batches(count, size, 7), start, start + 5)
    resumed = itertools.islice(batches(count, size, 7, start), 5)
    assert [batch.tolist() for batch in resumed] == [batch.tolist() for batch in unbroken]


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = itertools.islice(batches(50, 50, 1), 2)
    assert first.tolist() != second.tolist() != next(batches(50, 50, 2)).tolist()


@settings(max_examples=30, deadline=None)
@given(total=st.integers(1, 40), start=st.integers(0, 100), count=st.integers(1, 50))
def test_any_piece_of_the_stream_is_the_same_however_it_is_read(total, start, count):
    """So a resumed run, or one with another batch size, reads on where the first one stopped."""
    whole = np.concatenate([rows_at(i, 1, total, seed=5) for i in range(start, start + count)])
    assert np.array_equal(rows_at(start, count, total, seed=5), whole)


def test_an_order_is_nobody_s_to_change():
    """It is kept for the next batch. Seen red with an array that can be written to."""
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(5, 1, 0)[0] = 3


def test_no_rows_is_an_error_and_no_endless_loop():
    with pytest.raises(ValueError, match="count=0"):
        next(batches(0, 4, 1))


def test_a_tokenizer_that_begins_texts_itself_begins_no_document(tokenizer):
    """What stands between documents is `pack`'s to say. Mutation seen red: special tokens added."""
    own, begun = tokenizer, copy.deepcopy(tokenizer)
    first = (own.bos_token, own.bos_token_id)
    begun.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first[0]} $A", special_tokens=[first]
    )
    assert begun("Ana.")["input_ids"][0] == own.bos_token_id
    (found,), (expected,) = (encode_documents(one, ["Ana."]) for one in (begun, own))
    assert found.tolist() == expected.tolist()


def test_documents_are_encoded_without_special_tokens(tokenizer):
    ids = encode_documents(tokenizer, ["Ana likes honey.", "a <|end|> b", ""] * 500)
    assert len(ids) == 1500 and ids[0].dtype == np.int32
    assert tokenizer.decode(ids[1]) == "a <|end|> b"
    assert not set(tokenizer.all_special_ids) & {int(i) for row in ids for i in row}


def test_documents_get_the_ids_that_calling_the_tokenizer_gives(tokenizer):
    """The quick way forgets what a stranger's tokenizer.json may ask for: cut texts, and padding.
    Seen red without each of `no_truncation`, `no_padding` and `encode_special_tokens`.
    """
    texts = ["Ana likes honey.", "", "a <|end|> b", "The mill is old. " * 30]
    expected = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    theirs = copy.deepcopy(tokenizer)
    theirs.backend_tokenizer.enable_truncation(8)
    theirs.backend_tokenizer.enable_padding(length=16)
    theirs.backend_tokenizer.encode_special_tokens = False
    assert [row.tolist() for row in encode_documents(theirs, texts)] == expected


def test_a_tokenizer_with_a_way_of_its_own_is_called(tokenizer):
    """CodeLlama's class, for example, looks for blanks to fill in. Seen red when none is asked."""

    class Own(type(tokenizer)):
        def _encode_plus(self, text, **_):
            return {"input_ids": [[7] for _ in text]}

    theirs = copy.deepcopy(tokenizer)
    theirs.__class__ = Own
    assert [row.tolist() for row in encode_documents(theirs, ["Ana", "Ben"])] == [[7], [7]]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_opt"])
def test_a_document_is_read_as_if_it_were_alone_in_its_window(request, family, attention):
    """Seen red with positions that do not start again, and with the mask causal alone."""
    model = request.getfixturevalue(family).eval()
    model.set_attn_implementation(attention)
    documents = [[BOS, 11, 12, 13], [BOS, 21, 22], [BOS, 31, 32, 33, 34]]
    # two tokens go on from a window before
    window = torch.tensor([[7, 8, *itertools.chain(*documents)]])
    with torch.no_grad():
        together = model(**packed_inputs(window, BOS, model.config)).logits[0]
        alone = [model(input_ids=torch.tensor([ids])).logits[0] for ids in [[7, 8], *documents]]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8}
SLIDING_FAMILIES = {  # all layers slide, every other one, the first ones only
    "mistral": {},
    "phi3": {},
    "starcoder2": {},
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "cohere2": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
}


@pytest.mark.parametrize("family", SLIDING_FAMILIES)
def test_a_sliding_window_slides_in_packed_documents_too(family):
    """Seen red with the documents' mask alone, which let every token see all of its document."""
    torch.manual_seed(0)
    more = SLIDING_FAMILIES[family] | {"sliding_window": 4}
    config = AutoConfig.for_model(family, **SIZE, **more)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    documents = [[BOS, *range(11, 20)], [BOS, 21, 22], [BOS, *range(31, 44)]]
    window = torch.tensor([[*itertools.chain(*documents)]])
    with torch.no_grad():
        together = model(**packed_inputs(window, BOS, model.config)).logits[0]
        alone = [model(input_ids=torch.tensor([ids])).logits[0] for ids in documents]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_layers_that_look_back_in_another_way_are_refused_where_it_matters(tiny_llama):
    config = copy.deepcopy(tiny_llama.config)
    config.layer_types, config.attention_chunk_size = ["chunked_attention", "full_attention"], 8
    packed_inputs(torch.full((1, 8), 5), BOS, config)
    with pytest.raises(DataError, match="chunked_attention"):
        packed_inputs(torch.full((1, 9), 5), BOS, config)


class Summing(torch.nn.Module):
    """Carries a sum of all tokens on, whatever mask and positions say; `reach` 1 looks at each
    token alone. Counts its calls.
    """

    def __init__(self, config, reach: int) -> None:
        super().__init__()
        self.config, self.reach, self.calls = config, reach, []
        self.tokens = torch.nn.Embedding(64, 8)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.tokens

    def forward(self, input_ids, **more):
        self.calls.append((input_ids.tolist(), self.training))
        if self.reach == 0:
            raise ValueError("a mask of a shape that is not known here")
        seen = self.tokens(input_ids)
        return SimpleNamespace(logits=seen if self.reach == 1 else seen.cumsum(dim=1))


@pytest.mark.parametrize(("reach", "apart"), [(1, True), (99, False), (0, False)])
def test_whether_a_model_packs_is_measured_once_and_leaves_it_as_it_was(tiny_llama, reach, apart):
    """Two documents in one window and each alone, without dropout. Mutations seen red: a model that
    packs taken for one that does not; one document twice; measured at each call; eval mode left on.
    """
    model = Summing(tiny_llama.config, reach).train()
    assert packs(model, BOS) is apart and model.training
    calls, told = len(model.calls), [ids for ids, _ in model.calls]
    assert told[0][0].count(BOS) == 2 and not any(training for _, training in model.calls)
    if reach:
        first, second = (ids[0] for ids in told[1:])
        assert first + second == told[0][0] and first != second
    assert packs(model, BOS) is apart and len(model.calls) == calls
    assert getattr(model, PACKS) is apart


def test_a_model_in_half_precision_is_not_excused_for_mixing_documents(tiny_llama):
    """A sum of both documents is off by as much as the first one says. Mutation seen red: a
    tolerance of 1.1 for bf16 in place of 0.1.
    """
    assert not packs(Summing(tiny_llama.config, 99).to(torch.bfloat16), BOS)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_opt"])
def test_models_of_this_house_pack(request, family):
    """In half precision too. Mutation seen red: fp32's tolerance for all."""
    model = request.getfixturevalue(family)
    assert packs(model.eval(), BOS) and not model.training
    delattr(model, PACKS)
    assert packs(model.to(torch.bfloat16), BOS)


def test_where_a_model_cannot_pack_each_document_has_a_row_and_the_targets_are_the_same():
    """By hand: five documents in two windows of five, the token that begins the next one as the last
    target. Mutations seen red: documents without that token, nothing said of the ids.
    """
    apart = _unpacked(torch.tensor([[0, 5, 6, 0, 7], [8, 9, 0, 0, 4]]), separator_id=0)
    rows = zip(apart.inputs["input_ids"].tolist(), apart.targets.tolist(), strict=True)
    assert [(ids, [at for at, target in enumerate(said) if target]) for ids, said in rows] == [
        ([0, 5, 6, 0], [1, 2, 3]),
        ([0, 7, 0, 0], [1]),
        ([8, 9, 0, 0], [1, 2]),
        ([0, 0, 0, 0], [1]),
        ([0, 4, 0, 0], [1]),
    ]
    assert apart.window.tolist() == [0, 0, 1, 1, 1] and apart.targets.sum() == 2 * (5 - 1)
