"""Scores of sampled answers, which are known by ids: PPO's rollouts, SFT's selection."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data.records import Prompt
from podium.batching import passes_by_length


def read_scores(
    reward: Callable[..., Tensor],
    input_ids: Tensor,
    attention_mask: Tensor,
    finished: Tensor,
    stop_token_ids: Sequence[int],
    rows_per_pass: int,
    prompts: Sequence[Prompt] | None = None,
    responses: Sequence[str] | None = None,
) -> Tensor:
    """The scores (B,) of sampled answers that are known by ids (B, T), padded on the right.

    A reward model has learned from answers that end with the first of the stop tokens. So a
    response that was cut off is read as if it had ended there, and one that another stop token
    ended as if that one had, for this reading alone. PPO takes `missing_eos_penalty` for not
    ending. prompts, responses: where the reward reads text.
    """
    if stop_token_ids:
        ends = attention_mask.sum(1)
        input_ids, attention_mask = F.pad(input_ids, (0, 1)), F.pad(attention_mask, (0, 1))
        rows, last = torch.arange(len(ends), device=ends.device), ends - finished.long()
        input_ids[rows, last] = stop_token_ids[0]
        attention_mask[rows, last] = True
    scores = torch.zeros(len(input_ids), device=input_ids.device)
    for rows in passes_by_length(attention_mask, rows_per_pass):
        width = int(attention_mask[rows].sum(1).max())
        asked, said = (part and [part[i] for i in rows.tolist()] for part in (prompts, responses))
        found = reward(asked, said, input_ids[rows, :width], attention_mask[rows, :width])
        scores[rows] = found.float().to(scores.device)
    return scores
