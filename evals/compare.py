"""`podium compare FIRST SECOND ...`: any models answer the same held-out prompts, and a judge tells
who wins.

The first is compared with each of the others. A win rate counts ties half, has an interval over
prompts, and stands beside the one over answers of like length; verdicts on several are corrected by
Holm (`evals.winrate`). A judge that a compared model was trained on is refused, or named as that.

Each model's answers are kept in the output folder as soon as they are sampled, so a kill costs one
model's.

Left out: people as judges; the labeling site has pages for them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.jsonl import read_jsonl, write_jsonl
from data.readers import read_source
from data.records import Prompt
from data.template import decode_response, encode_prompt, stop_token_ids
from data.worlds import open_world
from evals.contestants import Contestant, find_contestant, identities, optimised_rewards
from evals.held_out import draw, held_out_prompts, key_of, trained_on
from evals.pairs import PairJudge
from evals.records import Answer
from evals.verdicts import Judged, Met, against, elo, model_row
from podium.errors import DataError, PodiumError, RecipeError
from podium.models import (
    absent_token_ids,
    check_rows,
    context_of,
    load_tokenizer,
    moved,
    read_config,
)
from podium.progress import progress_bar
from podium.rewards.kinds import make_reward, name_of, open_endpoint, parts
from podium.rewards.specs import EndpointSpec, RewardSpec
from podium.run.place import Place
from podium.runtime import device, release_memory
from podium.sampling.kinds import make_sampler
from podium.sampling.protocol import SamplingParams
from podium.storage import write_json
from podium.widths import Weights, load_to_answer

COMPARISON_FILE, SETTINGS_FILE = "comparison.json", "settings.json"
DEFAULT_LENGTH = 64  # tokens an answer where no run says otherwise


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a folder of results holds those of one of these.

    Attributes:
        models: runs, stages of runs, model folders or hub ids.
        prompts_from: a run or a file of prompts; None: the first model's run that has a world, or
            else prompts.
        prompts, samples: how many, and answers to each. temperature, top_p, seed: of sampling.
        max_new_tokens: None: the longest that a run trained for.
        judge: None: the world of the run that the prompts are from; else as `ppo.reward`, or an
            endpoint that compares pairs.
        optimised_judge: allow one that a compared model was trained on.
        weights: the width of the models'; a reward model that judges keeps its own.
    """

    models: tuple[str, ...]
    prompts_from: str | None = None
    prompts: int = 200
    samples: int = 2
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    judge: Any = None
    optimised_judge: bool = False
    seed: int = 0
    weights: Weights = "fp32"


def compare(settings: Settings, runs_dir: Path, out: Path) -> dict[str, Any]:
    """Compare, or go on where an earlier call with the same settings stopped; comparison.json.

    Raises:
        PodiumError: fewer than two models, or the same twice; no judge, or one that a model was
            trained on; no prompts; `out` holds a comparison of other settings.
    """
    if len(set(settings.models)) < max(2, len(settings.models)):
        raise PodiumError("a comparison needs two different models", "name two runs or models")
    found = [find_contestant(ref, runs_dir) for ref in settings.models]
    home = _home(settings, found, runs_dir)
    judge, notes = _judge(settings, found, home, out)
    prompts, dropped = _prompts(settings, found, home)
    if dropped["trained on"]:
        notes.append(
            f"{dropped['trained on']} held-out prompts were trained on by one and left out"
        )
    _claim(out, settings, found)
    answers = [
        _answers(number, contestant, settings, found, prompts, out)
        for number, contestant in enumerate(found)
    ]
    scores = None
    if judge.score is not None:
        scores = [_scores(judge, settings, prompts, given) for given in answers]
    met = Met([contestant.name for contestant in found], answers, scores, judge, settings.samples)
    result = {
        "judge": judge.name,
        "prompts": len(prompts),
        "samples": settings.samples,
        "dropped": dropped,
        "notes": notes,
        "models": [
            model_row(met, number) | {"folder": str(contestant.folder)}
            for number, contestant in enumerate(found)
        ],
        "against": against(met),
        "elo": elo(met),
        "settings": _plain(settings),
    }
    write_json(out / COMPARISON_FILE, result)
    return result


