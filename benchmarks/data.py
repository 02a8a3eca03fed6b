"""Documents to tokens on disk and training from them, ours beside `datatrove` and `datasets.map`,
with the same file and tokenizer.

    python -m benchmarks.data [--megabytes 200] [--threads 1] [--keep FOLDER] [--kills 0]

Each side runs in a process of its own: seconds, megabytes of text a second by the clock and by a
second of processor time (which is what a core does), and the most memory it held. Ours ends in
files that training maps; datatrove's in its own of the same kind (unshuffled, an end of document
after each; one task, since a task reads whole files); the peer's in the Arrow files that it maps.
Then `python -m pretrain.train` is started on the prepared corpus as a person starts it: seconds to
its first update, and its memory. `--kills K` also kills our preparation so often with SIGKILL at
random moments, lets it go on each time, and compares each byte with the unbroken one's. datatrove
is left out where it is not installed (`pip install datatrove orjson`).
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from data.sources import Source
from data.tokens import PARTS, content_of, open_store, open_tokenizer
from data.willowbrook.world import Willowbrook

SPAWN = multiprocessing.get_context("spawn")  # a process that inherits no memory
VOCABULARY = 8192
RECIPE = """\
name: started
data: {{documents: {{train: {corpus}, validation: {sample}}}}}
pretrain: {{tokenizer: {tokenizer}, tokens: 6400, warmup_tokens: 640}}
"""


class Figures(NamedTuple):
    """What one side took: seconds by the clock and of the processor, megabytes, and tokens made."""

    seconds: float
    processor: float
    memory: float
    tokens: int


def main() -> None:
    """Write the corpus, learn a tokenizer, time the sides, start training, and kill if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--threads", type=int, help="of the tokenizer; default: one a core")
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--keep", type=Path, help="a folder for all files, used again")
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = options.keep or Path(place)
        corpus, sample = folder / f"corpus-{options.megabytes}.jsonl", folder / "sample.jsonl"
        for path, size in ((sample, 2), (corpus, options.megabytes)):
            if not path.is_file():
                write_corpus(path, size * 1_000_000)
        save_tokenizer(folder, sample)
        print(f"{options.megabytes} MB of JSON Lines, a vocabulary of {VOCABULARY}")
        race(options.sides, options.megabytes, folder, corpus)
        if "podium" in options.sides:
            started(folder, corpus, sample)
        if options.kills:
            killed(folder, corpus, options.kills)


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


def save_tokenizer(folder: Path, sample: Path) -> None:
    """One that all sides use, learned from the sample."""
    if not (folder / "tokenizer").is_dir():
        learned = open_tokenizer(
            folder / "learned", [Source(path=str(sample))], VOCABULARY, lambda: False
        )
        learned.save_pretrained(folder / "tokenizer")


def race(sides: list[str], megabytes: int, folder: Path, corpus: Path) -> None:
    """One side after the other, a line each."""
    if "datatrove" in sides and find_spec("datatrove") is None:
        print("datatrove is left out: it is not installed here")
        sides = [side for side in sides if side != "datatrove"]
    print(f"{'':<14}{'seconds':>9}{'MB/s':>8}{'MB per processor second':>26}{'memory':>11}  tokens")
    for side in sides:
        found = measured(SIDES[side], folder, corpus)
        print(
            f"{side:<14}{found.seconds:>9.1f}{megabytes / found.seconds:>8.2f}"
            f"{megabytes / found.processor:>26.2f}{found.memory:>8.0f} MB  {found.tokens:,}",
            flush=True,
        )


def measured(side: Callable[..., int], *where: Path | str) -> Figures:
    """What one side takes in a process of its own."""
    reader, writer = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_timed, args=(writer, side, *where))
    process.start()
    writer.close()
    found: Figures = reader.recv()
    process.join()
    return found


def _timed(writer: Any, side: Callable[..., int], *where: Path | str) -> None:
    began = time.perf_counter()
    tokens = side(*where)
    seconds = time.perf_counter() - began
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    processor = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    memory = max(own.ru_maxrss, children.ru_maxrss) / 1000
    writer.send(Figures(seconds, processor, memory, tokens))


