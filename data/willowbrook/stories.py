"""Tells stories to order: the same sentences for documents, demonstrations and the oracle."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data.willowbrook import phrases, words
from data.willowbrook.words import an, capital

SENTENCES = (2, 3, 4)  # what a prompt may ask for


@dataclass(frozen=True)
class StoryOrder:
    """What a story should be like; None leaves it to the teller."""

    animal: str
    object: str
    mood: str | None = None
    word: str | None = None
    sentences: int | None = None


def random_order(rng: random.Random) -> StoryOrder:
    """An order with every wish filled in."""
    return StoryOrder(
        rng.choice(words.ANIMALS), rng.choice(words.OBJECTS), rng.choice(words.MOODS),
        rng.choice(words.REQUIRED_WORDS) if rng.random() < 0.5 else None, rng.choice(SENTENCES),
    )


def family(word: str) -> str:
    """Which sentences of phrases.py the required word fits: sky, sound or spot."""
    if word in words.SKY_WORDS:
        return "sky"
    return "sound" if word in words.SOUND_WORDS else "spot"


def tell(order: StoryOrder, names: Sequence[str], rng: random.Random, bland: bool = False) -> list[str]:
    """The story's sentences. `bland` leaves out adjectives, times and places: right, but without detail."""
    mood = order.mood or rng.choice(words.MOODS)
    count = order.sentences or rng.choice(SENTENCES)
    slots = _slots(order, mood, names, rng, bland)
    middles = rng.sample(phrases.MIDDLES, max(0, count - 2))
    if order.word and middles:
        middles[rng.randrange(len(middles))] = rng.choice(phrases.WORD_SENTENCES[family(order.word)])
    opening = _opening(order, count, slots, rng, bland)
    templates = [opening, *middles, rng.choice(phrases.ENDINGS[mood])]
    return [capital(template.format_map(slots | _fresh(names, rng))) for template in templates]


def _slots(
    order: StoryOrder, mood: str, names: Sequence[str], rng: random.Random, bland: bool
) -> dict[str, str]:
    kind = rng.choice(words.MOOD_ADJECTIVES[mood]) if rng.random() < 0.25 else rng.choice(words.CREATURE_ADJECTIVES)
    animal = order.animal if bland else f"{kind} {order.animal}"
    thing = f"{rng.choice(words.THING_ADJECTIVES)} {order.object}" if not bland and rng.random() < 0.6 else order.object
    return {
        "animal": order.animal, "object": order.object, "word": order.word or "",
        "a_animal": an(animal), "a_object": an(thing),
    }


def _fresh(names: Sequence[str], rng: random.Random) -> dict[str, str]:
    """Slots that each sentence fills anew."""
    return {"name": rng.choice(names), "place": rng.choice(phrases.PLACES), "adj": rng.choice(words.THING_ADJECTIVES)}


def _opening(order: StoryOrder, count: int, slots: dict[str, str], rng: random.Random, bland: bool) -> str:
    """The first sentence's template, led in by a time, or by the required word when no later sentence has room."""
    template = rng.choice(phrases.BLAND_OPENINGS if bland else phrases.OPENINGS)
    if order.word and count < 3:
        return rng.choice(phrases.WORD_LEADS[family(order.word)]) + ", " + template
    if bland or rng.random() < 0.3:
        return template
    return rng.choice(phrases.LEADS) + ", " + template
