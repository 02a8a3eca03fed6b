"""One model measured: its answers, the loss on held-out text, the questions it gets right, and a
row made of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.packing import encode_documents, pack
from data.records import Document, Prompt, Question
from data.special_tokens import document_separator_id
from evals.answers import Judge, answer_prompts, by_prompt
from evals.generation import distinct_n
from evals.harness import Scores, against_sft, ask
from evals.loglikelihood import Choices, accuracies, score_questions
from evals.pairs import Pairs
from evals.perplexity import block_losses
from evals.pieces import Pieces
from evals.records import Answer
from evals.tax import alignment_tax
from evals.winrate import (
    WinRate,
    judged_win_rate,
    length_matched_win_rate,
    near_lengths,
    win_rate,
)
from podium.models import context_of
from podium.sampling.protocol import Sampler, SamplingParams
from podium.statistics import SHARE, bon_kl, mean_with_interval

Load = Callable[[], PreTrainedModel]
LoadSampler = Callable[[], Sampler]
# Hallucination as InstructGPT asks for it (section 4.2): answers to closed-domain prompts in which
# the world finds what is not so.
CLOSED, INVENTED = "closed_qa", "invented"
LONGEST_CONTEXT = 2048  # tokens a block of held-out text, also where a model could read more


@dataclass(frozen=True)
class HeldOut:
    """What every model is measured on."""

    prompts: list[Prompt]
    documents: list[Document]
    questions: list[Question]


@dataclass(frozen=True)
class Tasks:
    """Which tasks of lm-eval are asked, by the number of examples before each question."""

    asked: dict[int, list[str]] = field(default_factory=dict)
    files: Path | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Bench:
    """What every model is measured with."""

    reference: Sampler  # of the model that KL is measured from
    tokenizer: PreTrainedTokenizerBase
    judge: Judge
    held_out: HeldOut
    documents_tokens: int
    tasks: Tasks
    pieces: Pieces
    answers_per_piece: int


@dataclass(frozen=True)
class Measured:
    """One model's answers (P x S) and skills; None where there is nothing to measure on."""

    answers: list[Answer]
    samples: int
    losses: np.ndarray | None  # (blocks,)
    choices: list[Choices] | None
    tasks: Scores = field(default_factory=dict)
    summaries: dict[str, Any] = field(default_factory=dict)  # of lm-eval, by number of examples


def measure(
    row: str,
    load: Load,
    sampler: LoadSampler,
    bench: Bench,
    samples: int,
    params: SamplingParams,
) -> Measured:
    """Answers to the prompts, loss on the documents, likelihoods of the questions' choices.

    `load` gives the model and `sampler` a sampler of it; they are not called where every piece was
    made before a kill.
    """
    answers = answers_of(row, sampler, bench, samples, params)
    losses = bench.pieces.piece(lambda: _losses(load(), bench))
    choices = bench.pieces.piece(lambda: _choices(load(), bench))
    tasks, summaries = _tasks(load, bench)
    return Measured(
        answers,
        samples,
        None if losses is None else np.array(losses, dtype=np.float32),
        None if choices is None else [_as_choices(fields) for fields in choices],
        tasks,
        summaries,
    )


def answers_of(
    row: str, sampler: LoadSampler, bench: Bench, samples: int, params: SamplingParams
) -> list[Answer]:
    """A model's answers to all prompts (P x S), a piece after another."""
    prompts, size = bench.held_out.prompts, bench.answers_per_piece
    total = len(prompts) * samples

    def block(numbers: range) -> list[dict[str, Any]]:
        found = answer_prompts(
            row,
            sampler(),
            bench.reference,
            bench.tokenizer,
            prompts,
            samples,
            params,
            bench.judge,
            numbers,
        )
        return [answer.model_dump(mode="json") for answer in found]

    blocks = [range(start, min(start + size, total)) for start in range(0, total, size)]
    return [
        Answer.model_validate(fields)
        for numbers in blocks
        for fields in bench.pieces.piece(partial(block, numbers))
    ]


