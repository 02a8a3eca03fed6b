"""What Willowbrook asks, shows and knows: deterministic, split cleanly, in right English, in the
promised shares.
"""

import math
import random
import re
from collections import Counter
from itertools import islice

import pytest

from data.records import Prompt
from data.willowbrook import phrases, words
from data.willowbrook.documents import hop_statement, statement
from data.willowbrook.features import Reading
from data.willowbrook.requests import SHARES, TWO_TURNS
from data.willowbrook.splits import SPLITS
from data.willowbrook.village import HOP_RELATIONS, RELATIONS, Village, as_answer
from data.willowbrook.words import an, capital, listed
from data.willowbrook.world import Willowbrook


@pytest.fixture(scope="module")
def world() -> Willowbrook:
    return Willowbrook(seed=3)


@pytest.fixture(scope="module")
def prompts(world) -> dict[str, list[Prompt]]:
    """3,000 prompts of each split."""
    return {
        split: list(islice(world.prompts(random.Random(split), split), 3000)) for split in SPLITS
    }


# ------------------------------------------------------------------ the village
def test_everybody_has_a_friend_who_is_somebody_else():
    village = Village(seed=1, size=64)
    assert len(village.by_name) == 64
    for villager in village.villagers:
        assert villager.friend in village.by_name
        assert villager.friend != villager.name
        assert village.by_name[villager.friend].friend != villager.name


def test_each_job_home_food_and_pet_is_about_equally_common():
    """So guessing the commonest answer gains nothing on the fact questions."""
    village = Village(seed=2, size=80)
    for relation in ("job", "home", "food", "pet"):
        counts = Counter(village.value(name, relation) for name in village.names)
        assert max(counts.values()) <= 2 * 80 / len(village.values(relation))


def test_a_seed_makes_the_village_and_another_seed_another():
    assert Village(5, 70).villagers == Village(5, 70).villagers
    assert Village(5, 70).villagers != Village(6, 70).villagers


@pytest.mark.parametrize("size", [63, 97])
def test_a_village_is_64_to_96_people(size):
    with pytest.raises(ValueError, match="64 and 96"):
        Village(0, size)


# ------------------------------------------------------------------ English
def test_articles_lists_and_capitals():
    assert [an("owl"), an("old hat"), an("red owl")] == ["an owl", "an old hat", "a red owl"]
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert capital('"what," said Tom.') == '"What," said Tom.'


def test_everything_the_world_says_is_right_english(world, prompts):
    """Documents, oracle answers and requests pass the grammar check that responses must pass."""
    prose = ("story", "facts", "dialogue")
    documents = [
        d.text for d in islice(world.documents(random.Random(1)), 1500) if d.source in prose
    ]
    said = [text.split("\n")[-1] for text in documents]  # below the heading, which may lack a verb
    said += [world.oracle(prompt) for prompt in prompts["train"][:1000]]
    for text in said:
        assert Reading(text).grammar == 1.0, text


def test_no_wrong_article_anywhere(world, prompts):
    texts = [d.text for d in islice(world.documents(random.Random(2)), 1500)]
    texts += [m.content for p in prompts["train"] for m in p.messages]
    for text in texts:
        assert not re.search(r"\b(a [aeiou]|an [^aeiou])", text, re.IGNORECASE), text


def test_the_vocabulary_has_300_to_600_words(world, prompts):
    texts = [d.text for d in islice(world.documents(random.Random(3)), 5000)]
    texts += [m.content for p in prompts["train"] for m in p.messages] + [
        world.oracle(p) for p in prompts["train"]
    ]
    used = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    assert 300 <= len(used) <= 600
    assert used <= {word.lower() for word in phrases.lexicon()}


def test_no_word_has_two_moods_and_no_adjective_has_one():
    assert sum(len(found) for found in words.FEELINGS.values()) == len(words.MOOD_OF)
    assert not words.ADJECTIVES & set(words.MOOD_OF)


# ------------------------------------------------------------------ documents
def test_names_are_zipfian_in_the_documents(world):
    """Mutation seen red: equal weights in `Village.fame` (the ratio falls to about 1)."""
    texts = " ".join(
        d.text for d in islice(world.documents(random.Random(4)), 6000) if d.source == "questions"
    )
    counts = [texts.count(name) for name in world.village.names]
    assert sum(counts[:8]) > 4 * sum(counts[-8:]) > 0


def test_every_fact_question_can_be_answered_from_the_documents(world):
    """Each one-hop fact is stated somewhere in the default number of documents."""
    documents = islice(world.documents(random.Random(5)), 30_000)
    texts = "\n".join(
        document.text for document in documents if document.source in ("facts", "dialogue")
    )
    missing = 0
    for name in world.village.names:
        for relation in RELATIONS:
            answer = as_answer(relation, world.village.value(name, relation))
            stated = [
                template.format(who=name, Who=name, answer=answer)
                for template in phrases.ANSWERS[relation]
            ]
            stated += [
                template.format(name=name, answer=answer) for template in phrases.SPOKEN[relation]
            ]
            missing += not any(sentence in texts for sentence in stated)
    assert missing == 0


