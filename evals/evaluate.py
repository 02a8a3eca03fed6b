"""What each model of the chain is worth, on prompts, text and questions that none of them was
trained on.

InstructGPT, section 4: preference against the SFT model (here by the world's gold score, or a
judge), and the alignment tax on skills that were not tuned. Every model answers the same held-out
test prompts; the win rate has ties as half and an interval over prompts; the KL is the sequence KL
from the model PPO started from.

Reads every stage before it. Writes evals/final/results.json and answers.jsonl, from which
evals/report.py makes the table, the pictures and the page, and candidates.jsonl, which people may
rank on the labeling site (`evals.judge: {people: EXPORT}`).

    podium evals RECIPE     (or: python -m evals.evaluate RECIPE --set evals.prompts=500)
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.jsonl import write_jsonl
from data.records import Prompt
from data.special_tokens import choose
from data.template import decode_response, encode_prompt, stop_token_ids
from evals.answers import Judge, best_of_curve, pick_best
from evals.config import Config
from evals.distance import far_prompts
from evals.harness import check_tasks, expand
from evals.measure import (
    LONGEST_CONTEXT,
    Bench,
    HeldOut,
    Measured,
    Tasks,
    answers_of,
    measure,
    summarise,
)
from evals.pairs import PairJudge
from evals.people import PeopleJudge, PeopleSpec, candidates_of
from evals.pieces import Pieces
from evals.records import ANSWERS_FILE, CANDIDATES_FILE, RESULTS_FILE, TASKS_FOLDER, Answer
from podium.errors import DataError
from podium.models import (
    absent_token_ids,
    context_of,
    load_tokenizer,
    moved,
    read_config,
)
from podium.rewards.kinds import make_reward, open_endpoint
from podium.rewards.protocol import Reward
from podium.rewards.specs import EndpointSpec, RewardSpec
from podium.run.context import StageContext
from podium.run.launch import run_stage_main
from podium.run.recipe import Recipe
from podium.run.registry import label_of, spec_of
from podium.sampling.kinds import make_sampler
from podium.sampling.protocol import SamplingParams, StopStrings
from podium.storage import write_json
from podium.widths import Weights, load_to_answer

DEFAULT_LENGTH = 64  # tokens an answer in a chain without PPO


def main(config: Config, stage: StageContext) -> None:
    """Compare the models of the run and write what each is worth."""
    # 1. Who is compared, who judges, and on what.
    tasks = read_tasks(config, stage)
    length = answer_length(config, stage.recipe)
    rows = rows_of(config, stage.recipe)
    tokenizer = load_tokenizer(stage.parent(config.sft))
    choose(tokenizer, stage.special_tokens())
    drop_foreign_base(rows, tokenizer, stage)
    judge = make_judge(config, stage)
    open_model = partial(_load, stage, tokenizer=tokenizer, weights=config.weights)
    reference = open_model(stage.parent(reference_of(config, stage.recipe)))
    context = context_of(reference.config) or LONGEST_CONTEXT
    held_out = read_held_out(config, stage, tokenizer, context)
    pad, sampling_by = tokenizer.pad_token_id, stage.sampler()
    ends = stop_token_ids(tokenizer, reference)  # of every model: they answer the same prompts
    stop = StopStrings(tuple(config.stop), partial(decode_response, tokenizer))
    folders = {row: stage.parent(ref, row != "base") for row, ref in rows.items()}
    bench = Bench(
        make_sampler(sampling_by, reference, pad),
        tokenizer,
        judge,
        held_out,
        config.documents_tokens,
        tasks,
        Pieces(stage),
        config.save_steps,
    )

    # 2. Every model answers, reads and is asked, piece by piece: what is made is kept.
    measured: dict[str, Measured] = {}
    candidates: list[Answer] = []
    with stage.progress(len(rows), "evals", unit="model") as progress:
        for number, (row, folder) in enumerate(folders.items()):
            load = cache(partial(open_model, folder))
            sampler = cache(lambda load=load: make_sampler(sampling_by, load(), pad))
            absent = absent_token_ids(tokenizer, read_config(folder))
            seed = stage.seed + 1000 * number
            params = replace(sampling(config, length, ends, absent, seed), stop=stop)
            measured[row] = measure(row, load, sampler, bench, config.samples, params)
            if row == "sft" and config.best_of and judge.reward is not None:
                fresh = replace(params, seed=params.seed + 500)
                candidates = answers_of(row, sampler, bench, config.best_of, fresh)
            progress.advance()
    familiar = familiar_prompts(config, stage)

    def look() -> dict[str, Any] | None:
        model = open_model(folders["sft"])
        return far_prompts(model, tokenizer, familiar, held_out.prompts, context)

    far = bench.pieces.piece(look) if familiar else None
    if candidates:
        picked = pick_best("best_of_n", candidates, config.best_of)
        measured["best_of_n"] = replace(measured["sft"], answers=picked, samples=1)

    # 3. The table, every row against SFT.
    table = {
        row: summarise(
            row,
            measured[row],
            measured["sft"],
            held_out.questions,
            config.best_of,
            judge.pairs if judge.world is None else None,
        )
        for row in ordered(measured)
    }
    for number, (row, values) in enumerate(table.items()):
        stage.log(
            number, {f"{row}/{name}": v for name, v in values.items() if isinstance(v, int | float)}
        )
    results = {
        "rows": table,
        "best_of_curve": best_of_curve(candidates, config.best_of) if candidates else [],
        "setup": describe_setup(config, stage, rows, judge, held_out) | {"far_prompts": far},
    }
    answers = [answer for row in table for answer in measured[row].answers]

    def save(folder: Any) -> None:
        (folder / RESULTS_FILE).write_text(
            json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        write_jsonl(folder / ANSWERS_FILE, answers)
        write_jsonl(folder / CANDIDATES_FILE, candidates_of(answers))
        for row in rows if tasks.asked else ():
            write_json(folder / TASKS_FOLDER / f"{row}.json", measured[row].summaries)

    stage.finish(
        save, headline(table, judge), card(results), tokens=sum(answer.tokens for answer in answers)
    )
    bench.pieces.clear()


def rows_of(config: Config, recipe: Recipe) -> dict[str, str]:
    """Row of the table -> model, as the chain has them: base, sft, then PPO and its arms.

    The arm `plain` is the row `ppo`; the stage `ppo` is the row that its label says: `ppo_ptx`,
    `ppo` where its ptx_coef is 0, `rloo_ptx`, ...
    """
    demonstrated = recipe.stage_config("sft")
    base = config.base or (demonstrated.model if demonstrated is not None else None)
    rows = ({"base": base} if base else {}) | {"sft": config.sft}
    for stage in recipe.chain():
        if spec_of(stage).role != "policy":
            continue
        if stage == "ppo":
            label = label_of(stage, recipe.stage_config(stage).model_dump())
            rows[label.lower().replace("-", "_")] = stage
        else:
            row = "ppo" if stage == "ppo_plain" else stage
            rows[stage if row in rows else row] = stage
    return rows


def labels_of(rows: dict[str, str], recipe: Recipe) -> dict[str, str]:
    """Row -> what people call it. A base or SFT model from elsewhere is still the base, and SFT."""
    labels = {"base": label_of("pretrain"), "sft": label_of("sft")}
    for row, stage in rows.items():
        if row not in labels:
            labels[row] = label_of(stage, recipe.stage_config(stage).model_dump())
    return labels


def answer_length(config: Config, recipe: Recipe) -> int:
    """The longest answer in tokens: what PPO trains for, unless the config says otherwise."""
    ppo = recipe.stage_config("ppo")
    return config.max_new_tokens or (ppo.response_length if ppo is not None else DEFAULT_LENGTH)


def drop_foreign_base(
    rows: dict[str, str], tokenizer: PreTrainedTokenizerBase, stage: StageContext
) -> None:
    """Leave the base out when its ids mean something else than SFT's (which only ever appends
    tokens).
    """
    if "base" not in rows:
        return
    own = load_tokenizer(stage.parent(rows["base"], same_tokenizer=False)).get_vocab()
    shared = tokenizer.get_vocab()
    if any(shared.get(token) != number for token, number in own.items()):
        stage.logbook(
            f"the base '{rows.pop('base')}' has another tokenizer than SFT and was left out"
        )


def reference_of(config: Config, recipe: Recipe) -> str:
    """The model the KL is measured from: what the first policy starts from and is held close to."""
    policies = (stage for stage in recipe.chain() if spec_of(stage).role == "policy")
    tuned = recipe.stage_config(next(policies, ""))
    return config.reference or str(getattr(tuned, "model", config.sft))


def make_judge(config: Config, stage: StageContext) -> Judge:
    """The world, the independent judge and the reward, as far as the run has them. The reward is
    the one that PPO optimises, unless the config names another.
    """
    spec, ppo = config.reward, stage.recipe.stage_config("ppo")
    if spec is None and ppo is not None:
        spec = ppo.reward
    elif spec is None and stage.recipe.stage_config("reward") is not None:
        spec = "reward"

    def load(spec: RewardSpec | None) -> Reward | None:
        if spec is None:
            return None
        return moved(make_reward(spec, stage, same_tokenizer=False), stage.device).eval()

    if isinstance(config.judge, PeopleSpec):
        export = Path(config.judge.people).expanduser()
        if not export.is_file():
            raise DataError(export, None, "evals.judge", "is no file", "name an export of rankings")
        stage.code(export)  # another export makes the evaluation anew
        return Judge(stage.world(), None, load(spec), PeopleJudge(export))
    if isinstance(config.judge, EndpointSpec):
        pairs = PairJudge(open_endpoint(config.judge, stage))
        return Judge(stage.world(), None, load(spec), pairs)
    return Judge(stage.world(), load(config.judge), load(spec))


def read_tasks(config: Config, stage: StageContext) -> Tasks:
    """The tasks of lm-eval to ask; the user's own files are noted in the lineage."""
    files = None if config.task_files is None else Path(config.task_files).expanduser()
    if files is not None:
        if not files.is_dir():
            raise DataError(files, None, "evals.task_files", "is no folder", "name one that is")
        for path in sorted(path for path in files.rglob("*") if path.is_file()):
            stage.code(path)
    asked = expand(config.tasks, config.num_fewshot)
    check_tasks([task for tasks in asked.values() for task in tasks], files)
    return Tasks(asked, files, config.task_limit)


