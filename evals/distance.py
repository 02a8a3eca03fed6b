"""Prompts unlike those that were trained on, found by the Mahalanobis distance of hidden states.

Bai et al. 2022 tell unusual requests from usual ones by how far a model's activations lie from
those of its training prompts. Here: the middle layer at a prompt's last token, the region of half
of some training prompts, and as the bound what 99 % of the other half stay within. On a flagged
prompt SFT, reward model and policy were not taught; their numbers there mean less.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.records import Prompt
from data.template import encode_prompt
from podium.batching import pad_right

FEWEST = 20  # training prompts; fewer make no region
WITHIN = 0.99  # share of unseen training prompts that lie within the bound
SHOWN = 5  # flagged prompts that results.json and the report quote
BATCH = 32


class Region(NamedTuple):
    """Where states (N, H) lie: their mean (H,) and the inverse of their covariance (H, H)."""

    mean: np.ndarray
    inverse: np.ndarray


def region_of(states: np.ndarray) -> Region:
    """The region of states (N, H). The covariance is drawn towards a ball by H / (H + N), or fewer
    states than dimensions would leave directions without any spread.
    """
    count, width = states.shape
    mean = states.mean(axis=0)
    covariance = np.cov(states, rowvar=False)
    share = width / (width + count)
    ball = np.eye(width) * np.trace(covariance) / width
    return Region(mean, np.linalg.inv((1 - share) * covariance + share * ball))


def distances(region: Region, states: np.ndarray) -> np.ndarray:
    """Mahalanobis distance (N,) of states (N, H), divided by the square root of H."""
    gap = states - region.mean
    squares = np.einsum("nh,hk,nk->n", gap, region.inverse, gap)
    return np.asarray(np.sqrt(squares / states.shape[1]))


@torch.no_grad()
def states_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    context: int,
) -> np.ndarray:
    """The middle layer's state (N, H) at each prompt's last token; a prompt longer than `context`
    loses its oldest.
    """
    found = []
    for start in range(0, len(prompts), BATCH):
        rows = [
            encode_prompt(tokenizer, prompt.messages)[-context:]
            for prompt in prompts[start : start + BATCH]
        ]
        ids, mask = pad_right(rows, 0)
        ids, mask = ids.to(model.device), mask.to(model.device)
        layers = model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states  # a state before the first layer and one after each
        middle = layers[len(layers) // 2]
        last = torch.tensor([len(row) - 1 for row in rows], device=model.device)
        found.append(middle[torch.arange(len(rows)), last].float().cpu().numpy())
    return np.concatenate(found).astype(float)


def far_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    familiar: Sequence[Prompt],
    asked: Sequence[Prompt],
    context: int,
) -> dict[str, Any] | None:
    """Which of the prompts that are `asked` lie outside the region of the `familiar` ones: the
    bound, their number, and the farthest with their distances. None with too few familiar ones.
    """
    if len(familiar) < FEWEST:
        return None
    known = states_of(model, tokenizer, familiar, context)
    region = region_of(known[::2])
    bound = float(np.quantile(distances(region, known[1::2]), WITHIN))
    far = distances(region, states_of(model, tokenizer, asked, context))
    order = [int(i) for i in np.argsort(-far, kind="stable") if far[i] > bound]
    return {
        "asked": len(asked),
        "bound": bound,
        "flagged": order,
        "farthest": [
            {
                "prompt": asked[i].messages[-1].content,
                "distance": float(far[i]),
                "use_case": asked[i].use_case,
            }
            for i in order[:SHOWN]
        ],
    }
