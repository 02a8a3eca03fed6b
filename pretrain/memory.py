"""How much memory a training step takes, before anything is allocated.

A step is run on tensors that have shapes and no numbers (torch's FakeTensorMode): every operation
of the model's own forward and backward reports what it makes, and when that is let go. So the
figure holds for any family, and for 13 billion parameters takes seconds and no memory. What a step
does not show is added by arithmetic: the optimizer, what ZeRO shards, and the process itself.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)

from podium.attention import attend_in_fp32
from podium.lora import LoraConfig, with_lora
from podium.models import inside_peft
from podium.output_head import body
from podium.runtime import Dtype, autocast
from podium.sampling.logprobs import head_logprobs, takes_position_ids
from podium.sharding import live_parameters

__all__ = [
    "PROCESS",
    "Head",
    "Peak",
    "Step",
    "cache_bytes",
    "loss_of",
    "resting_step",
    "trained_bytes",
    "training_step",
]

# Python with torch, transformers, trl, peft and deepspeed, before any model.
PROCESS = 900_000_000
FP32 = 4
Head = Literal["lm", "score"]


@dataclass(frozen=True)
class Step:
    """One forward and backward of a micro-batch on one process, in bytes.

    weights: of the model. trained: those of its weights that learn. activations: what the step
    holds at its peak beside weights and gradients.
    """

    weights: int
    trained: int
    activations: int


def training_step(
    config: PreTrainedConfig,
    rows: int,
    tokens: int,
    *,
    head: Head = "lm",
    on_cpu: bool = True,
    packed: bool = False,
    checkpointing: bool = False,
    lora: LoraConfig | None = None,
    dtype: Dtype = "fp32",
) -> Step:
    """The step of a new model of `config` on `rows` rows of `tokens` tokens.

    head: `lm`, log-probabilities of every token; `score`, a scalar at every token. on_cpu: with the
    attention that a CPU trains with. packed: rows are windows of several documents with a whole
    mask. dtype: bf16 is autocast over fp32 weights, as
    the engine does it.
    """
    model = _shaped(config, head, lora)
    if on_cpu:
        attend_in_fp32(inside_peft(model))
    if checkpointing:
        inside_peft(model).gradient_checkpointing_enable()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _without_numbers(model)
        weights, trained = _sizes(model)
        ids = torch.zeros(rows, tokens, dtype=torch.long)
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if packed and takes_position_ids(model):
            inputs["attention_mask"] = torch.zeros(rows, 1, tokens, tokens)
            inputs["position_ids"] = torch.zeros(rows, tokens, dtype=torch.long)
        with Peak(model.parameters()) as seen, autocast(torch.device("cpu"), dtype):
            loss_of(model, inputs, head).backward()
    return Step(weights, trained, seen.peak - weights - trained)


def resting_step(
    config: PreTrainedConfig, *, head: Head = "lm", lora: LoraConfig | None = None
) -> Step:
    """What there is of a step whatever its rows are: it holds no activations."""
    return Step(*_sizes(_shaped(config, head, lora)), activations=0)


def _shaped(config: PreTrainedConfig, head: Head, lora: LoraConfig | None) -> Any:
    """A model in training mode on the meta device."""
    kind: Any = AutoModelForCausalLM if head == "lm" else AutoModelForSequenceClassification
    if head == "score":
        config.num_labels = 1
    with torch.device("meta"):
        model = kind.from_config(config, dtype=torch.float32)
        return with_lora(model, lora, "CAUSAL_LM" if head == "lm" else "SEQ_CLS", 0).train()


def _sizes(model: nn.Module) -> tuple[int, int]:
    """Bytes of a model's weights, and of those that learn; tied ones count once."""
    weights = [(p.numel() * FP32, p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in weights), sum(size for size, learns in weights if learns)


def _without_numbers(model: nn.Module) -> None:
    """Weights and buffers of a model on the meta device as tensors without numbers; tied ones stay
    tied.
    """
    made: dict[int, Any] = {}
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, old in table.items():
                if old is not None and id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    learns = isinstance(old, nn.Parameter)
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if learns else new
                table[name] = None if old is None else made[id(old)]


def loss_of(model: Any, inputs: dict[str, Any], head: Head) -> Tensor:
    """A scalar whose backward is that of a step: of every token, or of a score at every token."""
    inner = inside_peft(model)
    hidden = body(inner)(**inputs).last_hidden_state
    if head == "score":
        return inner.score(hidden).float().sum()
    targets = inputs["input_ids"][:, 1:].flatten()
    return -head_logprobs(model, hidden[:, :-1].flatten(0, 1), targets).sum()


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, and when they are let go."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}
        for tensor in held:
            self._note(tensor)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._known:
            return
        self._known[id(storage)] = size = storage.nbytes()
        weakref.finalize(storage, self._forget, id(storage))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


def trained_bytes(
    step: Step,
    processes: int = 1,
    zero_stage: int = 0,
    offload: bool = False,
    at_rest: bool = False,
) -> dict[str, int]:
    """What a model that learns takes on each of `processes`, by kind, in bytes: with AdamW's two
    moments, and what the ZeRO stage shards. `offload`: the optimizer lies in the host's memory.
    `at_rest`: no pass is under way, so that ZeRO-3 has only its shares at hand.
    """
    share = processes if zero_stage else 1
    found = {
        "weights": step.weights,
        "gradients": step.trained // (processes if zero_stage >= 2 else 1),
        "optimizer": 2 * step.trained // share,
        "activations": step.activations,
    }
    if zero_stage:
        found["optimizer"] += step.trained // share  # its own fp32 copy of the weights
    if zero_stage == 3:
        gathered = 0 if at_rest else FP32 * live_parameters(step.weights // FP32)
        found["weights"] = step.weights // processes + gathered
    if offload:
        found["optimizer (host)"] = found.pop("optimizer")
    return found


def cache_bytes(config: PreTrainedConfig, rows: int, tokens: int, dtype: Dtype = "fp32") -> int:
    """Keys and values of `rows` answers of up to `tokens` tokens, prompt included."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    width = FP32 if dtype == "fp32" else 2
    return 2 * text.num_hidden_layers * rows * tokens * heads * size * width
