"""`benchmarks.starts` and the three claims that begin there: who is trained from whom, and tables
against figures by hand.
"""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml

from benchmarks import choose_by_reward, helpful_or_harmless, rl_start, small_beats_large, starts
from benchmarks.choose_by_reward import Seen, contrast, look, losses_of, lowest
from benchmarks.rl_start import Arms, arms_table
from benchmarks.rounds import Golds
from benchmarks.small_beats_large import pairs_table
from data.jsonl import read_jsonl, write_jsonl
from data.records import Demonstration, Message, Prompt, Ranking
from podium.models import save_model
from podium.run.chain import run_chain
from podium.run.lineage import FORMAT_VERSION
from podium.run.recipe import load_recipe
from pretrain.presets import PRESETS

PROMPTS = ["w", "x", "y", "z"]
KL = {"mix": 1.5, "bare": 1.0}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_a_start_is_shared_and_each_seed_has_rankings_and_a_reward_of_its_own(made, tmp_path):
    """Mutations seen red: the reward model from the base; the seed of the start for all; `same`
    not looked at.
    """
    start = starts.train_start(tmp_path, ["pretrain.tokens=700"])
    folders = [starts.train_reward(start, seed, tmp_path, []) for seed in (0, 1)]
    assert starts.train_reward(start, 1, tmp_path, [], same=0) == folders[0] != folders[1]
    assert made["start"].chain() == ["world", "pretrain", "sft"]
    assert made["start"].pretrain.tokens == 700
    sft = str(tmp_path / "start/sft/final")
    for seed in (0, 1):
        recipe = made[f"reward-{seed}"]
        assert recipe.chain() == ["world", "rankings", "reward"] and recipe.seed == seed
        assert recipe.reward.model == recipe.rankings.models["sft"] == sft
        assert recipe.rankings.models["base"] == str(tmp_path / "start/pretrain/final")


def test_small_and_large_differ_in_size_alone_and_the_arms_in_the_mix(made, tmp_path, monkeypatch):
    """Mutations seen red: a tokenizer of its own; SFT from the large base; PPO from the base; the
    bare arm's mix, too; another seed for it.
    """
    start, reward = tmp_path / "start", tmp_path / "reward-4"
    starts.train_start(tmp_path, [])
    monkeypatch.setitem(PRESETS, small_beats_large.SMALL, None)  # gone again after this test
    base = small_beats_large.train_base(start, tmp_path, [])
    rl_start.train_arms(base, reward, 4, tmp_path, [])
    large, small = made["start"].pretrain, made["small-base"].pretrain
    told = {"preset": small_beats_large.SMALL, "tokenizer": str(start / "pretrain/final")}
    assert small.model_dump() == large.model_dump() | told
    shape = replace(PRESETS["llama-tiny"], layers=2, hidden=80, inner=216)
    assert PRESETS[small.preset] == shape
    mix, bare = made["small-4"], made["bare-4"]
    assert mix.chain() == bare.chain() == ["world", "sft", "ppo"]
    assert (mix.seed, mix.sft.aux_share, bare.sft.aux_share) == (4, 0.1, 0)
    assert mix.sft.model == str(base / "pretrain/final") and mix.ppo.model == "sft"
    assert mix.sft.num_train_epochs == made["start"].sft.num_train_epochs
    assert mix.ppo.reward == str(reward / "reward/final") and mix.ppo.ptx_coef > 0
    same = mix.model_dump() | {"name": "bare-4"}
    same["sft"] |= {"aux_share": 0}
    assert bare.model_dump() == same


def test_the_pairs_are_paired_by_prompt_and_the_last_row_has_seeds_as_units():
    """By hand. Mutations seen red: first and second the other way round; prompts as the units over
    seeds; one seed for all.
    """
    small = np.array([[3.0, 3.0], [1.0, 1.0], [2.0, 0.0], [4.0, 6.0]])
    large = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [5.0, 3.0]])
    scores = {"small/ppo": small, "small/sft": small - 9, "large/sft": large}
    found = {0: Golds(scores, PROMPTS), 1: Golds(scores | {"small/ppo": small - 2}, PROMPTS)}
    rows = {(row[0], row[1]): row[2:] for row in cells(pairs_table(found))}
    pair = "small/ppo, large/sft"
    assert rows[pair, "0"][0].startswith("75.0%") and rows[pair, "1"][0].startswith("25.0%")
    assert rows[pair, "0"][1].startswith("+1.00") and rows[pair, "all"][1].startswith("+0.00")
    assert rows[pair, "over seeds"][0].startswith("50.0%")
    assert rows[pair, "over seeds"][1] == "+0.00 [-12.71, +12.71]"  # one degree of freedom
    assert rows["small/ppo, small/sft", "all"][0].startswith("100.0%")
    assert rows["small/sft, large/sft", "all"][0].startswith("0.0%")


