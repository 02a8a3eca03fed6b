"""`podium evals code MODEL`: sample programs, run their tests in the sandbox, report pass@k.

Three parts: (1) sample completions problem by problem, (2) run each once, (3) pass@k over problems
and what ranking the samples would have given. Every problem is kept on the disk as soon as it is
measured, so a kill costs one problem at most.

Source: Chen et al. 2021 (Codex), sections 2.1 (pass@k), 3.1 (sampling and stops), 3.3 (ranking by
mean log-probability).
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.records import Message, Prompt
from data.template import stop_token_ids
from evals.code.completions import STOPS, Completion, Form, chosen_is_right, cut, encode_problem
from evals.code.problems import Problem, read_problems
from evals.code.sandbox import Limits, check_sandbox, run_program
from evals.generation import pass_at_k
from podium.errors import PodiumError
from podium.models import absent_token_ids, context_of, load_tokenizer, moved
from podium.progress import progress_bar, say
from podium.rewards.kinds import make_reward
from podium.run.parents import find_parent
from podium.run.place import Place
from podium.run.recipe import Recipe, validate_reward
from podium.runtime import device
from podium.sampling.kinds import make_sampler
from podium.sampling.protocol import Sampler, SamplingParams
from podium.statistics import SHARE, mean_with_interval
from podium.storage import write_json, write_text
from podium.widths import Weights, load_to_answer

RESULTS_FILE, SETTINGS_FILE = "results.json", "settings.json"


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a folder of results holds those of one of these.

    Attributes:
        model: a folder, a stage folder or a hub id. problems: a file, `humaneval` or `small`.
        samples: programs a problem. temperature, top_p, max_new_tokens, seed: as for the sampler.
        form: `ask` uses the model's turns, `continue` does not.
        reward: a further ranking of the samples, as in `ppo.reward`; None leaves it out.
        seconds: on the clock, for one program. weights: the width of the model's.
    """

    model: str
    problems: str = "humaneval"
    limit: int | None = None
    samples: int = 10
    temperature: float = 0.8
    top_p: float = 0.95
    max_new_tokens: int = 256
    form: Form = "continue"
    reward: str | None = None
    seed: int = 0
    seconds: float = 5.0
    weights: Weights = "fp32"


def evaluate_code(
    settings: Settings, ks: Sequence[int], out: Path, confined: bool = True
) -> dict[str, Any]:
    """Measure a model, or go on where an earlier call with the same settings stopped.

    Raises:
        PodiumError: a k above the number of samples; no sandbox; no such model, reward or problems;
            `out` holds results of other settings.
    """
    if max(ks) > settings.samples:
        raise PodiumError(
            f"pass@{max(ks)} cannot be told from {settings.samples} samples a problem",
            f"give --samples {max(ks)} or more (the paper drew 200 for k up to 100)",
        )
    if settings.reward:
        validate_reward(settings.reward, "--reward")  # a slip is told before anything is written
    check_sandbox(confined)
    problems = read_problems(settings.problems, settings.limit)
    _claim(out, settings)
    missing = [problem for problem in problems if not _file(out, problem).is_file()]
    if missing:
        _measure(settings, missing, out, confined)
    rows = [json.loads(_file(out, problem).read_text(encoding="utf-8")) for problem in problems]
    results = {"settings": asdict(settings), **summarise(rows, ks)}
    write_json(out / RESULTS_FILE, results)
    return results


def _claim(out: Path, settings: Settings) -> None:
    found = out / SETTINGS_FILE
    if found.is_file() and json.loads(found.read_text(encoding="utf-8")) != asdict(settings):
        raise PodiumError(
            f"{out} holds results of other settings (see {SETTINGS_FILE} there)",
            "give another --out, or the same settings to go on",
        )
    write_json(found, asdict(settings))


def _file(out: Path, problem: Problem) -> Path:
    return out / "problems" / f"{problem.task_id.replace('/', '-')}.json"


