"""Where zero lies: the loss sees differences only, so a bias makes the labelers' demonstrations
score mean 0.

InstructGPT, section 3.5, before PPO; the mean only. The bias travels with the model: see
`podium.rewards.model`.
"""

import math
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.records import Demonstration, Message, Ranking
from data.template import encode_prompt, encode_response
from podium.errors import DataError
from podium.progress import say
from podium.rewards.model import RewardEnsemble
from podium.rewards.score import score_texts
from podium.run.context import StageContext


def zero_point(
    stage: StageContext,
    rankings: Sequence[Ranking],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> list[Demonstration]:
    """What shall score mean 0: the labelers' demonstrations; without any, the best answer of every
    training ranking.

    Those over `max_length` tokens are left out, and the logbook says how many.

    Raises:
        DataError: none fits.
    """
    if stage.has_records("demonstrations", "train"):
        wanted: list[Demonstration] = stage.records("demonstrations", "train")
    else:
        stage.logbook(
            "no demonstrations: the bias makes the best-ranked training answers score mean 0"
        )
        best = [r.responses[r.ranks.index(min(r.ranks))] for r in rankings]
        wanted = [
            Demonstration(messages=[*r.prompt, Message(role="assistant", content=text)])
            for r, text in zip(rankings, best, strict=True)
        ]
    found = [d for d in wanted if _tokens(d, tokenizer) <= max_length]
    if not found:
        raise DataError(
            f"stage '{stage.name}'",
            field="demonstrations",
            problem=f"none of {len(wanted)} fits {max_length} tokens, so no answer can be "
            f"given the score 0",
            fix="give shorter demonstrations, or raise max_length if the model's context allows",
        )
    if len(found) < len(wanted):
        note = f"{len(wanted) - len(found)} demonstrations over the context (not used for the bias)"
        say(f"  {note}")
        stage.logbook(note)
    return found


def center(
    model: PreTrainedModel | RewardEnsemble,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: list[Demonstration],
) -> None:
    """Move the bias so that the demonstrations score mean 0."""
    scores = score_texts(
        model,
        tokenizer,
        [d.messages[:-1] for d in demonstrations],
        [d.messages[-1].content for d in demonstrations],
    )
    mean = math.fsum(scores) / len(scores)
    if isinstance(model, RewardEnsemble):
        model.bias += mean
    else:
        model.config.reward_bias += mean


def _tokens(demonstration: Demonstration, tokenizer: PreTrainedTokenizerBase) -> int:
    *prompt, answer = demonstration.messages
    return len(encode_prompt(tokenizer, prompt)) + len(encode_response(tokenizer, answer.content))
