"""`benchmarks.reward_size`: which reward model learns from what, and best of n against figures by
hand.
"""

import json
import sys
from itertools import combinations

import numpy as np
import pytest

from benchmarks import reward_size, starts
from benchmarks.reward_size import MANY, MIDDLE, SOME, Driven, contrasts, drive, driven, table
from data.jsonl import read_jsonl, write_jsonl
from data.records import Message, Prompt, Ranking
from evals.overoptimisation import Curve
from evals.records import Answer
from podium.statistics import bon_kl
from pretrain.presets import PRESETS

SEEDS = (3, 5)


@pytest.fixture
def started(made, monkeypatch, tmp_path, capsys):
    """The command, with nothing trained or scored: the last tables, and what was measured."""
    for size in reward_size.SIZES:
        monkeypatch.setitem(PRESETS, f"size-{size}", None)  # gone again after this test
    for seed in SEEDS:
        write_rankings(tmp_path / f"many-{seed}/rankings/final", str(seed))
    curve = Curve(1.0, 0.5, None, 3)
    asked = []

    def measured(run, answers, samples):
        asked.append(run.name)
        return Driven(0.5, [0.0, 1.0, 2.0], curve)

    monkeypatch.setattr(reward_size, "answers_of", lambda *told: [answer(0, "a", 1.5)])
    monkeypatch.setattr(reward_size, "drive", measured)
    given = ["--seeds", *map(str, SEEDS), "--out", str(tmp_path), "--samples", "4"]
    monkeypatch.setattr(sys, "argv", ["it", *given])
    reward_size.main()
    return asked, capsys.readouterr().out


def write_rankings(folder, text):
    folder.mkdir(parents=True)
    for split, count in (("train", MANY), ("validation", 2)):
        prompts = ([Message(role="user", content=f"{text} {split} {i}")] for i in range(count))
        rows = [Ranking(prompt=p, responses=["x", "y"], ranks=[1, 2], labeler="l") for p in prompts]
        write_jsonl(folder / f"rankings.{split}.jsonl", rows)


def answer(prompt, text, gold):
    message = Message(role="user", content=str(prompt))
    told = {"row": "sft", "prompt": [message], "prompt_index": prompt, "response": text}
    return Answer(**told, use_case="qa", tokens=1, finished=True, gold=gold)


def test_sizes_differ_in_shape_alone_and_more_rankings_hold_the_fewer(made, started, tmp_path):
    """Mutations seen red: a tokenizer of its own; the start's seed left out; another size's SFT
    model; the last rankings for the first; all of them for every arm; the seed not passed.
    """
    assert made["start"].seed == starts.START_SEED and "size-1.1M" not in made
    for size in ("0.24M", "3.6M"):
        own = {"preset": f"size-{size}", "tokenizer": str(tmp_path / "start/pretrain/final")}
        assert (
            made[f"size-{size}"].pretrain.model_dump() == made["start"].pretrain.model_dump() | own
        )
        assert made[f"size-{size}"].seed == starts.START_SEED
        assert made[f"size-{size}"].sft == made["start"].sft
    for seed in SEEDS:
        assert made[f"many-{seed}"].rankings.models["sft"] == str(tmp_path / "start/sft/final")
        assert (made[f"many-{seed}"].seed, made[f"many-{seed}"].rankings.prompts) == (seed, MANY)
        for size, count in reward_size.ARMS:
            recipe = made[f"reward-{size}-{count}-{seed}"]
            run = "start" if size == MIDDLE else f"size-{size}"
            assert recipe.reward.model == str(tmp_path / run / "sft/final") and recipe.seed == seed
            taught = read_jsonl(f"{recipe.reward.rankings}/rankings.train.jsonl", Ranking)
            texts = [one.prompt[0].content for one in taught]
            assert texts == [f"{seed} train {i}" for i in range(count)]
            held = read_jsonl(f"{recipe.reward.rankings}/rankings.validation.jsonl", Ranking)
            assert len(held) == 2


