"""What each training stage of a recipe takes, and what would make it fit: `podium plan memory`
says it, and a run that cannot fit is refused by it (`podium.run.fitting`).

What is planned is what the step's tensors take. On a CPU glibc keeps much of what is let go: two
measured runs (OPT-125M with 2 x 512 tokens, Pythia-160M with 8 x 256) took 3.3 to 3.5 and 4.3 GB
where 2.8 and 3.4 are planned. Under MALLOC_MMAP_THRESHOLD_=4194304 pieces of 4 MB go back to the
system when they are let go: then the first took 2.6, and a tenth more processor time. ZeRO's shares
are arithmetic and were not measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from podium.errors import ParentError, RecipeError
from podium.models import context_of
from podium.rewards.kinds import kind_of, parts
from podium.run.parents import find_parent, is_hub_id, within_stage
from podium.run.recipe import Recipe, validate
from podium.run.registry import split_arm
from podium.runtime import Dtype
from pretrain.architecture import build_config
from pretrain.infilling import SENTINELS
from pretrain.memory import (
    PROCESS,
    Head,
    cache_bytes,
    resting_step,
    trained_bytes,
    training_step,
)
from pretrain.presets import PRESETS

# Vocabulary and context of the released models, by the beginning of a preset's name.
RELEASED = {
    "opt": (50_272, 2048),
    "llama3": (128_256, 8192),
    "llama": (32_000, 2048),
    "pythia": (50_304, 2048),
    "neox": (50_432, 2048),
    "gpt1": (40_478, 512),
    "gpt2": (50_257, 1024),
    "gpt": (50_257, 2048),
}
PROCESSES = tuple(2**n for n in range(11))  # how many are tried where one has too little
UNSTATED = 2048  # tokens a row where neither the recipe nor the model says how long rows may be
# Tried one after the other, and each together with those before it, where a stage does not fit.
CHANGES: dict[str, dict[str, Any]] = {
    "one row a pass": {
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "micro_batch_tokens": 1,
    },
    "gradient_checkpointing: true": {"gradient_checkpointing": True},
    "lora: {}": {"lora": {}},
}


@dataclass(frozen=True)
class StageMemory:
    """Bytes on each process at a stage's peak, by what they are for."""

    stage: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """On the device: without what is said to lie in the host's memory."""
        return sum(size for name, size in self.parts.items() if not name.endswith("(host)"))


class Place:
    """Where a stage is to run: the recipe, its run folder, how many processes, and on what."""

    def __init__(
        self,
        recipe: Recipe,
        run_dir: Path,
        processes: int,
        gpu: bool,
        dtype: Dtype,
        stand_in: str | None = None,
        at_rest: bool = False,
    ) -> None:
        """`stand_in`: a preset whose shape is taken for models of the hub. `at_rest`: leave out
        what depends on the length of rows, which is found by trying a step.
        """
        self.recipe, self.run_dir, self.stand_in = recipe, run_dir, stand_in
        self.processes, self.gpu, self.dtype = processes, gpu, dtype
        self.at_rest = at_rest

    def with_recipe(self, recipe: Recipe) -> "Place":
        """The same place for another recipe."""
        return Place(
            recipe,
            self.run_dir,
            self.processes,
            self.gpu,
            self.dtype,
            self.stand_in,
            self.at_rest,
        )

    def shape(self, ref: str) -> PreTrainedConfig:
        """The configuration of the model that a stage, a folder or a hub id names; of a stage that
        has not run, of the model that it will start from.
        """
        ref = within_stage(ref)[0]
        config: Any = self.recipe.stage_config(ref) if ref in self.recipe.chain() else None
        if config is None and is_hub_id(ref):
            return self._of_the_hub(ref)
        if config is None:
            return AutoConfig.from_pretrained(str(find_parent(ref, self.recipe, self.run_dir)))
        if split_arm(ref)[0] != "pretrain":
            return self.shape(config.model)
        if config.init_from is not None:
            return self.shape(config.init_from)
        added = len(SENTINELS) if config.infilling is not None else 0
        return build_config(config.preset, config.vocab_size + added, config.context)

    def _of_the_hub(self, ref: str) -> PreTrainedConfig:
        """Its config alone: no weights are fetched."""
        if self.stand_in is not None:
            return _published(self.stand_in)
        try:
            return AutoConfig.from_pretrained(ref)
        except OSError as error:
            name = ref.rsplit("/", 1)[-1].lower()
            if name in PRESETS:
                return _published(name)
            raise ParentError(
                f"the hub does not give the shape of '{ref}': {str(error).splitlines()[0]}",
                "name a preset that stands for it: --shape llama3-8b",
            ) from error

    def trained(
        self,
        config: Any,
        shape: PreTrainedConfig,
        rows: int,
        tokens: int,
        *,
        head: Head = "lm",
        packed: bool = False,
    ) -> dict[str, int]:
        """Bytes by kind of a model that learns under a stage's `engine`."""
        engine, lora = config.engine, getattr(config, "lora", None)
        if self.at_rest:
            step = resting_step(shape, head=head, lora=lora)
        else:
            step = training_step(
                shape,
                rows,
                tokens,
                head=head,
                on_cpu=not self.gpu,
                packed=packed,
                checkpointing=config.gradient_checkpointing,
                lora=lora,
                dtype=self.dtype,
            )
        return trained_bytes(step, self.processes, engine.zero_stage, engine.offload, self.at_rest)


