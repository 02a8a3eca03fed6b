"""`python -m benchmarks.widths`: answers that differ in the weights alone meet each other."""

import re
import sys

import numpy as np
import pytest
import yaml

from benchmarks import widths
from benchmarks.widths import Answered, wins
from data.jsonl import write_jsonl
from data.records import Prompt
from evals.winrate import judged_win_rate
from podium.models import save_model
from podium.widths import load_to_answer
from tests.evals.miniature import make_model


def test_an_answer_meets_the_one_of_the_same_random_numbers():
    """By hand: of two answers each to three prompts, the first prompt's are worse and better, the
    second's the same text whose score is off by its last bits, and better; the third's both better.
    Mutations seen red: the last bits of a score decide; every answer meets every one; first and
    second the other way round; answers as the units of the interval.
    """
    narrow = Answered(["a", "b", "c", "d", "e", "f"], np.array([2, 3, 1 + 1e-6, 5, 1, 1]))
    wide = Answered(["g", "h", "c", "i", "j", "k"], np.array([2.5, 1, 1, 0.5, 0, 0]))
    met = re.fullmatch(r"(.*)% \[(.*)%, (.*)%\] \((.*)%\)", wins(narrow, wide))
    rate, low, high, same = (float(part) for part in met.groups())
    assert (rate, same) == (75.0, 17.0)  # (0 + 1 + 0.5 + 1 + 1 + 1) / 6, and 1 / 6
    prompts = judged_win_rate(np.array([0.5, 0.75, 1.0]), np.arange(3))
    assert (low, high) == pytest.approx((100 * prompts.low, 100 * prompts.high), abs=0.06)


@pytest.fixture
def table(monkeypatch, tmp_path, tokenizer, capsys):
    """The rows that a call prints, by the name of their weights."""
    save_model(make_model(tokenizer), tokenizer, tmp_path / "model")
    asked = [Prompt(messages=[{"role": "user", "content": f"say {n}"}]) for n in range(6)]
    write_jsonl(tmp_path / "asked.jsonl", asked)
    prompts = {"test": str(tmp_path / "asked.jsonl")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"data": {"prompts": prompts}}))
    (tmp_path / "text.txt").write_text("a passage\nand another\n")
    (tmp_path / "judge.py").write_text("def score(prompts, texts):\n    return map(len, texts)\n")
    command = ["widths", str(tmp_path / "model"), str(tmp_path / "text.txt"), "--races", "0"]

    def printed(*options: str) -> dict[str, list[str]]:
        monkeypatch.setattr(sys, "argv", [*command, *options])
        widths.main()
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
        return {line.split(" | ")[0][2:]: line.strip("| ").split(" | ")[1:] for line in lines[2:]}

    printed.run, printed.judge = str(tmp_path), f"{tmp_path / 'judge.py'}:score"
    return printed


def test_a_reward_judges_and_every_width_draws_with_the_same_random_numbers(table, monkeypatch):
    """Where each width is fp32, all say the same; a hot model does not. Without a run there is
    nothing to answer. Mutations seen red: a seed of its own for each width; the heat left out; the
    world's gold in place of the judge.
    """
    asked = ["--run", table.run, "--prompts", "4", "--answer-tokens", "8"]
    alone = table()
    assert list(alone) == list(widths.WIDTHS) and alone["int4"][4:] == ["-"] * 3
    monkeypatch.setattr(
        widths, "load_to_answer", lambda path, weights, where: load_to_answer(path, "fp32", where)
    )
    rows = table(*asked, "--judge", table.judge, "--hot", "5")
    assert rows["fp32"][5:] == ["-", "-"] and float(rows["fp32"][4].split()[0]) > 1  # a length
    for narrow in ("int8", "int4"):
        assert all(re.match(r"50\.0% .*\(100%\)", cell) for cell in rows[narrow][5:])
    assert not rows["fp32 at temperature 5"][5].endswith("(100%)")
    with pytest.raises(SystemExit):
        table("--judge", table.judge)
