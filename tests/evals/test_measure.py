"""A row of results.json against numbers made by hand: every figure from its own column, its own
sign, and its own reference.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.packing import encode_documents, pack
from data.records import Document, Message, Question
from evals.harness import against_sft
from evals.loglikelihood import Choices
from evals.measure import Measured, Tasks, _losses, _tasks, summarise
from evals.records import Answer
from podium.statistics import bon_kl, mean_with_interval

PROMPTS, SAMPLES = 12, 2


def measured(
    golds: list[float], lengths: list[int], right: list[bool], loss: float, ratio: float
) -> Measured:
    """Two answers to each prompt. The reward is the gold's negative, so that one read for the other
    turns the sign; the four conventions of accuracy differ in the same way.
    """
    answers = [
        Answer(
            row="?",
            prompt=[Message(role="user", content="?")],
            prompt_index=i // SAMPLES,
            response=f"{i}",
            tokens=lengths[i],
            finished=True,
            gold=golds[i],
            reward=-golds[i],
            log_ratio=ratio,
        )
        for i in range(PROMPTS * SAMPLES)
    ]
    choices = [
        Choices(
            totals=np.array([-10.0, -11.0]),
            characters=np.array([1, 100]),
            utf8_bytes=np.array([1, 100]),
            tokens=np.array([1, 100]),
            answer=0 if yes else 1,
        )
        for yes in right
    ]
    return Measured(answers, SAMPLES, np.array([loss, 2 * loss]), choices)


QUESTIONS = [
    Question(question="?", choices=["a", "b"], answer=0, source=source)
    for source in ("people", "people", "places", "places")
]


@pytest.fixture
def pair() -> tuple[Measured, Measured]:
    """A policy that wins 11 prompts of 12 against SFT, and loses where the lengths are alike."""
    count = PROMPTS * SAMPLES
    golds = [2.0] * (count - SAMPLES) + [0.0] * SAMPLES
    lengths = [20] * (count - SAMPLES) + [10] * SAMPLES
    policy = measured(golds, lengths, [True, False, False, False], loss=1.1, ratio=0.25)
    sft = measured([1.0] * count, [10] * count, [True, True, True, False], loss=1.0, ratio=0.125)
    return policy, sft


def test_a_policys_row_is_its_own_against_sft(pair):
    """Seen red with: the two models exchanged, in the win rate, the matched one and either tax; the
    rate, its ends or its p turned round; the reward read for the gold; the pairs counted for
    prompts; the raw win rate in the matched one's place; another accuracy.
    """
    row = summarise("ppo_ptx", *pair, QUESTIONS, best_of=4)
    assert row["win_rate"] == pytest.approx(11 / 12) and row["ties"] == 0
    assert 0.5 < row["win_rate_low"] < 11 / 12 < row["win_rate_high"] <= 1
    assert row["win_rate_p"] < 0.05 and row["win_rate_prompts"] == PROMPTS
    matched = row["win_rate_length_matched"]
    assert (matched["rate"], matched["prompts"], matched["comparisons"]) == (0.0, 1, 4)
    assert row["gold"] == pytest.approx(22 / 12) and row["reward"] == pytest.approx(-22 / 12)
    assert row["gold_low"] < 22 / 12 < row["gold_high"]
    assert row["length"] == pytest.approx(230 / 12)
    assert row["pretrain_loss"] == pytest.approx(1.65)
    assert row["pretrain_loss_increase"]["value"] == pytest.approx(0.1)
    assert row["fact_accuracy"] == 0.25 and row["fact_accuracy_drop"]["value"] == 0.5
    assert row["fact_accuracy_by_kind"] == {"people": 0.5, "places": 0.0}
    assert row["kl"] == row["kl_low"] == row["kl_high"] == 0.25


def test_hallucination_is_told_of_closed_questions_alone(pair):
    """And only where a world tells it. Mutations seen red: all kinds of prompts; another feature;
    answers taken for independent of their prompt.
    """
    policy, sft = pair
    assert "hallucination" not in summarise("ppo", policy, sft, QUESTIONS, best_of=4)
    answers = [
        answer.model_copy(
            update={
                "use_case": "closed_qa" if answer.prompt_index < 4 else "open_qa",
                "features": {"invented": float(answer.prompt_index == 1), "mood": 1.0},
            }
        )
        for answer in policy.answers
    ]
    told = summarise("ppo", replace(policy, answers=answers), sft, QUESTIONS, best_of=4)
    flags = [float(i // SAMPLES == 1) for i in range(4 * SAMPLES)]
    prompts = [i // SAMPLES for i in range(4 * SAMPLES)]
    assert told["hallucination"] == mean_with_interval(flags, prompts, (0.0, 1.0))._asdict()
    assert told["hallucination"]["value"] == 0.25
    assert told["hallucination"] != mean_with_interval(flags, range(8), (0.0, 1.0))._asdict()


def test_a_loser_is_no_winner_turned_round(pair):
    policy, sft = pair
    row = summarise("ppo", sft, policy, QUESTIONS, best_of=4)
    assert row["win_rate"] == pytest.approx(1 / 12) and row["win_rate_high"] < 0.5
    assert row["pretrain_loss_increase"]["value"] == pytest.approx(1 / 1.1 - 1)
    assert row["fact_accuracy_drop"]["value"] == -0.5


def test_best_of_ns_kl_is_the_picks_bound_plus_sfts_own(pair):
    """Seen red with the bound left out, subtracted, or added to every row."""
    policy, sft = pair
    row = summarise("best_of_n", policy, sft, QUESTIONS, best_of=4)
    assert row["kl"] == row["kl_low"] == row["kl_high"] == pytest.approx(0.25 + bon_kl(4))


def test_sft_is_even_with_itself_and_no_verdict_counts_it(pair):
    _, sft = pair
    row = summarise("sft", sft, sft, QUESTIONS, best_of=4)
    assert (row["win_rate"], row["win_rate_p"], row["win_rate_length_matched"]) == (0.5, 1.0, None)


@pytest.mark.parametrize(("tokens", "shape"), [(100, (3, 32)), (20, (1, 20))])
def test_as_much_held_out_text_is_read_as_is_asked_for(tokenizer, monkeypatch, tokens, shape):
    """The first blocks of what all documents would give; a block is no longer than what is asked
    for. Mutations seen red: every document tokenized; a whole context asked of twenty tokens; the
    documents read until one before the last block.
    """
    read, blocks = [], []

    def encode(tokenizer, texts):
        read.extend(texts)
        return encode_documents(tokenizer, texts)

    def losses(model, found, bos):
        blocks.append(found)
        return np.zeros(len(found))

    monkeypatch.setattr("evals.measure.encode_documents", encode)
    monkeypatch.setattr("evals.measure.block_losses", losses)
    texts = [f"Ana saw {number} owls in the old barn." for number in range(50)]
    config = SimpleNamespace(max_position_embeddings=32)
    config.get_text_config = lambda: config
    bench = SimpleNamespace(
        tokenizer=tokenizer,
        documents_tokens=tokens,
        held_out=SimpleNamespace(documents=[Document(text=text) for text in texts]),
    )
    assert len(_losses(SimpleNamespace(config=config), bench)) == shape[0]
    whole = pack(encode_documents(tokenizer, texts), shape[1], tokenizer.bos_token_id)
    assert blocks[0].tolist() == whole[: shape[0]].tolist() and blocks[0].shape == shape
    assert len(read) < len(texts) / 2


def test_every_task_of_lm_eval_is_asked_with_its_examples_and_named_by_them(monkeypatch):
    """lm-eval itself answers in the slow tests of test_harness.py; here, what it is asked. Mutations
    seen red: the tasks not named; one number of examples for all.
    """
    asked = []

    def ask(model, tokenizer, names, examples, files, context, limit, seed):
        asked.append((model, tokenizer, names, examples, files, context, limit, seed))
        return {name: [0.5] for name in names}, {"examples": examples}

    monkeypatch.setattr("evals.measure.ask", ask)
    config = SimpleNamespace(max_position_embeddings=64)
    config.get_text_config = lambda: config
    model = SimpleNamespace(config=config)
    tasks = Tasks({0: ["piqa", "mine"], 5: ["piqa"]}, Path("files"), 7)
    pieces = SimpleNamespace(piece=lambda make: make())
    bench = SimpleNamespace(tasks=tasks, pieces=pieces, tokenizer="tokenizer")
    scores, summaries = _tasks(lambda: model, bench)
    rest = (Path("files"), 64, 7, 0)
    assert asked == [
        (model, "tokenizer", ["piqa", "mine"], 0, *rest),
        (model, "tokenizer", ["piqa"], 5, *rest),
    ]
    assert list(scores) == ["piqa, 0 examples", "mine, 0 examples", "piqa, 5 examples"]
    assert summaries == {"0": {"examples": 0}, "5": {"examples": 5}}


def test_tasks_are_told_against_sft_s_answers_to_the_same_questions(pair):
    """Mutations seen red: the two models exchanged; a row without tasks that has some."""
    policy, sft = pair
    mine, theirs = [1.0] * 30 + [0.0] * 10, [1.0] * 10 + [0.0] * 30
    asked = [
        replace(each, tasks={"piqa": {"acc": scores}})
        for each, scores in ((policy, mine), (sft, theirs))
    ]
    found = summarise("ppo", *asked, QUESTIONS, best_of=4)["tasks"]
    assert found == against_sft(asked[0].tasks, asked[1].tasks)
    assert found["piqa"]["difference"]["value"] == pytest.approx(0.5)
    assert "tasks" not in summarise("ppo", policy, sft, QUESTIONS, best_of=4)
