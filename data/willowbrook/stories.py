"""Tells stories to order: the same sentences for documents, demonstrations and the oracle."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data.willowbrook import phrases, words
from data.willowbrook.words import an, capital

SENTENCES = (2, 3, 4)  # what a prompt may ask for
# Documents tell longer stories: what returns more often is copied sooner. With 2 to 4 sentences a
# model of 0.9M had not learned after 0.8M tokens to repeat its own story's object (3.1 nats,
# chance); with 4 to 6 it had begun to (0.9 nats).
LONG = (4, 5, 6)


@dataclass(frozen=True)
class StoryOrder:
    """What a story should be like; None leaves it to the teller."""

    animal: str
    object: str
    mood: str | None = None
    word: str | None = None
    sentences: int | None = None


def some_wishes(
    animal: str, thing: str, rng: random.Random, lengths: tuple[int, ...] = SENTENCES
) -> StoryOrder:
    """An order with some of the wishes that people have beyond the animal and the object."""
    return StoryOrder(
        animal,
        thing,
        mood=rng.choice(words.MOODS) if rng.random() < 0.7 else None,
        word=rng.choice(words.REQUIRED_WORDS) if rng.random() < 0.4 else None,
        sentences=rng.choice(lengths) if rng.random() < 0.4 else None,
    )


def random_order(rng: random.Random, lengths: tuple[int, ...] = SENTENCES) -> StoryOrder:
    """Some wishes about any animal and object."""
    return some_wishes(rng.choice(words.ANIMALS), rng.choice(words.OBJECTS), rng, lengths)


def family(word: str) -> str:
    """Which sentences of phrases.py the required word fits: sky, sound or spot."""
    if word in words.SKY_WORDS:
        return "sky"
    return "sound" if word in words.SOUND_WORDS else "spot"


def tell(
    order: StoryOrder,
    names: Sequence[str],
    rng: random.Random,
    bland: bool = False,
    lengths: tuple[int, ...] = SENTENCES,
) -> list[str]:
    """The story's sentences. `bland` leaves out adjectives, times and places: right, but without
    detail.
    """
    mood = order.mood or rng.choice(words.MOODS)
    count = order.sentences or rng.choice(lengths)
    slots = _slots(order, mood, names, rng, bland)
    middles = rng.sample(phrases.MIDDLES, max(0, count - 2))
    if order.word and middles:
        middles[rng.randrange(len(middles))] = rng.choice(
            phrases.WORD_SENTENCES[family(order.word)]
        )
    opening = _opening(order, count, slots, rng, bland)
    templates = [opening, *middles, rng.choice(phrases.ENDINGS[mood])]
    return [capital(template.format_map(slots | _fresh(names, rng))) for template in templates]


def _slots(
    order: StoryOrder, mood: str, names: Sequence[str], rng: random.Random, bland: bool
) -> dict[str, str]:
    kind = (
        rng.choice(words.MOOD_ADJECTIVES[mood])
        if rng.random() < 0.25
        else rng.choice(words.CREATURE_ADJECTIVES)
    )
    animal = order.animal if bland else f"{kind} {order.animal}"
    thing = (
        f"{rng.choice(words.THING_ADJECTIVES)} {order.object}"
        if not bland and rng.random() < 0.6
        else order.object
    )
    return {
        "animal": order.animal,
        "object": order.object,
        "word": order.word or "",
        "a_animal": an(animal),
        "a_object": an(thing),
    }


def _fresh(names: Sequence[str], rng: random.Random) -> dict[str, str]:
    """Slots that each sentence fills anew."""
    return {
        "name": rng.choice(names),
        "place": rng.choice(phrases.PLACES),
        "adj": rng.choice(words.THING_ADJECTIVES),
    }


def _opening(
    order: StoryOrder, count: int, slots: dict[str, str], rng: random.Random, bland: bool
) -> str:
    """The first sentence's template, led in by a time, or by the required word when no later
    sentence has room.
    """
    template = rng.choice(phrases.BLAND_OPENINGS if bland else phrases.OPENINGS)
    if order.word and count < 3:
        return rng.choice(phrases.WORD_LEADS[family(order.word)]) + ", " + template
    if bland or rng.random() < 0.3:
        return template
    return rng.choice(phrases.LEADS) + ", " + template


# ------------------------------------------------------------------ asking for stories
@dataclass(frozen=True)
class Voice:
    """How somebody asks: in full sentences ("Tell me a story") or tersely ("Story: owl, kite")."""

    verb: str
    noun: str
    terse: bool


def any_voice(rng: random.Random) -> Voice:
    """A way of asking."""
    return Voice(
        rng.choice(phrases.STORY_VERBS), rng.choice(phrases.STORY_NOUNS), rng.random() < 0.15
    )


def request(order: StoryOrder, voice: Voice, rng: random.Random, short: bool = False) -> str:
    """The order in words. `short` leaves out the number of sentences."""
    count = words.NUMBERS[order.sentences] if order.sentences and not short else None
    if voice.terse:
        parts = [
            phrases.STORY_TERSE.format(
                Noun=capital(voice.noun), animal=order.animal, object=order.object
            )
        ]
        parts += [order.mood] if order.mood else []
        parts += [f"the word {order.word}"] if order.word else []
        parts += [f"{count} sentences"] if count else []
        return ", ".join(parts) + "."
    mood_first = order.mood is not None and rng.random() < 0.6
    noun = f"{order.mood} {voice.noun}" if mood_first else voice.noun
    asked = rng.choice(phrases.STORY_REQUESTS).format(
        verb=voice.verb,
        verb_low=voice.verb[0].lower() + voice.verb[1:],
        a_noun=an(noun),
        a_animal=an(order.animal),
        a_object=an(order.object),
    )
    return " ".join([asked, *wishes(order, rng, mood=not mood_first, count=not short)])


def wishes(
    order: StoryOrder, rng: random.Random, mood: bool = True, count: bool = True
) -> list[str]:
    """One sentence for each wish beyond the animal and the object."""
    said = []
    if mood and order.mood:
        said.append(rng.choice(phrases.ASK_MOOD).format(mood=order.mood))
    if order.word:
        said.append(rng.choice(phrases.ASK_WORD).format(word=order.word))
    if count and order.sentences:
        number = words.NUMBERS[order.sentences]
        said.append(rng.choice(phrases.ASK_COUNT).format(count=number, Count=capital(number)))
    return said
