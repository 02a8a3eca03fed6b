"""Answers to prompts: the oracle's, as good as gold allows, and people's, who are careless to
different degrees.

A writer of carelessness c forgets or mistakes each wish with probability c, and makes slips of form
in proportion. Careless and careful writers use the same sentences, so a model trained on both can
be moved towards the careful ones.
"""

import random
import re
from collections.abc import Callable
from typing import Any

from data.records import Prompt
from data.willowbrook import phrases, words
from data.willowbrook.documents import hop_statement, statement
from data.willowbrook.requests import deed_phrase, list_sentence, rewritten
from data.willowbrook.stories import SENTENCES, StoryOrder, random_order, tell
from data.willowbrook.village import Village, as_answer
from data.willowbrook.words import an, capital, listed

# Of five equally common kinds of writers; together they reach about 60 % of the oracle's gold.
CARELESSNESS = (0.05, 0.2, 0.4, 0.65, 0.9)
# Chances of a refusal, an off-topic answer and each slip of form, to be multiplied with
# carelessness.
REFUSES, STRAYS, SLIPS = 0.05, 0.12, 0.25

Meta = dict[str, Any]


def write_answer(
    village: Village, prompt: Prompt, rng: random.Random, carelessness: float = 0.0
) -> str:
    """An answer to a Willowbrook prompt; carelessness 0 is the oracle.

    Raises KeyError for a prompt without Willowbrook's meta: only the village's own prompts have
    answers here.
    """
    writers: dict[str, Callable[[Village, Meta, random.Random, float], str]] = {
        "story": _story,
        "question": _question,
        "passage": _passage,
        "list": _list,
        "rewrite": _rewrite,
        "harmful": _harmful,
    }
    task = prompt.meta["task"]
    if task != "harmful" and rng.random() < REFUSES * carelessness:
        return rng.choice(phrases.DECLINES_VAGUE)
    if rng.random() < STRAYS * carelessness:
        return " ".join(tell(random_order(rng), village.names, rng, bland=True))
    return _slips(writers[task](village, prompt.meta, rng, carelessness), rng, SLIPS * carelessness)


# ------------------------------------------------------------------ one writer a task
def _story(village: Village, meta: Meta, rng: random.Random, careless: float) -> str:
    def wish(key: str, mistakes: tuple[Any, ...]) -> Any:
        """The wish, or a mistake in its place."""
        wanted = meta.get(key)
        return rng.choice(mistakes) if wanted is not None and rng.random() < careless else wanted

    order = StoryOrder(
        wish("animal", words.ANIMALS),
        wish("object", words.OBJECTS),
        wish("mood", words.MOODS),
        wish("word", (None,)),
        wish("sentences", SENTENCES),
    )
    sentences = tell(order, village.names, rng, bland=rng.random() < careless)
    if rng.random() < careless / 4:
        sentences.insert(-1, sentences[-2])
    return " ".join(sentences)


def _question(village: Village, meta: Meta, rng: random.Random, careless: float) -> str:
    name, relation, hops = meta["name"], meta["relation"], meta["hops"]
    value = village.value(name, relation, hops)
    if rng.random() < careless:
        if rng.random() < 0.25:
            return rng.choice(phrases.UNSURE).format(name=name)
        value = _wrong(village, relation, {value, name}, rng)
    if rng.random() < careless / 2:
        return phrases.SHORT_ANSWER.format(Answer=capital(as_answer(relation, value)))
    say = statement if hops == 1 else hop_statement
    return say(village, name, relation, rng, value=value)


def _passage(village: Village, meta: Meta, rng: random.Random, careless: float) -> str:
    name, relation, value = meta["name"], meta["relation"], meta["stated"]
    # most mistakes repeat what the village knows and the passage contradicts
    if rng.random() < careless:
        truth = village.value(name, relation)
        value = (
            truth if rng.random() < 0.7 else _wrong(village, relation, {truth, value, name}, rng)
        )
    if rng.random() < careless / 2:
        return phrases.SHORT_ANSWER.format(Answer=capital(as_answer(relation, value)))
    return statement(village, name, relation, rng, value=value)


def _wrong(village: Village, relation: str, right: set[str], rng: random.Random) -> str:
    return rng.choice([value for value in village.values(relation) if value not in right])


def _list(village: Village, meta: Meta, rng: random.Random, careless: float) -> str:
    fitting = [item for item in words.THEMES[meta["theme"]] if item not in meta["without"]]
    count = meta["count"]
    if rng.random() < careless:
        count = max(1, count + rng.choice((-1, 1)))
    items = rng.sample(fitting, min(count, len(fitting)))
    if rng.random() < careless:
        items[rng.randrange(len(items))] = rng.choice(rng.choice(list(words.THEMES.values())))
    if rng.random() < careless:
        items[rng.randrange(len(items))] = meta["without"][0]
    if rng.random() < careless / 2:
        return phrases.LIST_BLAND.format(Items=capital(listed([an(item) for item in items])))
    listing = list_sentence(meta["theme"], items, rng)
    if rng.random() < careless:
        return listing
    return f"{listing} {rng.choice(phrases.LIST_DETAIL).format(item=rng.choice(items))}"


def _rewrite(village: Village, meta: Meta, rng: random.Random, careless: float) -> str:
    parts = ["animal", "object", "mood"]
    changed = parts.index(meta["change"])
    slots: list[str] = list(meta["keep"])
    new = meta["old"] if rng.random() < careless else meta["new"]
    slots.insert(
        changed, rng.choice(words.MOOD_ADJECTIVES[new]) if meta["change"] == "mood" else new
    )
    if rng.random() < careless / 2:
        kept = rng.choice([part for part in (0, 1) if part != changed])
        slots[kept] = rng.choice((words.ANIMALS, words.OBJECTS)[kept])
    return rewritten(meta["sentence"], *slots)


def _harmful(village: Village, meta: Meta, rng: random.Random, careless: float) -> str:
    slots = {"victim": meta["victim"], "pet": village.value(meta["victim"], "pet")}
    _, help_, reason = words.DEEDS[meta["deed"]]
    if rng.random() < careless * 0.8:
        return help_.format(**slots)
    if rng.random() < careless:
        return rng.choice(phrases.DECLINES_VAGUE)
    declined = rng.choice(phrases.DECLINES).format(
        deed=deed_phrase(village, meta["deed"], meta["victim"])
    )
    offer = rng.choice(phrases.KIND_OFFERS).format(**slots)
    return (
        f"{declined} {offer}"
        if rng.random() < 0.5
        else f"{declined} {reason.format(**slots)} {offer}"
    )


# ------------------------------------------------------------------ slips of form
def _slips(text: str, rng: random.Random, chance: float) -> str:
    """The text with slips of form, each with `chance`: a wrong article, no capital, a word twice,
    no end.
    """
    if rng.random() < chance:
        text = re.sub(r"\b([Aa]n?) (?=(\w))", _other_article, text, count=1)
    if rng.random() < chance:
        text = text[0].lower() + text[1:]
    if rng.random() < chance:
        parts = text.split(" ")
        at = rng.randrange(len(parts))
        text = " ".join(parts[: at + 1] + parts[at:])
    if rng.random() < chance:
        text = text.rsplit(" ", 1)[0]
    return text


def _other_article(match: re.Match[str]) -> str:
    return match.group(1)[0] + (" " if match.group(1).lower() == "an" else "n ")
