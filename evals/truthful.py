"""`podium eval truthful MODEL FILE`: TruthfulQA's multiple choice (Lin et al. 2022) from a file, as
lm-eval's own tasks ask it.

MC1: is the right answer likelier than each wrong one. MC2: the share of probability that the right
ones have among all. The file is TruthfulQA's `mc_task.json`, or rows of its data set on the hub
(JSONL); nothing is fetched. What a model says freely is judged by nothing here and not claimed.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from evals.harness import ask, need_lm_eval
from podium.errors import DataError
from podium.models import context_of, load_tokenizer
from podium.run.parents import find_parent
from podium.run.recipe import Recipe
from podium.runtime import device
from podium.statistics import SHARE, mean_with_interval
from podium.widths import Weights, load_to_answer

TASKS = ("truthfulqa_mc1", "truthfulqa_mc2")
TARGETS = ("mc1_targets", "mc2_targets")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Questions with `mc1_targets` and `mc2_targets`, each of choices and labels (1 is right).

    Raises:
        DataError: no such file, or another form; MC1 has one right choice, which comes first.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
        found = [
            {"question": row["question"]} | {name: _targets(row[name]) for name in TARGETS}
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            path,
            problem=f"is not TruthfulQA's multiple choice: {error}",
            fix="give mc_task.json, or rows with question, mc1_targets and mc2_targets",
        ) from error
    if not found:
        raise DataError(path, problem="holds no question", fix="give TruthfulQA's mc_task.json")
    for number, row in enumerate(found, start=1):
        if row["mc1_targets"]["labels"] != [1] + [0] * (len(row["mc1_targets"]["labels"]) - 1):
            raise DataError(
                path, number, "mc1_targets", "has not its one right choice first", "put it there"
            )
    return found


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _targets(value: dict[str, Any]) -> dict[str, list[Any]]:
    """{choice: label} of the file on GitHub, or {choices, labels} of the hub."""
    if set(value) == {"choices", "labels"}:
        return {"choices": list(value["choices"]), "labels": [int(x) for x in value["labels"]]}
    return {"choices": list(value), "labels": [int(label) for label in value.values()]}


def write_tasks(rows: list[dict[str, Any]], folder: Path) -> None:
    """lm-eval's two tasks, with their text and scoring, on these rows."""
    import lm_eval.tasks

    home = Path(lm_eval.tasks.__file__).parent / "truthfulqa"
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = f"{{data_files: {{validation: {data}}}, cache_dir: {folder / 'cache'}}}"
    for task in TASKS:
        (folder / f"{task}.yaml").write_text(
            f"include: {home / task}.yaml\ntask: local_{task}\ndataset_path: json\n"
            f"dataset_name: null\ntag: null\n"
            f"dataset_kwargs: {files}\n",
            encoding="utf-8",
        )


def measure_truthful(
    ref: str, file: Path, limit: int | None = None, weights: Weights = "fp32"
) -> dict[str, Any]:
    """MC1 and MC2 of a model, with 95 % intervals over questions.

    Raises:
        DataError: as `read_rows`. PlatformError: lm-eval is missing.
    """
    rows = read_rows(file)[:limit]
    need_lm_eval()
    folder = find_parent(ref, Recipe(name="truthful"), Path())
    tokenizer, model = load_tokenizer(folder), load_to_answer(folder, weights, device())
    with tempfile.TemporaryDirectory() as place:
        write_tasks(rows, Path(place))
        names = [f"local_{task}" for task in TASKS]
        context = context_of(model.config) or 2048
        asked = ask(model, tokenizer, names, 0, Path(place), context, None, 0)
    found = {
        task.removeprefix("truthfulqa_"): mean_with_interval(
            asked.scores[f"local_{task}"]["acc"], range(len(rows)), SHARE
        )._asdict()
        for task in TASKS
    }
    return {"model": str(folder), "file": str(file), "questions": len(rows), **found}
