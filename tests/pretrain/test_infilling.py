"""GLM's objective through real models: who sees whom, what an update learns, what is refused."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, MistralConfig, OpenAIGPTConfig

from data.packing import documents_apart
from data.template import decode_response, encode_response
from podium.attention import choose_attention
from podium.errors import RecipeError
from podium.models import resize_for
from pretrain.blanks import (
    DOCUMENT,
    IDS,
    ORDER,
    POSITION,
    TARGET,
    Infilling,
    document_row,
)
from pretrain.infilling import (
    Infill,
    add_sentinels,
    call_inputs,
    check_infills,
    evaluate_infilling,
    held_out_blanks,
    objective_of,
)
from pretrain.updates import Causal, LanguageModel, shrink_embedding_gradient

FAMILIES = ["tiny_llama", "tiny_opt"]


@pytest.fixture
def tokenizer(tokenizer):
    """One of the test's own, since it is given tokens."""
    return copy.deepcopy(tokenizer)


@pytest.fixture
def infill(tokenizer):
    """`infill(seed=0, **config) -> Infill` in a context of 48 tokens."""
    sentinels = add_sentinels(tokenizer)

    def make(seed: int = 0, **config) -> Infill:
        return Infill(Infilling(**config), 48, tokenizer.bos_token_id, sentinels, seed)

    return make


@pytest.fixture
def windows(tokenizer) -> torch.Tensor:
    """Twelve windows of 40 tokens, each of several documents."""
    ids = torch.randint(6, 300, (12, 40), generator=torch.Generator().manual_seed(2))
    ids[:, 0], ids[:, 17], ids[::2, 29] = (tokenizer.bos_token_id,) * 3
    return ids.to(torch.int32)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "chosen for training"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_sees_what_it_may_and_nothing_else(request, tokenizer, infill, family, attention):
    """Every token of a row is replaced in turn, and the logits that change must be those of the
    tokens that may see it: of its own document, all of part A both ways, part B what comes before.
    Mutations seen red: a causal mask alone; documents that see each other; part B that sees all of
    itself; part A that sees part B.
    """
    objective = infill()
    model = request.getfixturevalue(family)
    resize_for(tokenizer, model)
    if attention == "chosen for training":
        choose_attention(model, torch.device("cpu"))
    else:
        model.set_attn_implementation(attention)
    bos, sentinels = objective.separator_id, objective.sentinels
    first = document_row(np.array([bos, 11, 12, 13, 14]), [(1, 2), (3, 4)], 0, sentinels, [1, 0], 0)
    second = document_row(np.array([bos, 21, 22]), [(2, 3)], 0, sentinels, [0], 1)
    row = torch.from_numpy(np.concatenate([first, second], axis=1))[None]
    row[0, IDS, row[0, IDS] == 0] = sentinels.mask
    length = row.shape[2]
    part_b = row[0, ORDER] > 0
    rows = row.repeat(length + 1, 1, 1)
    for place in range(length):
        rows[place, IDS, place] = 31
    with torch.no_grad():
        logits = model(**call_inputs(rows)).logits
    changed = (logits[:-1] - logits[-1]).abs().amax(-1) > 1e-6  # (changed token, whose logits)
    for place in range(length):
        for reader in range(length):
            may = row[0, DOCUMENT, place] == row[0, DOCUMENT, reader]
            if part_b[place]:
                may = may and part_b[reader] and place <= reader
            assert bool(changed[place, reader]) == bool(may), (place, reader)


