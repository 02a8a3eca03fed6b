"""K-way reward training against TRL's RewardTrainer on the same rankings as pairs, and shared
prefix against plain.

    python -m benchmarks.reward                 all of it, about ten minutes on one quiet core
    python -m benchmarks.reward --quick         a small one in a minute or two

The sides of a comparison take turns, each in a process of its own, with the same model (OPT 4 x
128), rankings, number format, threads, attention code, AdamW and clipping; both put like lengths
together, neither uses gradient checkpointing or dropout. The tokens a backward differ: 4096 for
ours, Podium's default; 2048 for TRL, its fastest at K = 6 of the few tried. One step is one
optimizer step on all rankings. All losses must agree, so both do the same work. Times are medians
over the repeats, after one step to warm up; TRL is timed inside its training loop, from its first
forward to the end of its optimizer step, so neither its set-up nor its collation count (ours does).
Memory is how far a process's peak lies above what it held before its first step. The last line
printed is one JSON object:

    {"ratio": {"4": .., "6": .., "9": ..}, "memory_ratio": {..}, "shared_prefix_ratio": ..}

ratio = TRL's seconds / ours, memory_ratio = TRL's growth / ours, shared_prefix_ratio = plain
seconds / shared seconds (prompt 256, response 64, K = 6).
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from itertools import combinations
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from benchmarks.turns import Racer, Side, take_turns, trainer_turns
from podium.runtime import Dtype
from reward.batches import EncodedRanking

VOCABULARY, PAD, END = 1024, 1, 2
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Work:
    """What one side has to do."""

    items: list[EncodedRanking]
    dtype: Dtype
    threads: int
    steps: int
    attention: str
    forward_tokens: int  # of a micro-batch, with padding
    shared_prefix: bool = False


# ---- the two sides, each in its own process --------


def ours(pipe: Connection, work: Work) -> None:
    """Podium's update on a DeepSpeed engine."""
    from podium.engine import EngineConfig, make_engine
    from reward.updates import Objective, ScoringModule, update

    objective = Objective("pairwise", work.forward_tokens, work.shared_prefix, PAD, work.dtype)
    engine = make_engine(
        ScoringModule(make_model(work)),
        EngineConfig(),
        learning_rate=LEARNING_RATE,
        dtype=work.dtype,
    )

    def step() -> float:
        return update(engine, work.items, LEARNING_RATE, objective)["loss"]

    take_turns(pipe, work.steps, step)


def trl(pipe: Connection, work: Work) -> None:
    """TRL's RewardTrainer on every pair of the same rankings."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, PrinterCallback
    from trl import RewardConfig, RewardTrainer

    rows = [
        {
            "chosen_ids": [*item.prompt, *item.responses[i]],
            "rejected_ids": [*item.prompt, *item.responses[j]],
            "length": len(item.prompt) + max(len(item.responses[i]), len(item.responses[j])),
        }
        for item in work.items
        for a, b in combinations(range(len(item.ranks)), 2)
        for i, j in [(a, b) if item.ranks[a] < item.ranks[b] else (b, a)]
    ]

    config = RewardConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=work.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=work.dtype == "bf16",
        use_cpu=True,
        per_device_train_batch_size=(pairs := even_share(len(rows), work)),
        gradient_accumulation_steps=len(rows) // pairs,
        activation_checkpointing=False,
        max_length=None,
        pad_to_multiple_of=None,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = RewardTrainer(
        make_model(work),
        config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[trainer_turns(pipe)],
        processing_class=a_tokenizer(PreTrainedTokenizerFast),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def even_share(rows: int, work: Work) -> int:
    """Pairs a forward: at most the budget of tokens, and a divisor of all, so that TRL weighs every
    pair alike.
    """
    most = max(1, work.forward_tokens // (2 * max(item.longest for item in work.items)))
    return max(size for size in range(1, most + 1) if rows % size == 0)


def make_items(
    rankings: int, k: int, prompt: int, shortest: int, longest: int
) -> list[EncodedRanking]:
    """Rankings of random tokens without ties: what they say does not matter for time."""
    rng = np.random.default_rng([rankings, k, prompt])

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(10, VOCABULARY, count).tolist())

    return [
        EncodedRanking(
            prompt=tokens(prompt),
            responses=tuple(
                (*tokens(int(rng.integers(shortest, longest + 1)) - 1), END) for _ in range(k)
            ),
            response_index=tuple(range(k)),
            ranks=tuple(rng.permutation(k).astype(float).tolist()),
        )
        for _ in range(rankings)
    ]


def make_model(work: Work) -> Any:
    """OPT 4 x 128 with a reward head, the same weights every time."""
    from transformers import OPTConfig, OPTForSequenceClassification

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        word_embed_proj_dim=128,
        ffn_dim=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        dropout=0.0,
        pad_token_id=PAD,
        attn_implementation=work.attention,
    )
    config.num_labels = 1
    return OPTForSequenceClassification(config)


def a_tokenizer(kind: Any) -> Any:
    """TRL wants a tokenizer for its pad token only: the rows are tokens already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {"<pad>": PAD, "<end>": END, "<unk>": 0}
    return kind(
        tokenizer_object=Tokenizer(WordLevel(words, "<unk>")), pad_token="<pad>", eos_token="<end>"
    )


