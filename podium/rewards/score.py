"""The one scoring function. Training, PPO, SFT's selection, best-of-n, the chat and evaluation all
read a reward model through `score`.

A response's score is the head's output at its last token, less the model's `reward_bias`. "Last" is
the last attended token, so padding on either side and of any amount changes nothing (public code
that trains on one reading and uses another has been a source of bugs). The head works in fp32 even
under bf16 autocast: rewards are differences of scores.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.records import Message
from data.template import encode_prompt, encode_response
from podium.batching import batches_by_length, pad_right
from podium.errors import DivergenceError, ParentError, PodiumError
from podium.models import context_of, device_of, evaluating
from podium.rewards.model import RewardEnsemble, head

__all__ = [
    "check_shared_prefix",
    "score",
    "score_shared_prefix",
    "score_texts",
    "token_values",
]

# Two prompts, and two answers to each; ids, taken modulo the vocabulary.
PROBE = [[5, 6, 7, 8, 9, 10, 11], [12, 13]], [[20, 21, 22], [23], [24, 25], [26, 27, 28, 29]]


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


@torch.no_grad()
def check_shared_prefix(model: PreTrainedModel, longest: int) -> None:
    """Whether the family gives an answer after a shared prompt the score that it has after its own.

    It does not where distance is counted in columns of the cache (MPT), nor without keys and values
    (Mamba), which a few tokens show; nor where a window ends within rows of `longest` tokens, since
    its cache forgets what the columns of a longer prompt push out.

    Raises:
        ParentError: it does not.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window is not None and window < longest:
        raise _no_shared_prefix(model, f"forgets what lies beyond a window of {window} tokens")
    vocabulary = int(model.config.get_text_config().vocab_size)
    prompts, answers = ([[t % vocabulary for t in row] for row in rows] for rows in PROBE)
    of = torch.tensor([0, 0, 1, 1], device=device_of(model))
    whole = [prompts[p] + answer for p, answer in zip(of.tolist(), answers, strict=True)]
    with evaluating(model):
        plain = score(model, *pad_right(whole, 0, of.device))
        try:
            shared = score_shared_prefix(
                model, *pad_right(prompts, 0, of.device), *pad_right(answers, 0, of.device), of
            )
        except Exception as error:  # of any kind: a model's own code met a cache it does not know
            raise _no_shared_prefix(model, f"ends in {type(error).__name__}: {error}") from error
    off = float((shared - plain).abs().max())
    if off > 1e-3 * float(plain.std()) + 1e-5 * float(plain.abs().max()):
        raise _no_shared_prefix(model, f"moves scores by {off:.2g}")


def _no_shared_prefix(model: PreTrainedModel, what: str) -> ParentError:
    return ParentError(
        f"reward.shared_prefix: reading a prompt once for all its answers {what} in a model of the "
        f"family {model.config.model_type}",
        "set reward.shared_prefix: false",
    )


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
    context = context_of(model.config)
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
    for rows in batches_by_length([len(ids) for ids in sequences], batch_tokens):
        input_ids, mask = pad_right(
            [sequences[i] for i in rows], tokenizer.pad_token_id, model.device
        )
        scores[rows] = score(model, input_ids, mask).cpu()
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