def test_the_arms_are_with_the_mix_less_without_it():
    """Mutations seen red: bare less mix; the losses after SFT in both rows; KL left at the mix's."""
    golds = {place: np.zeros((4, 2)) for place in rl_start.PLACES} | {"mix/ppo": np.ones((4, 2))}
    losses = {place: np.full(5, 2.0) for place in rl_start.PLACES}
    losses |= {"mix/ppo": np.full(5, 1.5), "mix/sft": np.full(5, 1.75)}
    seeds = {
        seed: Arms(Golds(golds, PROMPTS), losses, {"mix": 3.0, "bare": 1.0}) for seed in (0, 1)
    }
    rows = {(row[0], row[1]): row[2:] for row in cells(arms_table(seeds))}
    zero = " [{0}, {0}]"
    assert rows["ppo", "0"][0].startswith("100.0%") and rows["sft", "0"][0].startswith("50.0%")
    assert rows["ppo", "over seeds"][1] == "+1.00" + zero.format("+1.00")
    assert rows["ppo", "over seeds"][2] == "-0.500" + zero.format("-0.500")
    assert rows["sft", "over seeds"][2] == "-0.250" + zero.format("-0.250")
    assert rows["ppo", "over seeds"][3] == "+2.00" + zero.format("+2.00")


def test_the_last_epoch_is_set_against_the_lowest_loss_of_its_own_seed():
    """Mutations seen red: the highest loss; lowest less last; the first seed's lowest for all; gold
    in the reward's column.
    """
    first, second = np.zeros((4, 2)), np.full((4, 2), 0.5)
    last = np.ones((4, 2))
    golds = Golds({"1": first, "2": second, "3": last}, PROMPTS)
    rewards = Golds({"1": -2 * last, "2": first, "3": first}, PROMPTS)
    found = {0: Seen([0.5, 0.9, 1.0], rewards, golds), 1: Seen([0.9, 0.5, 1.0], rewards, golds)}
    assert [lowest(seen) for seen in found.values()] == ["1", "2"]
    rows = {row[0]: row[1:] for row in cells(contrast(found))}
    assert rows["0"][:3] == ["1", "0.500", "1.000"] and rows["1"][0] == "2"
    assert rows["0"][3].startswith("+2.00") and rows["0"][4].startswith("+1.00")
    assert rows["1"][3].startswith("+0.00") and rows["1"][4].startswith("+0.50")
    assert rows["all"][4].startswith("+0.75") and rows["all"][5].startswith("100.0%")
    assert rows["over seeds"][3].startswith("+1.00")
    by_epoch = cells(choose_by_reward.table(list(found.values())))
    assert by_epoch[2][3].startswith("1.00 [") and by_epoch[2][4].startswith("100.0%")


def test_each_is_started_and_tells_of_all_its_seeds(made, monkeypatch, tmp_path, capsys):
    """With one reward model for all where that is asked for. Mutations seen red, in each of the
    three: the seed's own reward model all the same; tables of the last seed alone.
    """
    golds = {
        place: np.zeros((4, 2)) for place in [*rl_start.PLACES, *sum(small_beats_large.PAIRS, ())]
    }
    arms = Arms(Golds(golds, PROMPTS), dict.fromkeys(rl_start.PLACES, np.ones(5)), KL)
    epochs = Golds({"1": np.zeros((4, 2)), "2": np.ones((4, 2))}, PROMPTS)
    monkeypatch.setattr(rl_start, "measure", lambda *told: arms)
    monkeypatch.setattr(small_beats_large, "judge", lambda *told: arms.golds)
    monkeypatch.setattr(small_beats_large, "kl_of", lambda run: 2.5)
    monkeypatch.setattr(choose_by_reward, "look", lambda *told: Seen([0.5, 0.9], epochs, epochs))
    for module in (small_beats_large, choose_by_reward, rl_start):
        made.clear()
        given = ["--seeds", "3", "5", "--reward-seed", "7", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["it", *given])
        module.main()
        assert [name for name in made if name.startswith("reward")] == ["reward-7"]
        last = capsys.readouterr().out.split("\n\n")[-1]
        assert "| 3 |" in last and "| 5 |" in last and "over seeds" in last


