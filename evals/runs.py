"""What lies in a run folder, as far as it is finished: records, metrics, results, answers, and what
is missing.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data.jsonl import read_jsonl
from evals import plots
from evals.records import ANSWERS_FILE, RESULTS_FILE, Answer
from evals.sentences import Outcome
from evals.winrate import WinRate, win_rate
from podium.metrics import read_metrics
from podium.run.folders import finished_stages
from podium.run.registry import STAGES, chain_of


@dataclass(frozen=True)
class Run:
    """What lies in a run folder, as far as it is finished."""

    folder: Path
    stages: dict[str, dict[str, Any]]  # stage.json by stage
    metrics: dict[str, plots.Metrics]  # metrics.jsonl by stage, also of unfinished ones
    results: dict[str, Any]  # results.json; empty before the evaluation
    answers: list[Answer]
    missing: dict[str, str]  # stage of the recipe without output -> the command that makes it

    @property
    def outcome(self) -> Outcome | None:
        """What the sentences are made of; None before the evaluation."""
        if not self.results:
            return None
        seconds = {name: record["wall_seconds"] for name, record in self.stages.items()}
        rows = self.results["rows"]
        found = Outcome(rows, self.results["setup"], seconds, None)
        return replace(found, duel=duel(self.answers, found.policy))


def read_run(folder: Path) -> Run:
    """Read a run folder, whatever is in it."""
    finished = finished_stages(folder)
    planned = planned_stages(folder)
    stages = {
        name: finished[name] for name in dict.fromkeys([*planned, *finished]) if name in finished
    }
    metrics = {
        path.parent.name: read_metrics(path) for path in sorted(folder.glob("*/metrics.jsonl"))
    }
    evals = folder / "evals" / "final"
    done = "evals" in stages
    results = json.loads((evals / RESULTS_FILE).read_text(encoding="utf-8")) if done else {}
    answers = read_jsonl(evals / ANSWERS_FILE, Answer) if done else []
    command = f"podium run {folder / 'recipe.yaml'} --runs-dir {folder.parent}"
    missing = {stage: command for stage in planned if stage not in stages}
    order = dict.fromkeys([*planned, *metrics])
    logged = {stage: metrics[stage] for stage in order if metrics.get(stage)}
    return Run(folder, stages, logged, results, answers, missing)


def planned_stages(folder: Path) -> list[str]:
    """The chain of the run's recipe, in order."""
    path = folder / "recipe.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    has_world = (tree.get("data") or {}).get("world") is not None
    present = [
        row for row in STAGES if (has_world if row == "world" else tree.get(row) is not None)
    ]
    return chain_of(present, {row: tree.get(f"{row}_arms") or {} for row in present})


def duel(answers: list[Answer], policy: str | None) -> WinRate | None:
    """The policy's answers against best-of-n's, prompt by prompt; None where one is missing or
    nobody judged.
    """
    gold: dict[str, dict[int, list[float]]] = {}
    for answer in answers:
        if answer.row in (policy, "best_of_n") and answer.gold is not None:
            gold.setdefault(answer.row, {}).setdefault(answer.prompt_index, []).append(answer.gold)
    if policy is None or set(gold) != {policy, "best_of_n"}:
        return None
    first, second = (np.array(list(gold[row].values())) for row in (policy, "best_of_n"))
    return win_rate(first, second)  # (P, S) and (P, 1)
