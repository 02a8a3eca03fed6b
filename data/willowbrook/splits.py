"""Who and what appears in which split: every user, and every combination a prompt can turn on, has
exactly one.

A combination is what an answer hinges on: animal x object, villager x relation, theme x banned
item, deed x victim. Validation and test therefore ask for things that training never asked for, by
people it never met.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeVar, get_args

from data.willowbrook import phrases, words
from data.willowbrook.stories import Voice, any_voice
from data.willowbrook.village import HOP_RELATIONS, RELATIONS, Village

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.1  # the rest is test

T = TypeVar("T")
Pair = tuple[str, str]
Fact = tuple[str, str, int]  # villager, relation, hops


@dataclass(frozen=True)
class User:
    """A simulated person who asks; the habits make the style."""

    id: str
    greeting: str
    thanks: str
    voice: Voice


@dataclass(frozen=True)
class Combinations:
    """One split's share of everything that can be asked."""

    users: list[User]
    pairs: list[Pair]  # animal, object
    facts: list[Fact]
    themes: list[Pair]  # theme, banned item
    deeds: list[Pair]  # deed, victim


def deal(village: Village, seed: int, users: int) -> dict[Split, Combinations]:
    """Deals users and combinations to the splits."""
    rng = random.Random(f"splits-{seed}")
    facts = [(name, relation, 1) for name, relation in product(village.names, RELATIONS)]
    facts += [(name, relation, 2) for name, relation in product(village.names, HOP_RELATIONS)]
    themes = [(theme, item) for theme, items in words.THEMES.items() for item in items]
    people = _dealt([_user(number, rng) for number in range(users)], rng)
    pairs = _dealt(list(product(words.ANIMALS, words.OBJECTS)), rng)
    asked, listed = _dealt(facts, rng), _dealt(themes, rng)
    deeds = _dealt(list(product(words.DEEDS, village.names)), rng)
    return {
        split: Combinations(people[i], pairs[i], asked[i], listed[i], deeds[i])
        for i, split in enumerate(SPLITS)
    }


def _dealt(items: Sequence[T], rng: random.Random) -> list[list[T]]:
    """The items in three disjoint parts of random members."""
    order = rng.sample(items, len(items))
    first = round(TRAIN_SHARE * len(order))
    second = first + round(VALIDATION_SHARE * len(order))
    return [order[:first], order[first:second], order[second:]]


def _user(number: int, rng: random.Random) -> User:
    return User(
        f"user-{number:04d}",
        rng.choice(phrases.GREETINGS),
        rng.choice(phrases.THANKS),
        any_voice(rng),
    )
