"""`podium eval dialogue MODEL FILE`: how well a model goes on with people's conversations, by OPT's
protocol (Zhang et al. 2022, section 3.2).

A conversation becomes lines, `Person 1:` for who begins and `Person 2:` for who answers, and no
other prompt. Each turn of the second person is predicted from those before it: perplexity of the
turn, by default per token of the model's own tokenizer, or as OPT had it per token of GPT-2's
(`tokens_of`), so that models of different tokenizers compare; and unigram F1 by ParlAI's definition
(`evals.generation.unigram_f1`) between the turn and what the model says greedily, 32 tokens at
most, up to the end of the line.

`ask` puts the turns in the model's own template, for models that were taught to answer so.

Left out: retrieval and personas that some of OPT's five sets come with; what is in a system message
is a line of its own before the first.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.readers import read_source
from data.records import Demonstration, Message
from data.template import decode_response, encode_prompt, stop_token_ids
from evals.generation import unigram_f1
from evals.loglikelihood import Pair, encode_pair, loglikelihoods
from podium.errors import DataError
from podium.models import absent_token_ids, context_of, load_tokenizer
from podium.run.parents import find_parent
from podium.run.recipe import Recipe
from podium.runtime import device
from podium.sampling.kinds import EmbeddedConfig, make_sampler
from podium.sampling.protocol import SamplingParams, StopStrings
from podium.statistics import SHARE, mean_with_interval
from podium.widths import Weights, load_to_answer

NEW_TOKENS = 32
LONGEST = 2048  # tokens, where a model states no context
NAMES = {"user": "Person 1: ", "assistant": "Person 2: ", "system": ""}


class Turn(NamedTuple):
    """A turn to predict: the conversation's number, the messages before it, and what was said."""

    conversation: int
    before: tuple[Message, ...]
    said: str


def turns_of(conversations: Sequence[Sequence[Message]]) -> list[Turn]:
    """Every turn of the second person that has one before it."""
    return [
        Turn(number, tuple(messages[:place]), " ".join(message.content.split()))
        for number, messages in enumerate(conversations)
        for place, message in enumerate(messages)
        if message.role == "assistant" and place > 0 and message.content.strip()
    ]


def as_lines(before: Sequence[Message]) -> str:
    """The conversation so far, and whose turn it is."""
    lines = [NAMES.get(m.role, "") + " ".join(m.content.split()) for m in before]
    return "\n".join([*lines, NAMES["assistant"].rstrip()])


def measure_dialogue(
    ref: str,
    file: Path,
    ask: bool = False,
    tokens_of: str | None = None,
    limit: int | None = None,
    weights: Weights = "fp32",
) -> dict[str, Any]:
    """Perplexity and unigram F1 of a model on the conversations of a file, with 95 % intervals over
    conversations.

    Args:
        tokens_of: a folder or hub id whose tokenizer counts the tokens of a turn.
        limit: the first so many conversations.

    Raises:
        DataError: no turn to predict. ParentError: no such model.
    """
    conversations = [c.messages for c in read_source(str(file), Demonstration)][:limit]
    turns = turns_of(conversations)
    if not turns:
        raise DataError(file, problem="holds no answer to predict", fix="give conversations")
    folder = find_parent(ref, Recipe(name="dialogue"), Path())
    tokenizer, model = load_tokenizer(folder), load_to_answer(folder, weights, device())
    counting = tokenizer
    if tokens_of is not None:
        there = (Path(tokens_of) / "tokenizer.json").is_file()  # a tokenizer needs no model
        place = tokens_of if there else find_parent(tokens_of, Recipe(name="dialogue"), Path())
        counting = load_tokenizer(place)
    context = context_of(model.config) or LONGEST
    read = partial(_pair, tokenizer, ask=ask)
    kept = [(turn, pair) for turn in turns if sum(map(len, pair := read(turn))) <= context]
    if not kept:
        raise DataError(
            file, problem=f"holds no turn that fits {context} tokens", fix="shorter ones"
        )
    found = loglikelihoods(model, [pair for _, pair in kept], context)
    counts = np.array([_count(counting, turn.said) for turn, _ in kept])
    nats = -np.array([one.total for one in found])
    ending = StopStrings(() if ask else ("\n",), partial(decode_response, tokenizer))
    params = SamplingParams(
        NEW_TOKENS,
        temperature=0.0,
        stop_token_ids=stop_token_ids(tokenizer, model),
        absent_token_ids=absent_token_ids(tokenizer, model.config),
        stop=ending,
    )
    room = [(turn, pair[0]) for turn, pair in kept if len(pair[0]) + NEW_TOKENS <= context]
    sampler = make_sampler(EmbeddedConfig(), model, int(tokenizer.pad_token_id or 0))
    drawn = sampler.generate([prompt for _, prompt in room], params)
    f1 = [
        unigram_f1(ending.text(sample.tokens), [turn.said])
        for (turn, _), sample in zip(room, drawn, strict=True)
    ]
    owner = np.array([turn.conversation for turn, _ in kept])
    low, high = _interval(nats, counts, owner)
    return {
        "model": str(folder),
        "file": str(file),
        "form": "the model's turns" if ask else "Person 1, Person 2",
        "conversations": len(set(owner.tolist())),
        "turns": len(kept),
        "turns too long": len(turns) - len(kept),
        "perplexity": {"value": float(np.exp(nats.sum() / counts.sum())), "low": low, "high": high},
        "perplexity per token of": tokens_of or str(folder),
        "unigram f1": mean_with_interval(f1, [t.conversation for t, _ in room], SHARE)._asdict()
        if f1
        else None,
    }


def _pair(tokenizer: PreTrainedTokenizerBase, turn: Turn, ask: bool) -> Pair:
    """Ids of what comes before, and of the turn itself."""
    if not ask:
        return encode_pair(tokenizer, as_lines(turn.before), f" {turn.said}")
    return (
        encode_prompt(tokenizer, list(turn.before)),
        tokenizer.encode(turn.said, add_special_tokens=False),
    )


def _count(tokenizer: PreTrainedTokenizerBase, said: str) -> int:
    """Tokens of a turn as it follows its name."""
    return len(tokenizer.encode(f" {said}", add_special_tokens=False))


def _interval(
    nats: np.ndarray, counts: np.ndarray, owner: np.ndarray, resamples: int = 2000
) -> tuple[float, float]:
    """95 % of the perplexity over conversations drawn anew, each with all its turns."""
    _, place = np.unique(owner, return_inverse=True)
    sums = np.stack([np.bincount(place, weights=nats), np.bincount(place, weights=counts)])
    rng = np.random.default_rng(0)
    draws = rng.integers(0, sums.shape[1], size=(resamples, sums.shape[1]))
    total, tokens = sums[:, draws].sum(axis=2)
    low, high = np.quantile(np.exp(total / tokens), [0.025, 0.975])
    return float(low), float(high)
