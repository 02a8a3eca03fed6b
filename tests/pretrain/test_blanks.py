"""GLM's blanks: where they lie, and the row that is read for them, by numbers alone."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.blanks import (
    DOCUMENT,
    IDS,
    ORDER,
    POSITION,
    TARGET,
    Infilling,
    SentinelIds,
    blanks_at_most,
    causal_row,
    document_row,
    infilled_row,
    short_blanks,
    split_documents,
    suffix_blanks,
    window_tokens,
)

BOS = 0
SENTINELS = SentinelIds(mask=101, suffix_mask=102, start=103, end=104)
WINDOWS = st.lists(st.integers(0, 12), min_size=2, max_size=60).map(
    lambda ids: np.asarray(ids, dtype=np.int32)  # 0 begins a document
)
CONFIGS = st.builds(Infilling, mask_rate=st.floats(0.05, 0.5), mean_span=st.floats(0.2, 8.0))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_document_s_row_by_hand():
    """Two short spans, told in the other order. Mutations seen red: a span that counts on from the
    token after its mask; the start as a target; the end as none; part B told in the text's order;
    the order of part A counted from 0 on.
    """
    ids = np.array([BOS, 11, 12, 13, 14, 15, 16])
    row = document_row(ids, [(2, 4), (6, 7)], SENTINELS.mask, SENTINELS, told=[1, 0], number=3)
    start, end = SENTINELS.start, SENTINELS.end
    part_a = [BOS, 11, SENTINELS.mask, 14, 15, SENTINELS.mask]
    assert row[IDS].tolist() == [*part_a, start, 16, end, start, 12, 13, end]
    assert row[POSITION].tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 7, 2, 3, 4, 5]
    assert row[ORDER].tolist() == [0] * 6 + [1, 2, 3, 4, 5, 6, 7]
    assert row[TARGET].tolist() == [0] * 6 + [0, 1, 1, 0, 1, 1, 1]
    assert row[DOCUMENT].tolist() == [3] * 13


def test_a_causal_row_by_hand():
    """Mutations seen red: positions that go on over documents; the first token a target."""
    row = causal_row(np.array([7, BOS, 8, 9, BOS]), BOS)
    assert row[IDS].tolist() == [7, BOS, 8, 9, BOS]
    assert row[POSITION].tolist() == [0, 0, 1, 2, 0] and row[DOCUMENT].tolist() == [0, 1, 1, 1, 2]
    assert row[ORDER].tolist() == [0, 1, 2, 3, 4] and row[TARGET].tolist() == [0, 1, 1, 1, 1]


def restored(row: np.ndarray) -> list[int]:
    """The window that a row was made of: every mask replaced by the span that has its position."""
    window: list[int] = []
    for number in range(int(row[DOCUMENT].max()) + 1):
        ids, positions, _, order, _ = row[:, row[DOCUMENT] == number].tolist()
        spans: dict[int, list[int]] = {}
        for token, position, place in zip(ids, positions, order, strict=True):
            if place and token == SENTINELS.start:
                span = spans.setdefault(position, [])
            elif place and token != SENTINELS.end:
                span.append(token)
        for token, position, place in zip(ids, positions, order, strict=True):
            masked = token in (SENTINELS.mask, SENTINELS.suffix_mask)
            window += [] if place else (spans.pop(position) if masked else [token])
        assert not spans
    return window


@settings(max_examples=150, deadline=None)
@given(window=WINDOWS, config=CONFIGS, short=st.booleans(), seed=st.integers(0, 10**6))
def test_nothing_of_a_window_is_lost_and_its_row_is_never_longer_than_planned(
    window, config, short, seed
):
    """Spans never hold a separator or touch each other. Mutations seen red: documents without their
    last token after a blank; a suffix for every document, however many; blanks rounded for each
    document by itself; spans without a token between.
    """
    row = infilled_row(window, BOS, SENTINELS, config, short, rng(seed))
    assert restored(row) == window.tolist()
    assert row.shape[1] <= len(window) + 3 * blanks_at_most(len(window), config)
    assert row[POSITION].max(initial=0) < row.shape[1]
    part_b = row[:, row[ORDER] > 0]
    assert BOS not in part_b[IDS]
    assert (part_b[TARGET] == (part_b[IDS] != SENTINELS.start)).all()
    assert not row[TARGET, row[ORDER] == 0].any()
    masks = np.flatnonzero((row[IDS] == SENTINELS.mask) & (row[ORDER] == 0))
    assert not short or (np.diff(masks) > 1).all()


@given(context=st.integers(1, 400), config=CONFIGS)
def test_a_window_is_the_longest_that_fits_the_context(context, config):
    """Mutation seen red: no room for the ends."""
    tokens = window_tokens(context, config)
    assert tokens == 0 or tokens + 3 * blanks_at_most(tokens, config) <= context
    longer = max(tokens + 1, 2)
    assert longer + 3 * blanks_at_most(longer, config) > context


@pytest.mark.parametrize("rate, mean", [(0.15, 3.0), (0.3, 2.0)])
def test_short_spans_have_poisson_s_lengths_and_cover_their_share(rate, mean):
    """Against the definition: Poisson without 0, the share of the tokens that may be covered, early
    and late ones alike. Mutations seen red: lengths of 0 made 1; the rate of a mean of 3; spans that begin
    early; one rounding for all windows; blanks of the defaults whatever is said.
    """
    config, lengths, draws = Infilling(mask_rate=rate, mean_span=mean), [41, 7, 91, 1], 4000
    source, covered, sizes = rng(), [np.zeros(n) for n in lengths], Counter()
    for _ in range(draws):
        for hits, blanks in zip(covered, short_blanks(lengths, config, source), strict=True):
            for first, end in blanks:
                hits[first:end] += 1
                sizes[end - first] += 1
    spans = sum(sizes.values())
    for length in range(1, 7):
        share = mean**length / math.factorial(length) / (math.exp(mean) - 1)
        assert sizes[length] / spans == pytest.approx(share, abs=0.01)
    assert all(hits[0] == 0 for hits in covered), "a document's first token is seen"
    for hits in (covered[0], covered[2]):
        assert hits[1:].mean() / draws == pytest.approx(rate, abs=0.005)
        third = len(hits) // 3
        assert hits[1 : 1 + third].mean() == pytest.approx(hits[-third:].mean(), rel=0.06)
    # A document of six tokens has room for less than some of its spans.
    assert 0.7 * rate < covered[1][1:].mean() / draws < rate + 0.005


def test_a_suffix_begins_anywhere_after_the_first_token():
    """Mutations seen red: from the first token on; never the last token alone."""
    source, found = rng(), Counter()
    for _ in range(3000):
        ((blank,), none) = suffix_blanks([6, 1], Infilling(), source)
        assert none == [] and blank[1] == 6
        found[blank[0]] += 1
    assert sorted(found) == [1, 2, 3, 4, 5]
    assert all(count == pytest.approx(600, abs=90) for count in found.values())


def test_chance_says_which_documents_stay_whole_where_there_are_many():
    """Eight documents of five tokens, a room of two blanks. Mutation seen red: the first ones."""
    lengths, source = [5] * 8, rng()
    most = blanks_at_most(40, Infilling())
    chosen = Counter()
    for _ in range(800):
        blanks = suffix_blanks(lengths, Infilling(), source)
        assert sum(map(len, blanks)) == most == 2
        chosen.update(document for document, spans in enumerate(blanks) if spans)
    assert all(chosen[document] == pytest.approx(200, abs=50) for document in range(8))


def test_documents_are_split_at_their_separators():
    """Mutation seen red: an empty document where the window begins with a separator."""
    for window, expected in (
        ([0, 5, 6, 0, 0, 7], [[0, 5, 6], [0], [0, 7]]),
        ([5, 6, 0, 7], [[5, 6], [0, 7]]),
        ([5, 6], [[5, 6]]),
    ):
        found = split_documents(np.array(window), BOS)
        assert [ids.tolist() for ids in found] == expected
