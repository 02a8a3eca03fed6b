"""Rankings: K candidates a prompt from named checkpoints, put in order by labelers. The reward
model learns from them.

InstructGPT, sections 3.2-3.4: labelers rank K = 4 to 9 responses a prompt. Candidates come from
several models, so that the reward model knows poor answers from good ones and not only good ones
from each other: the SFT model, the base model, and answers to other prompts ("off_topic"), without
which a policy finds replies that score well anywhere.

Reads   prompts (train, validation), the models to sample from, and the world's labelers or a
        `reward` that ranks in their place; or, where
        the recipe has `data.rankings` (a file, an export of the labeling site), just those.
Writes  final/: rankings.train.jsonl; rankings.validation.jsonl, by several training labelers a
        prompt, so that their agreement can be measured; rankings.heldout.jsonl, the same candidates
        by held-out labelers; candidates.jsonl, prompts and candidates for the labeling site.
Run     python -m reward.collect RECIPE

What is left out: rounds. `podium iterate` names a later policy's checkpoint under `models` and runs
the stage again (`evals.rounds`).
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.jsonl import read_jsonl, write_jsonl
from data.records import Prompt, Ranking
from data.worlds import Labeler
from podium.errors import DataError, Interrupted
from podium.models import moved
from podium.progress import say
from podium.rewards.kinds import make_reward
from podium.rewards.specs import RewardSpec
from podium.run.context import StageContext
from podium.run.launch import run_stage_main
from podium.sampling.protocol import SamplingParams
from podium.storage import write_json
from reward.candidates import OFF_TOPIC, Candidates, block, fits, load_writer, plan
from reward.labeler import RewardLabeler
from reward.sources import HELDOUT, SPLITS, read_splits


class Config(BaseModel):
    """What to sample and who ranks it. The defaults suit the embedded world; the paper's value is
    named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, str] = Field(
        {"sft": "sft", "base": "pretrain"}, description="name -> model that answers"
    )
    mix: dict[str, float] = Field(
        {"sft": 0.45, "base": 0.1, OFF_TOPIC: 0.45},
        description="share of the candidates by model; off_topic = answers to other prompts",
    )
    main: str = Field(
        "sft", description="the model that answers every prompt, and whose answers go off topic"
    )
    prompts: int = Field(
        2500, gt=0, description="training prompts to rank answers of; paper: 33,207"
    )
    validation_prompts: int = Field(
        240, gt=0, description="prompts to measure the reward model on; paper: 17,887"
    )
    min_k: int = Field(4, ge=2, description="fewest candidates a prompt; paper: 4")
    max_k: int = Field(9, ge=2, description="most candidates a prompt; paper: 9")
    labelers_per_prompt: int = Field(
        1, gt=0, description="training labelers who rank a training prompt's candidates"
    )
    labelers_per_validation_prompt: int = Field(
        3, gt=0, description="the same for validation prompts"
    )
    reward: RewardSpec | None = Field(
        None, description="ranks in the labelers' place; what ppo.reward may be"
    )
    max_new_tokens: int = Field(64, gt=0, description="longest candidate in tokens; paper: 1,000")
    temperature: float = Field(1.0, gt=0, description="of sampling; not in the paper")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling, 1 = off; not in the paper")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="texts before which a candidate ends, beside its model's end token"
    )
    max_batch: int = Field(192, gt=0, description="candidates decoded together")
    save_steps: int = Field(500, gt=0, description="prompts between checkpoints")

    @model_validator(mode="after")
    def _check(self) -> "Config":
        unknown = set(self.mix) - set(self.models) - {OFF_TOPIC}
        if unknown:
            raise ValueError(f"mix names {', '.join(sorted(unknown))}, which models does not")
        if self.main not in self.models:
            raise ValueError(f"main names {self.main}, which models does not")
        if self.min_k > self.max_k:
            raise ValueError(f"min_k {self.min_k} is above max_k {self.max_k}")
        return self


