"""Rejection sampling: the best whole answer to each prompt becomes a demonstration."""

import json

import pytest
import yaml

from data.jsonl import read_jsonl, write_jsonl
from data.records import Demonstration, Message, Prompt
from podium.errors import PodiumError
from podium.sampling.kinds import EmbeddedConfig
from reward.best_of import sample_ended
from reward.rejection import demonstrate

LONGEST = """
def score(prompts, responses):
    return [float(len(response)) for response in responses]
"""


@pytest.fixture
def run(tiny_llama, tokenizer, tmp_path):
    """A recipe whose reward is the answer's length; the model lies beside it."""
    tiny_llama.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    (tmp_path / "longest.py").write_text(LONGEST)
    prompts = [
        Prompt(messages=[Message(role="user", content=f"Tale {i}?")], user=f"u{i}")
        for i in range(6)
    ]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    tree = {"name": "run", "data": {"prompts": {"train": str(tmp_path / "prompts.jsonl")}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


def test_the_best_whole_answer_is_kept_with_where_it_comes_from(run, podium):
    """Mutations seen red: the worst answer; answers that were cut off count too."""
    reward, out = f"{run / 'longest.py'}:score", run / "demonstrations.jsonl"
    done = podium(
        "instruct", "best", run, "--out", out, "--n", 24, "--model", run / "policy",
        "--reward", reward, "--max-new-tokens", 40, "--prompts", 5,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout[done.stdout.index("{") :])
    prompts = read_jsonl(run / "prompts.jsonl", Prompt)[:5]
    drawn = sample_ended(run / "policy", EmbeddedConfig(), prompts, 24, 40, 0)
    expected = {
        prompt.messages[0].content: max((t for t, ended in answers if ended and t.strip()), key=len)
        for prompt, answers in zip(prompts, drawn, strict=True)
        if any(ended and t.strip() for t, ended in answers)
    }
    made = read_jsonl(out, Demonstration)
    assert expected and told["written"] == len(made) == len(expected) and told["prompts"] == 5
    flat = [ended and bool(text.strip()) for answers in drawn for text, ended in answers]
    assert told["answers cut off or empty"] == flat.count(False) > 0
    for record in made:
        question, answer = record.messages
        assert len(answer.content) == len(expected[question.content])
        origin = record.meta["sampled"]
        assert origin["score"] == len(answer.content) and origin["model"] == str(run / "policy")
        assert "longest.py" in origin["reward"] and record.source == "rejection sampling"
        number = int(question.content.split()[1].strip("?"))
        whole = [text for text, ended in drawn[number] if ended and text.strip()]
        assert (origin["best_of"], origin["seed"]) == (len(whole), 0)
        assert (record.id, record.user) == (f"best-{number:06d}", f"u{number}")


def test_it_tells_what_became_of_every_prompt(run):
    """Two tokens an answer, so that some prompts have no whole answer, and a floor that one does not
    reach; the recipe names the reward, another one than the caller's. Mutations seen red: each count
    left out or counted twice; a prompt without an answer that ends the search; the recipe's reward
    not asked; an answer at the floor left out.
    """
    (run / "first.py").write_text(
        "def score(prompts, responses):\n"
        "    return [float(p.messages[-1].content[5]) for p in prompts]\n"
    )
    tree = yaml.safe_load((run / "recipe.yaml").read_text())
    reward = f"{run / 'first.py'}:score"
    (run / "recipe.yaml").write_text(yaml.safe_dump({**tree, "ppo": {"reward": reward}}))
    policy, out = run / "policy", run / "told" / "demonstrations.jsonl"
    prompts = read_jsonl(run / "prompts.jsonl", Prompt)
    drawn = sample_ended(policy, EmbeddedConfig(), prompts, 30, 2, 7)
    whole = [sum(ended and bool(text.strip()) for text, ended in answers) for answers in drawn]
    answered = [number for number in range(6) if whole[number]]
    kept = answered[1:]
    assert kept and 0 in whole, "some have an answer, some have none"
    told = demonstrate(
        run, out, 30, model=str(policy), floor=float(kept[0]), max_new_tokens=2, seed=7
    )
    assert told == {
        "written": len(kept),
        "file": str(out),
        "prompts": 6,
        "answers cut off or empty": 6 * 30 - sum(whole),
        "prompts without a whole answer": whole.count(0),
        "prompts below the floor": 1,
    }
    made = read_jsonl(out, Demonstration)
    assert [record.messages[0].content for record in made] == [f"Tale {n}?" for n in kept]
    assert {record.meta["sampled"]["reward"] for record in made} == {f"1 {reward}"}


def test_a_floor_leaves_out_whoever_stays_below(run):
    """Mutation seen red: the floor is not asked."""
    arguments = {"model": str(run / "policy"), "reward": f"{run / 'longest.py'}:score"}
    with pytest.raises(PodiumError, match="none has a whole answer above the floor"):
        demonstrate(run, run / "none.jsonl", 8, floor=1e6, max_new_tokens=40, **arguments)
    assert not (run / "none.jsonl").exists()
