"""Generation metrics on answers whose values can be worked out by hand."""

from itertools import combinations

import pytest

from evals.generation import describe, distinct_n, longest_loop, normalise, pass_at_k, unigram_f1
from podium.sampling.protocol import Sample


def test_distinct_n_counts_over_all_answers_together():
    assert distinct_n(["the owl", "the owl"], 1) == 0.5
    assert distinct_n(["an owl sat", "an owl ran"], 2) == 3 / 4
    assert distinct_n(["owl"], 2) == 0.0


@pytest.mark.parametrize(
    ("words", "covered"),
    [
        ("an owl and a fox", 0),
        ("no no no", 3),
        ("go home now go home now go home", 8),  # the cut-off third repeat counts too
        ("a b x a b", 0),  # not at once
        ("a b c d e f g h i a b c d e f g h i", 0),  # nine words: a refrain
    ],
)
def test_longest_loop(words, covered):
    """Seen red with `run >= 1`, which calls "b x a b" a loop, and with `run` alone, which forgets
    the first phrase.
    """
    assert longest_loop(words.split()) == covered


def test_unigram_f1_follows_parlai():
    """Seen red with sets instead of multisets."""
    assert normalise("The owl's nest, a big one!") == "owl s nest big one"
    assert unigram_f1("A plum!", ["the plum"]) == 1.0
    # two of three words on both sides
    assert unigram_f1("owl owl owl", ["owl fox owl"]) == pytest.approx(2 / 3)
    assert unigram_f1("owl", ["fox", "the owl"]) == 1.0  # the best reference counts
    assert unigram_f1("", ["fox"]) == 0.0


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer():
    """Seen red with correct and wrong answers exchanged."""
    tries = [True, True, False, False, False, False]
    for k in range(1, 7):
        subsets = list(combinations(tries, k))
        assert pass_at_k(6, 2, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))
    with pytest.raises(ValueError, match="pass@7"):
        pass_at_k(6, 2, 7)


def test_describe_sees_answers_that_never_end_and_are_all_the_same():
    looping = Sample([1, 1, 1, 1], [0.0] * 4, finished=False)
    samples = [looping, looping, Sample([2, 3], [0.0] * 2, finished=True)]
    result = describe(samples, ["no no no no", "no no no no", "a fox"])
    assert result["eos_rate"] == pytest.approx(1 / 3) and result["length"] == pytest.approx(10 / 3)
    assert result["distinct_answers"] == pytest.approx(2 / 3) and result[
        "loop_share"
    ] == pytest.approx(2 / 3)
