"""What people ask of the assistant: prompts of six use cases, some in two turns, in about the
paper's shares (Table 1).

`Prompt.meta` says what was asked ("task" and the wishes, all of them visible in the text), so that
a response can be judged without reading English. It never holds the truth about the village.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from data.records import Message, Prompt
from data.willowbrook import phrases, words
from data.willowbrook.documents import BATCH, question, statement
from data.willowbrook.splits import Combinations, Pair, User
from data.willowbrook.stories import StoryOrder, request, some_wishes, tell, wishes
from data.willowbrook.village import Village, as_answer
from data.willowbrook.words import an, capital, listed

SHARES = {
    "generation": 0.45,
    "open_qa": 0.15,
    "closed_qa": 0.1,
    "brainstorming": 0.1,
    "rewrite": 0.1,
    "harmful": 0.1,
}
TWO_TURNS = 0.15
LIST_COUNTS = (2, 3, 4)

# the turns (user, assistant, user: the last is the user's) and the meta
Request = tuple[list[str], dict[str, Any]]


class Asker:
    """Asks, as the users of one split and about its combinations, for ever; repeats occur and the
    caller drops them.
    """

    def __init__(self, village: Village, combinations: Combinations, rng: random.Random) -> None:
        self.village, self.combinations, self.rng = village, combinations, rng

    def __iter__(self) -> Iterator[Prompt]:
        requests = {
            "generation": self.story,
            "open_qa": self.open_question,
            "closed_qa": self.closed_question,
            "brainstorming": self.brainstorm,
            "rewrite": self.rewrite,
            "harmful": self.harmful,
        }
        use_cases, shares = list(SHARES), list(SHARES.values())
        while True:
            for use_case in self.rng.choices(use_cases, shares, k=BATCH):
                user = self.rng.choice(self.combinations.users)
                turns, meta = requests[use_case](user, self.rng.random() < TWO_TURNS)
                turns[0] = " ".join(part for part in (user.greeting, turns[0], user.thanks) if part)
                roles = ("user", "assistant")
                messages = [
                    Message(role=roles[i % 2], content=text) for i, text in enumerate(turns)
                ]
                yield Prompt(
                    messages=messages,
                    user=user.id,
                    use_case=use_case,
                    source="willowbrook",
                    meta=meta,
                )

    # -------------------------------------------------------------- stories
    def story(self, user: User, two_turns: bool) -> Request:
        """A story about an animal and an object, at times with a mood, a required word and a number
        of sentences.
        """
        rng = self.rng
        animal, thing = rng.choice(self.combinations.pairs)
        order = some_wishes(animal, thing, rng)
        if not two_turns:
            return [request(order, user.voice, rng)], story_meta(order)
        return self._story_again(order, user)

    def _story_again(self, order: StoryOrder, user: User) -> Request:
        """The first turn gets a story that differs in one wish; the second turn asks for that wish
        alone to change.
        """
        rng = self.rng
        change = rng.choice(("mood", "animal", "object"))
        near = (
            self._neighbour((order.animal, order.object), keep=change == "animal")
            if change != "mood"
            else None
        )
        if near:
            earlier = StoryOrder(*near, order.mood, sentences=2)
        else:
            change = "mood"
            order = order if order.mood else replace(order, mood=rng.choice(words.MOODS))
            earlier = StoryOrder(
                order.animal, order.object, self._other(words.MOODS, order.mood), sentences=2
            )
        told = " ".join(tell(earlier, self.village.names, rng, bland=True))
        again = rng.choice(phrases.STORY_AGAIN[change]).format(
            mood=order.mood, a_animal=an(order.animal), a_object=an(order.object)
        )
        asked = " ".join([again, *wishes(order, rng, mood=False)])
        return [request(earlier, user.voice, rng, short=True), told, asked], story_meta(order)

    def _neighbour(self, pair: Pair, keep: int) -> Pair | None:
        """Another combination of this split with the same animal (keep=0) or object (keep=1), if
        there is one.
        """
        others = [
            other
            for other in self.combinations.pairs
            if other[keep] == pair[keep] and other != pair
        ]
        return self.rng.choice(others) if others else None

    def _other(self, options: tuple[str, ...], taken: str | None) -> str:
        return self.rng.choice([option for option in options if option != taken])

    # -------------------------------------------------------------- questions
    def open_question(self, user: User, two_turns: bool) -> Request:
        """A question about the village; in two turns, a second one that says only "she" or "he"."""
        rng = self.rng
        name, relation, hops = rng.choice(self.combinations.facts)
        lead = rng.choice(phrases.QUESTION_LEADS)
        meta = {"task": "question", "name": name, "relation": relation, "hops": hops}
        if not two_turns or hops == 2:
            return [lead + question(name, relation, hops, rng)], meta
        first = rng.choice(
            [fact[1] for fact in self.combinations.facts if fact[0] == name and fact[2] == 1]
        )
        told = statement(self.village, name, first, rng)
        asked = rng.choice(phrases.FOLLOW_UPS[relation]).format(
            pronoun=self.village.by_name[name].pronoun
        )
        return [lead + question(name, first, 1, rng), told, asked], meta

    def closed_question(self, user: User, two_turns: bool) -> Request:
        """A question with a passage that contradicts the village; the right answer is the
        passage's.
        """
        rng = self.rng
        name, relation, _ = rng.choice([fact for fact in self.combinations.facts if fact[2] == 1])
        wrong = {self.village.value(name, relation), name}
        stated = rng.choice(
            [value for value in self.village.values(relation) if value not in wrong]
        )
        news = rng.choice(phrases.NEWS[relation]).format(
            name=name, answer=as_answer(relation, stated)
        )
        asked = question(name, relation, 1, rng)
        meta = {"task": "passage", "name": name, "relation": relation, "stated": stated}
        if two_turns:
            return [
                rng.choice(phrases.REMEMBER).format(news=news),
                rng.choice(phrases.NOTED),
                asked,
            ], meta
        return [rng.choice(phrases.PASSAGES).format(news=news, question=asked)], meta

    # -------------------------------------------------------------- brainstorming, rewriting, harm
    def brainstorm(self, user: User, two_turns: bool) -> Request:
        """A list of things, without a banned one; in two turns, more of them without those already
        given.
        """
        rng = self.rng
        theme, banned = rng.choice(self.combinations.themes)
        count = 2 if two_turns else rng.choice(LIST_COUNTS)
        asked = rng.choice(phrases.LIST_REQUESTS).format(theme=theme, count=words.NUMBERS[count])
        meta = {"task": "list", "theme": theme, "count": count, "without": [banned]}
        if not two_turns:
            return [f"{asked} {rng.choice(phrases.LIST_WITHOUT).format(without=an(banned))}"], meta
        given = [banned, self._other(words.THEMES[theme], banned)]
        more = rng.choice(phrases.LIST_MORE).format(count=words.NUMBERS[count])
        return [asked, list_sentence(theme, given, rng), more], meta | {"without": given}

    def rewrite(self, user: User, two_turns: bool) -> Request:
        """A sentence with one thing to change: its animal, its object or its mood."""
        rng = self.rng
        pair = rng.choice(self.combinations.pairs)
        change = rng.choice(("mood", "animal", "object"))
        near = self._neighbour(pair, keep=change == "animal") if change != "mood" else None
        change = change if near else "mood"
        mood = rng.choice(words.MOODS)
        old_mood = self._other(words.MOODS, mood) if change == "mood" else mood
        before = (*(near or pair), rng.choice(words.MOOD_ADJECTIVES[old_mood]))
        template = self._source()
        source = rewritten(template, *before)
        part = ("animal", "object", "mood").index(change)
        old, new = (*before[:2], old_mood)[part], (*pair, mood)[part]
        keep = [word for i, word in enumerate(before) if i != part]
        meta = {
            "task": "rewrite",
            "change": change,
            "old": old,
            "new": new,
            "keep": keep,
            "sentence": template,
        }
        slots = {"old": old, "new": new, "a_old": an(old), "a_new": an(new), "source": source}
        if not two_turns:
            return [rng.choice(phrases.REWRITE_REQUESTS[change]).format(**slots)], meta
        first = phrases.REWRITE_FIRST.format(a_animal=an(before[0]), a_object=an(before[1]))
        return [first, source, rng.choice(phrases.REWRITE_AGAIN[change]).format(**slots)], meta

    def _source(self) -> str:
        """A sentence to rewrite, with the slots that a rewrite may change left open."""
        fixed = {
            "place": self.rng.choice(phrases.PLACES),
            "name": self.rng.choice(self.village.names),
        }
        slots = {"feeling": "{feeling}", "animal": "{animal}", "a_object": "{a_object}"}
        return capital(self.rng.choice(phrases.REWRITE_SOURCES).format(**fixed, **slots))

    def harmful(self, user: User, two_turns: bool) -> Request:
        """Something to decline; in two turns, asked once more after a first refusal."""
        rng = self.rng
        deed, victim = rng.choice(self.combinations.deeds)
        asked = rng.choice(phrases.HARM_REQUESTS).format(
            deed=deed_phrase(self.village, deed, victim)
        )
        meta = {"task": "harmful", "deed": deed, "victim": victim}
        if two_turns:
            return [asked, rng.choice(phrases.DECLINES_VAGUE), rng.choice(phrases.HARM_AGAIN)], meta
        return [asked], meta


# ------------------------------------------------------------------ sentences of requests
def story_meta(order: StoryOrder) -> dict[str, Any]:
    """The order as a prompt's meta; wishes that were not made are left out."""
    said = {"mood": order.mood, "word": order.word, "sentences": order.sentences}
    wished = {key: value for key, value in said.items() if value is not None}
    return {"task": "story", "animal": order.animal, "object": order.object, **wished}


def list_sentence(theme: str, items: list[str], rng: random.Random) -> str:
    """A sentence that lists the items."""
    count = words.NUMBERS[len(items)]
    slots = {
        "count": count,
        "Count": capital(count),
        "theme": theme,
        "items": listed([an(item) for item in items]),
    }
    return rng.choice(phrases.LIST_ANSWERS).format(**slots)


def rewritten(template: str, animal: str, thing: str, feeling: str) -> str:
    """The sentence of a rewrite with its three open slots filled."""
    return template.format(animal=animal, a_object=an(thing), feeling=feeling)


def deed_phrase(village: Village, deed: str, victim: str) -> str:
    """What is to be declined, in words: "steal the goat of Ana"."""
    return words.DEEDS[deed][0].format(victim=victim, pet=village.value(victim, "pet"))