def _losses(model: PreTrainedModel, bench: Bench) -> list[float] | None:
    """The loss of each block of held-out text; None without documents."""
    blocks = _blocks(bench, min(_context(model), bench.documents_tokens))
    if not len(blocks):
        return None
    return block_losses(model, blocks, document_separator_id(bench.tokenizer)).tolist()


def _blocks(bench: Bench, context: int) -> np.ndarray:
    """Blocks (N, T) of `context` tokens from the first held-out documents, as many as
    `documents_tokens` are. Text beyond them is not tokenized: it may be a whole book's.
    """
    wanted = bench.documents_tokens // context
    encoded: list[np.ndarray] = []
    read = 0
    for document in bench.held_out.documents:
        if read >= wanted * context:
            break
        encoded += encode_documents(bench.tokenizer, [document.text])
        read += 1 + len(encoded[-1])  # one for the token between documents
    return pack(encoded, context, document_separator_id(bench.tokenizer))[:wanted]


def _choices(model: PreTrainedModel, bench: Bench) -> list[dict[str, Any]] | None:
    """The likelihoods of each question's choices; None without questions."""
    questions = bench.held_out.questions
    if not questions:
        return None
    scored = score_questions(model, bench.tokenizer, questions, _context(model))
    return [
        {name: np.asarray(value).tolist() for name, value in choices._asdict().items()}
        for choices in scored
    ]


def _tasks(load: Load, bench: Bench) -> tuple[Scores, dict[str, Any]]:
    """Every task's scores by its name and number of examples, `piqa, 5 examples`."""
    scores: Scores = {}
    summaries: dict[str, Any] = {}
    files, limit = bench.tasks.files, bench.tasks.limit
    for examples, names in bench.tasks.asked.items():

        def one(examples: int = examples, names: list[str] = names) -> Any:
            model = load()
            context = _context(model)
            return ask(model, bench.tokenizer, names, examples, files, context, limit, seed=0)

        found, summary = bench.pieces.piece(one)
        scores |= {f"{task}, {examples} examples": values for task, values in found.items()}
        summaries[str(examples)] = summary
    return scores, summaries


def _as_choices(fields: dict[str, Any]) -> Choices:
    arrays = {name: np.array(value) for name, value in fields.items() if name != "answer"}
    return Choices(**arrays, answer=fields["answer"])


def summarise(
    row: str,
    measured: Measured,
    sft: Measured,
    questions: list[Question],
    best_of: int,
    pairs: Pairs | None = None,
) -> dict[str, Any]:
    """One row of results.json; the table's fields come first, and null is what could not be
    measured. `pairs` decides wins where it is given.
    """
    answers, prompts = measured.answers, [answer.prompt_index for answer in measured.answers]
    wins, matched = _win_rates(row, measured, sft, pairs)
    values: dict[str, Any] = {
        "gold": None,
        "gold_low": None,
        "gold_high": None,
        "win_rate": wins.rate if wins else None,
        "win_rate_low": wins.low if wins else None,
        "win_rate_high": wins.high if wins else None,
        **_kl(answers, bon_kl(best_of) if row == "best_of_n" else 0.0),
        "length": float(np.mean([answer.tokens for answer in answers])),
        "eos_rate": float(np.mean([answer.finished for answer in answers])),
        "pretrain_loss": None if measured.losses is None else float(measured.losses.mean()),
        "fact_accuracy": None if measured.choices is None else accuracies(measured.choices)["acc"],
        "ties": wins.ties if wins else None,
        "win_rate_p": wins.p if wins else None,
        "win_rate_prompts": wins.prompts if wins else None,
        "win_rate_length_matched": matched._asdict() if matched else None,
        "distinct_2": distinct_n([answer.response for answer in answers], 2),
        "distinct_answers": len({answer.response for answer in answers}) / len(answers),
    }
    if answers[0].gold is not None:
        gold = mean_with_interval(
            [answer.gold for answer in answers if answer.gold is not None], prompts
        )
        values |= {"gold": gold.value, "gold_low": gold.low, "gold_high": gold.high}
    if answers[0].reward is not None:
        values["reward"] = float(np.mean([answer.reward for answer in answers]))
    values["features"] = {
        name: float(np.mean([answer.features[name] for answer in answers]))
        for name in answers[0].features
    }
    closed = [a for a in answers if a.use_case == CLOSED and INVENTED in a.features]
    if closed:
        said = [answer.features[INVENTED] for answer in closed]
        about = [answer.prompt_index for answer in closed]
        values["hallucination"] = mean_with_interval(said, about, SHARE)._asdict()
    if measured.tasks:
        values["tasks"] = against_sft(measured.tasks, sft.tasks)
    return values | _skills(measured, sft, questions)