def nll_by_definition(model, row: torch.Tensor) -> torch.Tensor:
    """The sum over part B's targets, each document of a row alone, with a mask written token by
    token.
    """
    summed = torch.zeros(())
    for number in range(int(row[DOCUMENT].max()) + 1):
        part = row[:, row[DOCUMENT] == number]
        length, visible = part.shape[1], int((part[ORDER] == 0).sum())
        mask = torch.full((length, length), float("-inf"))
        for reader in range(length):
            for seen in range(length):
                if seen < visible or (reader >= visible and seen <= reader):
                    mask[reader, seen] = 0.0
        logits = model(
            input_ids=part[None, IDS],
            position_ids=part[None, POSITION],
            attention_mask=mask[None, None],
        ).logits[0]
        at = part[TARGET].nonzero().flatten()
        summed = summed + F.cross_entropy(logits[at - 1], part[IDS, at], reduction="sum")
    return summed


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_each_document_alone(request, tokenizer, infill, windows, family):
    """Rows of unlike lengths in one batch, part of it causal: then it is what `documents_apart` says.
    Mutations seen red: padding that counts, positions that go on over documents, the row cut short.
    """
    objective = infill(share=0.7)
    model = request.getfixturevalue(family)
    resize_for(tokenizer, model)
    batch = objective.batch(windows, 3)
    scored = LanguageModel(model)
    kinds = set()
    for part in (batch[:5], batch[5:]):
        inputs, targets, owners = objective.apart(part, model)
        assert owners.tolist() == list(range(len(part)))
        with torch.no_grad():
            together = scored(inputs, targets)
        expected = torch.zeros(())
        with torch.no_grad():
            for row in part:
                row = row[:, row[DOCUMENT] >= 0]
                causal = bool((row[ORDER] == torch.arange(row.shape[1])).all())
                kinds.add(causal)
                if causal:
                    apart = documents_apart(row[None, IDS], objective.separator_id, model)
                    expected = expected + scored(apart.inputs, apart.targets)
                else:
                    expected = expected + nll_by_definition(model, row)
        assert together.item() == pytest.approx(expected.item(), rel=1e-5)
    assert kinds == {True, False}


def test_blanks_follow_from_a_window_s_place_and_the_seed_alone(infill, windows):
    """So a resumed run and any number of processes read the same. Mutations seen red: a generator
    that goes on from window to window; the seed left out; the place within the batch.
    """
    whole = infill(seed=5).batch(windows, 100)
    piece = infill(seed=5).batch(windows[4:9], 104)
    longest = piece.shape[2]
    assert torch.equal(whole[4:9, :, :longest], piece)
    assert not whole[4:9, IDS, longest:].any() and (whole[4:9, DOCUMENT, longest:] == -1).all()
    assert not torch.equal(whole[:, :, :40], infill(seed=6).batch(windows, 100)[:, :, :40])
    assert not torch.equal(whole[:, :, :40], infill(seed=5).batch(windows, 101)[:, :, :40])


def test_shares_of_windows_are_read_each_way(infill, tokenizer):
    """Of 2,000 windows 60 % with blanks, a quarter of these short. Mutations seen red: the shares
    swapped; short spans where the end should be.
    """
    objective = infill(share=0.6, short=0.25)
    windows = torch.full((2000, objective.window), 9, dtype=torch.int32)
    windows[:, 0] = tokenizer.bos_token_id
    batch = objective.batch(windows, 0)
    assert batch.shape[2] <= 48, "no row is longer than the context"
    counts = [(batch[:, IDS] == id).any(dim=1).sum().item() for id in objective.sentinels]
    short, suffix, starts, ends = (count / 2000 for count in counts)
    assert suffix == pytest.approx(0.45, abs=0.04) and short == pytest.approx(0.15, abs=0.03)
    assert starts == ends == pytest.approx(short + suffix)
    assert objective.targets(batch) == batch[:, TARGET].sum()


def test_held_out_blanks_are_short_the_same_for_every_seed_and_judged_by_the_likeliest_token(
    infill, windows, tokenizer, tiny_llama
):
    """Against a loop over rows. Mutations seen red: ends among the words; the loss per word; causal
    rows among the blanks; the last group of rows left out.
    """
    objective = infill(seed=5, share=0.2, short=0.1)
    resize_for(tokenizer, tiny_llama)
    # Of few words, so that an untrained model is right now and then.
    windows = torch.where(windows == objective.separator_id, windows, 6 + windows % 4)
    batch = held_out_blanks(objective, windows)
    assert torch.equal(batch, held_out_blanks(infill(seed=6, share=0.2, short=0.1), windows))
    assert (batch[:, IDS] != objective.sentinels.suffix_mask).all()
    assert (batch[:, IDS] == objective.sentinels.mask).any(dim=1).all(), "none is read causally"
    only_ends = held_out_blanks(infill(short=0.0), windows)
    assert (only_ends[:, IDS] != objective.sentinels.mask).all()

    class Engine(LanguageModel):
        module = property(lambda self: self)

    loss, targets, right, words = 0.0, 0, 0, 0
    with torch.no_grad():
        for row in batch:
            inputs, asked, _ = objective.apart(row[None], tiny_llama)
            logits = tiny_llama(**inputs).logits[0, :-1][asked[0, 1:]]
            wanted = inputs["input_ids"][asked]
            loss += F.cross_entropy(logits, wanted, reduction="sum").item()
            targets += len(wanted)
            word = wanted != objective.sentinels.end
            right += int((logits.argmax(-1) == wanted)[word].sum())
            words += int(word.sum())
    assert 0 < right < words
    stage = SimpleNamespace(world_size=1, rank=0, device=torch.device("cpu"))
    found = evaluate_infilling(Engine(tiny_llama), windows, objective, 5, stage)
    assert found == {
        "validation_infill_loss": pytest.approx(loss / targets, rel=1e-5),
        "validation_infill_accuracy": pytest.approx(right / words),
    }


