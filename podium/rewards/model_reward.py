"""A reward that is a reward model, or an ensemble of them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.records import Prompt
from data.template import encode_prompt, encode_response
from podium.models import context_of
from podium.rewards.model import RewardEnsemble
from podium.rewards.protocol import Reward
from podium.rewards.score import score, score_texts

__all__ = [
    "ModelReward",
    "fitting",
]


class ModelReward(Reward):
    """A reward model or an ensemble, read by ids where those are given and by its own tokenizer
    where only text is, or, with `by_text`, always: then the ids are another tokenizer's.

    An answer that as a text does not fit the context is cut: a text can take more tokens than were
    sampled (broken bytes of an untrained model become U+FFFD, three tokens each).
    """

    def __init__(
        self,
        model: PreTrainedModel | RewardEnsemble,
        tokenizer: PreTrainedTokenizerBase | None = None,
        by_text: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.reads_text = model, tokenizer, by_text
        self.longest = context_of(model.config)
        self.context = None if by_text else self.longest  # it is counted in the policy's tokens

    def score_ids(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B,) fp32, on the model's device."""
        return score(self.model, input_ids, attention_mask)

    def score_text(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """(B,) fp32, on the CPU."""
        assert self.tokenizer is not None, "text needs a tokenizer"
        if self.longest is not None:
            responses = [
                fitting(self.tokenizer, prompt, text, self.longest)
                for prompt, text in zip(prompts, responses, strict=True)
            ]
        asked = [prompt.messages for prompt in prompts]
        return torch.tensor(score_texts(self.model, self.tokenizer, asked, responses))


def fitting(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, text: str, context: int) -> str:
    """The answer, cut where it does not fit the context; whole where the prompt leaves no room."""
    room = context - len(encode_prompt(tokenizer, prompt.messages))
    while room > 0 and (length := len(encode_response(tokenizer, text))) > room:
        text = text[: int(len(text) * room / length)]
    return text
