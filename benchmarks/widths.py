"""What narrow weights cost and save: memory, perplexity, tokens a second, and on a run with a world
how often the narrow model's answers beat the wide one's by gold.

    python -m benchmarks.widths MODEL TEXT [--run RUN] [--prompts 100]

TEXT: a file of plain text, a passage a line, or of documents (JSONL with `text`). The win rate is
against the same model in fp32, whose other half of answers is drawn with other random numbers.
docs/lab/widths.md has the tables.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.readers import read_source
from data.records import Prompt
from data.template import decode_response, encode_prompt, stop_token_ids
from data.worlds import open_world
from evals.perplexity import perplexity
from evals.winrate import win_rate
from podium.models import absent_token_ids, context_of, load_tokenizer
from podium.run.lineage import absolute, source_of
from podium.run.recipe import load_recipe
from podium.runtime import device
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams
from podium.statistics import mean_with_interval
from podium.widths import Weights, load_to_answer, memory_of

WIDTHS: tuple[Weights, ...] = ("fp32", "bf16", "int8", "int4")
ROWS, TOKENS = 16, 64  # of the race, whose fastest of three rounds counts


def read_texts(path: Path, count: int) -> list[str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [json.loads(x)["text"] if path.suffix == ".jsonl" else x for x in lines[:count]]


def speed(model: Any, tokenizer: Any, prompt: list[int], rows: int) -> float:
    """New tokens a second of `rows` answers drawn together; ended answers go on."""
    sampler = EmbeddedSampler(model, tokenizer.pad_token_id)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        sampler.generate([prompt] * rows, SamplingParams(TOKENS, seed=1))
        seconds.append(time.perf_counter() - start)
    return rows * TOKENS / min(seconds)


def golds(model: Any, tokenizer: Any, run: Path, prompts: int, seed: int) -> np.ndarray:
    """Gold scores (P, 2) of two answers to each of the run's test prompts."""
    source = source_of(load_recipe(run / "recipe.yaml"), run, "prompts", "test")
    asked = [p for p in read_source(absolute(source, run), Prompt)[:prompts] for _ in range(2)]
    params = SamplingParams(
        64,
        stop_token_ids=stop_token_ids(tokenizer, model),
        absent_token_ids=absent_token_ids(tokenizer, model.config),
        seed=seed,
    )
    sampler = EmbeddedSampler(model, tokenizer.pad_token_id)
    drawn = sampler.generate([encode_prompt(tokenizer, p.messages) for p in asked], params)
    world = open_world(run / "world" / "final")
    found = [
        world.gold(p, decode_response(tokenizer, s.tokens))
        for p, s in zip(asked, drawn, strict=True)
    ]
    return np.array(found).reshape(-1, 2)


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--texts", type=int, default=100)
    told = parser.parse_args()
    tokenizer, texts = load_tokenizer(told.model), read_texts(told.text, told.texts)
    prompt, wide = tokenizer(texts[0])["input_ids"][:16], np.empty(0)
    print("| weights | MB | perplexity a token | tokens/s, 1 row | 16 rows | gold | wins |")
    print("|---|---|---|---|---|---|---|")
    for number, weights in enumerate(WIDTHS):
        model = load_to_answer(told.model, weights, device())
        read = perplexity(model, tokenizer, texts, context_of(model.config) or 2048)
        fast = [speed(model, tokenizer, prompt, rows) for rows in (1, ROWS)]
        gold = wins = "-"
        if told.run is not None:
            scores = golds(model, tokenizer, told.run, told.prompts, seed=10 * number)
            wide = scores if weights == "fp32" else wide
            one = mean_with_interval(scores.ravel(), np.repeat(np.arange(len(scores)), 2))
            gold = f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
            met = win_rate(scores, wide)
            if weights != "fp32":
                wins = f"{met.rate:.1%} [{met.low:.1%}, {met.high:.1%}]"
        print(
            f"| {weights} | {memory_of(model) / 1e6:.1f} | {read.token_perplexity:.3f} | "
            f"{fast[0]:.0f} | {fast[1]:.0f} | {gold} | {wins} |",
            flush=True,
        )
        del model
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} thread(s)")


if __name__ == "__main__":
    main()
