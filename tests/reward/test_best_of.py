"""Best-of-n on a run of tiny models: more samples, more reward, and the KL that goes with it."""

import inspect
import math

import numpy as np
import pytest
import yaml

from data.jsonl import write_jsonl
from data.records import Message, Prompt
from podium.cli.main import best_of as command
from podium.cli.rounds import best as rejection_command
from podium.errors import PodiumError
from podium.rewards.model import new_reward_model, save_reward_model
from podium.sampling.kinds import EmbeddedConfig
from reward.best_of import best_of, curve_row, sample
from reward.rejection import demonstrate


@pytest.fixture
def run(tiny_llama, tokenizer, tmp_path):
    """A run folder whose recipe names the test prompts; the models lie beside it."""
    tiny_llama.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    save_reward_model(
        new_reward_model(tmp_path / "policy", tokenizer, 0), tokenizer, tmp_path / "reward"
    )
    prompts = [Prompt(messages=[Message(role="user", content=f"Tale {i}?")]) for i in range(4)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    tree = {"name": "run", "data": {"prompts": {"test": str(tmp_path / "prompts.jsonl")}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


def test_reward_grows_with_n_at_a_known_kl(run):
    found = best_of(
        run, n=8, model=str(run / "policy"), reward=str(run / "reward"), max_new_tokens=6
    )
    assert [row["n"] for row in found["curve"]] == [1, 2, 4, 8]
    rewards = [row["reward"]["value"] for row in found["curve"]]
    assert rewards == sorted(rewards)
    assert found["curve"][-1]["kl"] == pytest.approx(math.log(8) - 7 / 8)
    assert "gold" not in found["curve"][0] and len(found["examples"]) == 4


def test_a_function_picks_as_well(run):
    """Seen red with the answers of all prompts given to the first prompt."""
    (run / "rewards.py").write_text(
        "def score(prompts, responses):\n"
        "    return [-1.0 * int(p.messages[-1].content[5]) for p in prompts]\n"
    )
    reward = f"{run / 'rewards.py'}:score"
    found = best_of(run, n=2, model=str(run / "policy"), reward=reward, max_new_tokens=4)
    assert found["curve"][0]["reward"]["value"] == pytest.approx(-1.5)  # tales 0 to 3
    assert found["reward"] == f"1 {reward}"


def test_answers_end_before_a_stop_text(run):
    """Mutation seen red: the text not cut, which then ends with the stop text."""
    asked = [Prompt(messages=[Message(role="user", content="Tale?")])]
    given = run / "policy", EmbeddedConfig(), asked, 20, 30, 0
    (whole,), (cut,) = sample(*given), sample(*given, ["e"])
    assert any("e" in text for text in whole)
    assert cut == [text.partition("e")[0] for text in whole]


def test_a_row_of_the_curve_by_hand():
    """Best of 2 of three answers: the favourites of the three pairs have gold 5, 5 and 3."""
    row = curve_row(np.array([[0.0, 1.0, 2.0]]), np.array([[9.0, 3.0, 5.0]]), 2)
    assert row["gold"]["value"] == pytest.approx((5 + 5 + 3) / 3)
    assert row["reward"]["value"] == pytest.approx((2 + 2 + 1) / 3)


def test_the_examples_are_the_favourites_of_the_first_n_and_the_world_s_gold_stands_beside(run):
    """Of five prompts, and with every size up to n. The reward counts a letter, so that the
    favourites are known from the answers. Mutations seen red: the worst; a favourite among all 2n;
    another prompt's; another seed's answers.
    """
    (run / "rewards.py").write_text(
        "def score(prompts, responses):\n    return [float(r.count('e')) for r in responses]\n"
    )
    reward, policy = f"{run / 'rewards.py'}:score", run / "policy"
    found = best_of(run, 6, 3, str(policy), reward, max_new_tokens=12, seed=4)
    assert [row["n"] for row in found["curve"]] == [1, 2, 4, 6] and found["prompts"] == 3
    asked = [Prompt(messages=[Message(role="user", content=f"Tale {i}?")]) for i in range(3)]
    answers = sample(policy, EmbeddedConfig(), asked, 12, 12, 4)
    assert answers != sample(policy, EmbeddedConfig(), asked, 12, 12, 5)
    scores = [[text.count("e") for text in texts] for texts in answers]
    best = [texts[by.index(max(by[:6]))] for texts, by in zip(answers, scores, strict=True)]
    assert found["examples"] == [
        {"prompt": f"Tale {i}?", "best": text} for i, text in enumerate(best)
    ]
    mean = sum(map(sum, scores)) / 36
    assert found["curve"][0]["reward"]["value"] == pytest.approx(mean)
    assert found["model"] == str(policy)


def test_the_reward_is_the_recipe_s_and_the_prompts_are_held_out(run):
    """PPO's reward where there is one, else the reward stage; test prompts, else validation prompts.
    Mutations seen red: the reward stage although PPO has another; validation although there is a
    test set.
    """
    (run / "rewards.py").write_text(
        "def score(prompts, responses):\n    return [float(len(p.id or '')) for p in prompts]\n"
    )
    for name, count in (("test", 2), ("validation", 3)):
        asked = [Message(role="user", content="Tale?")]
        prompts = [Prompt(messages=asked, id="x" * count)] * count
        write_jsonl(run / f"{name}.jsonl", prompts)
    policy, function = str(run / "policy"), f"{run / 'rewards.py'}:score"
    files = {name: str(run / f"{name}.jsonl") for name in ("test", "validation")}

    def found(splits: dict, **sections) -> dict:
        tree = {"name": "run", "data": {"prompts": splits}} | sections
        (run / "recipe.yaml").write_text(yaml.safe_dump(tree))
        return best_of(run, 1, model=policy, max_new_tokens=2)

    both = found(files, ppo={"reward": function})
    assert both["reward"] == f"1 {function}" and both["prompts"] == 2
    assert both["curve"][0]["reward"]["value"] == 2.0
    assert found({"validation": files["validation"]}, ppo={"reward": function})["prompts"] == 3
    with pytest.raises(PodiumError, match="'reward'"):
        found(files)  # whose stage is not finished
    with pytest.raises(PodiumError, match="no prompts to test on"):
        found({"train": files["test"]}, ppo={"reward": function})


def test_best_of_nothing_is_refused(run):
    with pytest.raises(PodiumError, match="best of 0"):
        best_of(run, n=0)


class Judge:
    """A world that likes length, and some prompts more than others; whatever an untrained model
    says is worth nothing in the world that Podium brings.
    """

    def gold(self, prompt, text):
        return len(text) + 100.0 * int(prompt.messages[-1].content[5])


def test_gold_is_the_world_s_own_score_of_the_same_answers(run, monkeypatch):
    """Of two prompts. Mutations seen red: another prompt's answers; no gold; another folder's
    world.
    """
    (run / "world" / "final").mkdir(parents=True)
    (run / "world/final/stage.json").write_text('{"format": 1, "stage": "world"}')
    worlds = {run / "world" / "final": Judge()}
    monkeypatch.setattr("reward.best_of.open_world", worlds.__getitem__)
    (run / "rewards.py").write_text(
        "def score(prompts, responses):\n    return [float(r.count('e')) for r in responses]\n"
    )
    tree = yaml.safe_load((run / "recipe.yaml").read_text())
    tree["data"]["world"] = {}
    (run / "recipe.yaml").write_text(yaml.safe_dump(tree))
    policy, reward = run / "policy", f"{run / 'rewards.py'}:score"
    found = best_of(run, 3, 2, str(policy), reward, max_new_tokens=12, seed=1)
    asked = [Prompt(messages=[Message(role="user", content=f"Tale {i}?")]) for i in range(2)]
    answers = sample(policy, EmbeddedConfig(), asked, 6, 12, 1)
    proxy = np.array([[text.count("e") for text in texts] for texts in answers])
    gold = np.array([[len(t) + 100.0 * i for t in texts] for i, texts in enumerate(answers)])
    assert found["curve"] == [curve_row(proxy, gold, n) for n in (1, 2, 3)]
    assert len(set(gold[0])) > 1


def test_what_a_command_leaves_unsaid_is_what_its_function_leaves_unsaid():
    """`podium best-of` and `podium instruct best`. Mutation seen red: another default in one of
    them.
    """
    for typed, function in ((command, best_of), (rejection_command, demonstrate)):
        own = {n: p.default for n, p in inspect.signature(function).parameters.items()}
        told = {n: p.default for n, p in inspect.signature(typed).parameters.items()}
        same = own.keys() & told.keys() - {"out", "stop"}
        assert {"n", "prompts", "reward"} <= same
        assert {name: own[name] for name in same} == {name: told[name] for name in same}
    defaults = inspect.signature(best_of).parameters
    of_sft = {name: defaults[name].default for name in ("model", "max_new_tokens", "seed")}
    assert of_sft == {"model": "sft", "max_new_tokens": 64, "seed": 0}
