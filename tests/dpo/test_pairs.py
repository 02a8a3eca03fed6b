"""From rankings to pairs: which, in which order, and what is dropped."""

from data.records import Message, Ranking
from data.template import encode_prompt, encode_response
from dpo.pairs import encode_pairs, lay_out

ASK = [Message(role="user", content="What does Ana like?")]


def test_every_untied_pair_is_one_and_ties_are_counted(tokenizer):
    """K = 4 with one tie: five pairs. Mutations seen red: chosen and rejected exchanged; a tie as
    a pair.
    """
    ranking = Ranking(prompt=ASK, responses=["a b", "honey", "figs", "jam"], ranks=[4, 1, 2, 2])
    pairs, dropped = encode_pairs([ranking], tokenizer, 100)

    def ids(text):
        return tuple(encode_response(tokenizer, text))

    assert {(p.chosen, p.rejected) for p in pairs} == {
        (ids("honey"), ids("figs")),
        (ids("honey"), ids("jam")),
        (ids("honey"), ids("a b")),
        (ids("figs"), ids("a b")),
        (ids("jam"), ids("a b")),
    }
    assert all(p.prompt == tuple(encode_prompt(tokenizer, ASK)) for p in pairs)
    assert dict(dropped) == {"ties (dropped)": 1}


def test_what_does_not_fit_or_says_the_same_is_dropped_whole(tokenizer):
    """Mutation seen red: a long response cut instead."""
    ranking = Ranking(prompt=ASK, responses=["figs", "figs", "honey " * 60], ranks=[1, 2, 3])
    pairs, dropped = encode_pairs([ranking], tokenizer, 60)
    assert pairs == []
    assert dropped["pairs of equal texts (dropped)"] == 1
    assert dropped["pairs over the context (dropped)"] == 2


def test_the_order_is_fixed_by_the_seed_and_every_epoch_has_every_pair():
    """Mutation seen red: every epoch in the same order."""
    order = lay_out(40, epochs=2, batch_size=8, seed=1)
    assert order == lay_out(40, epochs=2, batch_size=8, seed=1)
    assert order != lay_out(40, epochs=2, batch_size=8, seed=2)
    assert sorted(order[:40]) == sorted(order[40:]) == list(range(40)) and order[:40] != order[40:]
    assert len(lay_out(40, epochs=0.01, batch_size=8, seed=1)) == 8  # one update at least
