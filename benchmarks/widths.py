"""What narrow weights cost and save: memory, perplexity, tokens a second, and on a run's prompts
how often the narrow model's answers beat the wide ones.

    python -m benchmarks.widths MODEL TEXT [--run RUN] [--prompts 100] [--judge REWARD --hot 1.3]

TEXT: a file of plain text, a passage a line, or of documents (JSONL with `text`). RUN's test
prompts are answered twice, at temperature 1, and its world's gold decides; REWARD, as `ppo.reward`
names one, where there is no world. Every width draws with the same random numbers, so an answer
differs where the weights changed a token, and the same text twice is a tie. --hot adds fp32's
answers at another temperature: a judge that cannot tell these says nothing of widths either.
docs/lab/widths.md has the tables.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.readers import read_source
from data.records import Prompt
from data.template import decode_response, encode_prompt, stop_token_ids
from data.worlds import open_world
from evals.perplexity import perplexity
from evals.winrate import judged_win_rate, outcomes
from podium.models import absent_token_ids, context_of, load_tokenizer, moved
from podium.rewards.kinds import make_reward
from podium.run.lineage import absolute, source_of
from podium.run.place import Place
from podium.run.recipe import load_recipe
from podium.runtime import autocast, device, resolve_dtype
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams
from podium.statistics import mean_with_interval
from podium.widths import Weights, load_to_answer, memory_of

WIDTHS: tuple[Weights, ...] = ("fp32", "bf16", "int8", "int4")
ROWS, TOKENS = 16, 64  # of the race
ANSWERS = 2  # to each prompt

Judge = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]


class Answered(NamedTuple):
    """Answers, prompt by prompt, and the judge's score of each (N)."""

    texts: list[str]
    scores: np.ndarray


def read_texts(path: Path, count: int) -> list[str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [json.loads(x)["text"] if path.suffix == ".jsonl" else x for x in lines[:count]]


def speed(model: Any, tokenizer: Any, prompt: list[int], rows: int, races: int) -> float:
    """New tokens a second of `rows` answers drawn together, in the fastest race; ended answers go
    on.
    """
    sampler = EmbeddedSampler(model, tokenizer.pad_token_id)
    seconds = []
    for _ in range(races):
        start = time.perf_counter()
        sampler.generate([prompt] * rows, SamplingParams(TOKENS, seed=1))
        seconds.append(time.perf_counter() - start)
    return rows * TOKENS / min(seconds)


def prompts_of(run: Path, count: int) -> list[Prompt]:
    """The run's first test prompts, each as often as it is answered."""
    source = source_of(load_recipe(run / "recipe.yaml"), run, "prompts", "test")
    assert source is not None, f"{run}/recipe.yaml: data.prompts.test names no prompts"
    return [p for p in read_source(absolute(source, run), Prompt)[:count] for _ in range(ANSWERS)]


def open_judge(run: Path, reward: str | None) -> Judge:
    """The gold score of the run's world, or a reward, in the run's own number type."""
    if reward is None:
        world = open_world(run / "world" / "final")
        return lambda asked, texts: [world.gold(p, t) for p, t in zip(asked, texts, strict=True)]
    recipe = load_recipe(run / "recipe.yaml")
    place, dtype = Place(recipe, run, device(), seed=0), resolve_dtype(recipe.dtype)
    made = moved(make_reward(reward, place, same_tokenizer=False), place.device).eval()

    def judge(asked: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        with autocast(place.device, dtype):
            scores: list[float] = made(asked, texts).tolist()
            return scores

    return judge


def answer(
    model: Any, tokenizer: Any, asked: list[Prompt], judge: Judge, tokens: int, hot: float = 1.0
) -> Answered:
    """An answer to each of the prompts, at the temperature `hot`."""
    params = SamplingParams(
        tokens,
        temperature=hot,
        stop_token_ids=stop_token_ids(tokenizer, model),
        absent_token_ids=absent_token_ids(tokenizer, model.config),
        seed=0,
    )
    sampler = EmbeddedSampler(model, tokenizer.pad_token_id)
    drawn = sampler.generate([encode_prompt(tokenizer, p.messages) for p in asked], params)
    texts = [decode_response(tokenizer, sample.tokens) for sample in drawn]
    return Answered(texts, np.array(judge(asked, texts)))


def prompt_of(answered: Answered) -> np.ndarray:
    return np.arange(len(answered.texts)) // ANSWERS


def wins(narrow: Answered, wide: Answered) -> str:
    """How often the answer of the same random numbers is the better one, and is the same."""
    same = np.array([a == b for a, b in zip(narrow.texts, wide.texts, strict=True)])
    # Read in another batch, the same text has a score that is off by its last bits.
    met = outcomes(narrow.scores[:, None], wide.scores[:, None])[:, 0, 0]
    found = judged_win_rate(np.where(same, 0.5, met), prompt_of(narrow))
    assert found is not None, "there are prompts"
    return f"{found.rate:.1%} [{found.low:.1%}, {found.high:.1%}] ({same.mean():.0%})"


def answer_cells(answered: Answered, before: dict[str, Answered]) -> list[str]:
    """Of a row: the mean score, and wins against fp32 and bf16, the widths training knows."""
    one = mean_with_interval(answered.scores, prompt_of(answered))
    met = [wins(answered, before[w]) if w in before else "-" for w in ("fp32", "bf16")]
    return [f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]", *met]


def print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--run", type=Path, help="whose test prompts are answered")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--answer-tokens", type=int, default=64, help="where answers are cut")
    parser.add_argument("--judge", help="a reward, in place of the gold of RUN's world")
    parser.add_argument("--hot", type=float, help="a temperature that the judge should mind")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--races", type=int, default=3, help="0: tokens a second are not measured")
    told = parser.parse_args()
    if told.run is None and (told.judge is not None or told.hot is not None):
        parser.error("--judge and --hot need --run, whose prompts are answered")
    return told


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    told = arguments()
    tokenizer, texts = load_tokenizer(told.model), read_texts(told.text, told.texts)
    prompt, found = tokenizer(texts[0])["input_ids"][:16], dict[str, Answered]()
    if told.run is not None:
        asked, judge = prompts_of(told.run, told.prompts), open_judge(told.run, told.judge)
    heads = ["weights", "MB", "perplexity a token", "tokens/s, 1 row", f"{ROWS} rows", "score"]
    heads += ["wins against fp32 (same text)", "against bf16"]
    print_row(heads)
    print_row(["---"] * len(heads))
    for weights in WIDTHS:
        model = load_to_answer(told.model, weights, device())
        read = perplexity(model, tokenizer, texts, context_of(model.config) or 2048)
        cells = [weights, f"{memory_of(model) / 1e6:.1f}", f"{read.token_perplexity:.3f}"]
        for rows in (1, ROWS):
            fast = speed(model, tokenizer, prompt, rows, told.races) if told.races else None
            cells.append("-" if fast is None else f"{fast:.0f}")
        if told.run is not None:
            answered = answer(model, tokenizer, asked, judge, told.answer_tokens)
            cells += answer_cells(answered, found)
            found[weights] = answered
        print_row(cells + ["-"] * (len(heads) - len(cells)))
        del model
    if told.hot is not None:
        model = load_to_answer(told.model, "fp32", device())
        answered = answer(model, tokenizer, asked, judge, told.answer_tokens, told.hot)
        cells = [f"fp32 at temperature {told.hot:g}", *["-"] * 4]
        print_row([*cells, *answer_cells(answered, found)])
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} thread(s)")


if __name__ == "__main__":
    main()
