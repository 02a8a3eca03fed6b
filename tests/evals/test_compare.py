"""`podium compare`: any models on the same held-out prompts, and judges that are told apart."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from data.jsonl import read_jsonl, write_jsonl
from data.records import Message, Prompt
from evals.compare import Settings, _home, compare, read_judge
from evals.contestants import find_contestant, model_of, optimised_rewards
from evals.held_out import held_out_prompts, trained_on
from evals.records import Answer
from evals.verdicts import Judged, Met, against, elo, in_words
from podium.errors import PodiumError, RecipeError
from podium.run.lineage import hash_folder
from tests.evals.miniature import WORLD
from tests.podium.rewards.served import serving


@pytest.fixture(scope="module")
def run(mini_run, tmp_path_factory):
    """The miniature run with a recipe that can be read again."""
    folder = shutil.copytree(mini_run, tmp_path_factory.mktemp("runs") / "mini")
    recipe = {
        "name": "mini",
        "data": {"world": WORLD.model_dump(mode="json")},
        "pretrain": {},
        "sft": {"model": "pretrain"},
        "reward": {},
        "ppo": {"response_length": 8},
        "ppo_arms": {"plain": {"ptx_coef": 0}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def settings(run, *models, **changed) -> Settings:
    names = tuple(str(run / model) if model else str(run) for model in models)
    return Settings(**{"models": names, "prompts": 8, "samples": 2, **changed})


def test_a_run_stands_for_its_policy_and_a_stage_for_itself(run):
    """Mutation seen red: an arm before the stage itself."""
    assert model_of(run) == "ppo"
    assert find_contestant(str(run), run.parent).folder == run / "ppo" / "final"
    assert find_contestant("mini/sft", run.parent).folder == run / "sft" / "final"
    lone = find_contestant(str(run / "reward" / "final"), run.parent)
    assert lone.run == run and lone.recipe.name == "mini"
    with pytest.raises(PodiumError, match="no parent 'nobody'"):
        find_contestant("nobody", run.parent)


def test_two_models_of_a_run_meet_on_its_held_out_prompts(run, tmp_path):
    found = compare(settings(run, "", "sft", "pretrain"), run.parent, tmp_path)
    assert found["prompts"] == 8 and "the gold score of the world 'willowbrook'" in found["judge"]
    first, second = found["against"]
    assert first["prompts"] == 8 and first["comparisons"] == 8 * 2 * 2
    assert 0 <= first["low"] <= first["rate"] <= first["high"] <= 1
    assert second["second"].endswith("pretrain") and "pretrain" in second["verdict"]
    assert len(found["elo"]) == 3
    answers = read_jsonl(tmp_path / "answers-0.jsonl", Answer)
    tests = {p.messages[-1].content for p in held_out_prompts(run)}
    assert {a.prompt[-1].content for a in answers} <= tests
    assert all(a.tokens <= 8 for a in answers), "as long as PPO trained for"
    assert found == json.loads((tmp_path / "comparison.json").read_text())
    assert "counted half" in in_words(found)


def test_prompts_are_those_of_the_run_that_is_named_or_of_the_first_model_that_has_one(
    run, tmp_path
):
    """Mutations seen red: a run that is named looked for elsewhere; a file taken for a run."""
    far = SimpleNamespace(run=None)
    near = find_contestant("mini/sft", run.parent)
    file = tmp_path / "asked.jsonl"
    file.write_text("")
    for named, models, home in (
        (None, [far, near], near),
        ("mini/sft", [far, far], near),
        (str(file), [near, near], None),
    ):
        asked = Settings(("a", "b"), prompts_from=named)
        assert _home(asked, models, run.parent) == home
    with pytest.raises(PodiumError, match="none of the models belongs to a run"):
        _home(Settings(("a", "b")), [far, far], run.parent)


def test_what_was_sampled_is_kept_and_other_settings_are_refused(run, tmp_path):
    """Mutation seen red: the settings not compared."""
    asked = settings(run, "", "sft", prompts=4)
    before = compare(asked, run.parent, tmp_path)
    kept = read_jsonl(tmp_path / "answers-1.jsonl", Answer)
    write_jsonl(
        tmp_path / "answers-1.jsonl", [a.model_copy(update={"response": "An owl."}) for a in kept]
    )
    again = compare(asked, run.parent, tmp_path)
    assert again["models"][0] == before["models"][0]
    assert again["models"][1]["characters"] == len("An owl.")
    with pytest.raises(PodiumError, match="other settings"):
        compare(settings(run, "", "sft", prompts=5), run.parent, tmp_path)


def test_the_reward_that_a_model_was_trained_on_is_no_judge_unless_it_is_named(run, tmp_path):
    """Also under another path: its content is what counts. SFT and base were not trained on it.
    Seen red with the reference compared by its name.
    """
    assert hash_folder(run / "reward/final") in optimised_rewards(run / "ppo/final")
    copy = shutil.copytree(run / "reward" / "final", tmp_path / "bought")
    with pytest.raises(PodiumError, match="was trained on: it would praise") as error:
        compare(settings(run, "", "sft", judge=str(copy)), run.parent, tmp_path / "a")
    assert "--optimised-judge" in str(error.value.fix)
    told = compare(
        settings(run, "", "sft", judge=str(copy), optimised_judge=True, prompts=2),
        run.parent,
        tmp_path / "b",
    )
    assert told["notes"][0].startswith("not independent: ")
    fine = compare(
        settings(run, "sft", "pretrain", judge=str(copy), prompts=2), run.parent, tmp_path / "c"
    )
    assert not fine["notes"]


def test_a_function_is_known_again_by_its_code(run, tmp_path, monkeypatch):
    """Mutation seen red: by its path."""
    monkeypatch.chdir(tmp_path)
    code = "def longest(prompts, responses):\n    return [float(len(r)) for r in responses]\n"
    for name in ("mine.py", "copy.py"):
        (tmp_path / name).write_text(code)
    found = compare(
        settings(run, "", "sft", judge="mine.py:longest", prompts=3), run.parent, tmp_path / "a"
    )
    longer = np.argmax([model["characters"] for model in found["models"]])
    assert found["models"][longer]["score"]["value"] == max(
        model["score"]["value"] for model in found["models"]
    )
    trained = shutil.copytree(run, tmp_path / "mini")
    record = json.loads((trained / "ppo/final/stage.json").read_text())
    from podium.run.lineage import hash_file

    record["config"]["reward"] = "mine.py:longest"
    record["code"] = [{"path": "mine.py", "sha256": hash_file(tmp_path / "mine.py")}]
    (trained / "ppo/final/stage.json").write_text(json.dumps(record))
    with pytest.raises(PodiumError, match="was trained on"):
        compare(
            settings(trained, "", "sft", judge="copy.py:longest"), tmp_path / "none", tmp_path / "b"
        )


def test_prompts_that_one_of_the_runs_trained_on_are_left_out(run, tmp_path):
    """From a file with two training prompts and two new ones. Mutation seen red: nothing left
    out.
    """
    known = sorted(trained_on([find_contestant(str(run), run.parent)]))[:2]
    asked = [[Message(role=role, content=text) for role, text in key] for key in known]
    asked += [[Message(role="user", content=f"Tale {i}?")] for i in range(2)]
    write_jsonl(tmp_path / "asked.jsonl", [Prompt(messages=messages) for messages in asked])
    judge = tmp_path / "judge.py"
    judge.write_text("def one(prompts, responses):\n    return [1.0] * len(responses)\n")
    found = compare(
        settings(run, "", "sft", prompts_from=str(tmp_path / "asked.jsonl"), judge=f"{judge}:one"),
        run.parent,
        tmp_path / "out",
    )
    assert found["prompts"] == 2 and found["dropped"]["trained on"] == 2
    assert found["against"][0]["rate"] == 0.5 and found["against"][0]["ties"] == 1.0
    assert "too few prompts" in found["against"][0]["verdict"]


def test_a_served_model_compares_pairs(run, tmp_path):
    with serving(lambda question: "Verdict: tie") as server:
        judge = read_judge(server.url, "grader", None)
        found = compare(settings(run, "", "sft", judge=judge, prompts=3), run.parent, tmp_path)
    assert found["judge"].startswith("an AI judge (grader at http")
    assert found["against"][0]["rate"] == 0.5 and found["models"][0]["score"] is None
    with pytest.raises(RecipeError, match="several models"):
        read_judge("http://localhost:1/v1", None, None)


def answers(lengths, row="m"):
    asked = [Message(role="user", content="Tale?")]
    return [
        Answer(row=row, prompt=asked, prompt_index=i, response="x" * n, tokens=n, finished=True)
        for i, n in enumerate(lengths)
    ]


def test_length_matched_pairs_are_those_of_like_length():
    """Twenty prompts; the first model wins where its answer is twice as long and loses the rest.
    Seen red with every pair counted as matched.
    """
    long, short = [20] * 10 + [10] * 10, [10] * 20
    scores = [np.r_[np.ones(10), np.zeros(10)][:, None], np.full((20, 1), 0.5)]
    met = Met(["a", "b"], [answers(long), answers(short)], scores, Judged("j"), 1)
    (row,) = against(met)
    assert row["rate"] == 0.5 and row["length_matched"]["rate"] == 0.0
    assert row["length_matched"]["comparisons"] == 10


def test_several_arms_are_judged_together():
    """The first wins 16 of 20 against one model, which alone is p = 0.01 or so, and ties with
    nine others: Holm leaves nothing standing of ten. Seen red with uncorrected p-values.
    """
    own = np.full((20, 1), 0.5)
    close = np.r_[np.zeros(15), np.ones(5)][:, None]
    even = np.r_[np.zeros(10), np.ones(10)][:, None]
    text = answers([5] * 20)

    def met(count):
        scores = [own, close, *[even] * (count - 1)]
        names = [f"m{i}" for i in range(count + 1)]
        return Met(names, [text] * (count + 1), scores, Judged("j"), 1)

    assert against(met(1))[0]["verdict"] == "m0 beats m1"
    assert against(met(10))[0]["verdict"] == "m0 is not shown to differ from m1"
    ratings = elo(met(2))
    assert ratings["m0"]["value"] > ratings["m1"]["value"]
    assert ratings["m0"]["low"] < ratings["m0"]["value"] < ratings["m0"]["high"]