def _home(settings: Settings, found: Sequence[Contestant], runs_dir: Path) -> Contestant | None:
    """The run that prompts and world come from; None where the prompts are a file's."""
    if settings.prompts_from is not None:
        if Path(settings.prompts_from).is_file():
            return None
        return find_contestant(settings.prompts_from, runs_dir)
    for contestant in found:
        if contestant.run is not None:
            return contestant
    raise PodiumError(
        "none of the models belongs to a run, so there are no held-out prompts",
        "give --prompts-from: a run, or a JSONL file of prompts",
    )


def _judge(
    settings: Settings, found: Sequence[Contestant], home: Contestant | None, out: Path
) -> tuple[Judged, list[str]]:
    place = _place(home or found[0], settings.seed)
    if settings.judge is None:
        if home is None or place.recipe.data.world is None:
            raise PodiumError(
                "there is no world to judge by",
                "give --judge: a reward model that no model here was trained on, "
                "module:function, or the URL of a served model",
            )
        world = open_world(place.parent("world"))
        judge = Judged(
            f"the gold score of the world '{world.name}' of {home.run}",
            lambda prompts, texts: [world.gold(p, t) for p, t in zip(prompts, texts, strict=True)],
        )
        return judge, _other_worlds(found, home)
    spec: RewardSpec = settings.judge
    same = identities(spec, place.recipe, place.run_dir)
    trained = [c.name for c in found if same & optimised_rewards(c.folder)]
    name = " + ".join(f"{part.weight:g} {name_of(part.reward)}" for part in parts(spec))
    if trained and not settings.optimised_judge:
        raise PodiumError(
            f"the judge {name} is what {' and '.join(trained)} was trained on: it would praise "
            f"whatever fools it",
            "name another judge, or say --optimised-judge to see what it gives, marked as that",
        )
    notes = [f"not independent: {' and '.join(trained)} was trained on this judge"] * bool(trained)
    if isinstance(spec, EndpointSpec):
        pairs = PairJudge(open_endpoint(spec, Place(place.recipe, out, place.device, 0)))
        return Judged(pairs.name, pairs=pairs), notes
    reward = moved(make_reward(spec, place, same_tokenizer=False), place.device).eval()
    return Judged(f"the reward {name}", reward), notes


def _other_worlds(found: Sequence[Contestant], home: Contestant) -> list[str]:
    """A village of another seed has other villagers: who learned those knows none of these."""
    own = home.recipe.data.world
    return [
        f"{c.name} learned another world than the one that asks and judges"
        for c in found
        if c.run is not None and c.recipe.data.world != own
    ]


def _place(contestant: Contestant, seed: int) -> Place:
    return Place(contestant.recipe, contestant.run or Path(), device(), seed)


def _prompts(
    settings: Settings, found: Sequence[Contestant], home: Contestant | None
) -> tuple[list[Prompt], dict[str, int]]:
    """Those that nobody was trained on and that leave everybody room, and how many were left
    out.
    """
    if home is None:
        every = read_source(str(settings.prompts_from), Prompt)
    elif home.run is None:
        raise PodiumError(f"--prompts-from {home.name}: it is no run", "give a run or a file")
    else:
        every = held_out_prompts(home.run)
    seen = trained_on(found)
    fresh = [prompt for prompt in every if key_of(prompt.messages) not in seen]
    length = answer_length(settings, found)
    fitting = fresh
    for contestant in found:
        tokenizer, context = load_tokenizer(contestant.folder), _context(contestant)
        fitting = [
            p for p in fitting if len(encode_prompt(tokenizer, p.messages)) + length <= context
        ]
    if not fitting:
        raise DataError(
            str(settings.prompts_from or (home and home.run)),
            None,
            "prompts",
            f"of {len(every)} prompts none is left: {len(every) - len(fresh)} were trained on, "
            f"{len(fresh)} leave no room for {length} tokens",
            "give other prompts by --prompts-from, or a smaller --max-new-tokens",
        )
    dropped = {"trained on": len(every) - len(fresh), "too long": len(fresh) - len(fitting)}
    return draw(fitting, settings.prompts, settings.seed), dropped


