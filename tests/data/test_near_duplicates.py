"""Near duplicates: the pairs over the threshold are found, and what only looks alike stays."""

import random

import pytest

from data.near_duplicates import jaccard, minhash, near_duplicates, shingles
from data.records import Comparison, Demonstration, Document, Message, Prompt, Ranking

WORDS = [f"word{i}" for i in range(5000)]
FRUIT = Message(role="user", content="Name a fruit that grows near the mill, please.")


def kept(records, threshold=0.95):
    earlier = near_duplicates(records, threshold)
    return [record for record, other in zip(records, earlier, strict=True) if other is None]


def document_pair(changed, words=400, seed=0):
    """Two documents of `words` words that differ in every (words // changed)-th word."""
    rng = random.Random(seed)
    first = rng.choices(WORDS, k=words)
    second = list(first)
    for place in range(changed):
        second[place * words // changed] = f"other{seed}_{place}"
    return Document(text=" ".join(first)), Document(text=" ".join(second))


def ranking(labeler, ranks=(1, 3, 2), responses=("A plum.", "No.", "A pear.")):
    return Ranking(prompt=[FRUIT], responses=list(responses), ranks=list(ranks), labeler=labeler)


@pytest.mark.parametrize(("changed", "similar"), [(1, 0.975), (3, 0.93), (40, 0.33)])
def test_near_duplicates_are_those_over_the_threshold(changed, similar):
    """Pairs planted at known similarity. Seen red with `>=` turned to `<` and with candidates left
    unverified.
    """
    for seed in range(5):
        first, second = document_pair(changed, seed=seed)
        exact = jaccard(shingles(first.text), shingles(second.text))
        assert exact == pytest.approx(similar, abs=0.02)
        assert near_duplicates([first, second], 0.95) == [None, 0 if exact >= 0.95 else None]


def test_near_duplicates_agree_with_comparing_every_pair():
    rng = random.Random(3)
    documents = []
    for seed in range(60):
        documents += document_pair(
            rng.choice([1, 2, 4, 8]), words=rng.choice([80, 200, 400]), seed=seed
        )
    rng.shuffle(documents)
    brute = []
    for document in documents:
        grams = shingles(document.text)
        if all(jaccard(grams, shingles(other.text)) < 0.9 for other in brute):
            brute.append(document)
    assert kept(documents, 0.9) == brute and len(brute) < len(documents)


def test_minhash_estimates_the_jaccard_similarity():
    """Mean over pairs within 0.02 of the truth. Seen red with all MULTIPLIERS equal."""
    for changed in (4, 20):
        gaps = []
        for seed in range(40):
            a, b = (shingles(d.text) for d in document_pair(changed, seed=seed))
            gaps.append((minhash(a) == minhash(b)).mean() - jaccard(a, b))
        assert abs(sum(gaps) / len(gaps)) < 0.02


def test_several_labelers_rankings_of_one_prompt_stay():
    """Seen red on one text for a whole record: the labeler and the ranks were not looked at."""
    rankings = [ranking("ana"), ranking("bram"), ranking("cleo")]
    assert kept(rankings) == rankings
    assert near_duplicates([ranking("ana"), ranking("bram"), ranking("ana")], 0.95)[2] == 0


def test_without_a_labeler_only_the_same_order_is_the_same_ranking():
    """Seen red with the labeler alone as the key."""
    rankings = [ranking(None, (1, 2, 3)), ranking(None, (3, 2, 1)), ranking(None, (1, 2, 3))]
    assert near_duplicates(rankings, 0.95) == [None, None, 0]


def test_one_other_response_is_another_ranking():
    """A short answer is all that differs beside a long one: seen red with the texts joined."""
    long = document_pair(1)[0].text
    pair = [ranking("ana", responses=(long, "No.", "A pear.")), ranking("ana", (1, 2, 3))]
    pair.append(ranking("ana", responses=(long, "Yes.", "A pear.")))
    assert kept(pair) == pair
    swapped = [
        Comparison(prompt=[FRUIT], chosen=long, rejected=answer) for answer in ("No.", "Yes.")
    ]
    assert kept(swapped) == swapped


def test_several_questions_about_one_passage_stay():
    """Seen red with the texts of a conversation joined."""
    passage = Message(role="system", content=document_pair(1)[0].text)
    shown = [
        Demonstration(
            messages=[
                passage,
                Message(role="user", content=question),
                Message(role="assistant", content="Yes."),
            ]
        )
        for question in ("Is there a mill?", "Is there a well?")
    ]
    assert kept([*shown, shown[0]]) == shown


def test_prompts_that_differ_in_a_sign_are_two_questions():
    """Seen red with words alone: both sums were one, and all emoji too."""
    prompts = [
        Prompt(messages=[Message(role="user", content=text)])
        for text in ("How much is 3 + 4 in plums?", "How much is 3 - 4 in plums?", "😀", "🎉")
    ]
    assert kept(prompts) == prompts
