"""The sides of `benchmarks.pretrain`, each a loop over the same windows with the same weights,
AdamW, learning rate and clipping: Podium's; the one that anybody would write in torch, with the
model compiled or not; Hugging Face's Trainer; and litgpt's.
"""

import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.turns import take_turns, trainer_turns
from podium.runtime import Dtype
from pretrain.presets import PRESETS, Preset

BOS = 0
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIPPING = 3e-4, (0.9, 0.95), 0.1, 1.0


@dataclass(frozen=True)
class Size:
    """A LLaMA and the batch that trains it: `windows` of `context` tokens."""

    shape: Preset
    vocabulary: int
    windows: int
    context: int


SIZES = {
    "1M": Size(PRESETS["llama-tiny"], 1024, 4, 160),
    "20M": Size(Preset("llama", 10, 384, 6, LEARNING_RATE, 1024, inner=1024), 8192, 4, 256),
    # GPT-3's 125M as a LLaMA, with as many tokens as GPT-2's, rounded up to a multiple of 64
    "125M": Size(Preset("llama", 12, 768, 12, LEARNING_RATE, 512, inner=2048), 50_304, 2, 256),
}


@dataclass(frozen=True)
class Work:
    """What one side has to do."""

    size: Size
    ids: np.ndarray  # (windows, context): the batch of every step
    dtype: Dtype
    threads: int
    steps: int
    attention: str  # of the sides that take a model of transformers; Podium chooses for itself


def make_windows(size: Size, document: int | None) -> np.ndarray:
    """Random tokens, (windows, context), each window one document; or documents of `document`
    tokens on average, as they come to lie in a corpus.
    """
    rng = np.random.default_rng(size.context)
    ids = rng.integers(1, size.vocabulary, (size.windows, size.context))
    if document is not None:
        ids[rng.random(ids.shape) < 1 / document] = BOS
    ids[:, 0] = BOS
    return ids


def make_model(work: Work) -> Any:
    """Podium's new model of the size, the same weights every time."""
    from pretrain.architecture import build_config, build_model

    PRESETS["raced"] = work.size.shape
    torch.manual_seed(0)
    return build_model(build_config("raced", work.size.vocabulary, work.size.context))


def ours(pipe: Connection, work: Work) -> None:
    """Podium's update on a DeepSpeed engine, as `pretrain.train` makes it."""
    run_ours(pipe, work, compiles=False)


def ours_compiled(pipe: Connection, work: Work) -> None:
    """The same with `pretrain.compile: true`."""
    run_ours(pipe, work, compiles=True)


def run_ours(pipe: Connection, work: Work, compiles: bool) -> None:
    from podium.attention import choose_attention
    from podium.engine import EngineConfig, make_engine
    from pretrain.updates import Causal, LanguageModel, compile_reading, update

    stage = SimpleNamespace(world_size=1, rank=0, device=torch.device("cpu"))
    model = make_model(work)
    choose_attention(model, stage.device)
    engine = make_engine(
        LanguageModel(model),
        EngineConfig(gradient_clipping=CLIPPING),
        learning_rate=LEARNING_RATE,
        betas=BETAS,
        weight_decay=WEIGHT_DECAY,
        dtype=work.dtype,
    )
    batch = torch.from_numpy(work.ids)
    objective = Causal(BOS, work.size.context)
    if compiles:
        compile_reading(engine.module, batch[:1], BOS)

    def step() -> float:
        loss, _ = update(engine, batch, objective, LEARNING_RATE, len(batch), cast("Any", stage))
        return loss

    take_turns(pipe, work.steps, step)


def plain_torch(pipe: Connection, work: Work) -> None:
    """The loop that anybody would write."""
    run_torch(pipe, work, lambda model: model)


def compiled_torch(pipe: Connection, work: Work) -> None:
    """The same loop with its model compiled."""
    run_torch(pipe, work, compiled)


