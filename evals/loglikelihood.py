"""Log-likelihood of continuations and multiple-choice accuracy, number for number as lm-eval
computes them.

The token split, the empty context and the accuracies follow lm-eval 0.4 (`TemplateLM._encode_pair`,
`ConfigurableTask.process_results`); a test compares the two where lm-eval is installed (extra
`eval`). lm-eval itself costs 10-19 s of start-up, so evaluation inside a run uses these functions.

Left out: few-shot contexts, and mutual-information accuracy.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import softmax
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.records import Question
from podium.errors import PodiumError

Pair = tuple[list[int], list[int]]  # (context ids, continuation ids)


class Likelihood(NamedTuple):
    """Of one continuation given its context."""

    total: float  # nats, summed over the continuation's tokens
    greedy: bool  # every token is the model's first choice
    tokens: int


class Choices(NamedTuple):
    """The likelihoods of one question's choices, with what the accuracies divide them by."""

    totals: np.ndarray  # (C,)
    characters: np.ndarray  # (C,) of the bare choice
    utf8_bytes: np.ndarray  # (C,)
    tokens: np.ndarray  # (C,)
    answer: int

    def correct(self) -> dict[str, bool]:
        """Which of the four conventions pick the right choice; the first of equal scores wins, as
        in lm-eval.

        `acc_per_token` (InstructGPT, GPT-3) is not in lm-eval.
        """
        scores = {
            "acc": self.totals,
            "acc_norm": self.totals / self.characters,
            "acc_bytes": self.totals / self.utf8_bytes,
            "acc_per_token": self.totals / self.tokens,
        }
        return {name: int(np.argmax(score)) == self.answer for name, score in scores.items()}

    def entropy(self) -> float:
        """Bits of doubt between the choices; high on paired sentences that differ in a group =
        unbiased (section D).
        """
        probability = softmax(self.totals)
        return float(-(probability * np.log2(probability)).sum())


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> Pair:
    """Ids of a context and of the continuation after it, cut from the ids of both together.

    Spaces at the context's end move to the continuation, where most tokenizers keep them. An empty
    context becomes the bos token (eos without one), not doubled when the continuation already
    starts with it.
    """
    trailing = len(context) - len(context.rstrip())
    if trailing:
        context, continuation = context[:-trailing], context[-trailing:] + continuation
    if context:
        context_ids = tokenizer.encode(context)
        return context_ids, tokenizer.encode(context + continuation)[len(context_ids) :]
    ids = tokenizer.encode(continuation)
    prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return ([prefix], ids) if ids[0] != prefix else (ids[:1], ids[1:])


@torch.no_grad()
def loglikelihoods(
    model: PreTrainedModel, pairs: Sequence[Pair], max_length: int, batch_tokens: int = 4096
) -> list[Likelihood]:
    """The likelihood of each pair's continuation, in the order given.

    A pair longer than `max_length` + 1 loses the oldest ids of its context. Batches hold up to
    `batch_tokens` padded tokens of pairs of like length; padding stands on the right, where a
    causal model cannot see it.

    Raises:
        PodiumError: a continuation alone is longer than the model reads, so its sum cannot be had.
    """
    for number, (_, continuation) in enumerate(pairs, start=1):
        if len(continuation) > max_length:
            raise PodiumError(
                f"text {number} of {len(pairs)} is {len(continuation)} tokens long, and the model "
                f"reads {max_length}",
                fix="leave it out, or ask a model with a longer context",
            )
    cut = [
        ((context + continuation)[-(max_length + 1) :], len(continuation))
        for context, continuation in pairs
    ]
    order = sorted(range(len(cut)), key=lambda i: -len(cut[i][0]))
    results: list[Likelihood | None] = [None] * len(cut)
    while order:
        size = max(1, batch_tokens // len(cut[order[0]][0]))
        batch, order = order[:size], order[size:]
        for i, likelihood in zip(batch, _batch(model, [cut[i] for i in batch]), strict=True):
            results[i] = likelihood
    return [result for result in results if result is not None]


def _batch(model: PreTrainedModel, rows: list[tuple[list[int], int]]) -> list[Likelihood]:
    """Likelihoods of (ids, length of the continuation at their end) that fit in one forward
    pass.
    """
    width = max(len(ids) for ids, _ in rows) - 1
    inputs = torch.zeros(len(rows), width, dtype=torch.long)  # (B, T)
    attended = torch.zeros_like(inputs)
    targets = torch.zeros_like(inputs)
    # True on the positions that predict the continuation
    scored = torch.zeros_like(inputs, dtype=torch.bool)
    for row, (ids, length) in enumerate(rows):
        end = len(ids) - 1
        inputs[row, :end] = torch.tensor(ids[:-1])
        attended[row, :end] = 1
        targets[row, :end] = torch.tensor(ids[1:])
        scored[row, max(end - length, 0) : end] = True
    inputs, attended, targets, scored = (
        t.to(model.device) for t in (inputs, attended, targets, scored)
    )
    # (S, V), S scored tokens in the batch
    logits = model(input_ids=inputs, attention_mask=attended).logits[scored]
    target_logprobs = F.log_softmax(logits.float(), dim=-1).gather(1, targets[scored][:, None])[
        :, 0
    ]
    greedy = logits.argmax(dim=-1) == targets[scored]
    counts = scored.sum(dim=1).tolist()
    return [
        Likelihood(float(logprobs.sum()), bool(first.all()), len(logprobs))
        for logprobs, first in zip(target_logprobs.split(counts), greedy.split(counts), strict=True)
    ]


def score_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    max_length: int,
    delimiter: str = " ",
) -> list[Choices]:
    """Score every choice of every question as `question` + `delimiter` + choice, plain text without
    a chat template.
    """
    pairs = [
        encode_pair(tokenizer, q.question, delimiter + choice)
        for q in questions
        for choice in q.choices
    ]
    likelihoods = iter(loglikelihoods(model, pairs, max_length))
    scored = []
    for q in questions:
        own = [next(likelihoods) for _ in q.choices]
        scored.append(
            Choices(
                totals=np.array([likelihood.total for likelihood in own]),
                characters=np.array([len(choice) for choice in q.choices]),
                utf8_bytes=np.array([len(choice.encode()) for choice in q.choices]),
                tokens=np.array([likelihood.tokens for likelihood in own]),
                answer=q.answer,
            )
        )
    return scored


def accuracies(scored: Sequence[Choices]) -> dict[str, float]:
    """The share of right answers under each convention."""
    correct = [choices.correct() for choices in scored]
    return {name: float(np.mean([row[name] for row in correct])) for name in correct[0]}
