"""A ladder of small models on the village: five sizes by four amounts of text, three shapes of like
size, and instructions learned from scratch and from text.

    python -m benchmarks.scaling runs/ladder           # some ten minutes of one core
    podium fit runs/ladder                             # the laws, with intervals and pictures

Every run is the stage `pretrain` with a cosine of its own length (Hoffmann et al. 2022: runs cut
short of their schedule look worse than they are). Finished runs are skipped, so a stopped ladder
goes on. docs/lab/scaling.md tells what came out.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.jsonl import read_jsonl, write_jsonl
from data.records import Demonstration, Document
from data.worlds import Config as WorldConfig
from data.worlds import write_world
from podium.run.chain import run_chain
from podium.run.recipe import validate
from pretrain.presets import PRESETS, Preset

SHAPES = ((1, 16), (1, 32), (2, 48), (2, 80), (3, 112))  # layers, width
TOKENS = (20_000, 40_000, 80_000, 160_000)
DEEP_AND_WIDE = ((8, 72), (3, 112), (1, 192))  # 0.4 to 0.5M parameters beside the embeddings
SHAPE_TOKENS = 80_000
TRANSFER_SHAPES = ((2, 48), (2, 80))
SCRATCH_TOKENS = (10_000, 20_000, 40_000, 80_000)
TUNED_TOKENS = (5_000, 10_000, 20_000)
CONTEXT, BATCH = 160, 4


def main(folder: Path) -> None:
    """Make every run of the ladder that is not finished yet."""
    data = folder / "data"
    if not (data / "instructions.validation.jsonl").is_file():
        write_files(data)
    tokenizer = None
    for shape in dict.fromkeys([*SHAPES, *DEEP_AND_WIDE]):
        for tokens in TOKENS if shape in SHAPES else (SHAPE_TOKENS,):
            name = f"text-{shape[0]}x{shape[1]}-{tokens}"
            made = run(folder, name, shape, "documents", tokens, tokenizer=tokenizer)
            tokenizer = tokenizer or str(made)
    for shape in TRANSFER_SHAPES:
        for tokens in SCRATCH_TOKENS:
            name = f"scratch-{shape[0]}x{shape[1]}-{tokens}"
            run(folder, name, shape, "instructions", tokens, tokenizer=tokenizer)
        text = folder / f"text-{shape[0]}x{shape[1]}-{TOKENS[-1]}" / "pretrain" / "final"
        for tokens in TUNED_TOKENS:
            name = f"transfer-{shape[0]}x{shape[1]}-{tokens}"
            run(folder, name, shape, "instructions", tokens, init_from=str(text))


def write_files(data: Path) -> None:
    """The village's documents, and its demonstrations as plain text."""
    write_world(WorldConfig(), data)
    for split in ("train", "validation"):
        shown = read_jsonl(data / f"demonstrations.{split}.jsonl", Demonstration)
        write_jsonl(data / f"instructions.{split}.jsonl", as_text(shown))


def as_text(shown: Iterable[Demonstration]) -> list[Document]:
    """What was asked and answered, a line each."""
    return [Document(text="\n".join(turn.content for turn in one.messages)) for one in shown]


def run(
    folder: Path,
    name: str,
    shape: tuple[int, int],
    kind: str,
    tokens: int,
    tokenizer: str | None = None,
    init_from: str | None = None,
) -> Path:
    """Train one model; its folder."""
    layers, hidden = shape
    preset = f"ladder-{layers}x{hidden}"
    # As llama-tiny but for layers and width: what was found best there for many small updates.
    PRESETS[preset] = Preset(
        "llama", layers, hidden, hidden // 16, 3e-3, 640, inner=8 * hidden // 3, initial_std=0.05
    )
    started: dict[str, Any] = (
        {"init_from": init_from} if init_from else {"preset": preset, "tokenizer": tokenizer}
    )
    tree = {
        "name": name,
        "seed": 0,
        "threads": 1,
        "data": {
            "documents": {
                split: str(folder / "data" / f"{kind}.{split}.jsonl")
                for split in ("train", "validation")
            }
        },
        "pretrain": {
            **started,
            "context": CONTEXT,
            "batch_size": BATCH,
            "per_device_train_batch_size": BATCH,
            "tokens": tokens,
            "learning_rate": 3e-3,
            "warmup_tokens": tokens // 20,
            "eval_steps": 10**6,
            "eval_tokens": 20_000,
            "save_steps": 10**6,
        },
    }
    return run_chain(validate(tree, "benchmarks.scaling"), folder) / "pretrain" / "final"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/ladder"))
