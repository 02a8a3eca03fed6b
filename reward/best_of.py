"""Best-of-n: sample n answers, keep the one the reward likes best. The plainest way to use a
reward.

It needs no training, and its distance from the model it samples is known: at most log n - (n - 1) /
n nats (Stiennon et al. 2020), less where answers are the same or score alike. That is what PPO has
to beat at the same KL. `podium best-of RUN --n 16` calls `best_of`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.readers import read_source
from data.records import Prompt
from data.template import decode_response, encode_prompt, stop_token_ids
from data.worlds import open_world
from podium.errors import DataError, PodiumError
from podium.models import absent_token_ids, check_rows, load_causal_lm, load_tokenizer, moved
from podium.rewards.kinds import make_reward, name_of, parts
from podium.rewards.specs import RewardSpec
from podium.run.lineage import absolute, source_of
from podium.run.place import Place
from podium.run.recipe import load_recipe
from podium.runtime import device
from podium.sampling.kinds import SamplerConfig, make_sampler
from podium.sampling.protocol import SamplingParams, StopStrings
from podium.statistics import Estimate, bon_kl, bon_unbiased, mean_with_interval

__all__ = [
    "best_of",
    "curve_row",
    "sample",
    "sample_ended",
]

SPARE = 2  # samples drawn for each n, so that the estimate averages over many sets of n


def best_of(
    run: Path,
    n: int = 16,
    prompts: int = 64,
    model: str = "sft",
    reward: RewardSpec | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> dict[str, Any]:
    """Expected scores of the favourite of 1, 2, 4, ... n answers to a run's test prompts, with the
    most KL from the sampled model that each can cost. `reward`: as in `ppo.reward`; None: the
    recipe's, else its reward stage. `stop`: texts before which an answer ends.

    2n answers a prompt are sampled at temperature 1; the estimate for n averages over all sets of n
    among them (`bon_unbiased`). Gold is the world's own score, where the run has a world. Intervals
    are over prompts.

    Raises:
        PodiumError: the run has no such model, reward or prompts.
    """
    if n < 1:
        raise PodiumError(f"best of {n} answers cannot be", "give --n 1 or more")
    recipe = load_recipe(run / "recipe.yaml")
    place = Place(recipe, run, device(), seed)
    policy_dir = place.parent(model)
    ppo = recipe.stage_config("ppo")
    reward = reward or (ppo.reward if ppo is not None else "reward")
    scorer = moved(make_reward(reward, place), place.device).eval()
    source = source_of(recipe, run, "prompts", "test") or source_of(
        recipe, run, "prompts", "validation"
    )
    if source is None:
        raise DataError(
            run / "recipe.yaml",
            None,
            "data.prompts",
            "no prompts to test on",
            "add data.prompts.test",
        )
    asked = read_source(absolute(source, run), Prompt)[:prompts]

    # P lists of 2n
    texts = sample(policy_dir, recipe.sampler, asked, SPARE * n, max_new_tokens, seed, stop)
    flat = [text for answers in texts for text in answers]
    asked_flat = [prompt for prompt in asked for _ in range(SPARE * n)]
    proxy = scorer(asked_flat, flat).double().cpu().numpy().reshape(len(asked), -1)
    gold = None
    if recipe.data.world is not None:
        world = open_world(place.parent("world"))
        gold = np.array(
            [
                [world.gold(p, text) for text in answers]
                for p, answers in zip(asked, texts, strict=True)
            ]
        )
    sizes = sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n})
    favourites = [
        answers[int(scores[:n].argmax())] for answers, scores in zip(texts, proxy, strict=True)
    ]
    return {
        "model": str(policy_dir),
        "reward": " + ".join(f"{part.weight:g} {name_of(part.reward)}" for part in parts(reward)),
        "prompts": len(asked),
        "curve": [curve_row(proxy, gold, size) for size in sizes],
        "examples": [
            {"prompt": p.messages[-1].content, "best": best}
            for p, best in list(zip(asked, favourites, strict=True))[:5]
        ],
    }


def sample(
    folder: Path,
    sampler_config: SamplerConfig,
    prompts: Sequence[Prompt],
    count: int,
    max_new_tokens: int,
    seed: int,
    stop: Sequence[str] = (),
) -> list[list[str]]:
    """`count` answers of the model in `folder` to each prompt, up to a text of `stop`."""
    drawn = sample_ended(folder, sampler_config, prompts, count, max_new_tokens, seed, stop)
    return [[text for text, _ in answers] for answers in drawn]


def sample_ended(
    folder: Path,
    sampler_config: SamplerConfig,
    prompts: Sequence[Prompt],
    count: int,
    max_new_tokens: int,
    seed: int,
    stop: Sequence[str] = (),
) -> list[list[tuple[str, bool]]]:
    """As `sample`, and whether each answer ended by itself: False where it was cut off."""
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder)
    check_rows(tokenizer, model, folder)
    sampler = make_sampler(sampler_config, moved(model, device()), int(tokenizer.pad_token_id))
    rows = [encode_prompt(tokenizer, prompt.messages) for prompt in prompts for _ in range(count)]
    ending = StopStrings(tuple(stop), partial(decode_response, tokenizer))
    params = SamplingParams(
        max_new_tokens,
        stop_token_ids=stop_token_ids(tokenizer, model),
        absent_token_ids=absent_token_ids(tokenizer, model.config),
        seed=seed,
        stop=ending,
    )
    texts = [
        (ending.text(answer.tokens), answer.finished) for answer in sampler.generate(rows, params)
    ]
    return [texts[start : start + count] for start in range(0, len(texts), count)]


def curve_row(proxy: np.ndarray, gold: np.ndarray | None, n: int) -> dict[str, Any]:
    """What best-of-n is expected to score by the reward model and by gold, (P, N) each, and the
    bound on its KL in nats.
    """

    def expected(by: np.ndarray) -> dict[str, float | None]:
        values = [bon_unbiased(scores, worth, n) for scores, worth in zip(proxy, by, strict=True)]
        estimate: Estimate = mean_with_interval(values, range(len(values)))
        return dict(estimate._asdict())

    return {"n": n, "kl": bon_kl(n), "reward": expected(proxy)} | (
        {} if gold is None else {"gold": expected(gold)}
    )
