"""The report's sentences, for runs of every kind: what the numbers allow to say, and no more."""

import json

import numpy as np
import pytest

from data.records import Message
from evals.records import NO_JUDGE, PROXY_JUDGE, Answer
from evals.runs import duel
from evals.sentences import (
    Outcome,
    against_best_of_n,
    change,
    duration,
    glossary,
    interval,
    opening,
    price,
    verdicts,
    worked,
)
from evals.winrate import win_rate

WORLD = "the gold score of the world 'willowbrook'"
SETUP = {
    "models": {"sft": "sft", "ppo_ptx": "ppo", "ppo": "ppo_plain"},
    "labels": {
        "base": "base",
        "sft": "SFT",
        "best_of_n": "best of 16",
        "ppo_ptx": "PPO-ptx",
        "ppo": "PPO",
        "ppo_kl10": "PPO kl10",
    },
    "judge": WORLD,
    "reference": "sft",
    "questions": 400,
    "max_new_tokens": 64,
}
CLEAR = np.ones((40, 1)), np.zeros((40, 1))  # every prompt won


def row(rate=0.7, low=0.65, high=0.75, p=0.001, kl=2.0, prompts=100, tax=None, **more) -> dict:
    ends = None if tax is None else {"value": tax[0], "low": tax[1], "high": tax[2]}
    return {
        "win_rate": rate,
        "win_rate_p": p,
        "win_rate_prompts": prompts,
        "win_rate_low": low,
        "win_rate_high": high,
        "kl": kl,
        "length": 29.24,
        "eos_rate": 0.971,
        "pretrain_loss": 0.8,
        "pretrain_loss_increase": ends,
    } | more


SFT = row(0.5, 0.5, 0.5, 1.0, 0.0, length=22.3, eos_rate=0.98)
BELOW = (-0.142, -0.145, -0.139)


def outcome(rows: dict, judge: str = WORLD, duel=None, **setup) -> Outcome:
    seconds = {"sft": 100.0, "ppo": 139.0, "evals": 314.0}
    return Outcome(rows, SETUP | {"judge": judge} | setup, seconds, duel)


def test_a_model_has_one_name_in_table_pictures_and_model_card(mini_run):
    """The chat's list of models says the same with the stage's name behind it."""
    labels = json.loads((mini_run / "evals/final/results.json").read_text())["setup"]["labels"]
    assert labels == {
        "base": "base",
        "sft": "SFT",
        "best_of_n": "best of 4",
        "ppo_ptx": "PPO-ptx",
        "ppo": "PPO",
    }
    stages = {"pretrain": "base", "sft": "sft", "ppo": "ppo_ptx", "ppo_plain": "ppo"}
    for stage, row in stages.items():
        card = (mini_run / stage / "final" / "README.md").read_text()
        assert f"Stage `{stage}` ({labels[row]})" in card
    assert "Stage `evals`," in (mini_run / "evals" / "final" / "README.md").read_text()


def test_a_run_that_worked():
    """Seen red with the sign of the change in the sentence, and with the two models exchanged."""
    best = row(0.707, 0.666, 0.748, kl=1.84)
    rows = {"sft": SFT, "best_of_n": best, "ppo_ptx": row(tax=BELOW)}
    assert opening(outcome(rows, duel=win_rate(CLEAR[1], CLEAR[0]))) == [
        "RLHF worked: PPO-ptx's answers beat SFT's in 70.0 % of comparisons (95 % interval: 65.0 to "
        "75.0), judged by the gold score of the world 'willowbrook'.",
        "The price: the pretraining loss (lower is better) of PPO-ptx is 14.2 % below SFT's (13.9 "
        "to 14.5); answers have 29.2 tokens (SFT's 22.3), 97.1 % of them ended by themselves (SFT's "
        "98.0 %); PPO took 2 min of the run's 9 min.",
        "Best of 16, the reward model's pick among as many answers of SFT, beats SFT in 70.7 % of "
        "comparisons (95 % interval: 66.6 to 74.8) at a smaller KL (at most 1.84 nats; PPO-ptx: "
        "70.0 % at 2.00); against each other PPO-ptx wins 0.0 % (0.0 to 7.2), so best of 16 is "
        "better.",
    ]


