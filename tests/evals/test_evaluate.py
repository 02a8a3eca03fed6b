"""The evaluation stage on a whole run in miniature, and the choices it makes from a recipe."""

import json

import numpy as np
import pytest
import torch

from data.jsonl import read_jsonl
from data.records import Message, Prompt
from data.template import encode_prompt, encode_response
from data.tokenizer_training import train_bpe
from evals.answers import (
    Judge,
    answer_prompts,
    best_of_curve,
    by_prompt,
    log_ratios,
    pick_best,
)
from evals.evaluate import (
    Config,
    drop_foreign_base,
    headline,
    main,
    make_judge,
    reference_of,
    rows_of,
)
from evals.measure import Measured, summarise
from evals.records import Answer
from podium.errors import DataError
from podium.models import load_tokenizer, save_model
from podium.rewards.model_reward import fitting
from podium.run.context import StageContext
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams
from tests.evals.miniature import Section, make_model, make_recipe

FIELDS = {
    "gold",
    "win_rate",
    "win_rate_low",
    "win_rate_high",
    "kl",
    "length",
    "eos_rate",
    "pretrain_loss",
    "fact_accuracy",
}


@pytest.fixture(scope="module")
def results(mini_run) -> dict:
    return json.loads((mini_run / "evals/final/results.json").read_text())


def test_the_table_has_every_row_and_every_number(results):
    rows = results["rows"]
    assert list(rows) == ["base", "sft", "best_of_n", "ppo_ptx", "ppo"]
    for row in rows.values():
        assert all(isinstance(row[field], float) for field in FIELDS)
        assert row["win_rate_low"] <= row["win_rate"] <= row["win_rate_high"]
        assert row["gold_low"] <= row["gold"] <= row["gold_high"]
        assert row["features"]


def test_sft_is_its_own_yardstick(results):
    """SFT is PPO's reference here: KL 0 (to what decoding step by step rounds), no tax, an even win
    rate.
    """
    sft = results["rows"]["sft"]
    assert sft["win_rate"] == sft["win_rate_low"] == sft["win_rate_high"] == 0.5
    assert sft["kl"] == pytest.approx(0, abs=1e-3)
    assert sft["pretrain_loss_increase"]["value"] == sft["fact_accuracy_drop"]["value"] == 0
    assert results["rows"]["ppo"]["kl"] > 0.01


def test_best_of_n_takes_sfts_skills_and_pays_its_own_kl(results):
    rows = results["rows"]
    assert rows["best_of_n"]["kl"] == pytest.approx(np.log(4) - 3 / 4, abs=1e-3)
    assert rows["best_of_n"]["pretrain_loss"] == rows["sft"]["pretrain_loss"]
    assert [point["n"] for point in results["best_of_curve"]] == [1, 2, 4]
    rewards = [point["reward"] for point in results["best_of_curve"]]
    assert rewards == sorted(rewards) and rows["best_of_n"]["reward"] == pytest.approx(rewards[-1])


def test_every_answer_is_kept_with_its_scores(mini_run, results):
    answers = read_jsonl(mini_run / "evals/final/answers.jsonl", Answer)
    counts = {row: sum(answer.row == row for answer in answers) for row in results["rows"]}
    assert counts == {"base": 12, "sft": 12, "best_of_n": 6, "ppo_ptx": 12, "ppo": 12}
    assert np.mean([a.gold for a in answers if a.row == "ppo"]) == pytest.approx(
        results["rows"]["ppo"]["gold"]
    )
    prompts = {answer.prompt_index: answer.prompt for answer in answers}
    # all rows were asked the same
    assert all(answer.prompt == prompts[answer.prompt_index] for answer in answers)


def test_what_is_asked_and_read_was_held_out(mini_run):
    """The world's test prompts, the validation documents, and all questions there are. The training
    prompts are read too, as what test prompts are measured against to name the unlike ones, but
    none of them is asked. Mutations seen red: the training prompts, the training documents.
    """
    record = json.loads((mini_run / "evals/final/stage.json").read_text())
    read = {(source["kind"], source["split"]) for source in record["data"] if source["records"]}
    held_out_sources = {("prompts", "test"), ("documents", "validation"), ("questions", "test")}
    assert read - {("prompts", "train")} == held_out_sources
    held_out = read_jsonl(mini_run / "world/final/prompts.test.jsonl", Prompt)
    answers = read_jsonl(mini_run / "evals/final/answers.jsonl", Answer)
    known = {prompt.messages[-1].content for prompt in held_out}
    assert {answer.prompt[-1].content for answer in answers} <= known