def main(config: Config, stage: StageContext) -> None:
    """Publish rankings: those that people made, or else sampled and ranked candidates."""
    # 1. Rankings that people made need no sampling.
    if any(stage.has_records("rankings", split) for split in ("train", "validation")):
        splits = read_splits(stage, None)
        publish(stage, dict(zip(SPLITS, splits[:3], strict=True)), [], splits.dropped)
        return

    # 2. Sample candidates.
    candidates, counts = sample(config, stage)

    # 3. Labelers put them in order, or a reward does in their place.
    world = stage.world() if config.reward is None else None
    if config.reward is not None:
        reward = make_reward(config.reward, stage, same_tokenizer=False)
        labelers: Sequence[Labeler] = [RewardLabeler(moved(reward, stage.device).eval())]
    elif world is not None:
        labelers = world.labelers(stage.seed)
    else:
        raise nobody_ranks(stage, candidates)
    rankings = rank(config, labelers, candidates, stage.seed, counts)

    # 4. The rankings.
    publish(stage, rankings, candidates, counts)


def sample(config: Config, stage: StageContext) -> tuple[list[Candidates], Counter[str]]:
    """The candidates of all prompts, block after block, and what is worth telling about them."""
    prompts = [("train", p) for p in stage.records("prompts", "train")[: config.prompts]]
    prompts += [
        ("validation", p)
        for p in stage.records("prompts", "validation")[: config.validation_prompts]
    ]
    writers = {
        name: load_writer(stage, ref, config.max_batch) for name, ref in config.models.items()
    }
    rng = random.Random(f"{stage.seed}-plans")
    plans = [
        plan(config.main, config.mix, rng.randint(config.min_k, config.max_k), rng) for _ in prompts
    ]
    params = SamplingParams(
        config.max_new_tokens, temperature=config.temperature, top_p=config.top_p
    )

    done, candidates, counts = resume(stage)
    with stage.progress(len(prompts), "candidates", unit="prompt", start=done) as bar:
        for start in range(done, len(prompts), config.save_steps):
            end = min(start + config.save_steps, len(prompts))
            kept = [
                i for i in range(start, end) if fits(prompts[i][1], writers, config.max_new_tokens)
            ]
            counts["prompts that leave no room for an answer (dropped)"] += end - start - len(kept)
            found, ended = block(
                stage,
                writers,
                [prompts[i] for i in kept],
                [plans[i] for i in kept],
                params,
                f"block-{start}",
                config.stop,
            )
            candidates, counts = candidates + found, counts + ended
            bar.advance(end - start)
            if end < len(prompts):
                save_progress(stage, end, candidates, counts)
                if stage.stop_requested:
                    raise Interrupted(f"collecting stopped after {end} prompts, checkpoint saved")
    return candidates, counts


def rank(
    config: Config,
    labelers: Sequence[Labeler],
    candidates: Sequence[Candidates],
    seed: int,
    counts: Counter[str],
) -> dict[str, list[Ranking]]:
    """Rankings by split. Validation prompts are ranked by several training labelers and by all
    held-out ones.
    """
    rng = random.Random(f"{seed}-labelers")
    training = [labeler for labeler in labelers if labeler.cohort != HELDOUT]
    heldout_labelers = [labeler for labeler in labelers if labeler.cohort == HELDOUT]
    found: dict[str, list[Ranking]] = {split: [] for split in SPLITS}
    for number, one in enumerate(candidates):
        if one.split == "train":
            found["train"] += judge(one, number, training, config.labelers_per_prompt, rng, counts)
        else:
            several = config.labelers_per_validation_prompt
            found["validation"] += judge(one, number, training, several, rng, counts)
            found["heldout"] += judge(
                one, number, heldout_labelers, len(heldout_labelers), rng, counts
            )
    return found


def judge(
    candidates: Candidates,
    number: int,
    labelers: Sequence[Labeler],
    wanted: int,
    rng: random.Random,
    counts: Counter[str],
) -> list[Ranking]:
    """One prompt's candidates ranked by `wanted` labelers drawn at random; another one stands in
    for who skips.
    """
    prompt = Prompt(
        messages=candidates.prompt,
        user=candidates.user,
        use_case=candidates.use_case,
        source=candidates.source,
        id=candidates.id,
        meta=candidates.meta,
    )
    found: list[Ranking] = []
    for labeler in rng.sample(list(labelers), len(labelers)):
        if len(found) == wanted:
            break
        said = labeler.rank(prompt, candidates.responses, rng)
        if said.skipped is not None:
            counts["rankings skipped by their labeler"] += 1
            continue
        found.append(
            Ranking(
                prompt=candidates.prompt,
                responses=candidates.responses,
                ranks=said.ranks,
                likert=said.likert,
                flags=said.flags,
                labeler=labeler.name,
                cohort=labeler.cohort,
                source=candidates.source,
                task=f"t-{number:06d}",
                generators=candidates.generators,
                user=candidates.user,
                use_case=candidates.use_case,
                id=f"r-{number:06d}-{labeler.name}",
                meta=candidates.meta,
            )
        )
    return found