@pytest.fixture
def shown(tmp_path, tokenizer, tiny_llama, monkeypatch):
    """A run whose SFT learns one answer in six epochs, and a reward for it."""
    save_model(tiny_llama, tokenizer, tmp_path / "base")
    reward = (
        "def owls(prompts, responses):\n    return [float('owl' in one) for one in responses]\n"
    )
    (tmp_path / "reward.py").write_text(reward)
    asked = [Message(role="user", content="Tell me.")]
    answered = Demonstration(messages=[*asked, Message(role="assistant", content="an owl")])
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", [answered] * 16)
    write_jsonl(tmp_path / "prompts.jsonl", [Prompt(messages=asked, id=str(i)) for i in range(4)])
    sft = {"num_train_epochs": 6, "learning_rate": 2e-2, "batch_size": 8}
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    tree = {
        "name": "run",
        "dtype": "fp32",
        "threads": 1,
        "keep_checkpoints": 6,
        "sft": sft | {"model": str(tmp_path / "base"), "per_device_train_batch_size": 8},
        "data": {"demonstrations": files, "prompts": {"test": str(tmp_path / "prompts.jsonl")}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))

    class World:
        def gold(self, prompt, text):
            return -float("owl" in text)

    monkeypatch.setattr(choose_by_reward, "open_world", lambda folder: World())
    return run_chain(load_recipe(tmp_path / "run.yaml"), tmp_path), f"{tmp_path}/reward.py:owls"


def test_each_epoch_answers_with_its_own_weights_and_is_asked_once(shown):
    """The first epoch does not know yet what the last one mostly says. Mutations seen red: the
    final weights answer for every epoch; gold's scores for the reward's; asked again.
    """
    run, reward = shown
    seen = look(run, reward, seed=0, prompts=4, samples=12)
    assert list(seen.golds.scores) == [str(epoch) for epoch in range(1, 7)]
    assert seen.losses == losses_of(run) and len(seen.losses) == 6
    assert seen.rewards.scores["1"].shape == (4, 12) and len(seen.rewards.prompts) == 4
    assert seen.rewards.scores["1"].mean() < 0.25 < 0.5 < seen.rewards.scores["6"].mean()
    assert all((seen.golds.scores[e] == -seen.rewards.scores[e]).all() for e in seen.golds.scores)
    kept = json.loads((run / choose_by_reward.SEEN_FILE).read_text())
    kept["losses"][0] = 7.0
    (run / choose_by_reward.SEEN_FILE).write_text(json.dumps(kept))
    assert look(run, reward, seed=0, prompts=4, samples=12).losses[0] == 7.0


def ranking(text: str, ranks: list[int]) -> Ranking:
    responses = [f"{text} {number}" for number in range(len(ranks))]
    return Ranking(
        prompt=[Message(role="user", content=text)], responses=responses, ranks=ranks, labeler="l"
    )


def test_each_kind_has_prompts_of_its_own_and_its_rankings_are_of_one_sft_model(made, tmp_path):
    """Mutations seen red: both kinds from all prompts; held-out prompts from the training split; one
    kind's file for both; the reward model from the base.
    """
    world = tmp_path / "start/world/final"
    world.mkdir(parents=True)
    for split in ("train", "test"):
        cases = ["harmful", "open_qa", "harmful", "rewrite", "harmful", "rewrite"]
        prompts = [
            Prompt(messages=[Message(role="user", content=f"{split} {i}")], use_case=case)
            for i, case in enumerate(cases)
        ]
        write_jsonl(world / f"prompts.{split}.jsonl", prompts)
    helpful_or_harmless.write_prompts(world, tmp_path / "kinds", rankings=2, held_out=1)
    asked = {
        file.name: [one.messages[0].content for one in read_jsonl(file, Prompt)]
        for file in (tmp_path / "kinds").iterdir()
    }
    assert asked == {
        "helpful.train.jsonl": ["train 1", "train 3"],
        "harmless.train.jsonl": ["train 0", "train 2"],
        "helpful.validation.jsonl": ["test 1"],
        "harmless.validation.jsonl": ["test 0"],
    }
    sft = str(tmp_path / "start/sft/final")
    for kind in helpful_or_harmless.KINDS:
        helpful_or_harmless.train_rankings(tmp_path / "start", kind, 3, tmp_path, [])
        recipe = made[f"{kind}-3"]
        assert recipe.chain() == ["world", "rankings"] and recipe.rankings.models["sft"] == sft
        source = recipe.data.prompts.model_dump(mode="json", exclude_defaults=True)
        assert source["train"] == str(tmp_path / "kinds" / f"{kind}.train.jsonl")
    folders = {kind: tmp_path / kind for kind in helpful_or_harmless.KINDS}
    for kind, folder in folders.items():
        folder.mkdir()
        for split in ("train", "validation"):
            write_jsonl(folder / f"rankings.{split}.jsonl", [ranking(kind, [1, 2])] * 8)
    helpful_or_harmless.train_reward(tmp_path / "start", folders, 0.25, 3, tmp_path, [])
    assert made["share-0.25-3"].reward.model == sft


