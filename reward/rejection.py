"""Rejection sampling: the best of n answers a prompt as demonstrations (Codex-S, Chen et al. 2021,
section 4; LLaMA 2, section 3.2.3). SFT on them brings best-of-n's gain into the weights.

Answers that were cut off teach nothing about ending and are no candidates; a prompt whose best
answer stays below a floor is left out. Every record says which model said it, which reward chose
it, and by what score. `podium instruct best RUN` calls `demonstrate`.

Left out: new prompts (self-instruct); the prompts are the run's own for training.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from data.jsonl import write_jsonl
from data.readers import read_source
from data.records import Demonstration, Message, Prompt
from podium.errors import DataError, PodiumError
from podium.models import moved
from podium.rewards.kinds import make_reward, name_of, parts
from podium.rewards.specs import RewardSpec
from podium.run.lineage import absolute, source_of
from podium.run.place import Place
from podium.run.recipe import load_recipe
from podium.runtime import device
from podium.storage import writing
from reward.best_of import sample_ended


def demonstrate(
    run: Path,
    out: Path,
    n: int = 8,
    prompts: int | None = None,
    model: str = "sft",
    reward: RewardSpec | None = None,
    floor: float | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the best of `n` answers to the run's training prompts as demonstrations to `out`, and
    tell how many came of it.

    Args:
        prompts: the first so many, or all. reward: as in `ppo.reward`; by default the recipe's,
            else its reward stage. floor: the least score of an answer that is kept.

    Raises:
        DataError: the run has no prompts. PodiumError: no such model or reward, or nothing is left.
    """
    recipe = load_recipe(run / "recipe.yaml")
    place = Place(recipe, run, device(), seed)
    folder, ppo = place.parent(model), recipe.stage_config("ppo")
    reward = reward or (ppo.reward if ppo is not None else "reward")
    scorer = moved(make_reward(reward, place), place.device).eval()
    source = source_of(recipe, run, "prompts", "train")
    if source is None:
        raise DataError(
            run / "recipe.yaml", None, "data.prompts", "no prompts", "add data.prompts.train"
        )
    asked = read_source(absolute(source, run), Prompt)[:prompts]
    name = " + ".join(f"{part.weight:g} {name_of(part.reward)}" for part in parts(reward))
    counts: Counter[str] = Counter(prompts=len(asked))
    found = []
    drawn = sample_ended(folder, recipe.sampler, asked, n, max_new_tokens, seed)
    for number, (prompt, answers) in enumerate(zip(asked, drawn, strict=True)):
        whole = [text for text, ended in answers if ended and text.strip()]
        counts["answers cut off or empty"] += n - len(whole)
        if not whole:
            counts["prompts without a whole answer"] += 1
            continue
        scores = scorer([prompt] * len(whole), whole).double().cpu().numpy()
        best = int(scores.argmax())
        if floor is not None and scores[best] < floor:
            counts["prompts below the floor"] += 1
            continue
        origin = {
            "model": str(folder),
            "reward": name,
            "score": float(scores[best]),
            "best_of": len(whole),
            "seed": seed,
        }
        found.append(
            Demonstration(
                messages=[*prompt.messages, Message(role="assistant", content=whole[best])],
                user=prompt.user,
                use_case=prompt.use_case,
                source="rejection sampling",
                id=f"best-{number:06d}",
                meta=prompt.meta | {"sampled": origin},
            )
        )
    if not found:
        raise PodiumError(
            f"of {len(asked)} prompts none has a whole answer above the floor",
            "raise --max-new-tokens, or lower --floor",
        )
    with writing(out.parent):
        write_jsonl(out, found)
    return {"written": len(found), "file": str(out)} | dict(counts)
