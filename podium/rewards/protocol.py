"""What a reward is: whatever gives answers scores. PPO, best-of-n, SFT's selection and evals ask
for no more.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from data.records import Prompt

__all__ = [
    "Reward",
]


class Reward(nn.Module):
    """Scores answers, a batch at a time. `podium.rewards.kinds.make_reward` makes one.

    It is a module so that PPO can place, offload and shard whatever weights a kind has; a kind
    without weights is a module without parameters.

    Attributes:
        reads_text: whether it reads prompts and responses where ids are given too. Who has ids
            (PPO, SFT's selection) decodes them only then.
        context: the most tokens of prompt and answer it can read, by the policy's tokenizer; None
            = any number, and what is too long for it is cut.
    """

    reads_text: bool = True
    context: int | None = None

    def forward(
        self,
        prompts: Sequence[Prompt] | None,
        responses: Sequence[str] | None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Scores (B,) fp32 of B answers.

        prompts, responses: one each an answer; may be None where ids are given and the reward does
        not read text. input_ids, attention_mask: (B, T), prompt and whole answer with its end
        token, by the policy's tokenizer; None where the answers are known as text alone.
        """
        if input_ids is not None and not self.reads_text:
            assert attention_mask is not None, "ids come with their mask"
            return self.score_ids(input_ids, attention_mask)
        assert prompts is not None and responses is not None, "this reward reads text"
        return self.score_text(prompts, responses)

    def score_text(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """Scores (B,) fp32 of B answers as text, one prompt each. Every kind has it."""
        raise NotImplementedError

    def score_ids(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores (B,) fp32 of B answers as ids (B, T), for a kind that does not read text."""
        raise NotImplementedError
