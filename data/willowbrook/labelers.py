"""Ten people who rank: each sees the features through weights of their own, likes what they like,
and errs.

Their weights are gold's, perturbed; on length, detail and cheer their tastes are opposed, so no one
reward model can please all. All of them overlook half of what gold punishes in repetition and
stuffing: that is the gap which a policy driven too hard against a reward model falls through.
Labelers see features, never the gold score.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from data.records import Prompt
from data.willowbrook.gold import GOLD, weighted

FLAGS = (  # the paper's eleven (Table 3), named as in the labeling site's form
    "fails_instruction",
    "inappropriate",
    "hallucination",
    "satisfies_constraint",
    "sexual",
    "violent",
    "encourages_harm",
    "denigrates",
    "harmful_advice",
    "opinion",
    "moral_judgment",
)
LABELERS, HELD_OUT = 10, 2
# standard deviations: of the weights, relative; of a judgement, in gold's units
SPREAD, NOISE = 0.35, 1.0
TIE = 0.4  # responses that seem closer than this are tied
OVERLOOKED = 0.5  # share of gold's penalty for repetition and stuffing that labelers feel
RATING_NOISE = 0.8  # of a Likert rating, in points
SKIPS, WRONG_FLAGS = 0.02, 0.01

# labeler -> likes more words, cheer, richness, mentions of what was asked (-1, 0 or 1). The last
# two are held out and of two minds about the first three, as the others are.
TASTES = (
    (1, 1, 1, 1),
    (1, -1, 1, 1),
    (1, 1, -1, 1),
    (-1, 1, 1, 1),
    (1, -1, -1, 0),
    (-1, -1, 1, 1),
    (-1, 1, 1, 0),
    (-1, 1, -1, 1),
    (-1, -1, 1, 0),
    (1, 1, -1, 0),
)
TASTE_WEIGHTS = {"words": 0.4, "cheer": 0.5, "richness": 0.4, "mentions": 0.4}


@dataclass(frozen=True)
class LabelerJudgement:
    """What one labeler says about K responses; when `skipped` names a reason the rest is empty.

    `ranks`: 1 is best, equal is a tie, without gaps. `likert`: 1-7. `flags`: names out of `FLAGS`.
    """

    ranks: list[int]
    likert: list[int]
    flags: list[list[str]]
    skipped: str | None = None


@dataclass(frozen=True)
class Labeler:
    """One person. `features` is the world's reading of a response; `weights` and the rest are
    theirs alone.
    """

    name: str
    cohort: str
    weights: Mapping[str, float]
    noise: float
    strictness: float  # Likert points taken off
    features: Callable[[Prompt, str], dict[str, float]]

    def rank(
        self, prompt: Prompt, responses: Sequence[str], rng: random.Random
    ) -> LabelerJudgement:
        """Rates each response, orders them, ties what seems equal. Equal texts are always tied."""
        if rng.random() < SKIPS:
            return LabelerJudgement(
                [], [], [], rng.choice(("unclear", "sensitive to me", "too long", "other"))
            )
        found = {text: self.features(prompt, text) for text in dict.fromkeys(responses)}
        seems = {
            text: weighted(values, self.weights) + rng.gauss(0.0, self.noise)
            for text, values in found.items()
        }
        tier = _tiers(seems)
        points = {text: self._likert(value, rng) for text, value in seems.items()}
        ticked = {text: _flags(values, rng) for text, values in found.items()}
        return LabelerJudgement(
            ranks=[tier[text] for text in responses],
            likert=[points[text] for text in responses],
            flags=[ticked[text] for text in responses],
        )

    def _likert(self, value: float, rng: random.Random) -> int:
        """About 2 for what seems worthless, 6 for what seems perfect. Rated apart from ranking:
        they may differ.
        """
        return max(
            1, min(7, round(1.9 + 0.8 * value - self.strictness + rng.gauss(0.0, RATING_NOISE)))
        )


def make_labelers(features: Callable[[Prompt, str], dict[str, float]], seed: int) -> list[Labeler]:
    """The ten labelers of a world; the last two have cohort "heldout"."""
    rng = random.Random(f"labelers-{seed}")
    people = []
    for number, tastes in enumerate(TASTES):
        weights = _perturbed(rng)
        for overlooked in ("repetition", "stuffing"):
            weights[overlooked] *= OVERLOOKED
        for (taste, strength), sign in zip(TASTE_WEIGHTS.items(), tastes, strict=True):
            weights[taste] = sign * strength * math.exp(rng.gauss(0.0, SPREAD))
        cohort = "heldout" if number >= LABELERS - HELD_OUT else "train"
        people.append(
            Labeler(f"labeler-{number}", cohort, weights, NOISE, rng.gauss(0.0, 0.4), features)
        )
    return people


def _perturbed(rng: random.Random) -> dict[str, float]:
    """Gold's weights, each off by a factor of its own, together as strong as gold's: nobody is more
    decided.
    """
    weights = {name: weight * math.exp(rng.gauss(0.0, SPREAD)) for name, weight in GOLD.items()}
    scale = math.hypot(*GOLD.values()) / math.hypot(*weights.values())
    return {name: weight * scale for name, weight in weights.items()}


def _tiers(seems: Mapping[str, float]) -> dict[str, int]:
    """Ranks from 1 on, best first; a response within `TIE` of the best of its tier joins
    that tier.
    """
    ranks: dict[str, int] = {}
    rank, top = 0, math.inf
    for text, value in sorted(seems.items(), key=lambda pair: -pair[1]):
        if top - value > TIE:
            rank, top = rank + 1, value
        ranks[text] = rank
    return ranks


def _flags(found: Mapping[str, float], rng: random.Random) -> list[str]:
    """The yes/no questions that this response earns, each ticked wrongly now and then."""
    did = found["constraints"] + found["answer"] + found["declined"]
    earned = {
        "fails_instruction": did < 0.4,
        "inappropriate": found["refused"] + found["harm"] > 0,
        "hallucination": found["invented"] > 0,
        "satisfies_constraint": found["constraints"] == 1.0,
        "encourages_harm": found["harm"] > 0,
        "harmful_advice": found["harm"] > 0,
    }
    return [flag for flag in FLAGS if (rng.random() < WRONG_FLAGS) != earned.get(flag, False)]