def _kl(answers: list[Answer], picked: float) -> dict[str, float | None]:
    """KL from the reference with its interval, null where the answers' log-ratios are unknown.

    Best-of-n's is E[log SFT / reference] over the answers picked, plus its KL from SFT: `picked`, a
    bound that it reaches where no two answers are the same or score alike.
    """
    ratios = [answer.log_ratio for answer in answers if answer.log_ratio is not None]
    if len(ratios) < len(answers):
        return dict.fromkeys(("kl", "kl_low", "kl_high"))
    kl = mean_with_interval(ratios, [answer.prompt_index for answer in answers])
    low, high = (None if end is None else end + picked for end in (kl.low, kl.high))
    return {"kl": kl.value + picked, "kl_low": low, "kl_high": high}


def _win_rates(
    row: str, measured: Measured, sft: Measured, pairs: Pairs | None
) -> tuple[WinRate | None, WinRate | None]:
    """Against SFT, raw and length-matched; SFT against itself is even by definition; None without a
    judge.
    """
    if measured.answers[0].gold is None and pairs is None:
        return None, None
    if row == "sft":
        return WinRate(0.5, 0.5, 0.5, 1.0, 0.0, 0, 0), None
    if pairs is not None:
        return _judged_pairs(measured, sft, pairs)
    mine = by_prompt(measured.answers, "gold", measured.samples)
    theirs = by_prompt(sft.answers, "gold", sft.samples)
    lengths = (
        by_prompt(measured.answers, "tokens", measured.samples),
        by_prompt(sft.answers, "tokens", sft.samples),
    )
    return win_rate(mine, theirs), length_matched_win_rate(mine, theirs, *lengths)


def _judged_pairs(
    measured: Measured, sft: Measured, pairs: Pairs
) -> tuple[WinRate | None, WinRate | None]:
    """Answer for answer against SFT's to the same prompt: the first with the first, and so on."""
    against = [
        sft.answers[answer.prompt_index * sft.samples + number % measured.samples % sft.samples]
        for number, answer in enumerate(measured.answers)
    ]
    outcomes = np.array(pairs.compare(measured.answers, against))
    known = ~np.isnan(outcomes)
    prompts = np.array([answer.prompt_index for answer in measured.answers])
    mine, theirs = (np.array([a.tokens for a in part]) for part in (measured.answers, against))
    return judged_win_rate(outcomes, prompts, known), judged_win_rate(
        outcomes, prompts, known & near_lengths(mine, theirs)
    )


def _skills(measured: Measured, sft: Measured, questions: list[Question]) -> dict[str, Any]:
    """The alignment tax against SFT, and the accuracy on each kind of question."""
    if measured.losses is None or sft.losses is None:
        return {}
    right, reference = (
        None if m.choices is None else np.array([choices.correct()["acc"] for choices in m.choices])
        for m in (measured, sft)
    )
    tax = alignment_tax(measured.losses, sft.losses, right, reference)
    values: dict[str, Any] = {"pretrain_loss_increase": tax.loss_increase._asdict()}
    if tax.accuracy_drop is not None:
        values["fact_accuracy_drop"] = tax.accuracy_drop._asdict()
        kinds = [question.source or "questions" for question in questions]
        assert right is not None  # there is a drop
        values["fact_accuracy_by_kind"] = {
            kind: float(np.mean([r for r, own in zip(right, kinds, strict=True) if own == kind]))
            for kind in sorted(set(kinds))
        }
    return values


def _context(model: PreTrainedModel) -> int:
    return min(context_of(model.config) or LONGEST_CONTEXT, LONGEST_CONTEXT)