def test_every_reward_model_of_every_seed_is_driven_and_told(started):
    """Mutations seen red: the last seed alone; one arm for all."""
    asked, out = started
    assert asked == [f"reward-{size}-{n}-{s}" for s in SEEDS for size, n in reward_size.ARMS]
    assert out.startswith("gold of one answer: 1.50")
    last = out.split("\n\n")[-2].splitlines()
    assert len(last) >= 2 + len(reward_size.ARMS)
    assert "+2.00 [+2.00, +2.00]" in last[-1]


def test_best_of_n_is_the_mean_over_all_draws_of_n():
    """Against every subset by hand. Mutations seen red: the least liked; gold in the proxy's place;
    the curve on n in place of the KL; gains counted from zero.
    """
    proxy = np.array([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    gold = np.array([[5.0, 2.0, 0.0, 1.0], [1.0, 4.0, 2.0, 6.0]])
    found = driven(proxy, gold, 0.75)
    for place, n in enumerate((1, 2, 4)):
        means = [
            np.mean([g[max(some, key=lambda i: p[i])] for some in combinations(range(4), n)])
            for p, g in zip(proxy, gold, strict=True)
        ]
        assert found.gold[place] == pytest.approx(np.mean(means))
    d = np.sqrt([bon_kl(2), bon_kl(4)])
    gains = np.array(found.gold[1:]) - found.gold[0]
    a, b = np.linalg.solve(np.stack([d, -(d**2)], axis=1), gains)
    assert (found.curve.a, found.curve.b) == pytest.approx((a, b)) and found.accuracy == 0.75


def test_the_favourites_are_of_the_run_s_own_reward_model_and_scored_once(tmp_path, monkeypatch):
    """Mutations seen red: prompts by samples turned over; scored again."""
    golds = (0.0, 1.0, 2.0, 3.0, 8.0, 7.0, 6.0, 5.0)
    answers = [answer(i // 4, "abcddcba"[i], gold) for i, gold in enumerate(golds)]
    calls = []

    class Scorer:
        def to(self, device):
            return self

        def eval(self):
            return self

        def __call__(self, prompts, responses):
            calls.append([prompt.messages[0].content for prompt in prompts])
            assert all(isinstance(prompt, Prompt) for prompt in prompts)
            return ["abcd".index(text) for text in responses]

    monkeypatch.setattr(reward_size, "make_reward", lambda name, place: Scorer())
    monkeypatch.setattr(reward_size, "load_recipe", lambda path: None)
    monkeypatch.setattr(reward_size, "record_of", lambda run, stage: {"metrics": {"accuracy": 1}})
    for _ in range(2):
        found = drive(tmp_path, answers, 4).gold
        assert (found[0], found[-1]) == pytest.approx((4.0, (3.0 + 8.0) / 2))
    assert calls == [list("00001111")]
    assert json.loads((tmp_path / "scores.json").read_text()) == [0, 1, 2, 3, 3, 2, 1, 0]


def test_more_less_fewer_with_seeds_as_units():
    """Mutations seen red: fewer less more; the first gold in place of the last; a for b."""

    def at(last, b):
        return Driven(0.6, [1.0, 1.5, last], Curve(1.0, b, None, 3))

    found = {arm: {seed: at(2.0, 0.4) for seed in SEEDS} for arm in reward_size.ARMS}
    found["3.6M", SOME] = {3: at(2.5, 0.1), 5: at(2.5, 0.1)}
    rows = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1:]
        for line in contrasts(found).splitlines()[2:]
    }
    gap, bend = rows[f"3.6M of {SOME}, 0.24M of {SOME}"]
    assert gap == "+0.50 [+0.50, +0.50]" and bend.startswith("-0.30 [")
    assert rows[f"{MIDDLE} of {MANY}, {MIDDLE} of {SOME}"][0].startswith("+0.00")
    line = table(found, 4).splitlines()[-1]
    assert "+1.50 [+1.50, +1.50]" in line and "60.0%" in line
