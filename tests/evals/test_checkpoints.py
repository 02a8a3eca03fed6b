"""`podium rank-checkpoints`: kept checkpoints of a stage, by the reward of what they answer."""

import inspect

import numpy as np
import pytest
import torch
import yaml

from data.jsonl import write_jsonl
from data.records import Demonstration, Message, Prompt
from data.template import decode_response, encode_prompt, stop_token_ids
from evals.checkpoints import in_words, rank_checkpoints, ranked
from podium.cli.measuring import rank_checkpoints as command
from podium.engine import checkpoint_weights
from podium.errors import ParentError, PodiumError
from podium.models import absent_token_ids, context_of, load_causal_lm, load_tokenizer, save_model
from podium.run.chain import run_chain
from podium.run.context import checkpoints_of
from podium.run.recipe import load_recipe
from podium.sampling.kinds import EmbeddedConfig, make_sampler
from podium.sampling.protocol import SamplingParams
from podium.statistics import FEWEST_PROMPTS, mean_with_interval

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


def test_kept_checkpoints_are_ranked_by_what_they_answer(recipe, tmp_path, capsys):
    """Twelve updates, saved every four. Mutations seen red: checkpoints deleted at the end; every
    checkpoint scored with the final weights; and those of `check_what_is_asked`.
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
    check_what_is_asked(run, kept, reward, capsys)
    # The run is finished as it is: it is not made anew, and nothing is taken up again.
    before = (run / "sft/final/stage.json").read_text()
    run_chain(load_recipe(recipe, ["keep_checkpoints=9"]), tmp_path / "runs")
    assert (run / "sft/final/stage.json").read_text() == before


def check_what_is_asked(run, kept, reward, capsys) -> None:
    """The reward that the recipe's PPO optimises, if none is named, and of each prompt as many
    answers as were asked for, each checkpoint's with random numbers of its own. Mutations seen red:
    the reward stage in place of PPO's reward; one seed for all checkpoints; a prompt that fills the
    context asked as well.
    """
    told, path = (run / "recipe.yaml").read_text(), run / "recipe.yaml"
    with pytest.raises(ParentError, match="'reward'"):
        rank_checkpoints(run, "sft", prompts=1, samples=1, max_new_tokens=2)
    path.write_text(yaml.safe_dump(yaml.safe_load(told) | {"ppo": {"reward": reward}}))
    rows = rank_checkpoints(run, "sft", None, 3, 4, 8, seed=5)
    final = run / "sft/final"
    tokenizer, model = load_tokenizer(final), load_causal_lm(final)
    row = encode_prompt(tokenizer, [Message(role="user", content="Tell me.")])
    expected = {}
    for number, folder in enumerate([None, *kept]):
        if folder:
            model.load_state_dict(checkpoint_weights(folder), strict=False)
        params = SamplingParams(8, stop_token_ids=stop_token_ids(tokenizer, model),
                                absent_token_ids=absent_token_ids(tokenizer, model.config),
                                seed=5 + 1000 * number)  # fmt: skip
        sampler = make_sampler(EmbeddedConfig(), model, tokenizer.pad_token_id)
        said = [decode_response(tokenizer, s.tokens) for s in sampler.generate([row] * 12, params)]
        scores = [float("owl" in text) for text in said]
        found = mean_with_interval(scores, np.repeat(np.arange(3), 4))
        expected[folder.name if folder else "final"] = found._asdict()
    assert {row["checkpoint"]: row["reward"] for row in rows} == expected
    assert "checkpoints of sft" in "".join(capsys.readouterr())
    room = context_of(model.config) - len(row)
    assert rank_checkpoints(run, "sft", None, 1, 1, room)
    with pytest.raises(PodiumError, match=f"no validation prompt leaves {room + 1} tokens"):
        rank_checkpoints(run, "sft", None, 1, 1, room + 1)
    path.write_text(told)


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


def test_what_the_command_leaves_unsaid_is_what_the_function_leaves_unsaid():
    """Mutation seen red: another default in one of them."""
    told, own = (inspect.signature(each).parameters for each in (command, rank_checkpoints))
    for name in ("reward", "prompts", "samples", "max_new_tokens", "seed"):
        assert told[name].default == own[name].default


def test_too_few_prompts_call_nobody_worse():
    """However clear the difference. Mutation seen red: the number of answers for that of prompts."""
    scores = {"1": np.zeros(40), "2": np.ones(40) + np.arange(40) / 100}
    enough = ranked(scores, np.repeat(np.arange(20), 2))
    few = ranked(scores, np.arange(40) % (FEWEST_PROMPTS - 1))
    assert [row["worse"] for row in enough] == [False, True]
    assert [row["worse"] for row in few] == [False, False]
    least = np.arange(40) % FEWEST_PROMPTS
    assert [row["worse"] for row in ranked(scores, least)] == [False, True]


def test_the_words_of_a_ranking():
    """A difference stands beside every checkpoint but the best."""
    rows = ranked({"4": np.arange(8.0), "8": np.arange(8.0) + 1}, np.arange(8))
    first, second, last = in_words(rows).splitlines()
    assert first.startswith("       8  reward 4.500") and "from the best" not in first
    assert second.startswith("       4  reward 3.500") and "from the best -1.000" in second
    assert last == ("the highest reward: 8" if rows[1]["worse"] else
                    "the highest reward: 8; 4 not shown to be worse")  # fmt: skip
