"""From prompts to a `RolloutBatch`: sample, then read reference, reward and value; nothing here has
a gradient.

Shapes: B episodes, T columns of prompt and response, padded on the right. Everything about choosing
token t stands in column t, so a mask selects it and no shift is ever needed outside the models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from podium.batching import pad_right, passes_by_length
from podium.engine import all_reduce_max
from podium.sampling.protocol import Sample

__all__ = [
    "RolloutBatch",
    "episodes",
    "gather",
    "read_tokens",
]


@dataclass(frozen=True)
class RolloutBatch:
    """All that passes from rollout to update.

    input_ids      (B, T) long   prompt, response, padding
    attention_mask (B, T) bool   True at prompt and response
    action_mask    (B, T) bool   True at response tokens, the stop token among them
    logprobs       (B, T) fp32   log pi_old of each action at the sampling temperature, as sampled
                                 or as a training pass reads it (`old_logprobs`)
    ref_logprobs   (B, T) fp32   log of the reference, at the same temperature
    values         (B, T) fp32   V of the state before each action; None without a value model
    scores         (B,)   fp32   the reward model's, untouched
    finished       (B,)   bool   the response ended with the stop token
    """

    input_ids: Tensor
    attention_mask: Tensor
    action_mask: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor | None
    scores: Tensor
    finished: Tensor

    def rows(self, index: Tensor) -> "RolloutBatch":
        """The episodes of `index` (b,), trimmed to the longest of them."""
        width = int(self.attention_mask[index].sum(1).max())
        parts: dict[str, Any] = {}
        for field in fields(self):
            whole = getattr(self, field.name)
            part = None if whole is None else whole[index]
            parts[field.name] = part if part is None or part.dim() == 1 else part[:, :width]
        return RolloutBatch(**parts)

    def responses(self) -> list[list[int]]:
        """The response tokens of every episode."""
        return [
            row[mask].tolist() for row, mask in zip(self.input_ids, self.action_mask, strict=True)
        ]


def episodes(
    prompts: Sequence[list[int]], samples: Sequence[Sample], pad_token_id: int, device: torch.device
) -> dict[str, Tensor]:
    """Prompts and samples as the tensors of a RolloutBatch that are known after sampling.

    The masks come from lengths, never from comparing ids: a pad id that is also the stop id changes
    nothing.
    """
    rows = [prompt + sample.tokens for prompt, sample in zip(prompts, samples, strict=True)]
    width = max(map(len, rows))
    starts = torch.tensor([len(prompt) for prompt in prompts])[:, None]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    columns = torch.arange(width)[None, :]
    logprobs = torch.zeros(len(rows), width)
    action_mask = (columns >= starts) & (columns < ends)
    logprobs[action_mask] = torch.tensor([value for sample in samples for value in sample.logprobs])
    tensors = {
        "input_ids": pad_right(rows, pad_token_id)[0],
        "attention_mask": columns < ends,
        "action_mask": action_mask,
        "logprobs": logprobs,
        "finished": torch.tensor([sample.finished for sample in samples]),
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def read_tokens(
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    input_ids: Tensor,
    attention_mask: Tensor,
    action_mask: Tensor,
    rows_per_pass: int,
) -> Tensor:
    """What `function(ids, mask, actions) -> (N,)` says of every action, as (B, T); the passes are
    sorted by length and trimmed.
    """
    result = torch.zeros(action_mask.shape, device=input_ids.device)
    for rows in passes_by_length(attention_mask, rows_per_pass):
        width = int(attention_mask[rows].sum(1).max())
        actions = action_mask[rows, :width]
        part = torch.zeros(actions.shape, device=input_ids.device)
        part[actions] = function(
            input_ids[rows, :width], attention_mask[rows, :width], actions
        ).float()
        result[rows, :width] = part
    return result


def gather(batch: RolloutBatch, world_size: int) -> RolloutBatch:
    """The whole batch on every process, in rank order. It is small, and makes every statistic and
    minibatch global.
    """
    if world_size == 1:
        return batch
    width = all_reduce_max(torch.tensor(batch.input_ids.shape[1], device=batch.input_ids.device))
    missing = int(width) - batch.input_ids.shape[1]
    parts: dict[str, Any] = {}
    for field in fields(batch):
        local = getattr(batch, field.name)
        if local is None:
            parts[field.name] = None
            continue
        local = F.pad(local, (0, missing)) if local.dim() == 2 else local
        sent = local.to(torch.uint8) if local.dtype == torch.bool else local.contiguous()
        received = [torch.empty_like(sent) for _ in range(world_size)]
        torch.distributed.all_gather(received, sent)
        parts[field.name] = torch.cat(received).to(local.dtype)
    return RolloutBatch(**parts)
