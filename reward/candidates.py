"""Candidates to rank: several models answer the same prompts, and some answers come from other
prompts.

One block of prompts at a time, so that a long collection can be resumed; the random numbers of a
block depend on the seed and its place alone, so a resumed collection samples what the unbroken one
would have.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from data.records import Message, Prompt, Record
from data.template import decode_response, encode_prompt, prepare_tokenizer, stop_token_ids
from podium.batching import share_of
from podium.models import (
    absent_token_ids,
    context_of,
    load_causal_lm,
    load_tokenizer,
    moved,
    resize_for,
)
from podium.run.context import StageContext
from podium.sampling.kinds import make_sampler
from podium.sampling.protocol import Sampler, SamplingParams, StopStrings

OFF_TOPIC = "off_topic"


class Candidates(Record):
    """One prompt and its K candidates, in the layout that the labeling site imports."""

    prompt: list[Message]
    responses: list[str]
    generators: list[str]
    split: str
    user: str | None = None
    use_case: str | None = None
    source: str | None = None
    id: str | None = None
    meta: dict[str, Any] = Field({})


class Writer(NamedTuple):
    """A model that answers."""

    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler
    context: int
    stop_token_ids: tuple[int, ...]
    absent_token_ids: tuple[int, ...]


def load_writer(stage: StageContext, ref: str, max_batch: int) -> Writer:
    """The model `ref` names, ready to sample; it may have another tokenizer than the rest of the
    chain.
    """
    folder = stage.parent(ref, same_tokenizer=False)
    tokenizer, model = prepare_tokenizer(load_tokenizer(folder)), load_causal_lm(folder)
    resize_for(tokenizer, model)
    context = context_of(model.config) or 10**9
    stops, absent = stop_token_ids(tokenizer, model), absent_token_ids(tokenizer, model.config)
    model = moved(model, stage.device)
    sampler = make_sampler(stage.sampler(), model, int(tokenizer.pad_token_id), max_batch)
    return Writer(tokenizer, sampler, context, stops, absent)


def plan(main: str, mix: dict[str, float], k: int, rng: random.Random) -> list[str]:
    """Who answers one prompt: `main`, then k - 1 names drawn by their share."""
    names = sorted(mix)
    return [main, *rng.choices(names, [mix[name] for name in names], k=k - 1)]


def fits(prompt: Prompt, writers: dict[str, Writer], max_new_tokens: int) -> bool:
    """Whether the prompt leaves room for an answer in every model's context."""
    return all(
        len(encode_prompt(writer.tokenizer, prompt.messages)) + max_new_tokens <= writer.context
        for writer in writers.values()
    )


def answer(
    stage: StageContext,
    writer: Writer,
    prompts: Sequence[Prompt],
    counts: Sequence[int],
    params: SamplingParams,
    stop: Sequence[str] = (),
) -> tuple[list[list[str]], Counter[str]]:
    """`counts[i]` answers to prompt i, before any of the texts of `stop`, and how many ended on
    their own ("finished") or were cut off.

    Every process samples its share of the rows and gets all of them back.
    """
    rows = [
        encode_prompt(writer.tokenizer, prompt.messages)
        for prompt, count in zip(prompts, counts, strict=True)
        for _ in range(count)
    ]
    ending = StopStrings(tuple(stop), partial(decode_response, writer.tokenizer))
    mine, counting = share_of(len(rows), stage.world_size, stage.rank)
    params = replace(
        params,
        stop_token_ids=writer.stop_token_ids,
        absent_token_ids=writer.absent_token_ids,
        stop=ending,
        first_row=mine[0] if mine else 0,
    )
    samples = writer.sampler.generate([rows[i] for i in mine[:counting]], params)
    found = [(ending.text(sample.tokens), sample.finished) for sample in samples]
    if stage.world_size > 1:
        parts: list[Any] = [None] * stage.world_size
        torch.distributed.all_gather_object(parts, found)
        found = [pair for part in parts for pair in part]
    texts = iter(text for text, _ in found)
    ended = Counter("finished" if finished else "cut off" for _, finished in found)
    return [[next(texts) for _ in range(count)] for count in counts], ended


def block(
    stage: StageContext,
    writers: dict[str, Writer],
    prompts: Sequence[tuple[str, Prompt]],
    plans: Sequence[list[str]],
    params: SamplingParams,
    salt: str,
    stop: Sequence[str] = (),
) -> tuple[list[Candidates], Counter[str]]:
    """The candidates of some (split, prompt) pairs as planned, in random order. `salt` tells this
    block from others.
    """
    asked = [prompt for _, prompt in prompts]
    answers: dict[str, list[list[str]]] = {}
    ended: Counter[str] = Counter()
    for name, writer in writers.items():
        rng = random.Random(f"{stage.seed}-{salt}-{name}")
        counts = [names.count(name) for names in plans]
        answers[name], how = answer(
            stage, writer, asked, counts, replace(params, seed=rng.getrandbits(31)), stop
        )
        ended += how
    rng = random.Random(f"{stage.seed}-{salt}")
    found = []
    for i, (split, prompt) in enumerate(prompts):
        own = {name: iter(texts[i]) for name, texts in answers.items()}
        texts_of = (
            next(own[name]) if name in own else _elsewhere(answers, plans, i, rng)
            for name in plans[i]
        )
        pairs = list(zip(plans[i], texts_of, strict=True))
        rng.shuffle(pairs)
        found.append(
            Candidates(
                prompt=prompt.messages,
                responses=[text for _, text in pairs],
                generators=[name for name, _ in pairs],
                split=split,
                user=prompt.user,
                use_case=prompt.use_case,
                source=prompt.source,
                id=prompt.id,
                meta=prompt.meta,
            )
        )
    return found, ended


def _elsewhere(
    answers: dict[str, list[list[str]]], plans: Sequence[list[str]], i: int, rng: random.Random
) -> str:
    """What the main model answered to another prompt (to this one, where there is no other)."""
    other = rng.choice([j for j in range(len(plans)) if j != i] or [i])
    return answers[plans[other][0]][other][0]