def read_held_out(
    config: Config, stage: StageContext, tokenizer: PreTrainedTokenizerBase, context: int
) -> HeldOut:
    """Test prompts that leave room for an answer, validation documents, and questions; the same
    ones for a seed.
    """
    rng = np.random.default_rng(stage.seed)

    def draw(records: list[Any], count: int) -> list[Any]:
        return [records[i] for i in sorted(rng.permutation(len(records))[:count])]

    length = answer_length(config, stage.recipe)
    room = context - length - 1  # one for the end token that a scorer may add
    prompts = stage.records("prompts", "test")
    fitting = [
        prompt for prompt in prompts if len(encode_prompt(tokenizer, prompt.messages)) <= room
    ]
    if not fitting:
        raise DataError(
            "evals",
            None,
            "prompts",
            f"none of {len(prompts)} test prompts leaves {length} tokens for "
            f"an answer in a context of {context}",
            "lower evals.max_new_tokens or give shorter prompts",
        )
    if len(fitting) < len(prompts):
        stage.logbook(
            f"{len(prompts) - len(fitting)} of {len(prompts)} test prompts are too long and "
            f"were left out"
        )
    documents = (
        stage.records("documents", "validation")
        if stage.has_records("documents", "validation")
        else []
    )
    split = next(
        (
            split
            for split in ("test", "validation", "train")
            if stage.has_records("questions", split)
        ),
        None,
    )
    questions = stage.records("questions", split) if split and config.questions else []
    return HeldOut(draw(fitting, config.prompts), documents, draw(questions, config.questions))