# ---- the race --------


def race(first: tuple[Side, Work], second: tuple[Side, Work]) -> tuple[Racer, Racer]:
    """Alternate the steps of two sides.

    Raises:
        RuntimeError: their losses part, so they did not do the same work.
    """
    racers = Racer(*first), Racer(*second)
    for _ in range(first[1].steps):
        for racer in racers:
            racer.step()
    gaps = [abs(a - b) for a, b in zip(racers[0].losses, racers[1].losses, strict=True)]
    if max(gaps) > (1e-3 if first[1].dtype == "fp32" else 1e-2):
        raise RuntimeError(
            f"the sides differ in their losses: {racers[0].losses} and {racers[1].losses}"
        )
    for racer in racers:
        racer.process.join()
    return racers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rankings and repeats")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each side")
    parser.add_argument("--k", type=int, nargs="*", default=[4, 6, 9])
    parser.add_argument(
        "--rankings", type=int, default=None, help="rankings a step; default 16, quick 4"
    )
    parser.add_argument(
        "--repeats", type=int, default=None, help="steps that count; default 5, quick 2"
    )
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    parser.add_argument("--trl-attention", choices=("eager", "sdpa"), default="sdpa")
    parser.add_argument("--forward-tokens", type=int, default=4096, help="of our micro-batches")
    parser.add_argument("--trl-forward-tokens", type=int, default=2048, help="of TRL's")
    options = parser.parse_args()
    rankings = options.rankings or (4 if options.quick else 16)
    steps = 1 + (options.repeats or (2 if options.quick else 5))

    def work(items: list[EncodedRanking], **more: Any) -> Work:
        given = {"attention": options.attention, "forward_tokens": options.forward_tokens} | more
        return Work(items, options.dtype, options.threads, steps, **given)

    result: dict[str, Any] = {"ratio": {}, "memory_ratio": {}}
    print(
        f"{rankings} rankings a step, {options.dtype}, {options.threads} threads, medians of "
        f"{steps - 1}"
    )
    for k in options.k:
        items = make_items(rankings, k, prompt=64, shortest=32, longest=64)
        theirs = work(
            items, attention=options.trl_attention, forward_tokens=options.trl_forward_tokens
        )
        we, they = race((ours, work(items)), (trl, theirs))
        result["ratio"][str(k)] = round(they.pace / we.pace, 2)
        result["memory_ratio"][str(k)] = round(they.growth / we.growth, 2)
        print(
            f"K={k}: {they.pace / we.pace:.2f} times as fast\n  ours {we}\n  TRL  {they}",
            flush=True,
        )
    long = make_items(rankings, 6, prompt=256, shortest=64, longest=64)
    shared, plain = race((ours, work(long, shared_prefix=True)), (ours, work(long)))
    result["shared_prefix_ratio"] = round(plain.pace / shared.pace, 2)
    print(
        f"prompt 256, response 64, K=6: {plain.pace / shared.pace:.2f}\n  shared {shared}\n  "
        f"plain  {plain}"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