def nobody_ranks(stage: StageContext, candidates: Sequence[Candidates]) -> DataError:
    """The error of a run without labelers; the candidates are kept for people to rank."""
    path = stage.dir / "candidates.jsonl"
    if stage.is_main:
        write_jsonl(path, candidates)
    return DataError(
        f"stage '{stage.name}'",
        field="data.rankings",
        problem="there is nobody to rank the candidates",
        fix=f"import {path} into the labeling site, let people rank, and name the export as "
        f"data.rankings.train",
    )


def publish(
    stage: StageContext,
    rankings: dict[str, list[Ranking]],
    candidates: Sequence[Candidates],
    counts: Counter[str],
) -> None:
    """Write final/: one file a split that has rankings, and the candidates."""
    for reason, count in counts.items():
        if "finished" not in reason:
            say(f"  {count} {reason}")
            stage.logbook(f"{count} {reason}")

    def save(folder: Path) -> None:
        if not stage.is_main:
            return
        for split, records in rankings.items():
            if records:
                write_jsonl(folder / f"rankings.{split}.jsonl", records)
        if candidates:
            write_jsonl(folder / "candidates.jsonl", candidates)

    metrics = describe(rankings, counts)
    stage.finish(save, metrics, card(rankings, metrics))


def describe(rankings: dict[str, list[Ranking]], counts: Counter[str]) -> dict[str, float]:
    """Headline numbers: how many, how long, how tied, and how far labelers agree."""
    from data.agreement import pairwise_agreement  # scipy, which nobody needs to read a recipe

    everything = [ranking for records in rankings.values() for ranking in records]
    ordered = sum(a < b for r in everything for a in r.ranks for b in r.ranks)
    pairs = sum(r.k * (r.k - 1) // 2 for r in everything)
    metrics: dict[str, float] = {
        f"{split}_rankings": len(records) for split, records in rankings.items()
    }
    metrics |= {"responses_per_ranking": sum(r.k for r in everything) / len(everything)}
    metrics |= {"tie_rate": 1 - ordered / pairs}
    if counts["finished"]:
        metrics["finished_rate"] = counts["finished"] / (counts["finished"] + counts["cut off"])
    for name, records in (
        ("agreement", rankings["validation"]),
        ("heldout_agreement", rankings["heldout"]),
    ):
        agreement = pairwise_agreement(records).value
        if agreement is not None:
            metrics[name] = agreement
    return metrics


def card(rankings: dict[str, list[Ranking]], metrics: dict[str, float]) -> str:
    """The data card's text."""
    sizes = ", ".join(f"{len(records):,} {split}" for split, records in rankings.items() if records)
    agreement = metrics.get("agreement")
    said = (
        f" Two training labelers order {100 * agreement:.1f} % of untied pairs alike."
        if agreement
        else ""
    )
    return (
        f"Rankings of K responses a prompt: {sizes}; {metrics['responses_per_ranking']:.1f} "
        f"responses each, "
        f"{100 * metrics['tie_rate']:.1f} % of pairs tied.{said}\n\nEach line of "
        f"rankings.*.jsonl is one ranking by "
        "one labeler (`data.records.Ranking`); ranks[i] belongs to responses[i], 1 is best, "
        "equal is a tie.\n"
    )


def save_progress(
    stage: StageContext, done: int, candidates: Sequence[Candidates], counts: Counter[str]
) -> None:
    """A checkpoint: the candidates so far."""

    def write(folder: Path) -> None:
        if stage.is_main:
            write_jsonl(folder / "candidates.jsonl", candidates)
            write_json(folder / "counts.json", dict(counts))

    stage.save_checkpoint(done, write)


def resume(stage: StageContext) -> tuple[int, list[Candidates], Counter[str]]:
    """Prompts done, their candidates and counts; nothing at the beginning."""
    found = stage.latest_checkpoint()
    if found is None:
        return 0, [], Counter()
    done, folder = found
    counts: dict[str, Any] = json.loads((folder / "counts.json").read_text())
    return done, read_jsonl(folder / "candidates.jsonl", Candidates), Counter(counts)


if __name__ == "__main__":
    run_stage_main("rankings")