def load(folder: Path) -> Any:
    """The tokenizer that all sides use."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def podium(folder: Path, corpus: Path, name: str = "runs/.tokens") -> int:
    """The store that pretraining maps, where a run in `runs` looks for it."""
    from data.template import prepare_tokenizer

    tokenizer, source = load(folder), Source(path=str(corpus))
    prepare_tokenizer(tokenizer)
    return len(open_store(folder / name, source, content_of(source), tokenizer).tokens)


def datatrove(folder: Path, corpus: Path) -> int:
    """datatrove's own reader and tokenised writer in its local executor."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    out = folder / "datatrove"
    shutil.rmtree(out, ignore_errors=True)
    reader = JsonlReader(str(folder), glob_pattern=corpus.name, recursive=False)
    writer = DocumentTokenizer(
        str(out / "tokens"),
        str(folder / "tokenizer" / "tokenizer.json"),
        eos_token="<|endoftext|>",
        shuffle_documents=False,
    )
    LocalPipelineExecutor([reader, writer], logging_dir=str(out / "logs")).run()
    return sum(path.stat().st_size for path in (out / "tokens").glob("*.ds")) // writer.token_size


def datasets_map(folder: Path, corpus: Path) -> int:
    """The usual script around `datasets`: load, map in batches, count."""
    import datasets

    tokenizer = load(folder)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        ids = tokenizer(batch["text"], add_special_tokens=False, split_special_tokens=True)
        return {"input_ids": ids["input_ids"], "length": [len(row) for row in ids["input_ids"]]}

    shutil.rmtree(folder / "datasets", ignore_errors=True)
    datasets.disable_progress_bars()
    read = datasets.load_dataset(
        "json", data_files=str(corpus), split="train", cache_dir=str(folder / "datasets")
    )
    done = read.map(encode, batched=True, remove_columns=["text"])
    return sum(sum(rows["length"]) for rows in done.iter(10_000)) + len(done)


SIDES = {"podium": podium, "datatrove": datatrove, "datasets.map": datasets_map}


def started(folder: Path, corpus: Path, sample: Path) -> None:
    """Pretraining on the prepared corpus, twice: a first start hashes the file, a second one knows
    its hash.
    """
    recipe, runs = folder / "started.yaml", folder / "runs"
    about = {"corpus": corpus, "sample": sample, "tokenizer": folder / "tokenizer"}
    recipe.write_text(RECIPE.format(**{name: path.resolve() for name, path in about.items()}))
    command = [sys.executable, "-m", "pretrain.train", str(recipe), "--runs-dir", str(runs)]
    for turn in ("first", "second"):
        metrics = runs / "started" / "pretrain" / "metrics.jsonl"
        shutil.rmtree(runs / "started", ignore_errors=True)
        began, first, private, resident = time.perf_counter(), 0.0, 0, 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None:
            if not first and metrics.is_file() and metrics.stat().st_size:
                first = time.perf_counter() - began
            private = max(private, held(process.pid, "RssAnon"))
            resident = max(resident, held(process.pid, "VmHWM"))
            time.sleep(0.02)
        if process.returncode or not first:
            assert process.stderr is not None
            raise SystemExit(f"pretraining failed: {process.stderr.read().decode()[-2000:]}")
        print(
            f"pretraining, {turn} start: {first:.1f} s to the first update; at the most "
            f"{private / 1000:.0f} MB of its own, {resident / 1000:.0f} MB with mapped files",
            flush=True,
        )


def held(pid: int, name: str) -> int:
    """Kilobytes of one line of a process's status, 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def killed(folder: Path, corpus: Path, kills: int) -> None:
    """Kill, go on, and compare with the unbroken store."""
    rng, broken = random.Random(0), folder / "broken"
    for _ in range(kills):
        process = SPAWN.Process(target=podium, args=(folder, corpus, "broken"))
        process.start()
        process.join(rng.uniform(5, 15))
        process.kill()
        process.join()
        ended = "had ended" if process.exitcode != -signal.SIGKILL else "killed"
        notes = [json.loads(p.read_text())["documents"] for p in broken.glob("*/progress.json")]
        print(f"{ended}; {notes} documents noted")
    measured(podium, folder, corpus, "broken")
    (found,) = (p.parent for p in broken.glob("*/store.json"))
    whole = folder / "runs" / ".tokens" / found.name
    same = all((found / part).read_bytes() == (whole / part).read_bytes() for part in PARTS)
    print(f"after {kills} kills: {'every byte the same' if same else 'DIFFERENT'}")
    shutil.rmtree(broken)


if __name__ == "__main__":
    main()
