"""Overlap with held-out texts: found whatever the case and signs, and cut out without the rest."""

import random
import zlib

from data.overlap import MARGIN, common_run, cut, held_out_runs

QUOTE = "The quick brown fox jumps over the lazy dog near the old stone mill"


def sentences(number, seed=0):
    rng = random.Random(seed)
    return " ".join(f"Villager {rng.randrange(10**6)} likes plum jam." for _ in range(number))


def test_thirteen_words_in_a_row_are_found_whatever_their_case_and_signs():
    held_out = held_out_runs([f"{QUOTE} today.", "too short"], 13)
    inside = f"He wrote: {QUOTE.upper().replace('JUMPS', '- jumps,')}; fine."
    assert (
        common_run(inside, held_out, 13) == "the quick brown fox jumps over the lazy dog near "
        "the old stone"
    )
    assert common_run("the lazy dog near the old stone mill today", held_out, 13) is None


def test_runs_that_share_a_hash_are_not_the_same_words():
    """Two runs of words with one CRC-32, found by trying. Seen red with the runs compared by it."""
    rng, seen = random.Random(0), {}
    while True:
        run = " ".join(f"word{rng.randrange(10**6)}" for _ in range(13))
        other = seen.setdefault(zlib.crc32(run.encode()), run)
        if other != run:
            break
    assert common_run(run, held_out_runs([other], 13), 13) is None


def test_a_book_that_quotes_a_test_loses_the_passage_only():
    """Seen red with the whole document dropped."""
    before, after = sentences(100), sentences(100, seed=1)
    first, second = cut(f"{before} {QUOTE}. {after}", held_out_runs([QUOTE], 13), 13)
    assert before.startswith(first) and len(before) - len(first) <= MARGIN + 1
    assert after.endswith(second) and len(after) - len(second) <= MARGIN + 1


def test_a_copy_of_the_test_and_a_patchwork_of_it_leave_nothing():
    held_out = held_out_runs([QUOTE], 13)
    assert cut(QUOTE, held_out, 13) == []
    patchwork = QUOTE.join(sentences(40, seed=i) for i in range(12))
    assert cut(patchwork, held_out, 13) == []
    assert len(cut(QUOTE.join(sentences(40, seed=i) for i in range(9)), held_out, 13)) == 9