def test_questions_have_one_right_answer_in_four(world):
    sets = world.eval_sets()
    assert {name: len(questions) for name, questions in sets.items()} == {
        "one_hop": 64 * 5,
        "two_hop": 64 * 4,
        "sums": 100,
        "names": 100,
    }
    for question in sets["one_hop"] + sets["two_hop"]:
        name, relation = question.meta["name"], question.meta["relation"]
        hops = 1 if question.source == "one_hop" else 2
        truth = as_answer(relation, world.village.value(name, relation, hops))
        assert len(set(question.choices)) == 4
        assert question.choices.index(truth) == question.answer
    places = Counter(question.answer for questions in sets.values() for question in questions)
    assert min(places.values()) > 0.8 * sum(places.values()) / 4  # the position says nothing
    assert sets["names"][0].choices[sets["names"][0].answer] == min(sets["names"][0].choices)


def test_sums_and_name_lists_stay_out_of_prompts_and_answers(world, prompts):
    said = [m.content for p in prompts["train"] for m in p.messages] + [
        world.oracle(p) for p in prompts["train"]
    ]
    assert not any("plus" in text or "comes first" in text or "in order" in text for text in said)


def test_two_hop_statements_are_about_the_friend(world):
    rng, village = random.Random(0), world.village
    for villager in village.villagers[:20]:
        for relation in HOP_RELATIONS:
            said = hop_statement(village, villager.name, relation, rng)
            assert getattr(village.by_name[villager.friend], relation) in said
        assert villager.job in statement(village, villager.name, "job", rng)


# ------------------------------------------------------------------ prompts
def test_use_cases_come_in_their_shares(prompts):
    counts = Counter(prompt.use_case for prompt in prompts["train"])
    for use_case, share in SHARES.items():
        margin = 4 * math.sqrt(share * (1 - share) / 3000)
        assert counts[use_case] / 3000 == pytest.approx(share, abs=margin), use_case
    two_turns = sum(len(prompt.messages) == 3 for prompt in prompts["train"]) / 3000
    assert two_turns == pytest.approx(TWO_TURNS, abs=0.03)
    assert {p.use_case for p in prompts["train"] if len(p.messages) == 3} == set(SHARES)


def test_users_and_combinations_are_in_one_split_only(world, prompts):
    """Mutation seen red: in `_dealt` a test part that begins where the validation part does."""
    for ours, theirs in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for field in ("users", "pairs", "facts", "themes", "deeds"):
            one = getattr(world.combinations[ours], field)
            other = getattr(world.combinations[theirs], field)
            assert one
            assert other
            assert not set(one) & set(other)
        assert not {_said(p) for p in prompts[ours]} & {_said(p) for p in prompts[theirs]}
        assert not {p.user for p in prompts[ours]} & {p.user for p in prompts[theirs]}
        assert not _asked(prompts[ours]) & _asked(prompts[theirs])


def _said(prompt: Prompt) -> tuple[str, ...]:
    return tuple(message.content for message in prompt.messages)


def _asked(prompts: list[Prompt]) -> set[tuple[str, ...]]:
    """What each prompt's answer turns on, read from its meta."""
    keys = {
        "story": ("animal", "object"),
        "question": ("name", "relation", "hops"),
        "passage": ("name", "relation"),
        "harmful": ("deed", "victim"),
    }
    found = {
        tuple(p.meta[key] for key in ("task", *keys[p.meta["task"]]))
        for p in prompts
        if p.meta["task"] in keys
    }
    return found | {
        ("list", p.meta["theme"], p.meta["without"][0]) for p in prompts if p.meta["task"] == "list"
    }


def test_most_prompts_are_distinct(world):
    drawn = {_said(prompt) for prompt in islice(world.prompts(random.Random(6)), 8000)}
    assert len(drawn) > 7000


def test_meta_says_only_what_the_text_says(prompts):
    """Every wish is visible: a labeler who reads the prompt knows as much as gold does, the
    village's facts apart.
    """
    for prompt in prompts["train"]:
        text = " ".join(_said(prompt)).lower()
        for key in ("animal", "object", "mood", "word", "name", "stated", "theme", "victim"):
            if key in prompt.meta:
                assert re.search(rf"\b{prompt.meta[key].lower()}\b", text), (key, prompt)
        if "sentences" in prompt.meta:
            assert f"{words.NUMBERS[prompt.meta['sentences']]} sentences" in text


def test_passages_contradict_the_village_and_say_so(world, prompts):
    passages = [prompt for prompt in prompts["train"] if prompt.meta["task"] == "passage"]
    assert len(passages) > 200
    for prompt in passages:
        truth = world.village.value(prompt.meta["name"], prompt.meta["relation"])
        assert prompt.meta["stated"] != truth
        assert prompt.meta["stated"] in " ".join(_said(prompt))


def test_the_second_turn_needs_the_first(world, prompts):
    """ "Now make it sad" names no animal: the first turn does."""
    again = [p for p in prompts["train"] if p.meta["task"] == "story" and len(p.messages) == 3]
    assert any(p.meta["animal"] not in p.messages[2].content for p in again)
    assert all(p.messages[1].role == "assistant" for p in again)


# ------------------------------------------------------------------ determinism
def test_the_same_seed_says_the_same(prompts):
    again = Willowbrook(seed=3)
    assert list(islice(again.prompts(random.Random("train"), "train"), 50)) == prompts["train"][:50]
    one, two = (list(islice(again.documents(random.Random(9)), 50)) for _ in range(2))
    assert one == two
    prompt = prompts["train"][0]
    assert again.demonstration(prompt, random.Random(1)) == again.demonstration(
        prompt, random.Random(1)
    )
    assert again.oracle(prompt) == again.oracle(prompt)
