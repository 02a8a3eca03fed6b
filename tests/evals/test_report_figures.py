"""Every cell of the report, of a run whose numbers were made up: the right figure in the right
place, with its own sign, interval and unit. Nothing is read from a disk but the recipe.
"""

from dataclasses import replace

import pytest

from data.records import Message
from evals.records import Answer
from evals.report import cells, details, markdown, notes, samples, tiles, view_of
from evals.runs import Run

ENDS = {"value": -0.142, "low": -0.145, "high": -0.139}


def row(rate: float, shift: float, **more) -> dict:
    """Figures that differ by column and, by `shift`, by row."""
    return {
        "gold": 5.0 + shift,
        "gold_low": 4.5 + shift,
        "gold_high": 5.5 + shift,
        "reward": 1.25 + shift,
        "win_rate": rate,
        "win_rate_low": rate - 0.1,
        "win_rate_high": rate + 0.05,
        "win_rate_p": 0.001,
        "win_rate_prompts": 60,
        "win_rate_length_matched": {"rate": 0.6, "low": 0.55, "high": 0.65},
        "ties": 0.03,
        "kl": 2.0 + shift,
        "length": 20.0 + shift,
        "eos_rate": 0.9,
        "pretrain_loss": 1.5 + shift,
        "pretrain_loss_increase": ENDS,
        "fact_accuracy": 0.8,
        "fact_accuracy_drop": {"value": 0.02, "low": 0.01, "high": 0.05},
        "fact_accuracy_by_kind": {"people": 0.7},
        "distinct_answers": 0.85,
        "distinct_2": 0.45,
        "hallucination": {"value": 0.21, "low": 0.15, "high": 0.28},
        "features": {"grammar": 0.33},
        "tasks": {
            "arc_easy": {
                "value": 0.5,
                "low": 0.4,
                "high": 0.6,
                "questions": 50,
                "difference": {"value": 0.1, "low": 0.04, "high": 0.16},
            }
        },
    } | more


RESULTS = {
    "rows": {"sft": row(0.5, 0.0), "best_of_n": row(0.6, 1.0), "ppo_ptx": row(0.7, 2.0)},
    "setup": {
        "models": {"sft": "sft", "ppo_ptx": "ppo"},
        "labels": {"sft": "SFT", "best_of_n": "best of 16", "ppo_ptx": "PPO-ptx"},
        "judge": "the gold score of the world 'willowbrook'",
        "reference": "sft",
        "prompts": 1234,
        "samples": 2,
        "questions": 4321,
        "temperature": 0.7,
        "max_new_tokens": 64,
    },
}


def answer(index: int, name: str, **more) -> Answer:
    fields = {"response": f"{name} says {index}", "tokens": 7, "finished": True} | more
    prompt = [Message(role="user", content=f"Question {index}?")]
    return Answer(row=name, prompt=prompt, prompt_index=index, **fields)


ANSWERS = [
    answer(i, name, use_case="story", gold=1.5, reward=-0.25, finished=name == "sft")
    for i in range(26)
    for name in ("sft", "ppo_ptx")
]
ENERGY = {"energy_watt_hours": 0.5, "energy_assumption": "7 W a core"}
STAGES = {
    "sft": {"wall_seconds": 1200.0, "cpu_seconds": 1500.0, "tokens": 4000, "seed": 3,
            "parents": [], **ENERGY},
    "ppo": {"wall_seconds": 6000.0, "cpu_seconds": 9000.0, "tokens": 5000, "seed": 4,
            "parents": [{"ref": "sft", "sha256": "0123456789abcdef"}], **ENERGY},
    # made before tokens and energy were noted
    "evals": {"wall_seconds": 30.0, "cpu_seconds": 45.0, "seed": 5, "parents": [],
              "energy_assumption": "7 W a core"},
}  # fmt: skip


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(
        tmp_path / "mine", STAGES, {}, dict(RESULTS), list(ANSWERS), {"dpo": "podium run it"}
    )


