"""`python -m benchmarks.rounds`: the arms differ in who answered alone, and prompts are the units."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import rounds
from benchmarks.rounds import Golds, difference, over_seeds, run_tree, wins
from data.jsonl import read_jsonl, write_jsonl
from data.records import Prompt
from data.worlds import write_world
from evals.records import Answer
from podium.run.recipe import load_recipe, validate
from podium.storage import write_json

SMALL = {
    "documents": 20,
    "validation_documents": 5,
    "demonstrations": 8,
    "validation_demonstrations": 4,
    "test_demonstrations": 4,
    "prompts": 8,
    "validation_prompts": 4,
    "test_prompts": 6,
}


def test_the_arms_differ_in_who_answered_alone(tmp_path):
    """Seed, prompts, labelers, both sets of rankings and PPO are the second round's. Mutations seen
    red: the policy still answers; the first round's rankings left out; the first round's seed.
    """
    models = {"sft": "the-sft", "base": "the-base"}
    sets = [*rounds.SETS, "pretrain=null", "sft=null", "reward.model=the-sft", "ppo.model=the-sft"]
    sets += [f"rankings.models.{name}={model}" for name, model in models.items()]
    tree = load_recipe("willowbrook", [*sets, "seed=10"]).model_dump(mode="json")
    names = ("round-1", "round-2", *rounds.ARMS)
    start, second, once, mixed = (validate(run_tree(tree, run, tmp_path), run) for run in names)
    assert start.rankings.models == models and (start.seed, start.reward.half) == (10, "all")
    whole, who = second.model_dump(mode="json"), ("models", "mix", "main")
    assert whole["reward"]["half"] == "all"
    first = tmp_path / "round-1"
    for arm, name in ((once, "at-once"), (mixed, "recipe-mix")):
        assert (arm.name, arm.seed, arm.chain()) == (name, 11, second.chain())
        made = arm.model_dump(mode="json") | {"name": second.name}
        made["rankings"] |= {key: whole["rankings"][key] for key in who}
        assert made == whole
        sources = [one.source for one in arm.reward.rankings]
        assert sources == [str(first / "rankings/final"), "rankings"]
    assert second.rankings.models == {"policy": str(first / "ppo/final"), "sft": "the-sft"}
    assert once.rankings.models == {"sft": "the-sft"} and once.rankings.main == "sft"
    assert once.rankings.mix == {"sft": 0.65, "off_topic": 0.2}  # policy 0.5 and sft 0.15
    assert mixed.rankings.models == models and mixed.rankings.mix == tree["rankings"]["mix"]


def test_a_seed_more_asks_the_same_prompts_and_is_no_new_prompt():
    """Twice the same seed narrows no interval over prompts. By hand: differences of 2, 0, 1 and 1
    a prompt. Mutations seen red: every row a unit of its own; another seed's prompts taken for
    others, in differences and in wins; first and second the other way round; prompts as the units
    over seeds.
    """
    a = np.array([[3.0, 3.0], [1.0, 1.0], [2.0, 0.0], [4.0, 6.0]])
    b = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [5.0, 3.0]])
    one = Golds({"a": a, "b": b}, ["w", "x", "y", "z"])
    found = difference([one], "a", "b")
    half = 3.182446 * np.sqrt(2 / 3 / 4)  # Student's t of three degrees
    assert found == pytest.approx((1.0, 1 - half, 1 + half))
    assert difference([one, one], "a", "b") == pytest.approx(found)
    assert wins([one], "a", "b").rate == pytest.approx((1 + 0.5 + 0.75 + 0.75) / 4)
    assert wins([one, one], "a", "b")[:3] == pytest.approx(wins([one], "a", "b")[:3])
    worse = Golds({"a": a - 2, "b": b}, one.prompts)
    assert over_seeds([one, worse], "a", "b").value == pytest.approx(0)
    assert over_seeds([one, worse], "a", "b").high == pytest.approx(12.7062)  # one degree


@pytest.fixture
def trained(monkeypatch):
    """What is trained and compared, in order: of every run what the tables read. Round 2's policy
    says what the village calls best, everybody else nothing.
    """
    did = []

    def run_chain(recipe, out):
        run = out / recipe.name
        did.append(recipe.name)
        if recipe.name == "start":
            return run
        sft = str(out.parent / "start" / "sft" / "final")
        assert recipe.chain() == ["world", "rankings", "reward", "ppo"]
        assert recipe.reward.model == recipe.ppo.model == recipe.rankings.models["sft"] == sft
        if recipe.name == "round-1":
            did[-1] += f" of seed {recipe.seed} in village {recipe.data.world.seed}"
            write_world(recipe.data.world, run / "world/final")
            (run / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        sources = ["a/rankings.train.jsonl"] * (1 if recipe.name == "round-1" else 2)
        data = [{"source": source, "records": 30} for source in [*sources, "b.jsonl"]]
        for stage in ("reward", "ppo"):
            write_json(run / stage / "final/stage.json", {"data": data, "metrics": {"kl": 1.5}})
        return run

    def compare(settings, runs_dir, out):
        did.append(out.name)
        world = rounds.open_world(Path(settings.prompts_from) / "world/final")
        source = Path(settings.prompts_from) / "world/final/prompts.test.jsonl"
        asked = read_jsonl(source, Prompt)[: settings.prompts]
        for number, model in enumerate(settings.models):
            says = world.oracle if "round-2" in model else lambda prompt: "."
            write_jsonl(
                out / f"answers-{number}.jsonl",
                [
                    Answer(row=model, prompt=prompt.messages, prompt_index=i, response=says(prompt),
                           tokens=1, finished=True)
                    for i, prompt in enumerate(asked)
                    for _ in range(settings.samples)
                ],
            )  # fmt: skip
        write_json(out / "comparison.json", {})

    monkeypatch.setattr(rounds, "run_chain", run_chain)
    monkeypatch.setattr(rounds, "compare", compare)
    return did


def test_it_is_started_and_prints_both_tables(trained, monkeypatch, tmp_path, capsys):
    """Training and sampling are left out here, `tests/evals/test_rounds.py` has them; the village's
    gold score judges. All seeds live in one village, or prompts could not be the units over seeds.
    Given again it compares nothing anew. Mutations seen red: the arm in the last policy's place;
    the last seed's tables alone; the village of a seed its own; PPO from the base; compared again.
    """
    sets = [part for key, n in SMALL.items() for part in ("--set", f"data.world.{key}={n}")]
    command = ["rounds", "--seeds", "1", "2", "--prompts", "6", "--out", str(tmp_path), *sets]
    monkeypatch.setattr(sys, "argv", command)
    rounds.main()
    first, second = (f"round-1 of seed {seed} in village 0" for seed in (10, 20))
    later = ["round-2", "at-once", "compare-at-once"]
    assert trained == ["start", first, *later, second, *later]
    said = capsys.readouterr().out.split("| seed | model |")[-1]  # of all seeds
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()]
    models = {(row[0], row[1]): row[2:] for row in rows if row[:1] in (["1"], ["2"])}
    assert set(models) == {
        (seed, place)
        for seed in ("1", "2")
        for place in ("round-2/ppo", "at-once/ppo", "round-1/ppo", "sft")
    }
    assert models["2", "round-2/ppo"][0] == models["2", "at-once/ppo"][0] == "60"
    assert models["1", "round-1/ppo"][0] == "30" and models["1", "sft"][0] == "-"
    assert float(models["1", "round-2/ppo"][1].split()[0]) > 1  # the village's own words
    pairs = {(row[0], row[1]): row[2:] for row in rows if len(row) == 4}
    for other in ("at-once/ppo", "round-1/ppo", "sft"):
        assert {seed for place, seed in pairs if place == other} == {"1", "2", "all", "over seeds"}
        assert pairs[other, "all"][0].startswith("100.0%")
        assert pairs[other, "1"][1].startswith("+")
    rounds.main()
    assert [name for name in trained[9:] if name.startswith("compare")] == []
