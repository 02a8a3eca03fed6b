"""Documents to tokens on disk, ours beside `datasets.map`, with the same files and tokenizer.

    python -m benchmarks.data [--megabytes 200] [--kills 0]

Each side runs in a process of its own: seconds, megabytes of text a second, and the most memory it
held. Ours ends in files that training maps; the peer's in the Arrow files that it maps. `--kills K`
also kills ours so often with SIGKILL at random moments, lets it go on each time, and compares each
byte with the unbroken one's.
"""

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

from data.sources import Source
from data.tokens import PARTS, content_of, open_store, open_tokenizer
from data.willowbrook.world import Willowbrook

SPAWN = multiprocessing.get_context("spawn")  # a process that inherits no memory
VOCABULARY = 8192


def main() -> None:
    """Write the corpus, learn a tokenizer, time both sides, and kill ours if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        corpus, sample = folder / "corpus.jsonl", folder / "sample.jsonl"
        write_corpus(sample, 2_000_000)
        write_corpus(corpus, options.megabytes * 1_000_000)
        open_tokenizer(folder / "ours", [Source(path=str(sample))], VOCABULARY, lambda: False)
        print(f"{options.megabytes} MB of JSON Lines, a vocabulary of {VOCABULARY}")
        for name, side in (("podium", ours), ("datasets.map", theirs)):
            seconds, memory, tokens = measured(side, folder, corpus, sample)
            rate = options.megabytes / seconds
            print(
                f"{name:<14}{seconds:7.1f} s {rate:6.2f} MB/s {memory:7.0f} MB  {tokens:,} tokens"
            )
        if options.kills:
            killed(folder, corpus, sample, options.kills)


def write_corpus(path: Path, size: int) -> None:
    """Documents of the village with a number in each, so that no two are the same."""
    made = islice(Willowbrook(seed=0).documents(random.Random(0)), 20_000)
    texts: list[str] = [document.text for document in made]
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for number in count():
            line = json.dumps({"text": f"{number}. {texts[number % len(texts)]}"}) + "\n"
            written += file.write(line)
            if written >= size:
                return


def measured(side: Callable[..., int], *where: Path | str) -> tuple[float, float, int]:
    """Seconds, megabytes at the most, and tokens of one side in a process of its own."""
    reader, writer = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_timed, args=(writer, side, *where))
    process.start()
    found: tuple[float, float, int] = reader.recv()
    process.join()
    return found


def _timed(writer: Any, side: Callable[..., int], *where: Path | str) -> None:
    began = time.perf_counter()
    tokens = side(*where)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    writer.send((time.perf_counter() - began, memory, tokens))


def ours(folder: Path, corpus: Path, sample: Path, name: str = "ours") -> int:
    """The store that pretraining maps."""
    tokenizer = open_tokenizer(
        folder / "ours", [Source(path=str(sample))], VOCABULARY, lambda: False
    )
    source = Source(path=str(corpus))
    return len(open_store(folder / name, source, content_of(source), tokenizer).tokens)


def theirs(folder: Path, corpus: Path, sample: Path) -> int:
    """The usual script around `datasets`: load, map in batches, count."""
    import datasets

    tokenizer = open_tokenizer(
        folder / "ours", [Source(path=str(sample))], VOCABULARY, lambda: False
    )

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        ids = tokenizer(batch["text"], add_special_tokens=False, split_special_tokens=True)
        return {"input_ids": ids["input_ids"], "length": [len(row) for row in ids["input_ids"]]}

    datasets.disable_progress_bars()
    read = datasets.load_dataset(
        "json", data_files=str(corpus), split="train", cache_dir=str(folder / "theirs")
    )
    done = read.map(encode, batched=True, remove_columns=["text"])
    return sum(done["length"]) + len(done)


def killed(folder: Path, corpus: Path, sample: Path, kills: int) -> None:
    """Kill, go on, and compare with the unbroken store."""
    rng, broken = random.Random(0), folder / "broken"
    for _ in range(kills):
        process = SPAWN.Process(target=ours, args=(folder, corpus, sample, "broken"))
        process.start()
        process.join(rng.uniform(5, 15))
        process.kill()
        process.join()
        ended = "had ended" if process.exitcode != -signal.SIGKILL else "killed"
        notes = [json.loads(p.read_text())["documents"] for p in broken.glob("*/progress.json")]
        print(f"{ended}; {notes} documents noted")
    measured(ours, folder, corpus, sample, "broken")
    (found,) = (p.parent for p in broken.glob("*/store.json"))
    same = all(
        (found / part).read_bytes() == (folder / "ours" / found.name / part).read_bytes()
        for part in PARTS
    )
    print(f"after {kills} kills: {'every byte the same' if same else 'DIFFERENT'}")
    shutil.rmtree(broken)


if __name__ == "__main__":
    main()
