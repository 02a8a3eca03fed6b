"""Tasks of EleutherAI's lm-eval, asked of every model of a run in this process.

lm-eval brings hundreds of tasks by name (they are fetched from the hub) and takes one's own as YAML
files beside their data, which need no network. Each question's score is kept, so that a model is
compared with SFT question by question. Needs the extra `eval`.
"""

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from podium.errors import PlatformError, RecipeError
from podium.statistics import SHARE, mean_with_interval, paired_difference

if TYPE_CHECKING:  # a table is shown without them, and at once
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Below, an interval of accuracies is wider than 14 points: most taxes and gains are smaller.
ENOUGH_QUESTIONS = 200
# Of the metrics that a task may report, the one that tables show: the first that it has. All are
# shares of questions; of others lm-eval's own summary is kept.
SHOWN = ("acc_norm", "acc", "exact_match", "f1")
Scores = dict[str, dict[str, list[float]]]  # task -> metric -> one number a question


class Asked(NamedTuple):
    """What the tasks of one model gave: every question's scores, and lm-eval's own summary."""

    scores: Scores
    summary: dict[str, Any]


class Suite(NamedTuple):
    """A group of lm-eval's tasks under one name, with the numbers of examples it was asked with."""

    tasks: tuple[str, ...]
    examples: tuple[int, ...]


SUITES = {
    # OPT, section 3.1: GPT-3's tasks at 0, 1 and 32 examples. Left out: StoryCloze, whose data are
    # given out on request only.
    "opt": Suite(
        (
            "hellaswag",
            "piqa",
            "arc_easy",
            "arc_challenge",
            "openbookqa",
            "wsc273",
            "winogrande",
            "boolq",
            "cb",
            "copa",
            "wic",
            "wsc",
            "multirc",
            "sglue_rte",
            "record",
        ),
        (0, 1, 32),
    ),
    # InstructGPT, section 4.2 and appendix D. Left out: RealToxicityPrompts (asks a web service),
    # QuAC, summaries and translation; its few-shot prompts differ from task to task.
    "instructgpt": Suite(
        (
            "truthfulqa_mc1",
            "truthfulqa_mc2",
            "crows_pairs_english",
            "winogender_all",
            "hellaswag",
            "drop",
            "squadv2",
            "sglue_rte",
            "sst2",
            "wsc",
        ),
        (0,),
    ),
}


def expand(tasks: list[str], examples: list[int] | None) -> dict[int, list[str]]:
    """Number of examples -> the tasks to ask with it; a suite's name means its tasks. With
    `examples` None a suite has its own numbers and any other task none.
    """
    asked: dict[int, list[str]] = {}
    for name in tasks:
        suite = SUITES.get(name, Suite((name,), (0,)))
        for number in suite.examples if examples is None else examples:
            asked.setdefault(number, []).extend(
                task for task in suite.tasks if task not in asked.get(number, [])
            )
    return asked


def check_tasks(tasks: list[str], files: Path | None) -> None:
    """Find out before anything is sampled whether the tasks are there.

    Raises:
        PlatformError: lm-eval is not installed. RecipeError: a task that there is not.
    """
    if not tasks:
        return
    need_lm_eval()
    known = set(_manager(files).all_tasks)
    for task in tasks:
        if task not in known:
            raise RecipeError(
                f"evals.tasks: lm-eval has no task '{task}'",
                f"`lm_eval --tasks list` names those it brings, {' and '.join(SUITES)} are "
                f"groups of them, and evals.task_files is the folder of your own",
            )


def ask(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: list[str],
    examples: int,
    files: Path | None,
    context: int,
    limit: int | None,
    seed: int,
    batch_size: int = 8,
) -> Asked:
    """The tasks with so many `examples` before each question (`num_fewshot`).

    context: tokens; what is longer loses its beginning, as lm-eval does. limit: questions a task.

    Raises:
        RecipeError: a task has an answer that is longer than the context.
    """
    need_lm_eval()
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    class Model(HFLM):
        """Refuses by name what lm-eval would end on with an assertion."""

        def loglikelihood(self, requests: Any, *given: Any, **named: Any) -> Any:
            self.asked = {request.args: request for request in requests}
            return super().loglikelihood(requests, *given, **named)

        def _loglikelihood_tokens(self, requests: Any, *given: Any, **named: Any) -> Any:
            for texts, _, continuation in requests:
                if len(continuation) > context:
                    one = self.asked[texts]
                    raise RecipeError(
                        f"evals.tasks: {one.task_name}, question {one.doc_id + 1}: an answer is "
                        f"{len(continuation)} tokens long, and the model reads {context}: "
                        f"'{texts[1].strip()[:60]}...'",
                        fix="leave the question out of the task's file, or the task out of the "
                        "list: no model of this context can be asked it",
                    )
            return super()._loglikelihood_tokens(requests, *given, **named)

    found = lm_eval.simple_evaluate(
        model=Model(
            pretrained=model, tokenizer=tokenizer, max_length=context, batch_size=batch_size
        ),
        tasks=list(tasks),
        num_fewshot=examples,
        limit=limit,
        task_manager=_manager(files),
        bootstrap_iters=0,  # the intervals here are ours, over questions
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    scores = {task: _by_question(samples) for task, samples in found["samples"].items()}
    kept = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better")
    return Asked(scores, {name: found[name] for name in kept if name in found})


def _by_question(samples: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The metrics that are one number a question, by the question's number."""
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    names = ordered[0].get("metrics", []) if ordered else []
    return {
        name: [float(sample[name]) for sample in ordered]
        for name in names
        if all(isinstance(sample[name], int | float | bool | np.number) for sample in ordered)
    }


def against_sft(scores: Scores, sft: Scores) -> dict[str, dict[str, Any]]:
    """task -> the metric shown, its mean over questions with interval, and the difference from SFT
    on the same questions with its own; for the table.
    """
    rows: dict[str, dict[str, Any]] = {}
    for task, metrics in scores.items():
        metric = next((name for name in SHOWN if name in metrics), None)
        if metric is None:
            continue
        mine, theirs = np.array(metrics[metric]), np.array(sft[task][metric])
        questions = range(len(mine))
        rows[task] = {
            "metric": metric,
            "questions": len(mine),
            **mean_with_interval(mine, questions, SHARE)._asdict(),
            "difference": paired_difference(mine, theirs, questions, (-1.0, 1.0))._asdict(),
        }
    return rows


def need_lm_eval() -> None:
    """PlatformError where lm-eval is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise PlatformError(
            "evals.tasks needs lm-eval, which is not installed",
            "pip install -c constraints.txt -e '.[eval]', or leave evals.tasks out",
        ) from error
    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)


@cache
def _manager(files: Path | None) -> Any:
    """The index of all tasks, kept for the next model: lm-eval reads thousands of files for it,
    which takes longer than many a task.
    """
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(files) if files is not None else None)
