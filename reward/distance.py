"""How far a prompt lies from those that a model was trained on: the Mahalanobis distance of hidden
states.

Bai et al. 2022 tell unusual requests from usual ones by how far a model's activations lie from
those of its training prompts. Here: the middle layer's state at a prompt's last token. The report
of an evaluation names the prompts that lie far (`evals.distance`), the trust report says how often
the reward model is right near and far (`reward.evaluate`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.records import Messages
from data.template import encode_prompt
from podium.batching import batches_by_length, pad_right

FEWEST = 20  # training prompts; fewer make no region
BATCH_TOKENS = 2048  # padded tokens a pass, rows of like length together


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
    prompts: Sequence[Messages],
    context: int,
) -> np.ndarray:
    """The middle layer's state (N, H) at each prompt's last token, with a language model's head or
    a reward model's; a prompt longer than `context` loses its oldest.
    """
    rows = [encode_prompt(tokenizer, prompt)[-context:] for prompt in prompts]
    found = np.empty((len(rows), model.config.get_text_config().hidden_size))
    for batch in batches_by_length([len(row) for row in rows], BATCH_TOKENS):
        ids, _ = pad_right([rows[i] for i in batch], 0, model.device)
        # padded on the right: a causal token never sees it, so no mask is needed
        layers = model.base_model(
            input_ids=ids, use_cache=False, output_hidden_states=True
        ).hidden_states  # a state before the first layer and one after each
        last = torch.tensor([len(rows[i]) - 1 for i in batch], device=model.device)
        middle = layers[len(layers) // 2][torch.arange(len(batch)), last]  # (b, H)
        found[batch] = middle.float().cpu().numpy()
    return found
