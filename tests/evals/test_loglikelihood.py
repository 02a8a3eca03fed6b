"""Our scorer against lm-eval where it is installed (extra `eval`), and against the definition
everywhere.
"""

import random

import numpy as np
import pytest
import torch

from data.records import Question
from evals.loglikelihood import Choices, accuracies, encode_pair, loglikelihoods, score_questions
from podium.errors import PodiumError

WORDS = ["owl", "honey", "plum jam", "naïve café", "der Bär", "猫", "a small lamp", "bread", "🙂"]


def make_questions(count: int, seed: int = 0) -> list[Question]:
    rng = random.Random(seed)
    questions = []
    for number in range(count):
        choices = rng.sample(WORDS, rng.randint(2, 4))
        spaces = " " * (number % 3 == 0)  # a context that ends in a space tests the token split
        text = f"Question: what does {rng.choice(['Ana', 'Bram'])} like on day {number}?\nAnswer:{spaces}"
        questions.append(
            Question(question=text, choices=choices, answer=rng.randrange(len(choices)))
        )
    return questions


@torch.no_grad()
def plain_loglikelihood(model, context: list[int], continuation: list[int]) -> float:
    """The definition: one row, no padding."""
    logprobs = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
    start = len(context) - 1
    return sum(float(logprobs[start + i, token]) for i, token in enumerate(continuation))


def test_the_split_moves_trailing_spaces_to_the_continuation(tokenizer):
    assert encode_pair(tokenizer, "Ana likes ", "honey") == encode_pair(
        tokenizer, "Ana likes", " honey"
    )
    context, continuation = encode_pair(tokenizer, "Ana likes", " honey")
    assert tokenizer.decode(context) == "Ana likes" and tokenizer.decode(continuation) == " honey"


def test_an_empty_context_is_one_bos_and_never_two(tokenizer):
    context, continuation = encode_pair(tokenizer, "", "honey")
    assert context == [tokenizer.bos_token_id] and tokenizer.decode(continuation) == "honey"
    assert encode_pair(tokenizer, "", tokenizer.bos_token + "honey") == (context, continuation)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_opt"])
def test_batched_scores_equal_one_row_at_a_time(family, tokenizer, request):
    """Seen red when `scored` is shifted by one, and when the results come back in the
    sorted order.
    """
    model = request.getfixturevalue(family)
    pairs = [
        encode_pair(tokenizer, q.question, " " + c) for q in make_questions(12) for c in q.choices
    ]
    batched = loglikelihoods(model, pairs, max_length=128, batch_tokens=300)
    assert [b.total for b in batched] == pytest.approx(
        [plain_loglikelihood(model, *pair) for pair in pairs], abs=1e-4
    )
    assert [b.tokens for b in batched] == [len(continuation) for _, continuation in pairs]


def test_a_long_context_loses_its_oldest_ids(tiny_llama, tokenizer):
    """Seen red when the newest ids are cut instead."""
    context, continuation = encode_pair(
        tokenizer, "Ana the baker lives in the mill. " * 9, " honey"
    )
    (result,) = loglikelihoods(tiny_llama, [(context, continuation)], max_length=40)
    kept = context[-(41 - len(continuation)) :]
    assert result.total == pytest.approx(
        plain_loglikelihood(tiny_llama, kept, continuation), abs=1e-4
    )


def test_greedy_is_true_exactly_for_the_models_own_continuation(tiny_llama):
    context = [5, 6, 7]
    own = []
    for _ in range(4):
        own.append(int(tiny_llama(torch.tensor([context + own])).logits[0, -1].argmax()))
    other = [*own[:3], (own[3] + 1) % 300]
    assert [
        r.greedy for r in loglikelihoods(tiny_llama, [(context, own), (context, other)], 128)
    ] == [True, False]


def test_the_four_accuracies_divide_by_what_they_say():
    """Choice 0 leads by sum, 1 per character, 2 per byte, 3 per token. Seen red with two divisors
    exchanged.
    """
    choices = Choices(
        totals=np.array([-10.0, -11.0, -12.0, -13.0]),
        characters=np.array([10, 40, 12, 13]),
        utf8_bytes=np.array([10, 40, 80, 13]),
        tokens=np.array([2, 2, 2, 9]),
        answer=0,
    )
    picks = [choices._replace(answer=i).correct() for i in range(4)]
    assert [[name for name, right in row.items() if right] for row in picks] == [
        ["acc"],
        ["acc_norm"],
        ["acc_bytes"],
        ["acc_per_token"],
    ]


