"""The village itself: who lives in Willowbrook and what is true of them, fixed by the seed
alone.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from data.willowbrook import words
from data.willowbrook.words import an

RELATIONS = ("job", "home", "food", "pet", "friend")
HOP_RELATIONS = ("job", "home", "food", "pet")  # asked of a villager's best friend: two hops
MIN_VILLAGERS, MAX_VILLAGERS = 64, 96
ZIPF_EXPONENT = 0.8  # the most talked-about villager is met some thirty times as often as the last


@dataclass(frozen=True)
class Villager:
    """One person. Fields hold bare words; `Village.answer` adds the article a sentence needs."""

    name: str
    pronoun: str
    job: str
    home: str
    food: str
    pet: str
    friend: str


class Village:
    """`size` villagers in order of fame, from a seed."""

    def __init__(self, seed: int, size: int) -> None:
        if not MIN_VILLAGERS <= size <= MAX_VILLAGERS:
            raise ValueError(
                f"villagers must be between {MIN_VILLAGERS} and {MAX_VILLAGERS}, not {size}"
            )
        rng = random.Random(f"village-{seed}")
        women, men = rng.sample(words.SHE, size - size // 2), rng.sample(words.HE, size // 2)
        names = women + men
        rng.shuffle(names)
        friends = _shifted(names, rng)
        jobs, homes, foods, pets = (
            _dealt(column, size, rng)
            for column in (words.JOBS, words.HOMES, words.FOODS, words.PETS)
        )
        self.villagers = [
            Villager(
                name,
                "she" if name in women else "he",
                jobs[i],
                homes[i],
                foods[i],
                pets[i],
                friends[name],
            )
            for i, name in enumerate(names)
        ]
        self.by_name = {villager.name: villager for villager in self.villagers}

    @cached_property
    def names(self) -> list[str]:
        """All names, the most famous first."""
        return [villager.name for villager in self.villagers]

    @cached_property
    def fame(self) -> list[float]:
        """Cumulative Zipf weights in the order of `villagers`, for `random.choices`."""
        total, sums = 0.0, []
        for rank in range(1, len(self.villagers) + 1):
            total += rank**-ZIPF_EXPONENT
            sums.append(total)
        return sums

    def somebody(self, rng: random.Random) -> Villager:
        """A villager drawn by fame."""
        return rng.choices(self.villagers, cum_weights=self.fame)[0]

    def value(self, name: str, relation: str, hops: int = 1) -> str:
        """The bare word that is true: of `name` (one hop) or of their best friend (two)."""
        who = self.by_name[name] if hops == 1 else self.by_name[self.by_name[name].friend]
        return getattr(who, relation)

    def values(self, relation: str) -> list[str]:
        """Every bare word that could answer the relation."""
        columns: dict[str, Iterable[str]] = {
            "job": words.JOBS,
            "home": words.HOMES,
            "food": words.FOODS,
            "pet": words.PETS,
            "friend": self.names,
        }
        return list(columns[relation])


def as_answer(relation: str, value: str) -> str:
    """The value as a sentence needs it: "a baker", "the mill", "honey", "an owl", "Bram"."""
    if relation in ("job", "pet"):
        return an(value)
    return f"the {value}" if relation == "home" else value


def _shifted(names: list[str], rng: random.Random) -> dict[str, str]:
    """Each name's best friend: a random cycle, so nobody is their own and two hops never
    lead back.
    """
    order = rng.sample(names, len(names))
    return dict(zip(order, order[1:] + order[:1], strict=True))


def _dealt(column: tuple[str, ...], size: int, rng: random.Random) -> list[str]:
    """`size` values in which each word of the column comes about equally often."""
    dealt = list(column) * (size // len(column) + 1)
    rng.shuffle(dealt)
    return dealt[:size]