def answer_length(settings: Settings, found: Sequence[Contestant]) -> int:
    """The longest answer in tokens: as told, else the longest that a run's PPO trained for."""
    if settings.max_new_tokens is not None:
        return settings.max_new_tokens
    tuned = [contestant.recipe.stage_config("ppo") for contestant in found]
    return max((ppo.response_length for ppo in tuned if ppo is not None), default=DEFAULT_LENGTH)


def _context(contestant: Contestant) -> int:
    return context_of(read_config(contestant.folder)) or 10**9


def _plain(settings: Settings) -> dict[str, Any]:
    """As JSON has it."""
    judge = settings.judge
    told = judge.model_dump(mode="json") if isinstance(judge, EndpointSpec) else judge
    return asdict(settings) | {"models": list(settings.models), "judge": told}


def _claim(out: Path, settings: Settings, found: Sequence[Contestant]) -> None:
    claimed = _plain(settings) | {"folders": [str(c.folder.resolve()) for c in found]}
    path = out / SETTINGS_FILE
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != claimed:
        raise PodiumError(
            f"{out} holds a comparison of other settings (see {SETTINGS_FILE} there)",
            "give another --out, or the same settings to go on",
        )
    write_json(path, claimed)


def _answers(
    number: int,
    contestant: Contestant,
    settings: Settings,
    found: Sequence[Contestant],
    prompts: Sequence[Prompt],
    out: Path,
) -> list[Answer]:
    """A model's answers, prompt by prompt (P x S); sampled once."""
    path = out / f"answers-{number}.jsonl"
    if path.is_file():
        return read_jsonl(path, Answer)
    place = _place(contestant, settings.seed)
    tokenizer = load_tokenizer(contestant.folder)
    model = load_to_answer(contestant.folder, settings.weights, place.device)
    check_rows(tokenizer, model, contestant.folder)
    sampler = make_sampler(place.sampler(), model, int(tokenizer.pad_token_id))
    params = SamplingParams(
        answer_length(settings, found),
        settings.temperature,
        settings.top_p,
        stop_token_ids=stop_token_ids(tokenizer, model),
        absent_token_ids=absent_token_ids(tokenizer, model.config),
        # Answers drawn with the same random numbers would not be independent.
        seed=settings.seed + 1000 * number,
    )
    asked = [prompt for prompt in prompts for _ in range(settings.samples)]
    with progress_bar(1, contestant.name, "model") as bar:
        drawn = sampler.generate([encode_prompt(tokenizer, p.messages) for p in asked], params)
        bar.advance()
    answers = [
        Answer(
            row=contestant.name,
            prompt=prompt.messages,
            prompt_index=i // settings.samples,
            use_case=prompt.use_case,
            response=decode_response(tokenizer, sample.tokens),
            tokens=len(sample.tokens),
            finished=sample.finished,
        )
        for i, (prompt, sample) in enumerate(zip(asked, drawn, strict=True))
    ]
    write_jsonl(path, answers)
    del model, sampler
    release_memory()
    return answers


def _scores(
    judge: Judged, settings: Settings, prompts: Sequence[Prompt], answers: Sequence[Answer]
) -> np.ndarray:
    """(P, S) of the answers."""
    asked = [prompt for prompt in prompts for _ in range(settings.samples)]
    assert judge.score is not None
    scores = judge.score(asked, [answer.response for answer in answers])
    return np.array([float(score) for score in scores]).reshape(len(prompts), settings.samples)


def read_judge(judge: str | None, model: str | None, key_env: str | None) -> RewardSpec | None:
    """What `--judge` says: a reward, or with a URL the served `model` that compares pairs.

    Raises:
        RecipeError: a URL without a model, or one that is none.
    """
    if judge is None or not judge.startswith(("http://", "https://")):
        return judge
    if model is None:
        raise RecipeError("--judge is a URL, and a server has several models", "give --judge-model")
    try:
        return EndpointSpec(endpoint=judge, model=model, key_env=key_env)
    except ValueError as error:
        raise RecipeError(f"--judge {judge}: {error}", "give a whole URL without a key") from error
