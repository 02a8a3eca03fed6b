"""What the village has written down, to pretrain on: stories, facts, questions, talk, and two
skills no prompt touches.

Facts are stated in many forms and by fame, so the famous are learned first and fact accuracy does
not saturate at once. Sums and ordered name lists never occur in prompts or demonstrations: what RL
does to them is a pure alignment tax.
"""

import random
from collections.abc import Iterator

from data.records import Document
from data.willowbrook import phrases, words
from data.willowbrook.stories import LONG, StoryOrder, any_voice, random_order, request, tell
from data.willowbrook.village import HOP_RELATIONS, RELATIONS, Village, as_answer
from data.willowbrook.words import an, capital, listed

SHARES = {
    "story": 0.45,
    "facts": 0.13,
    "questions": 0.18,
    "dialogue": 0.08,
    "sums": 0.06,
    "names": 0.06,
    "themes": 0.04,
}
MAX_ADDEND = 9
BATCH = 256  # kinds drawn at a time


def documents(village: Village, rng: random.Random) -> Iterator[Document]:
    """Documents without end, kinds mixed by `SHARES`; the caller takes as many as it wants."""
    writers = {
        "story": _story,
        "facts": _facts,
        "questions": _questions,
        "dialogue": _dialogue,
        "sums": _sums,
        "names": _names,
        "themes": _themes,
    }
    kinds, shares = list(SHARES), list(SHARES.values())
    while True:
        for kind in rng.choices(kinds, shares, k=BATCH):
            yield Document(text=writers[kind](village, rng), source=kind)


# ------------------------------------------------------------------ kinds of documents
def _story(village: Village, rng: random.Random) -> str:
    """A story, most often under a heading or the request that it answers: what is asked for comes
    true below.
    """
    order = random_order(rng, LONG)
    body = " ".join(tell(order, village.names, rng, bland=rng.random() < 0.15, lengths=LONG))
    kind = rng.random()
    if kind < 0.1:
        return body
    return f"{_heading(order, rng) if kind < 0.4 else request(order, any_voice(rng), rng)}\n{body}"


def _heading(order: StoryOrder, rng: random.Random) -> str:
    slots = {
        "animal": order.animal,
        "object": order.object,
        "a_animal": an(order.animal),
        "a_object": an(order.object),
    }
    if order.word:
        return rng.choice(phrases.WORD_HEADINGS).format(word=order.word, **slots)
    return rng.choice(phrases.MOOD_HEADINGS if order.mood else phrases.HEADINGS).format(
        mood=order.mood, **slots
    )


def _facts(village: Village, rng: random.Random) -> str:
    who = village.somebody(rng)
    relations = rng.sample(RELATIONS, rng.randint(3, 5))
    sentences = [statement(village, who.name, relations[0], rng)]
    for relation in relations[1:]:
        subject = who.name if rng.random() < 0.4 else who.pronoun
        sentences.append(statement(village, who.name, relation, rng, subject))
    if rng.random() < 0.5:
        sentences.append(hop_statement(village, who.name, rng.choice(HOP_RELATIONS), rng))
    return " ".join(sentences)


def _questions(village: Village, rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randint(2, 4)):
        who, hops = village.somebody(rng), 2 if rng.random() < 0.4 else 1
        relation = rng.choice(HOP_RELATIONS if hops == 2 else RELATIONS)
        answer = as_answer(relation, village.value(who.name, relation, hops))
        asked = question(who.name, relation, hops, rng)
        if rng.random() < 0.5:
            lines.append(f"Question: {asked}\nAnswer: {answer}")
        else:
            say_it = statement if hops == 1 else hop_statement
            lines.append(f"{asked}\n{say_it(village, who.name, relation, rng)}")
    return "\n".join(lines)


def _dialogue(village: Village, rng: random.Random) -> str:
    who, other = village.somebody(rng), village.somebody(rng)
    if who == other:
        other = village.by_name[who.friend]
    slots = {"name": who.name, "other": other.name, "place": rng.choice(phrases.PLACES)}
    picked = sorted(rng.sample(range(len(phrases.DIALOGUE_LINES)), 3))
    lines = [phrases.DIALOGUE_LINES[i].format(**slots) for i in picked]
    for relation in rng.sample(RELATIONS, rng.randint(1, 3)):
        spoken = rng.choice(phrases.SPOKEN[relation])
        lines.insert(
            -1,
            spoken.format(
                name=who.name, answer=as_answer(relation, village.value(who.name, relation))
            ),
        )
    return " ".join(lines)


def _sums(village: Village, rng: random.Random) -> str:
    asked = rng.random() < 0.4
    lines = []
    for _ in range(rng.randint(3, 5)):
        a, b = rng.randint(0, MAX_ADDEND), rng.randint(0, MAX_ADDEND)
        slots = {"a": words.NUMBERS[a], "b": words.NUMBERS[b], "c": words.NUMBERS[a + b]}
        lines.append((phrases.SUM_ASKED if asked else rng.choice(phrases.SUMS)).format(**slots))
    return "\n".join(lines) if asked else " ".join(map(capital, lines))


def _names(village: Village, rng: random.Random) -> str:
    names = rng.sample(village.names, rng.randint(4, 7))
    if rng.random() < 0.4:
        return phrases.NAME_ASKED.format(
            names=", ".join(names[:3]), last=names[3], first=min(names[:4])
        )
    return rng.choice(phrases.NAME_LISTS).format(names=listed(sorted(names)))


def _themes(village: Village, rng: random.Random) -> str:
    theme = rng.choice(list(words.THEMES))
    items = rng.sample(words.THEMES[theme], rng.randint(2, 4))
    named = listed([an(item) for item in items])
    return rng.choice(phrases.THEME_FACTS).format(
        Theme=capital(theme), Items=capital(named), items=named, theme=theme
    )


# ------------------------------------------------------------------ facts as sentences
def question(name: str, relation: str, hops: int, rng: random.Random) -> str:
    """A question about `name` (one hop) or about their best friend (two hops)."""
    who = name if hops == 1 else f"the best friend of {name}"
    return rng.choice(phrases.QUESTIONS[relation]).format(who=who)


def statement(
    village: Village,
    name: str,
    relation: str,
    rng: random.Random,
    subject: str | None = None,
    value: str | None = None,
) -> str:
    """One fact as a sentence. `subject` replaces the name ("she"), `value` the truth (for a wrong
    answer).
    """
    answer = as_answer(relation, value or village.value(name, relation))
    templates = list(phrases.ANSWERS[relation])
    if subject:  # a pronoun only fits where the subject leads
        templates = [template for template in templates if template.startswith("{Who}")]
    return say(rng.choice(templates), subject or name, answer)


def hop_statement(
    village: Village, name: str, relation: str, rng: random.Random, value: str | None = None
) -> str:
    """A fact about the best friend of `name`, at times with the friend named on the way."""
    answer = as_answer(relation, value or village.value(name, relation, hops=2))
    if rng.random() < 0.5:
        return phrases.CHAINS[relation].format(
            name=name, friend=village.value(name, "friend"), answer=answer
        )
    return say(rng.choice(phrases.ANSWERS[relation]), f"the best friend of {name}", answer)


def say(template: str, who: str, answer: str) -> str:
    """Fills an `ANSWERS` template."""
    return capital(template.format(who=who, Who=capital(who), answer=answer))
