"""Which models a run offers to chat with, loaded when first asked for."""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from transformers import PreTrainedTokenizerBase

from data.template import prepare_tokenizer, stop_token_ids, turn_end_id
from podium.errors import DataError, ParentError
from podium.models import (
    UNSTATED_CONTEXT,
    absent_token_ids,
    context_of,
    load_tokenizer,
    moved,
)
from podium.rewards.model import load_reward_model
from podium.rewards.score import score
from podium.run.lineage import read_stage_file
from podium.run.recipe import read_sampler
from podium.run.registry import STAGES, is_stage, label_of, rows_with, spec_of, split_arm
from podium.runtime import device
from podium.sampling.kinds import SamplerConfig, make_streaming_sampler
from podium.sampling.protocol import StreamingSampler
from podium.widths import Weights, load_to_answer

BEST_FIRST = ["policy", "demonstrated", "start", "base"]  # roles in the registry
KEPT_MODELS = 4  # models in memory at once; the one used longest ago leaves first


@dataclass(frozen=True)
class Checkpoint:
    """A model one can talk to. `key` names it in the picker, `label` shows it to people."""

    key: str
    label: str
    folder: Path


class Speaker(NamedTuple):
    """A loaded checkpoint."""

    checkpoint: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    sampler: StreamingSampler
    context: int
    stop_token_ids: tuple[int, ...]
    absent_token_ids: tuple[int, ...]


class Catalog:
    """The checkpoints of a run folder, or one model folder, and the run's reward model if there is
    one.
    """

    def __init__(self, folder: Path, weights: Weights = "fp32") -> None:
        self.weights = weights
        self.checkpoints = find_checkpoints(folder)
        self.sampler = read_sampler(folder)
        reward = rows_with("reward")[0]
        self.reward_folder = folder / reward / "final"
        self._speakers: OrderedDict[str, Speaker] = OrderedDict()
        self._lock = threading.Lock()  # one load at a time; two visitors share the model
        self._reward: tuple[Any, PreTrainedTokenizerBase] | None = None

    @property
    def scores(self) -> bool:
        """Whether answers can be scored."""
        return (self.reward_folder / "config.json").is_file()

    def favourites(self) -> tuple[str, str]:
        """Keys of the best checkpoint and of the one to see beside it: SFT, else the next best,
        else the same.
        """
        keys = sorted((c.key for c in self.checkpoints), key=_rank)
        shown = [key for key in keys[1:] if key in rows_with("demonstrated")]
        return keys[0], (shown or keys[1:] or keys)[0]

    def speaker(self, key: str) -> Speaker:
        """The checkpoint of that key, loaded."""
        with self._lock:
            if key not in self._speakers:
                checkpoint = next(c for c in self.checkpoints if c.key == key)
                self._speakers[key] = _load(checkpoint, self.sampler, self.weights)
                if len(self._speakers) > KEPT_MODELS:
                    self._speakers.popitem(last=False)
            self._speakers.move_to_end(key)
            return self._speakers[key]

    @torch.inference_mode()
    def score(self, ids: Sequence[int]) -> float | None:
        """The reward model's score of prompt and answer; None without one, or where they exceed its
        context.

        Without the answer's end token it is added: the reward model has only seen whole answers.
        """
        if not self.scores:
            return None
        with self._lock:
            if self._reward is None:
                reward_model, own_tokenizer = load_reward_model(self.reward_folder)
                self._reward = (moved(reward_model, device()), own_tokenizer)
        model, tokenizer = self._reward
        end = turn_end_id(tokenizer)
        whole = [*ids, end] if ids[-1] != end else list(ids)
        if len(whole) > (context_of(model.config) or UNSTATED_CONTEXT):
            return None
        row = torch.tensor([whole], device=device())
        return float(score(model, row, torch.ones_like(row)))


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """Every causal language model of a run in the chain's order, with the base where that lies
    elsewhere.

    `folder` may also be a stage's folder or any model folder. ParentError when there is no model to
    talk to.
    """
    for single in (folder, folder / "final"):
        if _is_causal_lm(single):
            return [Checkpoint("model", folder.resolve().name, single)]
    stages = [
        path.parent.parent.name
        for path in folder.glob("*/final/config.json")
        if _is_causal_lm(path.parent)
    ]
    order = list(STAGES)
    stages = [stage for stage in stages if is_stage(stage)]
    stages.sort(key=lambda stage: (order.index(split_arm(stage)[0]), stage))
    found = [Checkpoint(s, _label(folder / s), folder / s / "final") for s in stages]
    outside = _outside_base(folder)
    if outside is not None and not set(rows_with("base")) & set(stages):
        found.insert(0, Checkpoint("base", f"base ({outside.name})", outside))
    if not found and (folder / "config.json").is_file():
        raise ParentError(
            f"{folder} holds a model that does not answer (a reward model, perhaps)",
            "give a run's folder, or that of a causal language model in Hugging Face layout",
        )
    if not found:
        raise ParentError(
            f"{folder} holds no model to talk to yet",
            f"finish a stage first, for example: podium run {folder.name}",
        )
    return found


def best_of(folder: Path, key: str = "") -> Checkpoint:
    """The checkpoint of that key, or the one that the chat opens with.

    Raises:
        ParentError: there is none; lists those that there are.
    """
    found = {c.key: c for c in sorted(find_checkpoints(folder), key=lambda c: _rank(c.key))}
    if key and key not in found:
        raise ParentError(f"{folder} holds no model '{key}'", f"one of: {', '.join(found)}")
    return found[key] if key else next(iter(found.values()))


def _load(checkpoint: Checkpoint, config: SamplerConfig, weights: Weights) -> Speaker:
    """A base model without a chat template is given Podium's; its new tokens are untrained, which
    is what one sees.
    """
    tokenizer = prepare_tokenizer(load_tokenizer(checkpoint.folder))
    model = load_to_answer(checkpoint.folder, weights, device(), tokenizer)
    context = context_of(model.config) or UNSTATED_CONTEXT
    sampler = make_streaming_sampler(config, model, tokenizer.pad_token_id)
    stops, absent = stop_token_ids(tokenizer, model), absent_token_ids(tokenizer, model.config)
    return Speaker(checkpoint, tokenizer, sampler, int(context), stops, absent)


def _rank(stage: str) -> int:
    """Where a checkpoint stands among those that the chat opens with; the best is 0."""
    role = spec_of(stage).role if is_stage(stage) else "base"
    return BEST_FIRST.index(role) if role in BEST_FIRST else len(BEST_FIRST)


def _label(stage_dir: Path) -> str:
    path = stage_dir / "config.yaml"  # not there where somebody copied final/ alone
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return f"{label_of(stage_dir.name, settings)} ({stage_dir.name})"


def _is_causal_lm(folder: Path) -> bool:
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        architectures = json.loads(path.read_text(encoding="utf-8")).get("architectures") or []
    except ValueError as error:
        raise DataError(path, problem=f"is no JSON: {error}", fix="save the model anew") from error
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)


def _outside_base(folder: Path) -> Path | None:
    """The model folder SFT started from, when it is no stage of the run."""
    records = [read_stage_file(folder / row / "final") for row in rows_with("demonstrated")]
    parents = [parent for record in records if record for parent in record.get("parents", [])]
    paths = [Path(parent["path"]) for parent in parents]
    return next((path for path in paths if path.is_absolute() and _is_causal_lm(path)), None)