def test_kl_is_the_models_divergence_from_the_reference(tokenizer):
    """The mean log ratio against the exact KL of the first token. Seen red with model and reference
    exchanged.
    """
    model, reference = make_model(tokenizer, nudge=0.08), make_model(tokenizer)
    prompt = encode_prompt(tokenizer, [Message(role="user", content="What food does Bram like?")])
    with torch.no_grad():
        p, q = (m(torch.tensor([prompt])).logits[0, -1].log_softmax(-1) for m in (model, reference))
    exact = float((p.exp() * (p - q)).sum())
    params = SamplingParams(max_new_tokens=1)
    samples = EmbeddedSampler(model, tokenizer.pad_token_id).generate([prompt] * 4000, params)
    from_reference = EmbeddedSampler(reference, tokenizer.pad_token_id)
    ratios = log_ratios(samples, [prompt] * 4000, from_reference, params)
    assert np.mean(ratios) == pytest.approx(exact, abs=4 * np.std(ratios) / np.sqrt(4000))
    assert exact > 5 * np.std(ratios) / np.sqrt(4000)  # so the test can tell it from its negative


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(tokenizer):
    sampler = EmbeddedSampler(make_model(tokenizer), tokenizer.pad_token_id)
    prompt = Prompt(messages=[Message(role="user", content="Tell me a story.")])
    judge = Judge(world=None, independent=None, reward=None)

    def sample(seed: int) -> list[str]:
        params = SamplingParams(max_new_tokens=12, seed=seed)
        answers = answer_prompts("sft", sampler, sampler, tokenizer, [prompt], 3, params, judge)
        assert all(answer.gold is None and answer.reward is None for answer in answers)
        return [answer.response for answer in answers]

    assert sample(1) == sample(1) != sample(2)
    assert len(set(sample(1))) == 3  # the samples of a prompt differ


def test_broken_characters_cannot_push_an_answer_out_of_the_scorers_context(tokenizer):
    """Seen red when the text is scored whole."""
    prompt = Prompt(messages=[Message(role="user", content="Tell me a story.")])
    room = 64 - len(encode_prompt(tokenizer, prompt.messages))
    garbage = "\ufffd" * 40  # 120 tokens from 40 sampled ones
    kept = fitting(tokenizer, prompt, garbage, context=64)
    assert garbage.startswith(kept) and room - 5 < len(encode_response(tokenizer, kept)) <= room
    assert fitting(tokenizer, prompt, "An owl.", context=64) == "An owl."


def make_answer(prompt: int, gold: float, reward: float) -> Answer:
    return Answer(
        row="sft",
        prompt=[Message(role="user", content="?")],
        prompt_index=prompt,
        response=f"{gold}",
        tokens=1,
        finished=True,
        gold=gold,
        reward=reward,
    )


def test_the_reward_model_picks_and_gold_only_watches():
    """Seen red when gold picks."""
    candidates = [
        make_answer(*values)
        for values in [(0, 5.0, -1.0), (0, 1.0, 2.0), (1, 3.0, 0.0), (1, 9.0, -3.0)]
    ]
    assert [answer.gold for answer in pick_best("best_of_n", candidates, 2)] == [1.0, 3.0]
    assert best_of_curve(candidates, 2) == [
        {"n": 1, "gold": 4.5, "reward": pytest.approx(-0.5), "kl": None},
        {"n": 2, "gold": 2.0, "reward": 1.0, "kl": None},
    ]
    assert by_prompt(candidates, "gold", 2).tolist() == [[5.0, 1.0], [3.0, 9.0]]


def test_best_of_ns_curve_stands_on_the_axis_of_the_others():
    """Where PPO starts from another model than SFT, the KL of a favourite is the pick's own, at
    most log 2 - 1 / 2, plus SFT's log-ratio to that model on the favourites (0.5 and 0.1, not the
    mean of all). Seen red with the pick's KL alone.
    """
    ratios = [0.3, 0.5, 0.1, 0.9]
    candidates = [
        make_answer(*values).model_copy(update={"log_ratio": ratio})
        for values, ratio in zip(
            [(0, 5.0, -1.0), (0, 1.0, 2.0), (1, 3.0, 0.0), (1, 9.0, -3.0)], ratios, strict=True
        )
    ]
    curve = best_of_curve(candidates, 2)
    assert [point["kl"] for point in curve] == pytest.approx([0.45, np.log(2) - 0.5 + 0.3])