def _measure(settings: Settings, problems: Sequence[Problem], out: Path, confined: bool) -> None:
    place = Place(Recipe(name="code"), Path(), device(), settings.seed)
    folder = find_parent(settings.model, place.recipe, place.run_dir)
    tokenizer = load_tokenizer(folder)
    model = load_to_answer(folder, settings.weights, place.device)
    spec = validate_reward(settings.reward, "--reward") if settings.reward else None
    reward = moved(make_reward(spec, place), place.device) if spec else None
    sampler = make_sampler(place.sampler(), model, int(tokenizer.pad_token_id))
    params = SamplingParams(
        settings.max_new_tokens,
        settings.temperature,
        settings.top_p,
        stop_token_ids=stop_token_ids(tokenizer, model),
        absent_token_ids=absent_token_ids(tokenizer, model.config),
    )
    context = context_of(model.config) or 10**9
    with progress_bar(len(problems), "programs", "problem") as bar:
        for problem in problems:
            ids = encode_problem(tokenizer, problem.prompt, settings.form)
            found: list[Completion] = []
            if len(ids) + settings.max_new_tokens <= context:
                samples = _sample(sampler, ids, settings, params, problem.task_id)
                found = [cut(tokenizer, sample, STOPS[settings.form]) for sample in samples]
            else:
                say(f"  {problem.task_id}: its prompt leaves no room in a context of {context}")
            scores = None
            if reward is not None and found:
                asked = Prompt(messages=[Message(role="user", content=problem.prompt)])
                scores = reward([asked] * len(found), [c.text for c in found]).tolist()
            row = _run(problem, found, settings, confined) | {"scores": scores}
            write_text(_file(out, problem), json.dumps(row, ensure_ascii=False, indent=1))
            bar.advance()


def _sample(
    sampler: Sampler, ids: list[int], settings: Settings, params: SamplingParams, task: str
) -> list[Any]:
    # A problem's samples depend on the seed and its name alone, not on which others are measured.
    seed = settings.seed * 1_000_003 + sum(ord(c) * 31**i for i, c in enumerate(task)) % 2**31
    return sampler.generate([ids] * settings.samples, replace(params, seed=seed % 2**31))


def _run(
    problem: Problem, found: Sequence[Completion], settings: Settings, confined: bool
) -> dict[str, Any]:
    """The verdict of every completion; like ones are run once."""
    texts = list(dict.fromkeys(completion.text for completion in found))
    limits = Limits(seconds=settings.seconds)
    prompt = problem.prompt.rstrip("\n")
    whole = problem.model_copy(update={"prompt": prompt})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ended = pool.map(lambda text: run_program(whole.source(text), limits, confined), texts)
        outcomes = dict(zip(texts, ended, strict=True))
    return {
        "task_id": problem.task_id,
        "completions": [asdict(completion) for completion in found],
        "outcomes": [asdict(outcomes[completion.text]) for completion in found],
    }


def summarise(rows: Sequence[dict[str, Any]], ks: Sequence[int]) -> dict[str, Any]:
    """pass@k and the rankings' shares of right picks, each a mean over problems with its 95 %
    interval; and how the programs ended.

    A problem whose prompt had no room counts as not solved.
    """
    right = [np.array([o["verdict"] == "passed" for o in row["outcomes"]]) for row in rows]
    index = range(len(rows))

    def share(values: Sequence[float]) -> dict[str, float | None]:
        return dict(mean_with_interval(values, index, SHARE)._asdict())

    passes = {
        f"pass@{k}": share([pass_at_k(len(r), int(r.sum()), k) if len(r) else 0.0 for r in right])
        for k in ks
    }
    picks: dict[str, list[float]] = {}
    for row, passed in zip(rows, right, strict=True):
        for name, values in _rankings(row, passed).items():
            picks.setdefault(name, []).append(
                chosen_is_right(values, passed) if len(passed) else 0.0
            )
    verdicts = [o["verdict"] for row in rows for o in row["outcomes"]]
    return {
        "problems": len(rows),
        **passes,
        "one of them, chosen by": {name: share(values) for name, values in picks.items()},
        "programs": {name: verdicts.count(name) for name in ("passed", "failed", "timed out")},
    }


def _rankings(row: dict[str, Any], passed: np.ndarray) -> dict[str, np.ndarray]:
    """What the samples of a problem can be ranked by, the highest first."""
    completions = row["completions"]
    total = np.array([c["total_logprob"] for c in completions])
    tokens = np.array([max(c["tokens"], 1) for c in completions])
    found = {
        "oracle": passed.astype(float),
        "mean log-probability": total / tokens,
        "sum of log-probabilities": total,
        "chance": np.zeros(len(completions)),
    }
    return found | ({"reward": np.array(row["scores"])} if row.get("scores") else {})
