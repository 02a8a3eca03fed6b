"""Rejection sampling: the best whole answer to each prompt becomes a demonstration."""

import json

import pytest
import yaml

from data.jsonl import read_jsonl, write_jsonl
from data.records import Demonstration, Message, Prompt
from podium.errors import PodiumError
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
    from podium.sampling.kinds import EmbeddedConfig

    drawn = sample_ended(run / "policy", EmbeddedConfig(), prompts, 24, 40, 0)
    expected = {
        prompt.messages[0].content: max((t for t, ended in answers if ended and t.strip()), key=len)
        for prompt, answers in zip(prompts, drawn, strict=True)
        if any(ended and t.strip() for t, ended in answers)
    }
    made = read_jsonl(out, Demonstration)
    assert expected and told["written"] == len(made) == len(expected) and told["prompts"] == 5
    assert told["answers cut off or empty"] > 0
    for record in made:
        question, answer = record.messages
        assert len(answer.content) == len(expected[question.content])
        origin = record.meta["sampled"]
        assert origin["score"] == len(answer.content) and origin["model"] == str(run / "policy")
        assert "longest.py" in origin["reward"] and record.source == "rejection sampling"


def test_a_floor_leaves_out_whoever_stays_below(run):
    """Mutation seen red: the floor is not asked."""
    arguments = {"model": str(run / "policy"), "reward": f"{run / 'longest.py'}:score"}
    with pytest.raises(PodiumError, match="none has a whole answer above the floor"):
        demonstrate(run, run / "none.jsonl", 8, floor=1e6, max_new_tokens=40, **arguments)
    assert not (run / "none.jsonl").exists()
