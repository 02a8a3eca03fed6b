"""Byte-level BPE: every text comes back, merges pay, and a vocabulary too small is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.template import SPECIAL_TOKENS
from data.tokenizer_training import train_bpe
from podium.errors import PodiumError


@given(text=st.text())
def test_any_unicode_comes_back(tokenizer, text):
    """Seen red with `add_prefix_space=True`."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_the_vocabulary_has_the_asked_size_with_specials_first(tokenizer):
    assert len(tokenizer) == 320
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4, 5]
    assert tokenizer.unk_token is None


def test_more_merges_give_fewer_tokens():
    texts = ["the owl found the old lantern in the old barn"] * 5
    few, many = (len(train_bpe(texts, size)(texts[0])["input_ids"]) for size in (262, 300))
    assert few == len(texts[0]) and many < few / 2


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(PodiumError, match="at least 262"):
        train_bpe(["text"], 200)