def test_each_cell_of_the_table_is_its_own_figure(run):
    """Mutations seen red: a rate not as a percentage, the bound's sign at every row, SFT's win rate
    against itself told.
    """
    assert [cells(run.outcome, name) for name in RESULTS["rows"]] == [
        ["SFT", "5.00 [4.50, 5.50]", "-", "2.00", "20.0", "90.0 %", "1.500", "80.0 %"],
        ["best of 16", "6.00 [5.50, 6.50]", "60.0 % [50.0, 65.0]", "≤ 3.00", "21.0", "90.0 %",
         "2.500", "80.0 %"],
        ["PPO-ptx", "7.00 [6.50, 7.50]", "70.0 % [60.0, 75.0]", "4.00", "22.0", "90.0 %", "3.500",
         "80.0 %"],
    ]  # fmt: skip


def test_each_further_line_is_its_own_figure(run):
    """The drop of the facts is told as a change: 2 points less than SFT, between 1 and 5. Mutations
    seen red: the drop's sign, another row's figures.
    """
    lines = dict(details(run.outcome))
    matched, points = "60.0 % [55.0, 65.0]", "10.0 points above SFT's (4.0 to 16.0)"
    loss, facts = "14.2 % below SFT's (13.9 to 14.5)", "2.0 points below SFT's (1.0 to 5.0)"
    assert lines == {
        "": ["SFT", "best of 16", "PPO-ptx"],
        "reward model's score": ["1.25", "2.25", "3.25"],
        "win rate among answers of equal length": [matched] * 3,
        "share of ties": ["3.0 %"] * 3,
        "pretraining loss": ["-", loss, loss],
        "facts": ["-", facts, facts],
        "different answers": ["85.0 %"] * 3,
        "different word pairs": ["45.0 %"] * 3,
        "questions: people": ["70.0 %"] * 3,
        "lm-eval: arc_easy": ["50.0 % [40.0, 60.0]"] * 3,
        "the same, against SFT": ["-", points, points],
        "closed questions, something made up": ["21.0 % [15.0, 28.0]"] * 3,
        "feature: grammar": ["0.33"] * 3,
    }
    bare = dict.fromkeys(
        ("reward", "pretrain_loss_increase", "fact_accuracy_drop", "win_rate_length_matched")
    )
    run.results["rows"] = {"sft": row(0.5, 0.0), "ppo_ptx": row(0.7, 2.0, **bare)}
    lines = dict(details(run.outcome))
    assert lines["reward model's score"] == ["1.25", "-"]
    for label in ("pretraining loss", "facts"):
        assert lines[label] == ["-", "-"]
    assert lines["win rate among answers of equal length"] == [matched, "-"]
    once = {"value": 0.02, "low": None, "high": None}
    run.results["rows"]["ppo_ptx"]["fact_accuracy_drop"] = once
    assert dict(details(run.outcome))["facts"][1].startswith("2.0 points below SFT's (measured onc")


def test_what_the_run_cost_is_summed_over_its_stages(run):
    """7,230 s are 120 min, 10,545 s are 176. Mutations seen red: one stage's cost, another column,
    a token for a stage that noted none.
    """
    assert [value for value, _ in tiles(run)] == ["2 h 0 min", "2 h 56 min", "9,000", "1 Wh"]
    assert "7 W a core" in tiles(run)[3][1]
    view = view_of(run)
    assert (view["wall"], view["cpu"]) == (7230.0, 10545.0)
    assert [list(line.values()) for line in view["stages"]] == [
        ["sft", "1,200", "1,500", "4,000", "-", "3", str(run.folder / "sft" / "final")],
        ["ppo", "6,000", "9,000", "5,000", "sft 01234567", "4", str(run.folder / "ppo" / "final")],
        ["evals", "30", "45", "0", "-", "5", str(run.folder / "evals" / "final")],
    ]
    unfinished = replace(run, results={}, answers=[], missing={"evals": "podium run mine"})
    first, took = view_of(unfinished)["opening"]
    assert "podium run mine goes on" in first and "2 h 0 min" in took
    without = replace(unfinished, missing={})
    assert "no section evals" in view_of(without)["opening"][0]