def test_a_questions_choices_are_scored_after_a_space_and_keep_their_answer(tiny_llama, tokenizer):
    """Against the definition, also where lm-eval is not installed. Seen red without the delimiter,
    with the answer always the first, characters for bytes, one token too many, the sign turned.
    """
    question = Question(question="Who likes it?", choices=["owl", "naïve café", "猫"], answer=2)
    (found,) = score_questions(tiny_llama, tokenizer, [question], max_length=128)
    pairs = [encode_pair(tokenizer, "Who likes it?", f" {choice}") for choice in question.choices]
    expected = [plain_loglikelihood(tiny_llama, *pair) for pair in pairs]
    assert found.totals.tolist() == pytest.approx(expected, abs=1e-4)
    assert found.characters.tolist() == [3, 10, 1] and found.utf8_bytes.tolist() == [3, 12, 3]
    assert found.tokens.tolist() == [len(continuation) for _, continuation in pairs]
    assert found.answer == 2


def test_accuracies_are_shares_of_right_answers():
    """One of four right by each convention. Seen red with the share of wrong ones."""
    ones = np.ones(2, dtype=int)
    asked = [Choices(np.array([-1.0, -2.0]), ones, ones, ones, answer) for answer in (0, 1, 1, 1)]
    assert accuracies(asked) == dict.fromkeys(
        ("acc", "acc_norm", "acc_bytes", "acc_per_token"), 0.25
    )


def test_doubt_is_in_bits():
    """Four even choices are 2 bits, 1/4 against 3/4 are 0.8113. Seen red with nats, and with the
    sign turned.
    """
    four, two = np.ones(4, dtype=int), np.ones(2, dtype=int)
    assert Choices(np.full(4, -7.0), four, four, four, 0).entropy() == pytest.approx(2.0)
    uneven = Choices(np.log([0.25, 0.75]), two, two, two, 0)
    assert uneven.entropy() == pytest.approx(0.811278, abs=1e-6)


def as_rows(kind: str) -> list[dict]:
    """Of a task: questions with choices, the last word of a passage, two sentences to choose from."""
    questions = make_questions(40)
    if kind == "choices":
        return [q.model_dump() | {"context": q.question} for q in questions]
    if kind == "last_word":
        return [
            {"context": q.question + " on that day", "choices": q.choices[:1], "answer": 0}
            for q in questions
        ]
    return [{"context": "", "choices": q.choices[:2], "answer": 1} for q in questions]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_opt"])
def test_equal_to_lm_eval_to_every_digit_on_three_tasks(family, tokenizer, request, tmp_path):
    """Each log-likelihood of 40 questions a task, non-ASCII ones among them, bit for bit where both
    pass one row at a time; and each accuracy. Seen red without the delimiter, and with the mean
    over tokens in place of the sum.
    """
    lm_eval = pytest.importorskip(
        "lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'"
    )
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from benchmarks.real_tasks import write_task

    model, tasks = request.getfixturevalue(family), ("choices", "last_word", "sentences")
    rows = {kind: as_rows(kind) for kind in tasks}
    for kind in tasks:
        write_task(tmp_path, kind, rows[kind])
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=128),
        tasks=[f"local_{kind}" for kind in tasks],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    for kind in tasks:
        samples = sorted(theirs["samples"][f"local_{kind}"], key=lambda sample: sample["doc_id"])
        for row, sample in zip(rows[kind], samples, strict=True):
            pairs = [encode_pair(tokenizer, row["context"], f" {c}") for c in row["choices"]]
            mine = loglikelihoods(model, pairs, max_length=128, batch_tokens=1)
            resps = [response[0] for response in sample["resps"]]
            assert [(one.total, one.greedy) for one in mine] == [
                (float(total), bool(greedy)) for total, greedy in resps
            ]
    ours = score_questions(model, tokenizer, make_questions(40), max_length=128)
    found = accuracies(ours)["acc"]
    assert found == pytest.approx(theirs["results"]["local_choices"]["acc,none"])


def test_a_text_that_the_model_cannot_read_whole_is_refused_and_a_context_is_cut(tiny_llama):
    """Its likelihood would be that of its end alone. Mutations seen red: never refused; refused
    where it just fits; the context counted.
    """
    just, over = [7] * 9, [7] * 10
    fits = loglikelihoods(tiny_llama, [([3, 4, 5, 6], just)], max_length=9)[0]
    assert fits.tokens == 9
    assert fits.total == pytest.approx(plain_loglikelihood(tiny_llama, [6], just), rel=1e-5)
    with pytest.raises(PodiumError, match=r"text 2 of 2 is 10 tokens long, and the model reads 9"):
        loglikelihoods(tiny_llama, [([3], just), ([3], over)], max_length=9)