@pytest.mark.parametrize(
    ("policy", "judge", "said"),
    [
        (row(), WORLD, "RLHF worked: PPO-ptx's answers beat SFT's in 70.0 %"),
        (row(0.55, 0.45, 0.65, 0.3), WORLD, "RLHF is not shown to have worked: PPO-ptx's"),
        (row(0.55, 0.45, 0.65, 0.3), WORLD, "the interval includes 50 %, a draw."),
        (row(0.55, 0.51, 0.59, 0.06), WORLD, "chance gives such a win rate too often."),
        (row(0.3, 0.2, 0.4), WORLD, "RLHF made the answers worse"),
        (row(), PROXY_JUDGE, "PPO raised the reward it was trained on, which does not show better"),
        (row(0.3, 0.2, 0.4), PROXY_JUDGE, "PPO lowered even the reward it was trained on"),
        (row(0.5, 0.4, 0.6, 0.9), PROXY_JUDGE, "not even by the reward it was trained on"),
        (row(None, None, None, None), NO_JUDGE, "nobody judged the answers"),
        (row(prompts=4), WORLD, "cannot be told from 4 prompts (evals.prompts)"),
        (row(1.0, 0.61, 1.0, 0.004, prompts=8), WORLD, "8 prompts are too few to say whether RLHF"),
        (row(0.0, 0.0, 0.39, 0.004, prompts=29), WORLD, "29 prompts are too few to say whether"),
        (row(0.8, 0.6, 0.9, 0.004, prompts=30), WORLD, "RLHF worked: PPO-ptx's answers beat"),
        (row(1.0, 0.61, 1.0, 0.004, prompts=8), PROXY_JUDGE, "8 prompts are too few to say"),
        (row(1.0, None, None, 1.0, prompts=1), WORLD, "cannot be told from 1 prompts"),
    ],
)
def test_whether_it_worked(policy, judge, said):
    """Seen red when the rate alone decides, and when any judge shows better answers; and where
    eight prompts, all won, were "RLHF worked".
    """
    assert said in worked(outcome({"sft": SFT, "ppo_ptx": policy}, judge))


def test_a_run_without_ppo_or_sft_or_best_of_n_says_so():
    alone = outcome({"base": row(), "sft": SFT})
    assert worked(alone) == (
        "There is no PPO in this run, so RLHF has not been tried: SFT is its last model."
    )
    assert price(alone) == "So there is no price of it to tell; the run took 9 min."
    assert "Best of n was not measured" in against_best_of_n(alone)
    assert "what PPO on this reward model has to reach" in against_best_of_n(
        outcome({"sft": SFT, "best_of_n": row(kl=1.84)})
    )
    without = outcome({"ppo_ptx": row(tax=None)})
    assert "there is no SFT model to compare PPO-ptx with" in worked(without)
    assert "the pretraining loss of PPO-ptx is 0.800 nats" in price(without)
    assert "SFT" not in price(without)


def test_without_a_judge_or_documents_nothing_is_made_up():
    silent = row(None, None, None, None, pretrain_loss=None)
    rows = {"sft": SFT, "best_of_n": row(None, None, None, None), "ppo_ptx": silent}
    run = outcome(rows, NO_JUDGE)
    assert "cannot be compared, for nobody judged the answers" in against_best_of_n(run)
    assert "the pretraining loss was not measured" in price(run)
    assert "None" not in " ".join(opening(run))


def test_answers_of_a_cut_distribution_have_no_kl_to_tell():
    rows = {"sft": SFT, "best_of_n": row(kl=None), "ppo_ptx": row(kl=None)}
    said = against_best_of_n(outcome(rows))
    assert "KL" not in said and said.endswith("65.0 to 75.0); PPO-ptx: 70.0 %.")


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        ((-0.142, -0.145, -0.139), "14.2 % below SFT's (13.9 to 14.5)"),
        ((0.012, 0.01, 0.015), "1.2 % above SFT's (1.0 to 1.5)"),
        ((0.003, -0.002, 0.008), "not shown to differ from SFT's (0.2 % below to 0.8 % above it)"),
        ((0.0002, 0.0001, 0.0004), "less than 0.1 % above SFT's (0.0 to 0.0)"),
        ((-0.02, None, None), "2.0 % below SFT's (measured once, so without an interval)"),
    ],
)
def test_a_change_is_above_or_below_and_never_signed(estimate, said):
    assert change(dict(zip(("value", "low", "high"), estimate, strict=True))) == said


def test_every_further_policy_has_a_verdict():
    rows = {
        "sft": SFT,
        "ppo_ptx": row(),
        "ppo": row(0.58, 0.49, 0.65, 0.06, tax=(0.2, 0.19, 0.21)),
        "ppo_kl10": row(0.3, 0.2, 0.4),
    }
    assert verdicts(outcome(rows)) == [
        "PPO is not shown to differ from SFT: win rate 58.0 % [49.0, 65.0]; its pretraining loss "
        "is 20.0 % above SFT's (19.0 to 21.0).",
        "PPO kl10 loses to SFT: win rate 30.0 % [20.0, 40.0].",
    ]