def familiar_prompts(config: Config, stage: StageContext) -> list[Prompt]:
    """Some training prompts, the same ones for a seed; none where the run has none."""
    if not config.familiar_prompts or not stage.has_records("prompts", "train"):
        return []
    known = stage.records("prompts", "train")
    chosen = np.random.default_rng(stage.seed).permutation(len(known))[: config.familiar_prompts]
    return [known[i] for i in chosen]


def sampling(
    config: Config, length: int, stops: tuple[int, ...], absent: tuple[int, ...], seed: int
) -> SamplingParams:
    """Each model has a seed of its own: answers drawn with the same random numbers would not be
    independent.
    """
    return SamplingParams(
        max_new_tokens=length,
        temperature=config.temperature,
        top_p=config.top_p,
        stop_token_ids=stops,
        absent_token_ids=absent,
        seed=seed,
    )


def ordered(rows: Iterable[str]) -> list[str]:
    """The table's order: base, sft, best_of_n, ppo_ptx, ppo, other arms."""
    first = ["base", "sft", "best_of_n", "ppo_ptx", "ppo"]
    found = list(rows)
    return [row for row in first if row in found] + [row for row in found if row not in first]


def describe_setup(
    config: Config, stage: StageContext, rows: dict[str, str], judge: Judge, held_out: HeldOut
) -> dict[str, Any]:
    """What the numbers rest on, for the report."""
    return {
        "models": rows,
        "labels": labels_of(rows, stage.recipe) | {"best_of_n": f"best of {config.best_of}"},
        "judge": judge.name,
        "reference": reference_of(config, stage.recipe),
        "best_of": config.best_of,
        "prompts": len(held_out.prompts),
        "samples": config.samples,
        "documents": len(held_out.documents),
        "questions": len(held_out.questions),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_new_tokens": answer_length(config, stage.recipe),
    }


