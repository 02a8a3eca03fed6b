"""pass@k from the prompt to the verdict: problems, completions, rankings and the command."""

import itertools
import json
import shutil

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from data.template import prepare_tokenizer
from evals.code.completions import STOPS, chosen_is_right, cut, encode_problem
from evals.code.evaluate import summarise
from evals.code.problems import read_problems, small_problems
from evals.code.sandbox import run_program
from podium.errors import DataError
from podium.models import save_model
from podium.sampling.protocol import Sample

needs_bwrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed"
)


@needs_bwrap
def test_the_small_problems_are_solved_by_their_solutions_alone():
    """Mutation: `check` never called."""
    problems = small_problems()
    assert len({problem.prompt for problem in problems}) == len(problems) == 30
    for problem in problems[:10]:  # every form once
        assert run_program(problem.source(problem.canonical_solution)).verdict == "passed", problem
        assert run_program(problem.source("    return None\n")).verdict == "failed", problem


@needs_bwrap
@pytest.mark.slow
def test_humanevals_own_solutions_pass_all_164(real_data):
    problems = read_problems(str(real_data / "E_eval" / "humaneval" / "HumanEval.jsonl.gz"))
    failed = [
        problem.task_id
        for problem in problems
        if run_program(problem.source(problem.canonical_solution)).verdict != "passed"
    ]
    assert len(problems) == 164 and not failed


def test_a_file_that_holds_no_problem_is_named_with_line_and_field(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"task_id": "a", "prompt": "def f():", "entry_point": "f"}\n')
    with pytest.raises(DataError, match=r"mine\.jsonl, line 1, field 'test'"):
        read_problems(str(path))
    path.write_text("{not json\n")
    with pytest.raises(DataError, match=r"mine\.jsonl, line 1: is no JSON"):
        read_problems(str(path))


def test_a_completion_ends_before_the_first_stop_and_counts_only_its_own_tokens(tokenizer):
    """Seen red with the log-probabilities of the whole sample summed."""
    text = "\n    return x + 2\ndef other():\n    pass"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    sample = Sample(tokens, [-0.5] * len(tokens), False)
    found = cut(tokenizer, sample, STOPS["continue"])
    assert found.text == "\n    return x + 2"
    kept = tokenizer.decode(tokens[: found.tokens])
    assert kept.startswith(found.text) and len(tokenizer.decode(tokens[: found.tokens - 1])) < len(
        found.text
    )
    assert found.total_logprob == pytest.approx(-0.5 * found.tokens)
    whole = cut(tokenizer, Sample(tokens, [-0.5] * len(tokens), False), ("never",))
    assert whole.text == text and whole.tokens == len(tokens)


def test_the_prompt_loses_its_last_newline_and_is_asked_in_turns_where_wanted(tokenizer):
    prompt = 'def add_2(x):\n    """Return x plus 2."""\n'
    plain = tokenizer.decode(encode_problem(tokenizer, prompt, "continue"))
    assert plain.endswith('"""Return x plus 2."""')
    asked = tokenizer.decode(encode_problem(tokenizer, prompt, "ask"))
    assert asked.count("def add_2(x)") == 2 and asked.endswith('"""Return x plus 2."""')


def _row(task, passed, means, tokens):
    return {
        "task_id": task,
        "completions": [
            {"text": str(i), "total_logprob": m * t, "tokens": t}
            for i, (m, t) in enumerate(zip(means, tokens, strict=True))
        ],
        "outcomes": [{"verdict": "passed" if p else "failed", "detail": ""} for p in passed],
        "scores": None,
    }


def test_pass_at_k_and_the_rankings_against_brute_force():
    """Every set of k samples counted out. Seen red with right and wrong exchanged, and with the
    lowest ranked in place of the highest. Mutation: the biased `1 - (1 - c / n)^k`.
    """
    rows = [
        _row("a", [1, 0, 0, 1], [-0.1, -0.2, -0.3, -0.4], [40, 1, 1, 1]),
        _row("b", [0, 0, 1, 0], [-0.4, -0.1, -0.2, -0.3], [1, 1, 1, 1]),
        _row("c", [0, 0, 0, 0], [-1.0, -1.0, -1.0, -1.0], [1, 1, 1, 1]),
    ]
    found = summarise(rows, [1, 2, 4])
    for k in (1, 2, 4):
        by_hand = [
            np.mean([any(row["outcomes"][i]["verdict"] == "passed" for i in some) for some in sets])
            for row in rows
            for sets in [list(itertools.combinations(range(4), k))]
        ]
        assert found[f"pass@{k}"]["value"] == pytest.approx(np.mean(by_hand))
    chosen = found["one of them, chosen by"]
    assert chosen["oracle"]["value"] == pytest.approx(2 / 3)
    assert chosen["mean log-probability"]["value"] == pytest.approx(1 / 3)  # right in a alone
    assert chosen["sum of log-probabilities"]["value"] == 0.0  # length misleads it in a
    assert chosen["chance"]["value"] == pytest.approx((2 / 4 + 1 / 4) / 3)
    assert chosen_is_right(np.array([1.0, 1.0, 0.0]), np.array([True, False, True])) == 0.5


@needs_bwrap
def test_the_command_measures_goes_on_and_refuses_other_settings(podium, tokenizer, tmp_path):
    """A model of random weights solves nothing, and says so; what was measured is not measured
    again.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    save_model(model, prepare_tokenizer(tokenizer), tmp_path / "model")
    command = ("eval", "code", str(tmp_path / "model"), "--problems", "small", "--limit", "2")
    command += ("--samples", "3", "--max-new-tokens", "8", "--out", str(tmp_path / "out"))
    first = podium(*command, "--k", "1", "--k", "3")
    assert first.exit_code == 0, first.stderr
    results = json.loads(first.stdout[first.stdout.index("{") :])
    assert results["problems"] == 2 and results["pass@3"]["value"] == 0.0
    assert results["pass@1"]["high"] > 0.2  # two problems say little
    assert sum(results["programs"].values()) == 6
    kept = tmp_path / "out" / "problems" / "small-0.json"
    before = kept.stat().st_mtime_ns
    assert podium(*command).exit_code == 0 and kept.stat().st_mtime_ns == before
    other = podium(*command, "--seed", "1")
    assert other.exit_code == 2 and "results of other settings" in other.stderr
    many = podium(*command, "--k", "4")
    assert many.exit_code == 2 and "give --samples 4 or more" in many.stderr
