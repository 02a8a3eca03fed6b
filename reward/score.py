"""The one scoring function. Training, PPO, best-of-n, the chat and evaluation all read a reward
model through `score`.

A response's score is the head's output at its last token, less the model's `reward_bias`. "Last" is
the last attended token, so padding on either side and of any amount changes nothing (public code
that trains on one reading and uses another has been a source of bugs). The head works in fp32 even
under bf16 autocast: rewards are differences of scores.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.jsonl import numbered_lines, read_jsonl
from data.records import Message, Messages
from data.template import encode_prompt, encode_response
from podium.errors import DivergenceError, PodiumError
from reward.model import RewardEnsemble, head, load_reward_model

__all__ = [
    "load_reward_model",
    "score",
    "score_file",
    "score_shared_prefix",
    "score_texts",
    "token_values",
]


def score(
    model: PreTrainedModel | RewardEnsemble, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """Score of each row, read at its last attended token, bias applied.

    input_ids, attention_mask: (B, T), one conversation a row, padded on either side. Returns (B,)
    float32.
    """
    if isinstance(model, RewardEnsemble):
        return model.combine(
            torch.stack([score(member, input_ids, attention_mask) for member in model.members])
        )
    return _head(model, _last(_states(model, input_ids, attention_mask), attention_mask))


def token_values(
    model: PreTrainedModel | RewardEnsemble, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """The same head and bias at every token, (B, T) float32: where PPO's value function starts
    (InstructGPT, C.4).
    """
    if isinstance(model, RewardEnsemble):
        return model.combine(
            torch.stack(
                [token_values(member, input_ids, attention_mask) for member in model.members]
            )
        )
    return _head(model, _states(model, input_ids, attention_mask))


def score_shared_prefix(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_ids: Tensor,
    response_mask: Tensor,
    prompt_of: Tensor,
) -> Tensor:
    """`score` of many responses with each prompt computed once; equal to the plain path, gradients
    too.

    prompt_ids, prompt_mask: (P, Tp) and response_ids, response_mask: (B, Tr), both padded on the
    right. prompt_of: (B,) long, the prompt that each response answers. Returns (B,) float32. The
    prompts' keys and values are computed once, with gradient, and read by every answer to them.
    """
    prompt = model.base_model(input_ids=prompt_ids, use_cache=True)
    cache = prompt.past_key_values
    cache.batch_select_indices(prompt_of)
    steps = torch.arange(response_ids.shape[1], device=response_ids.device)
    response = model.base_model(
        input_ids=response_ids,
        attention_mask=torch.cat([prompt_mask[prompt_of], response_mask], dim=1),  # (B, Tp + Tr)
        position_ids=prompt_mask.sum(dim=1)[prompt_of, None] + steps[None, :],
        past_key_values=cache,
        use_cache=True,
    )
    return _head(model, _last(response.last_hidden_state, response_mask))


def _states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Final hidden states (B, T, D), the same for a token wherever its row's padding lies."""
    # padded on the right: a causal token never sees it, so no mask is needed
    if bool(attention_mask[:, 0].all()):
        return model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    return model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
    ).last_hidden_state


