"""A real model on public sets that lie here as files, asked by lm-eval and by our own scoring.

    PODIUM_REAL_DATA=... python -m benchmarks.real_tasks MODEL [QUESTIONS]
    python -m benchmarks.real_tasks MODEL [QUESTIONS] --choices arc_easy.jsonl piqa.jsonl

Sets: LAMBADA (the last word of a passage), three paradigms of BLiMP (which of two sentences is
grammatical), OpenBookQA (four choices), or files of questions with choices, as MosaicML's
evaluation gauntlet keeps ARC and PIQA: rows of query, choices and gold, asked with "Answer:" after
the query. Each is made a local task of lm-eval, so that nothing is fetched, and the same requests
go through `evals.loglikelihood`, a row a pass as lm-eval does. docs/lab/real-tasks.md has the
table.
"""

import argparse
import csv
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.harness import ask
from evals.loglikelihood import encode_pair, loglikelihoods
from podium.models import context_of, load_causal_lm, load_tokenizer
from podium.statistics import SHARE, mean_with_interval

PARADIGMS = (
    "anaphor_gender_agreement",
    "determiner_noun_agreement_1",
    "wh_questions_subject_gap",
)
Row = dict[str, Any]  # context, choices, answer; one choice: is it the model's own next word?


def rows_of(data: Path, count: int) -> Iterator[tuple[str, list[Row]]]:
    """Each set's first `count` rows by its name."""
    passages = (data / "lambada" / "lambada_development_plain_text.txt").read_text(encoding="utf-8")
    cut = [line.strip().rpartition(" ") for line in passages.splitlines() if line.strip()]
    yield (
        "lambada",
        [{"context": left, "choices": [word], "answer": 0} for left, _, word in cut[:count]],
    )
    with zipfile.ZipFile(data / "blimp" / "blimp_67x1000.zip") as archive:
        for name in PARADIGMS:
            pairs = [json.loads(line) for line in archive.read(f"{name}.jsonl").splitlines()]
            yield (
                f"blimp_{name}",
                [
                    {"context": "", "choices": [p["sentence_good"], p["sentence_bad"]], "answer": 0}
                    for p in pairs[:count]
                ],
            )
    with (data / "openbookqa" / "openbookqa__Main__test.tsv").open(encoding="utf-8") as file:
        questions = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    yield (
        "openbookqa",
        [
            {
                "context": q["Question Stem"],
                "choices": [part.strip() for part in re.split(r"\([A-D]\)", q["Choices"]) if part],
                "answer": "ABCD".index(q["Answer Key"]),
            }
            for q in questions[:count]
        ],
    )


def rows_of_choices(files: Sequence[Path], count: int) -> Iterator[tuple[str, list[Row]]]:
    """The first `count` questions of each file by its name."""
    for file in files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        yield (
            file.stem,
            [
                {
                    "context": f"{row['query'].strip()}\nAnswer:",
                    "choices": row["choices"],
                    "answer": row["gold"],
                }
                for row in rows[:count]
            ],
        )


def write_task(folder: Path, name: str, rows: list[Row]) -> None:
    """A task of lm-eval as a file beside its data."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = len(rows[0]["choices"]) == 1
    form = (
        "output_type: loglikelihood\ndoc_to_target: ' {{choices[0]}}'\n"
        if one
        else "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: answer\n"
    )
    metrics = (
        "[{metric: acc}, {metric: perplexity}]" if one else "[{metric: acc}, {metric: acc_norm}]"
    )
    (folder / f"{name}.yaml").write_text(
        f"task: local_{name}\n{form}dataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / f'{name}.jsonl'}}}, "
        f"cache_dir: {folder / 'cache'}}}\n"
        f"doc_to_text: '{{{{context}}}}'\nmetric_list: {metrics}\n"
    )


def ours(
    model: Any, tokenizer: Any, rows: list[Row], context: int
) -> tuple[dict[str, list[float]], float]:
    """Right or not of each row, by the sum of log-probabilities (acc) and by the sum divided by the
    choice's characters (acc_norm; choices alone), and the sum of all log-likelihoods.
    """
    pairs = [encode_pair(tokenizer, r["context"], f" {c}") for r in rows for c in r["choices"]]
    found = iter(loglikelihoods(model, pairs, context, batch_tokens=1))
    right: dict[str, list[float]] = {"acc": [], "acc_norm": []}
    total = 0.0
    for row in rows:
        own = [next(found) for _ in row["choices"]]
        sums = np.array([one.total for one in own])
        total += sums.sum()
        if len(own) == 1:
            right["acc"].append(float(own[0].greedy))
        else:
            by_length = sums / [len(choice) for choice in row["choices"]]
            for name, values in (("acc", sums), ("acc_norm", by_length)):
                right[name].append(float(int(np.argmax(values)) == row["answer"]))
    return {name: values for name, values in right.items() if values}, total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("questions", type=int, nargs="?", default=100)
    parser.add_argument("--choices", type=Path, nargs="+", metavar="FILE", help="ask these instead")
    options = parser.parse_args()
    tokenizer, model = load_tokenizer(options.model), load_causal_lm(options.model).eval()
    context = context_of(model.config) or 2048
    if options.choices:
        sets = dict(rows_of_choices(options.choices, options.questions))
    else:
        data = Path(os.environ["PODIUM_REAL_DATA"]) / "E_eval"
        sets = dict(rows_of(data, options.questions))
    print("| task | metric | questions | ours | lm-eval | answers that differ |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as files:
        for name, rows in sets.items():  # all at once: lm-eval lists a folder's tasks one time
            write_task(Path(files), name, rows)
        for name, rows in sets.items():
            theirs = ask(
                model, tokenizer, [f"local_{name}"], 0, Path(files), context, None, 0, batch_size=1
            ).scores[f"local_{name}"]
            for metric, mine in ours(model, tokenizer, rows, context)[0].items():
                told = mean_with_interval(mine, range(len(mine)), SHARE)
                differ = sum(a != b for a, b in zip(mine, theirs[metric], strict=True))
                both = f"{told.value:.3f} [{told.low:.3f}, {told.high:.3f}] | " + (
                    f"{np.mean(theirs[metric]):.3f}"
                )
                print(f"| {name} | {metric} | {len(rows)} | {both} | {differ} |", flush=True)


if __name__ == "__main__":
    main()