def test_the_duel_pairs_answers_to_the_same_prompt():
    """Seen red when answers are paired in the order of the file."""

    def answer(name: str, prompt: int, gold: float | None) -> Answer:
        text = [Message(role="user", content="?")]
        return Answer(
            row=name,
            prompt=text,
            prompt_index=prompt,
            response="",
            tokens=1,
            finished=True,
            gold=gold,
        )

    picked = [answer("best_of_n", prompt, prompt + 0.5) for prompt in range(3)]
    policy = [answer("ppo_ptx", p, p + more) for p in range(3) for more in (0.0, 1.0)]
    found = duel([*policy, *picked], "ppo_ptx")
    assert found is not None and found.rate == 0.5 and found.prompts == 3
    assert duel(policy, "ppo_ptx") is None and duel(picked, None) is None
    assert duel([answer("best_of_n", 0, None), answer("ppo_ptx", 0, None)], "ppo_ptx") is None


@pytest.mark.parametrize("judge", [WORLD, PROXY_JUDGE, NO_JUDGE, "an independent reward model"])
def test_the_words_of_the_table_are_explained(judge):
    rows = {"base": row(), "sft": SFT, "best_of_n": row(), "ppo_ptx": row()}
    meaning = dict(glossary(outcome(rows, judge)))
    assert {"win rate", "KL", "ended", "pretraining loss", "facts"} <= set(meaning)
    assert ("base" in meaning) == (judge != NO_JUDGE) and "EOS" in meaning["ended"]
    if judge == PROXY_JUDGE:
        assert "not that people would agree" in meaning["own reward"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(44.4, "44 s"), (553, "9 min"), (7500, "2 h 5 min"), (5990, "1 h 40 min")]
)
def test_durations_as_people_say_them(seconds, said):
    assert duration(seconds) == said


def test_a_policy_that_saw_no_reward_is_not_said_to_have_been_trained_on_it():
    """Seen red with "PPO" and "the reward it was trained on" for every policy."""
    models = {"sft": "sft", "dpo": "dpo"}
    labels = {"sft": "SFT", "dpo": "DPO", "best_of_n": "best of 16"}
    rows = {"sft": SFT, "dpo": row(tax=BELOW)}
    found = outcome(rows, PROXY_JUDGE, models=models, labels=labels)
    found.seconds["dpo"] = 120.0
    assert opening(found)[0].startswith("DPO raised the run's own reward, which does not show")
    assert "; DPO took 2 min of the run's" in opening(found)[1]


@pytest.mark.parametrize(
    ("judge", "name"),
    [
        (WORLD, "gold"),
        (PROXY_JUDGE, "own reward"),
        ("an independent reward", "judge's score"),
        ("the model world-judge at http://localhost", "judge's score"),
    ],
)
def test_gold_is_a_worlds_score_alone(judge, name):
    """The fault: runs without a world had a column "gold" of a reward model's scores. Seen red with
    the word everywhere, and where a judge with "world" in its name was taken for one.
    """
    found = outcome({"base": row(), "sft": SFT, "ppo_ptx": row()}, judge)
    words = dict(glossary(found))
    assert found.score == name and f"wins by {name}, ties" in words["win rate"]
    told = " ".join([*words, *words.values()])
    assert ("gold" in told) == (judge == WORLD)


def test_few_prompts_do_not_tell_which_of_policy_and_best_of_n_is_better():
    """Seen red: eight prompts, all lost, were "so best of 16 is better"."""
    few = win_rate(np.zeros((8, 1)), np.ones((8, 1)))
    found = outcome({"sft": SFT, "best_of_n": row(kl=1.84), "ppo_ptx": row()}, duel=few)
    assert against_best_of_n(found).endswith("on too few prompts (8) to say which is better.")


def test_a_duel_that_chance_explains_names_no_winner_and_the_judge_is_named():
    """Mutations seen red: a winner all the same; the very model that is the judge left unsaid."""
    rng = np.random.default_rng(0)
    even = win_rate(rng.normal(size=(60, 1)), rng.normal(size=(60, 1)))
    assert even.p > 0.05
    rows = {"sft": SFT, "best_of_n": row(kl=1.84), "ppo_ptx": row()}
    told = against_best_of_n(outcome(rows, duel=even))
    assert told.endswith(", so neither is shown to be better.")
    assert "judged by that very model" not in told
    own = against_best_of_n(outcome(rows, PROXY_JUDGE, duel=even))
    assert (
        "the reward model's pick among as many answers of SFT and judged by that very model, beats"
        in own
    )


def test_a_value_of_one_prompt_says_so():
    """Mutations seen red: a rate not as a percentage; an interval of nothing."""
    assert interval(0.25, None, None, as_percent=True) == "25.0 % (one prompt)"
    assert interval(0.25, None, None) == "0.25 (one prompt)" and interval(None, None, None) == "-"
    assert interval(0.25, 0.125, 0.5, as_percent=True) == "25.0 % [12.5, 50.0]"
    assert interval(0.25, 0.125, 0.5) == "0.25 [0.12, 0.50]"