def test_the_embedding_s_gradient_is_the_factor_times_what_it_was(tiny_opt, tiny_llama, windows):
    """To the bit where the head is apart, and with a tied head less by what came through the text
    read, never through the head. What is computed stays. Mutations seen red: the square of the
    factor; the output scaled; the head's part scaled too.
    """
    ids = windows[:2].long()

    def gradient(model, factor: float | None) -> tuple[float, torch.Tensor]:
        weight = model.get_input_embeddings().weight
        handle = shrink_embedding_gradient(model, factor) if factor is not None else None
        model.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        if handle is not None:
            handle.remove()
        return loss.item(), weight.grad.clone()

    tiny_llama.lm_head.weight = torch.nn.Parameter(tiny_llama.lm_head.weight.detach().clone())
    (loss, whole), (same, shrunk) = gradient(tiny_llama, None), gradient(tiny_llama, 0.125)
    assert loss == same and whole.abs().max() > 0
    assert torch.equal(shrunk, 0.125 * whole)  # a power of two: nothing is rounded
    (loss, tied), (same, tied_shrunk) = gradient(tiny_opt, None), gradient(tiny_opt, 0.125)
    (_, head) = gradient(tiny_opt, 0.0)
    assert loss == same and head.abs().max() > 0
    assert torch.allclose(tied_shrunk - head, 0.125 * (tied - head), atol=1e-6)


class LeftToRight(torch.nn.Module):
    """Sums the tokens up to each place, whatever the mask says."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config, self.podium_packs, self.device = config, True, torch.device("cpu")
        self.tokens = torch.nn.Embedding(64, 8)

    def forward(self, input_ids, **_more):
        return SimpleNamespace(logits=self.tokens(input_ids).cumsum(dim=1))


def test_what_cannot_fill_blanks_is_refused_by_name(tokenizer, tiny_llama):
    """Mutations seen red: each of the three checks left out; a window of one token taken; the model
    left in eval mode.
    """
    bos = tokenizer.bos_token_id
    with pytest.raises(RecipeError, match=r"family llama cannot fill blanks: .*whatever the mask"):
        check_infills(LeftToRight(tiny_llama.config), bos, 48)
    size = {"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
    gpt1 = AutoModelForCausalLM.from_config(OpenAIGPTConfig(**size), attn_implementation="eager")
    with pytest.raises(RecipeError, match=r"openai-gpt cannot fill blanks: it takes no mask"):
        check_infills(gpt1, bos, 48)
    sliding = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        sliding_window=8,
    )
    mistral = AutoModelForCausalLM.from_config(sliding)
    check_infills(mistral, bos, 8)
    with pytest.raises(RecipeError, match=r"mistral .* do not see a whole row of 9 tokens"):
        check_infills(mistral, bos, 9)
    mistral.podium_packs = False
    with pytest.raises(RecipeError, match="takes no mask and positions"):
        check_infills(mistral, bos, 8)
    with pytest.raises(RecipeError, match=r"pretrain\.context 4 has no room"):
        objective_of(Infilling(), 0, tokenizer, tiny_llama, 4)
    causal = objective_of(None, 0, tokenizer, gpt1, 4)
    assert isinstance(causal, Causal) and causal.window == 4
    assert isinstance(objective_of(Infilling(), 0, tokenizer, tiny_llama.train(), 48), Infill)
    assert tiny_llama.training, "measuring leaves the model as it was"


def test_sentinels_are_special_once_and_never_written(tokenizer):
    """Mutations seen red: ordinary tokens; the role tokens replaced."""
    before = len(tokenizer)
    ids = add_sentinels(tokenizer)
    assert ids == add_sentinels(tokenizer) == tuple(range(before, before + 4))
    assert len(tokenizer) == before + 4 and "<|user|>" in tokenizer.all_special_tokens
    typed = encode_response(tokenizer, "a [MASK] <|endofpiece|>", ended=False)
    assert not set(typed) & set(ids)
    assert decode_response(tokenizer, typed) == "a [MASK] <|endofpiece|>"
    assert decode_response(tokenizer, [typed[0], *ids]) == "a"
