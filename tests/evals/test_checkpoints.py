"""`podium rank-checkpoints`: kept checkpoints of a stage, by the reward of what they answer."""

import numpy as np
import pytest
import torch
import yaml

from data.jsonl import write_jsonl
from data.records import Demonstration, Message, Prompt
from evals.checkpoints import in_words, rank_checkpoints, ranked
from podium.engine import checkpoint_weights
from podium.errors import PodiumError
from podium.models import load_causal_lm, save_model
from podium.run.chain import run_chain
from podium.run.context import checkpoints_of
from podium.run.recipe import load_recipe

REWARD = "def owls(prompts, responses):\n    return [float('owl' in text) for text in responses]\n"


@pytest.fixture
def recipe(tmp_path, tokenizer, tiny_llama):
    """SFT on one answer, so that later checkpoints say it more often."""
    save_model(tiny_llama, tokenizer, tmp_path / "base")
    (tmp_path / "reward.py").write_text(REWARD)
    asked = [Message(role="user", content="Tell me.")]
    shown = Demonstration(messages=[*asked, Message(role="assistant", content="an owl")])
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"demonstrations.{split}.jsonl", [shown] * 16)
    prompts = [Prompt(messages=asked, id=str(number)) for number in range(8)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    tree = {
        "name": "run",
        "dtype": "fp32",
        "threads": 1,
        "sft": {
            "model": str(tmp_path / "base"),
            "num_train_epochs": 6,
            "learning_rate": 1e-2,
            "batch_size": 8,
            "per_device_train_batch_size": 8,
            "eval_steps": 100,
            "save_steps": 4,
        },
        "data": {
            "demonstrations": {
                split: str(tmp_path / f"demonstrations.{split}.jsonl")
                for split in ("train", "validation")
            },
            "prompts": {"validation": str(tmp_path / "prompts.jsonl")},
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "run.yaml"


def test_kept_checkpoints_are_ranked_by_what_they_answer(recipe, tmp_path):
    """Twelve updates, saved every four. Mutations seen red: checkpoints deleted at the end; every
    checkpoint scored with the final weights.
    """
    run = run_chain(load_recipe(recipe, ["keep_checkpoints=9"]), tmp_path / "runs")
    kept = checkpoints_of(run / "sft")
    assert [folder.name for folder in kept] == ["4", "8", "12"]
    reward = f"{tmp_path / 'reward.py'}:owls"
    rows = rank_checkpoints(run, "sft", reward, prompts=8, samples=24, max_new_tokens=16)
    assert {row["checkpoint"] for row in rows} == {"4", "8", "12", "final"}
    values = [row["reward"]["value"] for row in rows]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]
    assert rows[-1]["checkpoint"] == "4" and rows[-1]["worse"], "it had learned least"
    final, last = load_causal_lm(run / "sft/final"), checkpoint_weights(kept[-1])
    assert torch.equal(final.model.norm.weight, last["model.norm.weight"])
    # The run is finished as it is: it is not made anew, and nothing is taken up again.
    before = (run / "sft/final/stage.json").read_text()
    run_chain(load_recipe(recipe, ["keep_checkpoints=9"]), tmp_path / "runs")
    assert (run / "sft/final/stage.json").read_text() == before


def test_without_kept_checkpoints_it_says_how_to_keep_some(recipe, tmp_path):
    run = run_chain(load_recipe(recipe), tmp_path / "runs")
    assert not (run / "sft" / "checkpoints").exists()
    with pytest.raises(PodiumError, match="has no checkpoints") as error:
        rank_checkpoints(run, "sft", f"{tmp_path / 'reward.py'}:owls")
    assert "--set keep_checkpoints=20 --force sft" in str(error.value.fix)


def test_only_what_differs_from_the_best_is_called_worse():
    """Forty prompts: one checkpoint is worse on every prompt, one now and then better or worse.
    Seen red with the sign of the difference turned.
    """
    rng = np.random.default_rng(0)
    best = rng.normal(size=40)
    near = best - 0.01 + rng.normal(size=40) * 0.3
    scores = {"1": best - 1, "2": near - near.mean() + best.mean() - 0.01, "3": best}
    rows = ranked(scores, np.arange(40))
    assert [row["checkpoint"] for row in rows] == ["3", "2", "1"]
    assert [row["worse"] for row in rows] == [False, False, True]
    assert rows[2]["from the best"]["value"] == pytest.approx(-1)
    assert in_words(rows).endswith("the highest reward: 3; 2 not shown to be worse")