def plan_memory(place: Place, only: str | None = None) -> Iterator[StageMemory]:
    """The training stages of the recipe's chain, in order; with `only`, that one.

    Raises:
        RecipeError, ParentError: a stage's parent is not known.
    """
    for stage in place.recipe.chain():
        rule = RULES.get(split_arm(stage)[0])
        if rule is not None and only in (None, stage):
            process = {"process (host)" if place.gpu else "process": PROCESS}
            yield StageMemory(stage, process | rule(place, place.recipe.stage_config(stage)))


def _pretrain(place: Place, config: Any) -> dict[str, int]:
    shape = place.shape("pretrain")
    tokens = min(config.context, context_of(shape) or config.context)
    rows = min(config.per_device_train_batch_size, max(1, config.batch_size // place.processes))
    return place.trained(config, shape, rows, tokens, packed=True)


def _demonstrated(place: Place, config: Any) -> dict[str, int]:
    """SFT, and the RL start."""
    shape = place.shape(config.model)
    rows = min(config.per_device_train_batch_size, max(1, config.batch_size // place.processes))
    return place.trained(config, shape, rows, _length(config, shape))


def _preferred(place: Place, config: Any) -> dict[str, int]:
    """DPO: two answers a row; the reference's log-probabilities are kept, not the reference."""
    shape = place.shape(config.model)
    rows = min(config.per_device_train_batch_size, max(1, config.batch_size // place.processes))
    return place.trained(config, shape, 2 * rows, _length(config, shape))


def _reward(place: Place, config: Any) -> dict[str, int]:
    shape = place.shape(config.model)
    tokens = _length(config, shape)
    rows = max(1, config.micro_batch_tokens // tokens)
    return place.trained(config, shape, rows, tokens, head="score")


def _ppo(place: Place, config: Any) -> dict[str, int]:
    """Policy and value model learn, reference and reward model are read; rollouts fill a cache
    while no gradient is held, and an update needs activations while there is no cache.
    """
    shape = place.shape(config.model)
    tokens = min(
        _length(config, shape), (config.max_prompt_tokens or 10**9) + config.response_length
    )
    rows = min(config.per_device_train_batch_size, config.batch_size)
    learning = [place.trained(config, shape, rows, tokens)]
    frozen = 0 if config.lora else learning[0]["weights"]
    for part in parts(config.reward):
        kind = kind_of(part.reward)
        if kind.parent is not None:
            judge = place.shape(str(kind.parent(part.reward)))
            scored = place.trained(config, judge, rows, tokens, head="score")
            frozen += scored["weights"]
            if config.advantage == "gae" and len(learning) == 1:
                learning.append(scored)
    found = {
        name: sum(sizes.get(name, 0) for sizes in learning)
        for name in ("weights", "gradients", "optimizer", "optimizer (host)")
    }
    if config.final_weights == "ema":
        found["average of the weights"] = learning[0]["gradients"]
    slots = min(config.rollout_batch_size, config.batch_size)
    cache = 0 if place.at_rest else cache_bytes(shape, slots, tokens, place.dtype)
    copy = learning[0]["weights"] // 2 if place.dtype == "bf16" else 0
    activations = max(sizes["activations"] for sizes in learning)
    found["frozen models"] = frozen if config.frozen_models == "resident" else 0
    found["cache or activations"] = max(cache + copy, activations)
    return {name: size for name, size in found.items() if size}


RULES = {
    "pretrain": _pretrain,
    "sft": _demonstrated,
    "rl_init": _demonstrated,
    "dpo": _preferred,
    "reward": _reward,
    "ppo": _ppo,
}


def _published(name: str) -> PreTrainedConfig:
    """A preset with the vocabulary and context of the released models."""
    family = next((prefix for prefix in RELEASED if name.startswith(prefix)), "gpt")
    return build_config(name, *RELEASED[family])


def _length(config: Any, shape: PreTrainedConfig) -> int:
    """Tokens of the longest row that a stage takes."""
    room = context_of(shape) or UNSTATED
    return min(getattr(config, "max_length", None) or room, room)


def changes_that_fit(place: Place, stage: str, memory: int) -> str:
    """The least of `CHANGES` that bring a stage below `memory` bytes, in a sentence."""
    section = place.recipe.stage_config(stage)
    together: dict[str, Any] = {}
    said: list[str] = []
    for name, keys in CHANGES.items():
        known = {key: value for key, value in keys.items() if hasattr(section, key)}
        if not known:
            continue
        for changed, how in ((known, [name]), (together | known, [*said, name])):
            recipe = _with(place.recipe, stage, changed)
            (sizes,) = plan_memory(place.with_recipe(recipe), only=stage)
            if sizes.total <= memory:
                return f"fits with {' and '.join(how)}: {sizes.total / 1e9:.1f} GB"
        together, said = together | known, [*said, name]
    return (
        f"does not fit even with {' and '.join(said)}: {sizes.total / 1e9:.1f} GB; spread it over "
        "more processes (engine: {zero_stage: 3}), or take a smaller model"
    )


def ways_at_rest(place: Place, stage: str, memory: int) -> str:
    """What brings the weights, gradients, optimizer and frozen models of a stage below `memory`
    bytes on a process, in a sentence; no step is tried.
    """
    section = place.recipe.stage_config(stage)
    ways = []

    def total(processes: int, changed: dict[str, Any]) -> int:
        recipe = _with(place.recipe, stage, changed)
        there = Place(
            recipe, place.run_dir, processes, place.gpu, place.dtype, place.stand_in, at_rest=True
        )
        return sum(sizes.total for sizes in plan_memory(there, only=stage))

    if hasattr(section, "lora") and (size := total(place.processes, {"lora": {}})) <= memory:
        ways.append(f"`lora: {{}}` in the section `{stage}:` takes {size / 1e9:.1f} GB")
    sharded = {"engine": section.engine.model_dump() | {"zero_stage": 3}}
    for processes in (n for n in PROCESSES if n >= place.processes):
        if (size := total(processes, sharded)) <= memory:
            ways.append(
                f"`engine: {{zero_stage: 3}}` on {processes} processes with as much memory each "
                f"takes {size / 1e9:.1f} GB"
            )
            break
    return "; or ".join(ways) or "take a smaller model"


def _with(recipe: Recipe, stage: str, changed: dict[str, Any]) -> Recipe:
    tree = recipe.model_dump(mode="json", exclude_defaults=True)
    row, arm = split_arm(stage)
    section = tree.setdefault(row, {}) if arm is None else tree[f"{row}_arms"][arm]
    section.update(changed)
    return validate(tree, "the recipe")


def in_words(found: list[StageMemory], place: Place, memory: int | None) -> str:
    """A table in GB, and for a stage that needs more than `memory` bytes what would make it fit."""
    lines = []
    for sizes in found:
        shown = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in sizes.parts.items())
        lines.append(f"{sizes.stage:<10} {sizes.total / 1e9:8.2f} GB  {shown}")
        if memory is not None and sizes.total > memory:
            fix = changes_that_fit(place, sizes.stage, memory)
            lines.append(f"{'':<10} more than {memory / 1e9:g} GB; {fix}")
    if not found:
        raise RecipeError("the recipe trains nothing", "it needs a section such as `sft: {}`")
    return "\n".join(lines)
