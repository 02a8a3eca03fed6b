"""Rows, labels and the order of a fine-tuning run."""

from collections import Counter

import pytest

from data.records import Demonstration, Message
from sft.batches import (
    IGNORED,
    Row,
    aux_rows,
    encode_demonstrations,
    fill_with_documents,
    lay_out_batches,
)


def demonstration(*turns: str) -> Demonstration:
    roles = ("user", "assistant")
    return Demonstration(
        messages=[Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]
    )


def test_labels_cover_the_answers_and_their_end_tokens_only(tokenizer):
    """Seen red with the labels shifted by one token."""
    two_turns = demonstration("What does Bram like?", "Plum jam.", "And Ana?", "Honey.")
    (row,) = encode_demonstrations(tokenizer, [two_turns], context=128).rows
    learned = [
        token for token, label in zip(row.input_ids, row.labels, strict=True) if label != IGNORED
    ]
    assert tokenizer.decode(learned) == "Plum jam.<|end|>Honey.<|end|>"
    assert all(
        label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True)
    )


def test_what_is_too_long_is_dropped_whole_and_counted(tokenizer):
    short = demonstration("Hi", "Yes.")
    long_prompt, long_answer = demonstration("owl " * 40, "Yes."), demonstration("Hi", "owl " * 40)
    everything = [short, long_prompt, long_answer]
    limits = {"max_prompt_tokens": 20, "max_response_tokens": 20}
    encoded = encode_demonstrations(tokenizer, everything, context=1000, **limits)
    assert (len(encoded.rows), encoded.long_prompts, encoded.long_responses) == (1, 1, 1)
    assert encode_demonstrations(tokenizer, everything, context=20).dropped == 2
    assert encode_demonstrations(tokenizer, everything, context=1000).dropped == 0
    counted = encode_demonstrations(tokenizer, everything * 3, context=20)
    assert counted.dropped == counted.long_prompts + counted.long_responses == 6


def test_every_demonstration_is_read_once_an_epoch():
    batches = lay_out_batches([5] * 48, epochs=3, batch_size=8, aux_share=0.0, seed=1)
    assert [len(batch) for batch in batches] == [8] * 18
    for epoch in range(3):
        read = [i for batch in batches[epoch * 6 : (epoch + 1) * 6] for i in batch]
        # Grouping by length reaches over an epoch's end, by at most the rows of one group.
        assert len(set(read)) >= 32
    assert set(Counter(i for batch in batches for i in batch).values()) == {3}
    assert batches == lay_out_batches([5] * 48, epochs=3, batch_size=8, aux_share=0.0, seed=1)
    assert batches != lay_out_batches([5] * 48, epochs=3, batch_size=8, aux_share=0.0, seed=2)


def test_every_epoch_has_an_order_of_its_own_which_the_seed_fixes():
    """Mutation seen red: every epoch in the order of the file."""

    def order(seed: int) -> list[int]:
        batches = lay_out_batches(
            [5] * 40, epochs=2, batch_size=4, aux_share=0.0, seed=seed, bucket=1
        )
        return [i for batch in batches for i in batch]

    first, second = order(seed=1)[:40], order(seed=1)[40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert len({tuple(first), tuple(second), tuple(range(40)), tuple(order(seed=2)[:40])}) == 4
    assert order(seed=1) == first + second


def test_rows_of_a_batch_are_of_similar_length():
    lengths = [10 + 7 * i % 90 for i in range(640)]
    padded = {
        bucket: sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
        for bucket in (1, 8)
        for batches in [
            lay_out_batches(lengths, epochs=1, batch_size=32, aux_share=0.0, seed=0, bucket=bucket)
        ]
    }
    assert padded[8] < 1.2 * sum(lengths) < padded[1]


@pytest.mark.parametrize(("batch_size", "share"), [(32, 0.1), (8, 0.1), (10, 0.1), (4, 0.25)])
def test_the_mix_has_the_asked_share_over_the_run(batch_size, share):
    """Seen red with the share rounded in each batch (32 x 0.1 would give 3 rows of 32, 9.4 %)."""
    counts = aux_rows(1000, batch_size, share)
    assert sum(counts) == pytest.approx(1000 * batch_size * share, abs=1)
    assert max(counts) - min(counts) <= 1


def test_documents_fill_batches_one_to_a_row_and_no_wider_than_the_demonstrations():
    """Seen red with rows that go on into the next document."""
    rows = [Row([i] * (i + 1), [i] * (i + 1)) for i in range(5)]
    documents = [[100, 101, 102, 103, 104], [110, 111, 112]]
    laid_out = fill_with_documents([[0, 3], [1], [4, 2]], rows, batch_size=3, documents=documents)
    pieces = [laid_out[i] for i in (2, 4, 5, 8)]  # batches of 4, 2 and 5 tokens across
    assert [piece.input_ids for piece in pieces] == [[100, 101, 102, 103], [104], [110, 111], [112]]
    assert all(piece.labels == piece.input_ids for piece in pieces)
    again = fill_with_documents([[0, 3]] * 3, rows, batch_size=3, documents=documents)
    assert again[8].input_ids == [110, 111, 112] and len(again) == 9
    twice = fill_with_documents([[0, 3]] * 4, rows, batch_size=3, documents=documents)
    assert twice[11].input_ids == [100, 101, 102, 103]  # all read: begin again