def run_torch(pipe: Connection, work: Work, prepare: Callable[[nn.Module], Any]) -> None:
    model = make_model(work)
    model.set_attn_implementation(work.attention)
    optimizer = torch.optim.AdamW(groups_of(model), lr=LEARNING_RATE, betas=BETAS, fused=True)
    forward = prepare(model.train())
    inputs, targets = shifted(work)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=work.dtype == "bf16"):
            logits = forward(input_ids=inputs, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIPPING)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    take_turns(pipe, work.steps, step)


def trainer(pipe: Connection, work: Work) -> None:
    """Hugging Face's Trainer, timed inside its loop: neither its set-up nor its collation count."""
    from datasets import Dataset
    from transformers import PrinterCallback, Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=work.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIPPING,
        optim="adamw_torch_fused",
        bf16=work.dtype == "bf16",
        use_cpu=True,
        per_device_train_batch_size=len(work.ids),
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )
    model = make_model(work)
    model.set_attn_implementation(work.attention)
    rows = [{"input_ids": row, "labels": row} for row in work.ids.tolist()]
    loop = Trainer(
        model, arguments, train_dataset=Dataset.from_list(rows), callbacks=[trainer_turns(pipe)]
    )
    loop.remove_callback(PrinterCallback)
    loop.train()


def litgpt(pipe: Connection, work: Work) -> None:
    """litgpt's model and the steps of its `litgpt/pretrain.py`: compiled, by Lightning's Fabric,
    with the cross-entropy in chunks of 128 tokens, and AdamW fused on GPUs only. (Its script decays
    all weights; here it decays those that the others do.)
    """
    # A process that is begun by another takes over its path: what this interpreter has comes last,
    # so that torch is the same on all sides.
    sys.path.append(sysconfig.get_path("purelib"))
    import lightning
    from litgpt.utils import chunked_cross_entropy, instantiate_torch_optimizer
    from torchmetrics.aggregation import RunningMean

    precision = "bf16-mixed" if work.dtype == "bf16" else "32-true"
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
    model = fabric.setup(compiled(make_litgpt(work)))
    chosen = {"lr": LEARNING_RATE, "betas": BETAS}
    optimizer = fabric.setup_optimizers(
        instantiate_torch_optimizer(
            {"class_path": "torch.optim.AdamW", "init_args": chosen},
            groups_of(model),
            fused=fabric.device.type == "cuda",
        )
    )
    running = RunningMean(window=1, sync_on_compute=False)
    inputs, targets = shifted(work)
    model.train()

    def step() -> float:
        with fabric.no_backward_sync(model, enabled=False):
            loss = chunked_cross_entropy(model(inputs), targets)
            fabric.backward(loss)
        running.update(loss.detach())
        fabric.clip_gradients(model, optimizer, max_norm=CLIPPING)
        optimizer.step()
        optimizer.zero_grad()
        return running.compute().item()

    take_turns(pipe, work.steps, step)


def make_litgpt(work: Work) -> Any:
    """litgpt's model of the size with the weights that all sides start from."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama

    theirs = make_model(work)
    shape, hf = work.size.shape, theirs.config
    config = Config(
        block_size=work.size.context,
        n_layer=shape.layers,
        n_embd=shape.hidden,
        n_head=shape.heads,
        n_query_groups=hf.num_key_value_heads,
        intermediate_size=hf.intermediate_size,
        vocab_size=work.size.vocabulary,
        padded_vocab_size=work.size.vocabulary,
        norm_class_name="RMSNorm",
        norm_eps=hf.rms_norm_eps,
        mlp_class_name="LLaMAMLP",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    model = GPT(config)
    weights: dict[str, Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, theirs.state_dict())
    model.load_state_dict(weights)
    if shape.tied:
        model.transformer.wte.weight = model.lm_head.weight
    return model


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    """For AdamW: matrices are decayed, norms are not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def compiled(model: nn.Module) -> Any:
    """torch.compile without its workers, which would take the processor from the next turn."""
    from torch._inductor import config

    config.compile_threads = 1
    return torch.compile(model)


def shifted(work: Work) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (windows, context - 1) each."""
    ids = torch.from_numpy(work.ids)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


SIDES = {
    "ours": ours,
    "ours compiled": ours_compiled,
    "torch": plain_torch,
    "compiled": compiled_torch,
    "trainer": trainer,
    "litgpt": litgpt,
}