def _last(states: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, T, D) -> (B, D): the state of the last attended token of each row."""
    steps = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask.long() * steps).argmax(dim=1)  # (B,)
    return states[torch.arange(len(states), device=states.device), last]


def _head(model: PreTrainedModel, states: Tensor) -> Tensor:
    """(..., D) -> (...): the scalar head in fp32, less the bias."""
    with torch.autocast(states.device.type, enabled=False):
        logits = head(model)(states.to(next(head(model).parameters()).dtype)).squeeze(-1).float()
    return logits - getattr(model.config, "reward_bias", 0.0)


@torch.inference_mode()
def score_texts(
    model: PreTrainedModel | RewardEnsemble,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    responses: Sequence[str],
    batch_tokens: int = 4096,
    names: Sequence[str] | None = None,
) -> list[float]:
    """Scores of complete answers, in order; like lengths are forwarded together, at most
    `batch_tokens` at a time.

    prompts: one conversation an answer (its last message is the user's). responses: one text an
    answer. names: what an error calls each answer; by default "answer 1", "answer 2", ...

    Raises:
        PodiumError: an answer does not fit the model's context. DivergenceError: a score is not
            finite.
    """
    sequences = [
        encode_prompt(tokenizer, prompt) + encode_response(tokenizer, response)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    context = getattr(model.config, "max_position_embeddings", None)
    for i, ids in enumerate(sequences):
        if context is not None and len(ids) > context:
            raise PodiumError(
                f"{_name(i, names)} has {len(ids)} tokens with its prompt; the reward model's "
                f"context is {context}",
                "shorten the prompt or the answer",
            )
    was_training = model.training
    model.eval()
    scores = torch.empty(len(sequences))
    for rows in _batches_by_length([len(ids) for ids in sequences], batch_tokens):
        input_ids, mask = pad_right([sequences[i] for i in rows], tokenizer.pad_token_id)
        scores[rows] = score(model, input_ids.to(model.device), mask.to(model.device)).cpu()
    model.train(was_training)
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).nonzero()[0])
        raise DivergenceError(
            f"the reward model scores {_name(bad, names)} as {scores[bad].item()}",
            "train it again with a lower learning_rate",
        )
    return scores.tolist()


def _name(i: int, names: Sequence[str] | None) -> str:
    return names[i] if names else f"answer {i + 1}"


def pad_right(sequences: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token lists -> input_ids and attention_mask, (B, longest) long, padded on the right."""
    longest = max(len(ids) for ids in sequences)
    rows = [[*ids, *[pad_token_id] * (longest - len(ids))] for ids in sequences]
    mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]
    return torch.tensor(rows), torch.tensor(mask)


def _batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences, shortest first, in batches of at most `batch_tokens` padded tokens."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class Answers(BaseModel):
    """A line to score: a prompt with one response or several. Whatever else it holds is kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt: Messages
    response: str | None = None
    responses: list[str] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _text_is_a_message(cls, prompt: Any) -> Any:
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt

    @model_validator(mode="after")
    def _check(self) -> "Answers":
        if (self.response is None) == (self.responses is None):
            raise ValueError(
                "response: a line needs either response (a text) or responses (a list)"
            )
        if self.prompt[-1].role == "assistant":
            raise ValueError("prompt: ends in the assistant's turn, so there is nothing to answer")
        return self

    @property
    def texts(self) -> list[str]:
        return self.responses if self.responses is not None else [self.response or ""]


def score_file(model: str | Path, file: str | Path, out: str | Path) -> int:
    """Score every line of a JSONL file and write it back with its `score`s; returns the number of
    lines.

    A line has `prompt` (a string or a list of messages) and either `response` (a string, gets
    `score`) or `responses` (a list, gets `scores`), so rankings, comparisons' parts and plain
    answers all work. All else on a line is kept. This is `podium reward score MODEL FILE`.

    Raises:
        DataError: a line that cannot be read. PodiumError, DivergenceError: as `score_texts`,
            naming the line.
    """
    rows = read_jsonl(file, Answers)
    numbers, lines = zip(*numbered_lines(Path(file)), strict=True)
    reward_model, tokenizer = load_reward_model(model)
    flat = [(row.prompt, text) for row in rows for text in row.texts]
    names = [
        f"{file}, line {number}" + (f", response {k}" if row.responses is not None else "")
        for number, row in zip(numbers, rows, strict=True)
        for k in range(1, len(row.texts) + 1)
    ]
    scores = iter(
        score_texts(
            reward_model, tokenizer, [p for p, _ in flat], [r for _, r in flat], names=names
        )
    )
    partial = Path(f"{out}.partial")
    with partial.open("w", encoding="utf-8") as written:
        for line, row in zip(lines, rows, strict=True):
            values = [next(scores) for _ in row.texts]
            found = {"scores": values} if row.responses is not None else {"score": values[0]}
            written.write(json.dumps(json.loads(line) | found, ensure_ascii=False) + "\n")
    partial.replace(out)
    return len(rows)
