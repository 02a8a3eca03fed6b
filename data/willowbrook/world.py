"""Willowbrook as a `World`: a made-up village that gives every stage its data and alone knows the
truth.
"""

import random
from collections.abc import Iterator
from functools import partial

from data.records import Demonstration, Document, Message, Prompt, Question
from data.willowbrook.answers import CARELESSNESS, write_answer
from data.willowbrook.documents import documents
from data.willowbrook.features import features
from data.willowbrook.gold import weighted
from data.willowbrook.labelers import Labeler, make_labelers
from data.willowbrook.questions import eval_sets
from data.willowbrook.requests import Asker
from data.willowbrook.splits import Split, deal
from data.willowbrook.village import Village


class Willowbrook:
    """The village of a seed. Everything is drawn from `random.Random`, so the same arguments give
    the same world.
    """

    name = "willowbrook"

    def __init__(self, seed: int = 0, villagers: int = 64, users: int = 300) -> None:
        self.seed = seed
        self.village = Village(seed, villagers)
        self.combinations = deal(self.village, seed, users)

    def documents(self, rng: random.Random) -> Iterator[Document]:
        """Documents without end."""
        return documents(self.village, rng)

    def prompts(self, rng: random.Random, split: Split = "train") -> Iterator[Prompt]:
        """Prompts without end, by the split's own users and about its own combinations."""
        return iter(Asker(self.village, self.combinations[split], rng))

    def demonstration(self, prompt: Prompt, rng: random.Random) -> Demonstration:
        """The prompt answered by one of five kinds of writers, careful to careless."""
        answer = write_answer(self.village, prompt, rng, rng.choice(CARELESSNESS))
        return Demonstration(
            messages=[*prompt.messages, Message(role="assistant", content=answer)],
            user=prompt.user,
            use_case=prompt.use_case,
            source=prompt.source,
            id=prompt.id,
            meta=prompt.meta,
        )

    def oracle(self, prompt: Prompt, rng: random.Random | None = None) -> str:
        """An answer without a slip. Without `rng` it depends on the prompt's text alone."""
        return write_answer(self.village, prompt, rng or random.Random(prompt.messages[-1].content))

    def features(self, prompt: Prompt, response: str) -> dict[str, float]:
        """What `willowbrook.features` reads in the response."""
        return features(self.village, prompt, response)

    def gold(self, prompt: Prompt, response: str) -> float:
        """The true worth of the response: about 5 for a perfect one, 0 for none, below 0 for a
        needless refusal.
        """
        return weighted(features(self.village, prompt, response))

    def labelers(self, seed: int = 0) -> list[Labeler]:
        """Ten labelers, the last two held out (`cohort`)."""
        return make_labelers(partial(features, self.village), seed)

    def eval_sets(self) -> dict[str, list[Question]]:
        """Questions by what they measure: one_hop, two_hop, sums, names."""
        return eval_sets(self.village, self.seed)
