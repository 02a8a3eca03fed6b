"""Test prompts unlike those that were trained on, named in the report.

As the bound stands what 99 % of unseen training prompts stay within. On a flagged prompt SFT,
reward model and policy were not taught; their numbers there mean less.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.records import Prompt
from reward.distance import FEWEST, distances, region_of, states_of

WITHIN = 0.99  # share of unseen training prompts that lie within the bound
SHOWN = 5  # flagged prompts that results.json and the report quote


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
    known = states_of(model, tokenizer, [prompt.messages for prompt in familiar], context)
    region = region_of(known[::2])
    bound = float(np.quantile(distances(region, known[1::2]), WITHIN))
    far = distances(
        region, states_of(model, tokenizer, [prompt.messages for prompt in asked], context)
    )
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