def test_a_dozen_prompts_are_shown_evenly_with_each_models_first_answer(run):
    """Of 26 every second one, and no more than twelve. Mutations seen red: the first twelve; a
    later answer; another's name.
    """
    run.answers.append(answer(0, "sft", response="a second answer", use_case="story"))
    found = samples(run)
    asked = [sample["prompt"] for sample in found]
    assert asked == [[("user", f"Question {2 * i}?")] for i in range(12)]
    assert found[0]["use_case"] == "story"
    assert found[0]["answers"] == [
        {"name": "SFT", "text": "sft says 0", "about": "gold 1.50, reward -0.25, 7 tokens"},
        {
            "name": "PPO-ptx",
            "text": "ppo_ptx says 0",
            "about": "gold 1.50, reward -0.25, 7 tokens, cut off",
        },
    ]
    few = replace(run, answers=[answer(3, "sft"), answer(1, "sft")])
    assert [sample["prompt"][0][1] for sample in samples(few)] == ["Question 1?", "Question 3?"]
    assert samples(few)[0]["use_case"] == ""
    assert samples(few)[0]["answers"][0]["about"] == "7 tokens"
    assert samples(replace(run, results={})) == []


def test_the_notes_say_how_it_was_measured(run):
    """Mutations seen red: KL said to be there for greedy answers; few questions not told; prompts
    far from the training prompts kept back.
    """
    told = " ".join(notes(run.outcome))
    for words in ("1,234 held-out prompts, 2 answers", "64 tokens at temperature 0.7", "the world 'willowbrook'",
                  "4,321 questions", "from SFT", "Of arc_easy fewer than"):  # fmt: skip
        assert words in told, words
    assert "there is no KL" not in told and "farther" not in told
    setup = RESULTS["setup"]
    far = {"flagged": [4, 9], "asked": 1234, "bound": 3.5,
           "farthest": [{"prompt": "Odd? " * 30, "distance": 7.25}]}  # fmt: skip
    for cut in ({"temperature": 0}, {"top_p": 0.9}):
        run.results["setup"] = setup | cut | {"far_prompts": far}
        told = " ".join(notes(run.outcome))
        assert "there is no KL" in told and "2 of 1,234 test prompts lie farther" in told
        assert "...” (7.2, the bound is 3.5)" in told and "Odd? " * 17 not in told
    run.results["setup"] = setup | {"top_p": 1, "far_prompts": far | {"farthest": []}}
    assert notes(run.outcome)[-1].endswith("(Mahalanobis distance).")
    assert "there is no KL" not in " ".join(notes(run.outcome))
    enough = {"arc_easy": RESULTS["rows"]["sft"]["tasks"]["arc_easy"] | {"questions": 5000}}
    run.results["rows"] = {"sft": row(0.5, 0.0, tasks=enough), "ppo_ptx": row(0.7, 2.0)}
    assert "fewer than" not in " ".join(notes(run.outcome))


def test_the_markdown_holds_the_table_the_answers_and_what_is_missing(run):
    """Mutations seen red: a row or the header left out, a break within a cell kept."""
    run.answers[0] = answer(0, "sft", response="two\nlines | <b>")
    lines = markdown(view_of(run)).splitlines()
    assert lines[0] == "# Run mine"
    head = lines.index("| model | gold | win rate vs SFT | KL | length | ended | pretraining loss "
                       "| facts |")  # fmt: skip
    assert lines[head + 1] == "| --- | --- | --- | --- | --- | --- | --- | --- |"
    assert lines[head + 4].startswith("| PPO-ptx | 7.00 [6.50, 7.50] | 70.0 %")
    assert "- missing: `dpo`, made by `podium run it`" in lines
    at = lines.index("## Question 0?")
    assert lines[at + 2 : at + 5] == [
        "| model | answer | scores |",
        "| --- | --- | --- |",
        "| SFT | two lines \\| &lt;b> | 7 tokens |",
    ]
    assert lines.count("| --- | --- | --- | --- | --- | --- | --- |") == 1
    assert f"| ppo | 6,000 | 9,000 | 5,000 | sft 01234567 | 4 | {run.folder}/ppo/final |" in lines
