"""Sampled answers to held-out prompts, each with the scores, length and log-ratio that the table
averages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.records import Prompt
from data.template import decode_response, encode_prompt
from evals.pairs import Pairs
from evals.records import NO_JUDGE, PROXY_JUDGE, WORLD_JUDGE, Answer
from podium.rewards.protocol import Reward
from podium.sampling.protocol import Sample, Sampler, SamplingParams, StopStrings
from podium.statistics import bon_kl, bon_unbiased


@dataclass(frozen=True)
class Judge:
    """Who scores answers: the embedded world's gold score, else an independent judge, else the
    reward itself. `pairs` gives no scores: without a world it compares each model's answers with
    SFT's.
    """

    world: Any | None
    independent: Reward | None
    reward: Reward | None
    pairs: Pairs | None = None

    @property
    def name(self) -> str:
        """How the report names the gold column's source."""
        if self.world is not None:
            return f"{WORLD_JUDGE} '{self.world.name}'"
        if self.pairs is not None:
            return self.pairs.name
        if self.independent is not None:
            return "an independent reward"
        return NO_JUDGE if self.reward is None else PROXY_JUDGE

    def rewards(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float] | None:
        """The run's reward of each answer; None without one."""
        return None if self.reward is None else _score(self.reward, prompts, texts)

    def gold(
        self, prompts: Sequence[Prompt], texts: Sequence[str], rewards: list[float] | None
    ) -> list[float] | None:
        """The scores that decide wins; `rewards` where there is no better judge."""
        if self.world is not None:
            return [
                self.world.gold(prompt, text) for prompt, text in zip(prompts, texts, strict=True)
            ]
        if self.pairs is not None:
            return None
        return rewards if self.independent is None else _score(self.independent, prompts, texts)

    def features(self, prompt: Prompt, text: str) -> dict[str, float]:
        """The named parts of the gold score; empty without a world."""
        return (
            {}
            if self.world is None
            else {k: float(v) for k, v in self.world.features(prompt, text).items()}
        )


def _score(reward: Reward, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    return [float(score) for score in reward(prompts, texts)]


def answer_prompts(
    row: str,
    sampler: Sampler,
    reference: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    samples: int,
    params: SamplingParams,
    judge: Judge,
    numbers: range | None = None,
) -> list[Answer]:
    """`samples` answers to every prompt, prompt by prompt (P x S), scored by the judge.

    `sampler` holds the model that answers, `reference` the one that its KL is measured from.
    `numbers` asks for some of the P x S alone; each draws the random numbers it has among all.
    """
    numbers = range(len(prompts) * samples) if numbers is None else numbers
    params = replace(params, first_row=numbers.start)
    asked = [prompts[number // samples] for number in numbers]
    ids = [encode_prompt(tokenizer, prompt.messages) for prompt in asked]
    drawn = sampler.generate(ids, params)
    stop = params.stop or StopStrings((), partial(decode_response, tokenizer))
    texts = [stop.text(sample.tokens) for sample in drawn]
    ratios = log_ratios(drawn, ids, reference, params)
    rewards = judge.rewards(asked, texts)
    gold = judge.gold(asked, texts, rewards)
    return [
        Answer(
            row=row,
            prompt=prompt.messages,
            prompt_index=numbers[i] // samples,
            use_case=prompt.use_case,
            response=texts[i],
            tokens=len(drawn[i].tokens),
            finished=drawn[i].finished,
            gold=gold[i] if gold else None,
            reward=rewards[i] if rewards else None,
            log_ratio=ratios[i],
            features=judge.features(prompt, texts[i]),
        )
        for i, prompt in enumerate(asked)
    ]


def log_ratios(
    samples: Sequence[Sample],
    prompts: Sequence[list[int]],
    reference: Sampler,
    params: SamplingParams,
) -> list[float] | list[None]:
    """log p(response) - log p_reference(response) of each sample, in nats, both at the sampling
    temperature.

    Their mean over a model's own samples estimates the sequence KL from the reference, without bias
    where the samples come from the whole distribution. Greedy samples, or those of a distribution
    that top-k or top-p cut, do not: then the ratios are None, as p is not what was sampled from.
    """
    if params.temperature == 0 or params.top_p < 1 or params.top_k > 0:
        return [None] * len(samples)
    responses = [sample.tokens for sample in samples]
    found = reference.logprobs(prompts, responses, params.temperature)
    return [
        sum(sample.logprobs) - sum(logprobs)
        for sample, logprobs in zip(samples, found, strict=True)
    ]


def pick_best(row: str, candidates: Sequence[Answer], n: int) -> list[Answer]:
    """The reward model's favourite of each prompt's n answers, in the prompts' order."""
    groups = [candidates[start : start + n] for start in range(0, len(candidates), n)]
    return [
        max(group, key=lambda answer: answer.reward or 0.0).model_copy(update={"row": row})
        for group in groups
    ]


def best_of_curve(candidates: Sequence[Answer], total: int) -> list[dict[str, float | None]]:
    """Gold, reward and KL of best-of-n for n = 1, 2, 4, ... up to `total`, from `total` answers a
    prompt.

    The KL is from the reference, like every other: what picking adds to the sampled model's own (at
    most `bon_kl`), plus the favourites' mean log-ratio of the sampled model to the reference. Null
    where the log-ratios are not known. Gold and reward are without bias.
    """
    # (P, total)
    gold, reward = by_prompt(candidates, "gold", total), by_prompt(candidates, "reward", total)
    ratio = by_prompt(candidates, "log_ratio", total)  # NaN where unknown

    def favourite(values: np.ndarray, n: int) -> float:
        return float(np.mean([bon_unbiased(r, v, n) for r, v in zip(reward, values, strict=True)]))

    return [
        {
            "n": n,
            "gold": None if np.isnan(gold).any() else favourite(gold, n),
            "reward": favourite(reward, n),
            "kl": None if np.isnan(ratio).any() else bon_kl(n) + favourite(ratio, n),
        }
        for n in (2**power for power in range(total.bit_length()))
        if n <= total
    ]


def by_prompt(answers: Sequence[Answer], field: str, samples: int) -> np.ndarray:
    """One field of the answers as floats, (P, S)."""
    return np.array([getattr(answer, field) for answer in answers], dtype=float).reshape(
        -1, samples
    )
