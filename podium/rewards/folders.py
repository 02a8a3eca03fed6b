"""Whether a folder holds a reward model, by its config.json alone.

Nothing here imports transformers, which takes seconds: recipes are looked at before anything runs.
"""

import json
from pathlib import Path
from typing import Any, Literal

from podium.errors import ParentError
from podium.models import LAYOUT

__all__ = [
    "NO_REWARD",
    "Combine",
    "brings_head",
    "check_brings_head",
    "is_reward_model",
    "reward_config",
]

# How the members of an ensemble become one score (`podium.rewards.model.RewardEnsemble`).
Combine = Literal["mean", "min", "mean_minus_variance"]
# What to do about a reward that names something else.
NO_REWARD = (
    "name a reward stage, the folder or hub id of a reward model, or module:function; "
    "`podium reward` trains one"
)


def is_reward_model(folder: Path) -> bool:
    """Whether `load_reward_model` of `podium.rewards.model` reads the folder."""
    return "reward_bias" in reward_config(folder)


def brings_head(folder: Path) -> bool:
    """Whether the folder's model has a head of its own for sequence classification: Podium's reward
    models, and those of TRL and others, which have no `reward_bias`.
    """
    config = reward_config(folder)
    names = config.get("architectures") or []
    return "reward_bias" in config or any(
        name.endswith("ForSequenceClassification") for name in names
    )


def check_brings_head(folder: Path) -> None:
    """Whether a reward that names this folder has a model there that scores.

    Raises:
        ParentError: it is a language model, which says words and scores nothing.
    """
    if not brings_head(folder):
        raise ParentError(
            f"{folder} is no reward model: its config.json names no class for sequence "
            "classification and no reward_bias",
            NO_REWARD,
        )


def reward_config(folder: Path) -> dict[str, Any]:
    """What config.json says; nothing where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ParentError(f"{path} is no JSON: {error}", LAYOUT) from error
    if not isinstance(config, dict):
        raise ParentError(f"{path} holds a {type(config).__name__} and no object", LAYOUT)
    return config
