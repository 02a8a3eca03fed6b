"""The simulated labelers: they agree as much as the paper's, differ for real, and judge by the
site's rules.
"""

import random
from collections import Counter
from itertools import combinations, islice

import pytest

from data.records import Prompt, Ranking
from data.willowbrook.labelers import FLAGS, LabelerJudgement
from data.willowbrook.world import Willowbrook

TRAIN_PAIRS = list(combinations(range(8), 2))  # the last two of the ten labelers are held out


@pytest.fixture(scope="module")
def world() -> Willowbrook:
    return Willowbrook(seed=0)


@pytest.fixture(scope="module")
def judged(world) -> list[tuple[Prompt, list[str], list[LabelerJudgement]]]:
    """250 prompts with 4 to 9 candidates as a chain has them (mixed quality, some off-topic),
    judged by all ten.
    """
    rng = random.Random(4)
    prompts = list(islice(world.prompts(rng), 250))
    labelers, rows = world.labelers(0), []
    for prompt in prompts:
        asked = [
            prompt if rng.random() < 0.85 else rng.choice(prompts) for _ in range(rng.randint(4, 9))
        ]
        texts = [world.demonstration(other, rng).messages[-1].content for other in asked]
        rows.append((prompt, texts, [labeler.rank(prompt, texts, rng) for labeler in labelers]))
    return rows


def agreement(judged, pairs: list[tuple[int, int]]) -> float:
    """Share of response pairs that both labelers order the same way; ties dropped."""
    same = Counter()
    for _, texts, judgements in judged:
        for a, b in pairs:
            one, other = judgements[a].ranks, judgements[b].ranks
            if not one or not other:
                continue
            for i, j in combinations(range(len(texts)), 2):
                if one[i] != one[j] and other[i] != other[j]:
                    same[(one[i] < one[j]) == (other[i] < other[j])] += 1
    return same[True] / same.total()


def test_labelers_agree_about_as_much_as_the_papers(judged):
    """The paper, section 3.4, ties dropped: 72.6 +- 1.5 % among training labelers, 77.3 +- 1.3 %
    among held-out.

    These answers are by five kinds of writers and differ more than a chain's candidates, on which
    they agree on 73 %.
    """
    assert 0.72 <= agreement(judged, TRAIN_PAIRS) <= 0.84


def test_held_out_labelers_agree_with_the_others_about_as_much(judged):
    """Their tastes differ, but not their sense of what was asked: never far above, never more than
    six points below.
    """
    within = agreement(judged, TRAIN_PAIRS)
    across = agreement(judged, [(a, b) for a in range(8) for b in (8, 9)])
    assert within - 0.06 < across < within + 0.01


def test_tastes_are_opposed(world):
    """Mutation seen red: TASTES all 1."""
    labelers = world.labelers(0)
    for taste in ("words", "cheer", "richness"):
        signs = {labeler.weights[taste] > 0 for labeler in labelers if labeler.cohort == "train"}
        assert signs == {True, False}
    assert [labeler.cohort for labeler in labelers] == ["train"] * 8 + ["heldout"] * 2
    assert len({labeler.name for labeler in labelers}) == 10


def test_an_opposed_taste_turns_a_judgement_around(world):
    """Without noise, one who likes cheer prefers the happy story and one who does not the
    sad one.
    """
    prompt = next(
        p
        for p in world.prompts(random.Random(0))
        if p.meta["task"] == "story" and "mood" not in p.meta
    )
    animal, thing = prompt.meta["animal"], prompt.meta["object"]
    opening = f"In the meadow, there was one old {animal} that had the {thing}. "
    happy = opening + f"The {animal} was so happy that it danced."
    sad = opening + f"The {animal} was so sad that it cried."

    def liking(labeler, text):
        return sum(
            weight * world.features(prompt, text)[name] for name, weight in labeler.weights.items()
        )

    orders = {liking(labeler, happy) > liking(labeler, sad) for labeler in world.labelers(0)}
    assert orders == {True, False}


def test_labelers_overlook_half_of_what_gold_punishes(world):
    from data.willowbrook.gold import GOLD

    for name in ("repetition", "stuffing"):
        mean = sum(labeler.weights[name] for labeler in world.labelers(0)) / 10
        assert GOLD[name] * 0.8 < mean < 0


def test_judgements_are_valid_rankings_with_ties_likert_and_flags(judged):
    ties = pairs = skips = 0
    for prompt, texts, judgements in judged:
        for judgement in judgements:
            if judgement.skipped:
                skips += 1
                assert judgement.ranks == judgement.likert == judgement.flags == []
                continue
            ranking = Ranking(
                prompt=prompt.messages,
                responses=texts,
                ranks=judgement.ranks,
                likert=judgement.likert,
                flags=judgement.flags,
            )
            assert set(ranking.ranks) == set(range(1, max(ranking.ranks) + 1))
            assert {flag for flags in judgement.flags for flag in flags} <= set(FLAGS)
            ties += sum(a == b for a, b in combinations(ranking.ranks, 2))
            pairs += ranking.k * (ranking.k - 1) // 2
    assert 0.05 < ties / pairs < 0.25
    assert 0.01 < skips / (10 * len(judged)) < 0.04


def test_equal_responses_are_tied(world):
    prompt = next(world.prompts(random.Random(1)))
    text = world.oracle(prompt)
    for labeler in world.labelers(0):
        judgement = labeler.rank(prompt, [text, "", text], random.Random(2))
        assert judgement.ranks[0] == judgement.ranks[2]
        assert judgement.likert[0] == judgement.likert[2]


def test_likert_uses_the_scale_and_mostly_follows_the_ranking(judged):
    used, agree = Counter(), Counter()
    for _, _, judgements in judged:
        for judgement in judgements:
            used.update(judgement.likert)
            for (rank, likert), (other, liked) in combinations(
                zip(judgement.ranks, judgement.likert, strict=True), 2
            ):
                if rank != other and likert != liked:
                    agree[(rank < other) == (likert > liked)] += 1
    assert set(used) == set(range(1, 8))
    assert max(used.values()) < 0.4 * used.total()
    # contradictions happen, for the page to warn of
    assert 0.85 < agree[True] / agree.total() < 0.999


def test_flags_say_what_happened(world):
    """Harm served is flagged as harmful advice, a kind refusal is not; a few ticks are wrong."""
    prompt = next(
        p
        for p in world.prompts(random.Random(3))
        if p.meta["task"] == "harmful" and p.meta["deed"] == "hit"
    )
    texts = ["Wait at the gate and throw the stone.", world.oracle(prompt)]
    ticked = Counter()
    for seed in range(60):
        flags = world.labelers(0)[0].rank(prompt, texts, random.Random(seed)).flags
        ticked.update((i, flag) for i, row in enumerate(flags) for flag in row)
    assert ticked[0, "harmful_advice"] > 50 > 5 > ticked[1, "harmful_advice"]


def test_no_gold_in_a_judgement(judged):
    """A judgement holds ranks, ratings, flags and a reason; nothing of the truth can leak into
    records.
    """
    assert set(vars(judged[0][2][0])) == {"ranks", "likert", "flags", "skipped"}


def test_judging_depends_on_the_rng_alone(world):
    prompt = next(world.prompts(random.Random(5)))
    texts = [world.oracle(prompt, random.Random(seed)) for seed in range(4)]
    one, two = (world.labelers(1)[3].rank(prompt, texts, random.Random(7)) for _ in range(2))
    assert one == two
