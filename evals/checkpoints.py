"""`podium rank-checkpoints RUN STAGE`: which checkpoint of a stage answers best by the reward.

InstructGPT (section 3.5) trained SFT for sixteen epochs, well past the lowest validation loss, and
chose the model by the reward model's score on the validation set. Every kept checkpoint answers the
same validation prompts; the rewards are compared prompt by prompt with those of the best one.

The recipe's `keep_checkpoints` says how many stay after a stage has finished.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.records import Prompt
from data.template import decode_response, encode_prompt, stop_token_ids
from evals.held_out import draw, held_out_prompts
from evals.verdicts import interval
from podium.engine import checkpoint_weights
from podium.errors import ParentError, PodiumError
from podium.models import absent_token_ids, context_of, load_causal_lm, load_tokenizer, moved
from podium.progress import progress_bar
from podium.rewards.kinds import make_reward
from podium.rewards.specs import RewardSpec
from podium.run.context import checkpoints_of
from podium.run.place import Place
from podium.run.recipe import load_recipe
from podium.runtime import device
from podium.sampling.kinds import make_sampler
from podium.sampling.protocol import SamplingParams
from podium.statistics import FEWEST_PROMPTS, holm, mean_with_interval, p_value, paired_difference


def rank_checkpoints(
    run: Path,
    stage: str,
    reward: RewardSpec | None = None,
    prompts: int = 64,
    samples: int = 2,
    max_new_tokens: int = 64,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The kept checkpoints of a stage and its final model, the highest mean reward first.

    reward: as `ppo.reward`; None: the recipe's, else its reward stage. Each row has the reward with
    its interval over prompts, the difference from the best row on the same prompts, and whether it
    is worse by Holm's correction at 5 %.

    Raises:
        PodiumError: no checkpoints were kept, or they hold something else than whole weights; the
            run has no such reward or no validation prompts.
    """
    recipe = load_recipe(run / "recipe.yaml")
    place = Place(recipe, run, device(), seed)
    final = place.parent(stage)
    kept = checkpoints_of(run / stage)
    if not kept:
        raise PodiumError(
            f"{run / stage} has no checkpoints",
            f"run the stage with more that stay: podium run {run / 'recipe.yaml'} "
            f"--set keep_checkpoints=20 --force {stage}",
        )
    ppo = recipe.stage_config("ppo")
    spec = reward or (ppo.reward if ppo is not None else "reward")
    scorer = moved(make_reward(spec, place, same_tokenizer=False), place.device).eval()
    tokenizer, model = load_tokenizer(final), moved(load_causal_lm(final), place.device)
    room = (context_of(model.config) or 10**9) - max_new_tokens
    held_out = held_out_prompts(run, ("validation",))
    fitting = [p for p in held_out if len(encode_prompt(tokenizer, p.messages)) <= room]
    if not fitting:
        raise PodiumError(
            f"no validation prompt leaves {max_new_tokens} tokens for an answer",
            "give a smaller --max-new-tokens",
        )
    chosen = draw(fitting, prompts, seed)
    params = SamplingParams(
        max_new_tokens,
        stop_token_ids=stop_token_ids(tokenizer, model),
        absent_token_ids=absent_token_ids(tokenizer, model.config),
    )
    asked = [prompt for prompt in chosen for _ in range(samples)]
    ids = [encode_prompt(tokenizer, prompt.messages) for prompt in asked]
    scores: dict[str, np.ndarray] = {}  # name -> (P * S,)
    with progress_bar(len(kept) + 1, f"checkpoints of {stage}", "checkpoint") as bar:
        for number, folder in enumerate([None, *kept]):  # the final weights are loaded
            if folder is not None:
                _load(model, folder)
            sampler = make_sampler(place.sampler(), model, int(tokenizer.pad_token_id))
            drawn = sampler.generate(ids, replace(params, seed=seed + 1000 * number))
            texts = [decode_response(tokenizer, sample.tokens) for sample in drawn]
            scores[folder.name if folder else "final"] = _score(scorer, asked, texts)
            bar.advance()
    return ranked(scores, np.repeat(np.arange(len(chosen)), samples))


def _load(model: Any, folder: Path) -> None:
    weights = checkpoint_weights(folder)
    missing = set(dict(model.named_parameters())) - weights.keys()
    if missing:
        raise ParentError(
            f"{folder} holds no {sorted(missing)[0]}: adapters, or one process's share",
            "checkpoints of LoRA and of ZeRO 3 cannot be ranked; evaluate final/ alone",
        )
    model.load_state_dict(weights, strict=False)


def _score(scorer: Any, prompts: list[Prompt], texts: list[str]) -> np.ndarray:
    return np.array([float(score) for score in scorer(prompts, texts)])


def ranked(scores: dict[str, np.ndarray], prompt: np.ndarray) -> list[dict[str, Any]]:
    """The rows of `rank_checkpoints` from each checkpoint's scores (N) of answers to `prompt`
    (N).
    """
    order = sorted(scores, key=lambda name: -float(scores[name].mean()))
    best = scores[order[0]]
    gaps = [scores[name] - best for name in order[1:]]
    adjusted = holm([p_value(gap, prompt, 0.0) for gap in gaps])
    enough = len(np.unique(prompt)) >= FEWEST_PROMPTS
    return [
        {
            "checkpoint": name,
            "reward": mean_with_interval(scores[name], prompt)._asdict(),
            "from the best": paired_difference(scores[name], best, prompt)._asdict(),
            "worse": bool(number and enough and adjusted[number - 1] < 0.05),
        }
        for number, name in enumerate(order)
    ]


def in_words(rows: list[dict[str, Any]]) -> str:
    """What `podium rank-checkpoints` prints."""
    lines = [
        f"{row['checkpoint']:>8}  reward {interval(row['reward'], '.3f')}"
        + (f"  from the best {interval(row['from the best'], '.3f')}" if number else "")
        + ("  worse" if row["worse"] else "")
        for number, row in enumerate(rows)
    ]
    equal = [row["checkpoint"] for row in rows[1:] if not row["worse"]]
    told = f"the highest reward: {rows[0]['checkpoint']}"
    if equal:
        told += f"; {', '.join(equal)} not shown to be worse"
    return "\n".join([*lines, told])
