"""A reward model that somebody else trained, with a tokenizer and a chat template of its own.

It is read as its author's own code reads it: prompt and answer are written anew by its chat
template, end to end, and the score is the label that the model's forward gives for the row. Nothing
is taken from the policy's ids, so the two may have nothing in common but text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data.records import Message, Prompt
from data.rendering import RefusedByTemplate
from data.template import encode_whole
from podium.batching import batches_by_length, pad_right
from podium.errors import DivergenceError, ParentError, PlatformError
from podium.models import (
    check_reward_head,
    check_rows,
    context_of,
    device_of,
    load_tokenizer,
    load_whole,
    moved,
    read_config,
)
from podium.rewards.folders import brings_head, check_brings_head, is_reward_model
from podium.rewards.model import load_reward_model
from podium.rewards.model_reward import ModelReward
from podium.rewards.protocol import Reward
from podium.rewards.specs import ModelSpec
from podium.runtime import device

__all__ = [
    "ForeignReward",
    "Placed",
    "is_foreign",
    "load_by_text",
    "load_foreign",
]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
UNSET_LENGTH = 10**6  # transformers writes 10**30 where a tokenizer states no longest sequence


class ForeignReward(Reward):
    """Scores text by a sequence classification model of transformers.

    An answer that does not fit the model's context is cut; of a prompt that leaves no room the end
    is read. Rows of like length are read together, at most `batch_tokens` padded tokens at a time.
    """

    reads_text = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        label: int = 0,
        bias: float = 0.0,
        batch_tokens: int = 4096,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.label, self.bias, self.batch_tokens = label, bias, batch_tokens
        stated = (context_of(model.config), tokenizer.model_max_length)
        self.longest = min((n for n in stated if n is not None and n < UNSET_LENGTH), default=None)

    @torch.inference_mode()
    def score_text(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """(B,) fp32, on the CPU."""
        rows = [self.encode(p.messages, r) for p, r in zip(prompts, responses, strict=True)]
        scores = torch.empty(len(rows))
        for batch in batches_by_length([len(row) for row in rows], self.batch_tokens):
            scores[batch] = self._scores([rows[i] for i in batch])
        if not torch.isfinite(scores).all():
            bad = int((~torch.isfinite(scores)).nonzero()[0])
            raise DivergenceError(
                f"the reward model {self.model.name_or_path} scores the answer "
                f"{responses[bad][:80]!r} as {scores[bad].item()}",
                "give it a wider dtype (fp32)",
            )
        return scores - self.bias

    def encode(self, messages: Sequence[Message], response: str) -> list[int]:
        """Ids of one conversation, as this model reads them, within its context."""
        ids = self._ids(messages, response)
        if self.longest is None or len(ids) <= self.longest:
            return ids
        room = self.longest - len(self._ids(messages, ""))
        while room > 0 and response and len(ids) > self.longest:
            response = response[: len(response) * self.longest // (len(ids) + 1)]
            ids = self._ids(messages, response)
        return ids[-self.longest :]

    def _ids(self, messages: Sequence[Message], response: str) -> list[int]:
        if not self.tokenizer.chat_template:  # `load_foreign` let only readers of pairs through
            asked = "\n".join(message.content for message in messages)
            return list(self.tokenizer(asked, response, split_special_tokens=True)["input_ids"])
        try:
            whole = [*messages, Message(role="assistant", content=response)]
            return encode_whole(self.tokenizer, whole)
        except RefusedByTemplate as error:
            raise ParentError(
                f"the chat template of the reward model {self.model.name_or_path} refuses the "
                f"prompt {messages[0].content[:80]!r}: {error.message}",
                "drop such prompts, or set the reward's `chat_template` to one that takes them",
            ) from error

    def _scores(self, rows: list[list[int]]) -> Tensor:
        """(B,) of rows of ids in one pass.

        The model finds a row's end as the last token that is not its pad token. Where its config
        names none it reads the last token of all, whatever that is, so the rows are filled up with
        an id that none of them has.
        """
        config = self.model.config.get_text_config()
        stated = config.pad_token_id
        size = config.vocab_size
        known = isinstance(stated, int) and 0 <= stated < size
        pad = stated if known else next(i for i in range(size) if not any(i in r for r in rows))
        ids, mask = pad_right(rows, pad, device_of(self.model))
        config.pad_token_id = pad
        try:
            logits = self.model(input_ids=ids, attention_mask=mask).logits  # (B, labels)
        finally:
            config.pad_token_id = stated
        return logits[:, self.label].float().cpu()


class Placed(Reward):
    """A reward on a device of its own and in the type it was loaded in: what PPO moves, shares out
    and autocasts does not reach it.
    """

    reads_text = True

    def __init__(self, reward: Reward, where: str | None) -> None:
        super().__init__()
        try:
            self.device = torch.device(where) if where else device()
            self._hidden = (reward.to(self.device).eval(),)  # a tuple hides it from torch
        except (RuntimeError, AssertionError) as error:
            raise PlatformError(
                f"the reward's device '{where}' cannot be used here: {error}",
                "name one that is there, such as cpu or cuda:0, or leave it out",
            ) from error

    def score_text(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """As the reward inside."""
        with torch.autocast(self.device.type, enabled=False):
            return self._hidden[0](prompts, responses)


def is_foreign(folder: Path) -> bool:
    """Whether the folder holds a sequence classification model that Podium has not trained."""
    return brings_head(folder) and not is_reward_model(folder)


def load_by_text(folder: Path, spec: ModelSpec) -> Reward:
    """The reward model of a folder, Podium's own or a stranger's, to be read by text.

    Raises:
        ParentError: as `load_foreign` and `load_reward_model`, it is a language model, or keys for
            a stranger's model are given with Podium's own.
    """
    check_brings_head(folder)
    if not is_reward_model(folder):
        return load_foreign(folder, spec)
    given = [key for key in ("label", "chat_template", "bias") if getattr(spec, key) is not None]
    if given:
        raise ParentError(
            f"the reward model {folder} was trained by Podium, and `{given[0]}` is given for it",
            f"leave {given[0]} out: head, template and bias are the model's own",
        )
    model, tokenizer = load_reward_model(folder)
    model = moved(model, torch.device("cpu"), DTYPES[spec.dtype or "fp32"])
    return ModelReward(model, tokenizer, by_text=True)


def load_foreign(folder: str | Path, spec: ModelSpec) -> ForeignReward:
    """The sequence classification model of a folder as a reward, on the CPU.

    Raises:
        ParentError: transformers has no such class for the family, a weight is missing, it has
            several labels and none is named, or it can read neither chats nor pairs.
    """
    config = read_config(folder)
    check_reward_head(config, str(folder))
    label = _label(config, spec, folder)
    tokenizer = load_tokenizer(folder)
    if spec.chat_template is not None:
        tokenizer.chat_template = _template(spec.chat_template)
    if not tokenizer.chat_template and None in (tokenizer.cls_token, tokenizer.sep_token):
        raise ParentError(
            f"{folder}: the reward model's tokenizer has neither a chat template nor the tokens "
            "that part a pair of texts, so how it reads a conversation is not known",
            "name a Jinja file with its author's template: {model: ..., chat_template: PATH}",
        )
    what = "model for sequence classification"
    dtype = DTYPES[spec.dtype or "fp32"]
    model = load_whole(AutoModelForSequenceClassification, folder, what, dtype=dtype).eval()
    check_rows(tokenizer, model, folder)
    bias = spec.bias if spec.bias is not None else float(getattr(config, "reward_bias", 0.0))
    return ForeignReward(model, tokenizer, label, bias, spec.batch_tokens)


def _label(config: Any, spec: ModelSpec, folder: str | Path) -> int:
    """Which of the model's outputs is the score."""
    names = [str(config.id2label[i]) for i in sorted(config.id2label)]
    if spec.label is None and len(names) == 1:
        return 0
    if isinstance(spec.label, int) and 0 <= spec.label < len(names):
        return spec.label
    if spec.label in names:
        return names.index(str(spec.label))
    told = "none is named" if spec.label is None else f"none is '{spec.label}'"
    raise ParentError(
        f"{folder} has {len(names)} labels ({', '.join(names[:8])}) and {told}",
        "say which one is the score: {model: ..., label: NAME}",
    )


def _template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ParentError(
            f"the reward's chat_template: {path} cannot be read: {error.strerror}",
            "give the path of a Jinja file",
        ) from error
