"""A real model on public sets that lie here as files, asked by lm-eval and by our own scoring.

    PODIUM_REAL_DATA=... python -m benchmarks.real_tasks MODEL [QUESTIONS]

Sets: LAMBADA (the last word of a passage), three paradigms of BLiMP (which of two sentences is
grammatical), OpenBookQA (four choices). Each is made a local task of lm-eval, so that nothing is
fetched, and the same requests go through `evals.loglikelihood`, a row a pass as lm-eval does.
docs/lab/real-tasks.md has the table.
"""

import csv
import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
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


def write_task(folder: Path, name: str, rows: list[Row]) -> None:
    """A task of lm-eval as a file beside its data."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = len(rows[0]["choices"]) == 1
    form = (
        "output_type: loglikelihood\ndoc_to_target: ' {{choices[0]}}'\n"
        if one
        else "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: answer\n"
    )
    metrics = "[{metric: acc}, {metric: perplexity}]" if one else "[{metric: acc}]"
    (folder / f"{name}.yaml").write_text(
        f"task: local_{name}\n{form}dataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / f'{name}.jsonl'}}}, "
        f"cache_dir: {folder / 'cache'}}}\n"
        f"doc_to_text: '{{{{context}}}}'\nmetric_list: {metrics}\n"
    )


def ours(model: Any, tokenizer: Any, rows: list[Row], context: int) -> tuple[list[float], float]:
    """Right or not of each row, and the sum of all log-likelihoods."""
    pairs = [encode_pair(tokenizer, r["context"], f" {c}") for r in rows for c in r["choices"]]
    found = iter(loglikelihoods(model, pairs, context, batch_tokens=1))
    right, total = [], 0.0
    for row in rows:
        own = [next(found) for _ in row["choices"]]
        total += sum(one.total for one in own)
        first = int(np.argmax([one.total for one in own])) == row["answer"]
        right.append(float(own[0].greedy if len(own) == 1 else first))
    return right, total


def main(folder: str, count: int) -> None:
    """Print the table."""
    data = Path(os.environ["PODIUM_REAL_DATA"]) / "E_eval"
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder).eval()
    context = context_of(model.config) or 2048
    print("| task | questions | ours | lm-eval | answers that differ |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as files:
        for name, rows in rows_of(data, count):
            write_task(Path(files), name, rows)
            theirs = ask(
                model, tokenizer, [f"local_{name}"], 0, Path(files), context, None, 0, batch_size=1
            ).scores[f"local_{name}"]["acc"]
            mine, _ = ours(model, tokenizer, rows, context)
            told = mean_with_interval(mine, range(len(mine)), SHARE)
            differ = sum(a != b for a, b in zip(mine, theirs, strict=True))
            print(
                f"| {name} | {len(rows)} | {told.value:.3f} [{told.low:.3f}, {told.high:.3f}] | "
                f"{np.mean(theirs):.3f} | {differ} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100)