def headline(table: dict[str, dict[str, Any]], judge: Judge) -> dict[str, float]:
    """The numbers that stage.json keeps: of the tuned policies, or of SFT where there is
    none yet. Scores are called gold where a world gave them.
    """
    fields = ("win_rate", "win_rate_low", "gold", "kl", "pretrain_loss")
    names = {"gold": "gold" if judge.world is not None else "score"}
    rows = [row for row in table if row not in ("base", "sft", "best_of_n")] or ["sft"]
    return {
        f"{row}/{names.get(f, f)}": table[row][f]
        for row in rows
        for f in fields
        if table[row].get(f) is not None
    }


def card(results: dict[str, Any]) -> str:
    """README.md of final/."""
    setup = results["setup"]
    return (
        "# Evaluation of a chain\n\n"
        f"{setup['prompts']} held-out prompts, {setup['samples']} answers each at temperature "
        f"{setup['temperature']}; "
        f"wins are decided by {setup['judge']}; KL is measured from `{setup['reference']}`. "
        f"`{RESULTS_FILE}` holds "
        f"every number with its interval, `{ANSWERS_FILE}` every answer."
    )


def _load(
    stage: StageContext, folder: Path, tokenizer: PreTrainedTokenizerBase, weights: Weights
) -> PreTrainedModel:
    """A causal LM that reads SFT's ids; a base model from elsewhere gains untrained rows for the
    tokens SFT added.

    On a GPU weights are bf16 where the run is: reference, policy and reward model are in memory
    together.
    """
    model = load_to_answer(folder, weights, stage.device, tokenizer)
    half = stage.device.type == "cuda" and stage.dtype == "bf16"
    return moved(model, stage.device, torch.bfloat16) if half and weights == "fp32" else model


if __name__ == "__main__":
    run_stage_main("evals")