def test_reward_and_judge_are_what_ppo_s_reward_may_be(tokenizer, tmp_path):
    """Functions, or a sum. Without a key the reward is PPO's. Seen red with the reward stage asked
    first.
    """
    (tmp_path / "rewards.py").write_text(
        "def score(prompts, responses):\n    return [len(r) for r in responses]\n"
        "def fixed(prompts, responses):\n    return [7 for r in responses]\n"
    )
    score, fixed = (f"{tmp_path / 'rewards.py'}:{name}" for name in ("score", "fixed"))
    recipe = make_recipe(Config(judge=fixed), world=False, ppo=Section(reward=score))
    stage = StageContext("evals", recipe, tmp_path / "run")
    judge = make_judge(stage.config, stage)
    asked = [Prompt(messages=[Message(role="user", content="Who?")])] * 2
    rewards = judge.rewards(asked, ["An owl.", ""])
    assert rewards == [7.0, 0.0] and judge.gold(asked, ["An owl.", ""], rewards) == [7.0, 7.0]
    assert judge.name == "an independent reward"
    kept = headline({"sft": {}, "ppo": dict.fromkeys(["win_rate", "gold"], 0.5)}, judge)
    assert kept == {"ppo/win_rate": 0.5, "ppo/score": 0.5}  # seen red: "ppo/gold" without a world
    own = Config(reward=[{"reward": score, "weight": 2}])
    assert make_judge(own, stage).rewards(asked, ["An owl.", ""]) == [14.0, 0.0]
    stage.close()


@pytest.mark.parametrize("cut", [{"temperature": 0.0}, {"top_p": 0.9}, {"top_k": 5}])
def test_no_kl_is_claimed_of_answers_from_a_cut_distribution(cut, tokenizer):
    """Seen red before: the mean log-ratio of greedy answers stood in the table as their KL."""
    sampler = EmbeddedSampler(make_model(tokenizer), tokenizer.pad_token_id)
    prompt = [Message(role="user", content="Who?")]
    judge = Judge(world=None, independent=None, reward=None)
    params = SamplingParams(max_new_tokens=3, **cut)
    asked = [Prompt(messages=prompt)]
    answers = answer_prompts("sft", sampler, sampler, tokenizer, asked, 2, params, judge, range(2))
    assert [answer.log_ratio for answer in answers] == [None, None]
    measured = Measured(answers, 2, None, None)
    row = summarise("sft", measured, measured, [], 0)
    assert row["kl"] is row["kl_low"] is row["kl_high"] is None


@pytest.mark.parametrize(
    ("ppo", "arms", "rows"),
    [
        (Section(), {}, ["base", "sft", "ppo_ptx"]),
        (
            Section(),
            {"plain": {"ptx_coef": 0.0}, "kl10": {}},
            ["base", "sft", "ppo_ptx", "ppo", "ppo_kl10"],
        ),
        (Section(ptx_coef=0.0), {"plain": {}}, ["base", "sft", "ppo", "ppo_plain"]),
        (None, {}, ["base", "sft"]),
    ],
)
def test_rows_follow_the_chain(ppo, arms, rows):
    recipe = make_recipe(Config(), ppo=ppo, ppo_arms=arms)
    assert list(rows_of(Config(), recipe)) == rows


def test_kl_is_measured_from_where_ppo_started():
    assert reference_of(Config(), make_recipe(Config(), ppo=Section(model="rl_init"))) == "rl_init"
    assert reference_of(Config(reference="pretrain"), make_recipe(Config())) == "pretrain"
    assert reference_of(Config(), make_recipe(Config(), ppo=None, ppo_arms={})) == "sft"


def test_a_base_whose_ids_mean_something_else_is_left_out(copied_run, tokenizer, tmp_path):
    other = train_bpe(["quite another text, over and over"] * 4, vocab_size=300)
    save_model(make_model(other), other, tmp_path / "foreign")
    recipe = make_recipe(Config(base=str(tmp_path / "foreign")))
    stage = StageContext("evals", recipe, copied_run)
    rows = rows_of(recipe.evals, recipe)
    drop_foreign_base(rows, tokenizer, stage)
    assert list(rows) == ["sft", "ppo_ptx", "ppo"]
    kept = {"base": "pretrain"}
    drop_foreign_base(kept, load_tokenizer(copied_run / "sft/final"), stage)
    assert kept == {"base": "pretrain"}


def test_prompts_that_leave_no_room_are_an_error_that_says_so(copied_run):
    recipe = make_recipe(Config(max_new_tokens=505))
    with pytest.raises(
        DataError,
        match=r"none of 20 test prompts leaves 505 tokens(.|\n)*lower evals.max_new_tokens",
    ):
        main(recipe.evals, StageContext("evals", recipe, copied_run))
