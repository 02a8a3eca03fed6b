"""The reward model: a language model whose unembedding is replaced by one number a token
(InstructGPT, section 3.5).

On disk it is plain Hugging Face layout: `AutoModelForSequenceClassification` with one label loads
it, and `reward_bias` in config.json is the number to subtract from its logit. An ensemble's folder
is its first member's, with the others beside it in `members/1`, `members/2`, ...; `reward_ensemble`
in config.json says how to combine them.
"""

import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from podium.errors import ParentError
from podium.models import (
    check_reward_head,
    check_rows,
    load_tokenizer,
    load_whole,
    read_config,
    remove_dropout,
    resize_for,
    save_model,
)
from podium.rewards.folders import Combine, check_brings_head, is_reward_model

__all__ = [
    "RewardEnsemble",
    "check_scalar_head",
    "head",
    "load_reward_model",
    "new_reward_model",
    "save_reward_model",
    "started_reward_model",
]


class RewardEnsemble(nn.Module):
    """Several reward models that differ by seed, read as one; the spread between them is a sign of
    guessing.

    `combine`: `mean`; `min`, the worst case; `mean_minus_variance`. `bias` is subtracted after
    combining, so that demonstrations score mean 0 whatever the rule.
    """

    def __init__(
        self, members: list[PreTrainedModel], combine: Combine = "mean", bias: float = 0.0
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(members)
        self.rule = combine
        self.bias = bias

    @property
    def members(self) -> list[PreTrainedModel]:
        return [cast(PreTrainedModel, model) for model in self.models]

    @property
    def config(self) -> Any:
        return self.members[0].config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def combine(self, scores: Tensor) -> Tensor:
        """(members, ...) -> (...), by the ensemble's rule, less its bias."""
        if self.rule == "min":
            combined = scores.amin(dim=0)
        elif self.rule == "mean_minus_variance":
            combined = scores.mean(dim=0) - scores.var(dim=0, correction=0)
        else:
            combined = scores.mean(dim=0)
        return combined - self.bias


NEW_HEAD = re.compile(r"^score\.")
# A language model's own head stays unread where a scalar one takes its place.
LANGUAGE_HEAD = re.compile(r"^(lm_head|embed_out|output_projection)\.")


def new_reward_model(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """The language model at `path` with a fresh scalar head, standard deviation 1/sqrt(d+1)
    (Stiennon et al. 2020).

    Dropout is off: the paper names none for the reward model, and one epoch leaves little to
    regularise. The seed draws the head alone, so members of an ensemble differ by their head and by
    the order of their data.

    Raises:
        ParentError: transformers has no scalar head for the family, or a weight is missing.
    """
    check_scalar_head(read_config(path), str(path))
    model = _load_classifier(path, fresh=NEW_HEAD, left_over=LANGUAGE_HEAD, num_labels=1)
    weight = head(model).weight  # (1, d)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) / (weight.shape[1] + 1) ** 0.5)
    return _prepared(model, tokenizer)


def check_scalar_head(config: Any, name: str) -> None:
    """Whether the family can carry a reward model's head: one product with the last hidden states,
    which alone can be read at every token, as PPO's value model is.

    Raises:
        ParentError: it cannot; `name` says whose model it is.
    """
    check_reward_head(config, name)
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    with torch.device("meta"):
        model = kind(config)
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise ParentError(
            f"{name}: the reward head that transformers has for {config.model_type} is no product "
            f"with the last hidden states ({kind.__name__})",
            "start the reward model from another architecture, such as LLaMA, Qwen or GPT-2",
        )


def started_reward_model(path: str | Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The reward model at `path`, Podium's own or a stranger's, with the head it has, to be trained
    on.

    Raises:
        ParentError: it is an ensemble, whose rule no single model carries on, or a classifier with
            several labels; or the family's head is no product with the hidden states.
    """
    config = read_config(path)
    check_scalar_head(config, str(path))
    if config.num_labels != 1:
        raise ParentError(
            f"{path} is a classifier with {config.num_labels} labels, and a reward model's head "
            "gives one number",
            "name a model with one label, or set reward.new_head: true to draw a head of one "
            "number in the place of its own",
        )
    model = _load_classifier(path)
    if getattr(model.config, "reward_ensemble", None) is not None:
        raise ParentError(
            f"{path} is an ensemble; a new reward model cannot go on from all of its members",
            "set reward.new_head: true to start from its first member's body, or name "
            "members/1 of the folder",
        )
    return _prepared(model, tokenizer)


def _prepared(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    remove_dropout(model)
    resize_for(tokenizer, model)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.reward_bias = 0.0
    return model


def head(model: PreTrainedModel) -> nn.Linear:
    """The scalar head: d -> 1, without a bias of its own."""
    return cast(nn.Linear, model.score)


def load_reward_model(
    folder: str | Path,
) -> tuple[PreTrainedModel | RewardEnsemble, PreTrainedTokenizerBase]:
    """A trained reward model or ensemble and its tokenizer, in fp32 and eval mode.

    Raises:
        ParentError: the folder holds a model without a trained reward head.
    """
    check_brings_head(Path(folder))
    if not is_reward_model(Path(folder)):
        raise ParentError(
            f"{folder} is no reward model: its config.json has no reward_bias",
            "name the folder that `podium reward` wrote (runs/<run>/reward/final); for a "
            "reward model trained "
            'elsewhere add "reward_bias": 0.0 to its config.json',
        )
    first = _load_classifier(folder)
    tokenizer = load_tokenizer(folder)
    check_rows(tokenizer, first, folder)
    ensemble = getattr(first.config, "reward_ensemble", None)
    if ensemble is None:
        return first.eval(), tokenizer
    others = [
        _load_classifier(Path(folder) / "members" / str(i)) for i in range(1, ensemble["members"])
    ]
    return RewardEnsemble([first, *others], ensemble["combine"], ensemble["bias"]).eval(), tokenizer


def save_reward_model(
    model: PreTrainedModel | RewardEnsemble,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state_dict: dict[str, Tensor] | None = None,
) -> None:
    """Write what `load_reward_model` reads; the reward bias travels in config.json. `state_dict` as
    in `save_model`.
    """
    if not isinstance(model, RewardEnsemble):
        save_model(model, tokenizer, folder, state_dict)
        return
    first, *others = model.members
    model.config.reward_ensemble = {
        "members": len(model.members),
        "combine": model.rule,
        "bias": model.bias,
    }
    save_model(first, tokenizer, folder)
    for i, member in enumerate(others, start=1):
        save_model(member, tokenizer, folder / "members" / str(i))


def _load_classifier(
    path: str | Path,
    fresh: re.Pattern[str] | None = None,
    left_over: re.Pattern[str] | None = None,
    **config: Any,
) -> PreTrainedModel:
    what = "model that can carry a reward head"
    return load_whole(AutoModelForSequenceClassification, path, what, fresh, left_over, **config)
