"""One kind of record as another: a comparison is a ranking of two, a ranking holds every comparison
but the ties.
"""

import pytest

from data.conversion import convert, convertible
from data.records import Comparison, Demonstration, Document, Message, Prompt, Ranking

ASK = [Message(role="user", content="Name a fruit.")]


def test_a_comparison_becomes_a_ranking_of_two_and_back():
    comparison = Comparison(
        prompt=ASK, chosen="A plum.", rejected="No.", labeler="ana", strength=0.7, group_id="g"
    )
    [ranking] = convert(comparison, Ranking)
    assert (ranking.responses, ranking.ranks, ranking.labeler) == (
        ["A plum.", "No."],
        [1, 2],
        "ana",
    )
    assert convert(ranking, Comparison) == [comparison]


def test_a_ranking_gives_every_pair_that_is_not_a_tie():
    """Seen red with `<=` for `<` in Ranking.comparisons: ties came out as preferences."""
    ranking = Ranking(prompt=ASK, responses=["a", "b", "c", "d"], ranks=[2, 1, 2, 3])
    pairs = {(c.chosen, c.rejected) for c in convert(ranking, Comparison)}
    assert pairs == {("b", "a"), ("b", "c"), ("b", "d"), ("a", "d"), ("c", "d")}
    assert convert(Ranking(prompt=ASK, responses=["a", "b"], ranks=[1, 1]), Comparison) == []


def test_the_best_response_is_the_demonstration_and_the_question_the_prompt():
    ranking = Ranking(prompt=ASK, responses=["No.", "A plum."], ranks=[2, 1])
    [demonstration] = convert(ranking, Demonstration)
    assert demonstration.messages[-1] == Message(role="assistant", content="A plum.")
    assert convert(demonstration, Prompt)[0].messages == ASK == convert(ranking, Prompt)[0].messages
    assert convert(Ranking(prompt=ASK, responses=["", "x"], ranks=[1, 2]), Demonstration) == []


def test_what_makes_no_sense_is_not_offered():
    assert not convertible(Document, Ranking) and not convertible(Prompt, Demonstration)
    with pytest.raises(KeyError):
        convert(Document(text="x"), Ranking)