def test_a_mixture_has_its_share_and_as_many_rankings_whatever_that_is(tmp_path):
    """And is measured on both kinds. Mutations seen red: the share the other way round; all of one
    kind added; one kind held out.
    """
    folders = {}
    for kind in helpful_or_harmless.KINDS:
        folders[kind] = tmp_path / kind
        folders[kind].mkdir()
        for split in ("train", "validation"):
            write_jsonl(folders[kind] / f"rankings.{split}.jsonl", [ranking(kind, [1, 2])] * 8)
    for share, expected in ((0.0, 0), (0.25, 2), (1.0, 8)):
        helpful_or_harmless.write_mixture(folders, share, tmp_path / "mix")
        found = read_jsonl(tmp_path / "mix/rankings.train.jsonl", Ranking)
        assert len(found) == 8
        assert sum(one.prompt[0].content == "harmless" for one in found) == expected
        held = read_jsonl(tmp_path / "mix/rankings.validation.jsonl", Ranking)
        assert [one.prompt[0].content for one in held] == ["helpful"] * 8 + ["harmless"] * 8


def test_a_pair_is_right_where_the_preferred_answer_scored_higher():
    """By hand; two labelers' rankings of a prompt are one prompt. Mutations seen red: the pair the
    other way round; a labeler's tie taken for a pair; the first ranking's scores for all; a ranking
    a prompt of its own.
    """
    rankings = [ranking("a", [2, 1, 2]), ranking("b", [1, 2]), ranking("a", [1, 2])]
    scores = np.array([0.0, 1.0, 1.0, 5.0, 6.0, 3.0, 2.0])
    right, prompt = helpful_or_harmless.pairs_right(rankings, scores)
    assert right.tolist() == [1, 0.5, 0, 1] and prompt.tolist() == [0, 0, 1, 0]
    one = dict.fromkeys(helpful_or_harmless.KINDS, (right, prompt))
    other = one | {"harmless": (1 - right, prompt)}
    rows = cells(helpful_or_harmless.table({0.5: {0: one, 1: other}}))
    assert rows[0][2].startswith("62.5%") and rows[1][3].startswith("37.5%")
    assert rows[2][2] == "62.5% [62.5%, 62.5%]" and rows[2][3].startswith("50.0% [")


def test_every_share_has_a_model_of_each_seed(made, monkeypatch, tmp_path, capsys):
    """Started as its command is. Mutations seen red: one share for all; the first seed's rankings
    for all; the last seed's table alone.
    """
    mixed = []
    monkeypatch.setattr(
        helpful_or_harmless,
        "write_mixture",
        lambda folders, share, into: mixed.append((share, folders["helpful"].parts[-3])),
    )
    right = dict.fromkeys(helpful_or_harmless.KINDS, (np.array([1.0, 0.0]), np.arange(2)))
    monkeypatch.setattr(helpful_or_harmless, "measure", lambda *told: right)
    monkeypatch.setattr(helpful_or_harmless, "write_prompts", lambda *told: None)
    monkeypatch.setattr(sys, "argv", ["it", "--seeds", "3", "5", "--out", str(tmp_path)])
    helpful_or_harmless.main()
    shares = helpful_or_harmless.SHARES
    assert mixed == [(share, f"helpful-{seed}") for seed in (3, 5) for share in shares]
    trained = {name: recipe.seed for name, recipe in made.items() if name.startswith("share")}
    assert trained == {f"share-{share:g}-{seed}": seed for share in shares for seed in (3, 5)}
    last = cells(capsys.readouterr().out)[-9:]
    assert [row[:2] for row in last] == [
        [f"{share:g}", seed] for share in shares for seed in ("3", "5", "over seeds")
    ]


def test_a_policy_whose_every_iteration_was_taken_back_has_no_kl(tmp_path):
    """Mutations seen red: 0 for none; the KL of the first stage that has one."""
    for stage, metrics in (("sft", {"kl": 9.0}), ("ppo", {"kl": 2.5})):
        folder = tmp_path / stage / "final"
        folder.mkdir(parents=True)
        record = {"format": FORMAT_VERSION, "metrics": metrics}
        (folder / "stage.json").write_text(json.dumps(record))
    assert starts.kl_of(tmp_path) == 2.5
    (tmp_path / "ppo/final/stage.json").write_text(json.dumps(record | {"metrics": {}}))
    assert np.isnan(starts.kl_of(tmp_path))
