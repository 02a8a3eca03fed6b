"""One running stage: a folder in, a folder out. This is all that a stage's `main(config, stage)`
sees of the run.

    runs/<run>/<stage>/
        config.yaml  metrics.jsonl  logbook.md  checkpoints/<step>/  final/ (with stage.json)

Folders are written under a temporary name and renamed, and stage.json is the last file of final/:
no stage.json, no output. All processes of a distributed run call the same methods; only the main
one writes.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel

from podium import runtime
from podium.engine import world_size
from podium.errors import DataError, DivergenceError, ParentError
from podium.metrics import MetricsLog, Tracker, make_tracker, metric_text, truncate_metrics
from podium.models import template_hash, tokenizer_hash
from podium.progress import Bar, progress_bar
from podium.run import lineage
from podium.run.parents import find_parent
from podium.run.recipe import Recipe, dump_recipe
from podium.run.record import model_card, stage_record
from podium.run.registry import spec_of
from podium.sampling.kinds import SamplerConfig
from podium.storage import PARTIAL, publish, write_json, write_text, writing

Record = TypeVar("Record", bound=BaseModel)

CHECKPOINT_FILE = "checkpoint.json"
KEPT_CHECKPOINTS = 2
RECORD_TYPES = {
    "documents": "Document",
    "demonstrations": "Demonstration",
    "prompts": "Prompt",
    "rankings": "Ranking",
    "questions": "Question",
}


class StageContext:
    """Given to a stage's `main`. Public attributes: name, dir, run_dir, recipe, config, seed,
    dtype, device, threads, rank, world_size, is_main.
    """

    def __init__(self, name: str, recipe: Recipe, run_dir: Path) -> None:
        self.name, self.recipe, self.run_dir = name, recipe, run_dir
        self.dir = run_dir / name
        self.config = recipe.stage_config(name)
        self.seed = recipe.seed
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = world_size() if spec_of(name).distributed else 1
        self.is_main = self.rank == 0
        self.dtype = runtime.resolve_dtype(recipe.dtype)
        self.device = runtime.device()
        self.finished = False
        self.signal_seen: int | None = None  # set by the handler in podium.run.launch
        self._parents: dict[str, dict[str, Any]] = {}
        self._tokenizer_owner: tuple[str, str | None, str | None] | None = None
        self._data: dict[str, dict[str, Any]] = {}
        self._code: dict[str, dict[str, str]] = {}
        self._sampler: SamplerConfig | None = None
        self._resume = self._newest_checkpoint()
        before = self._resume[1] if self._resume else {}
        self._wall_before = before.get("wall_seconds", 0.0)
        self._cpu_before = before.get("cpu_seconds", 0.0)
        self._wall_start, self._cpu_start = time.monotonic(), time.process_time()
        # The order in which threads add numbers is part of the result, so a resumed run keeps its
        # thread count.
        wanted = before.get("threads", "auto") if recipe.threads == "auto" else recipe.threads
        self.threads = runtime.set_threads(wanted)
        self._metrics: MetricsLog | None = None
        self._trackers: list[Tracker] = []
        if self.is_main:
            self._open_folder(before.get("metrics_position", 0))
        runtime.seed_everything(self.seed)

    def _open_folder(self, metrics_position: int) -> None:
        with writing(self.run_dir):
            (self.dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_text(self.dir / "config.yaml", dump_recipe(self.config))
        truncate_metrics(self.dir / "metrics.jsonl", metrics_position)
        self._metrics = MetricsLog(self.dir / "metrics.jsonl")
        self._trackers = [
            make_tracker(t, self.run_dir.name, self.name, self.dir) for t in self.recipe.trackers
        ]

    # ---- what goes in --------

    def parent(self, ref: str, same_tokenizer: bool = True) -> Path:
        """The folder `ref` names, and a note of it in the lineage.

        `ref` is a stage of this run ("sft"), a stage folder, a model folder in Hugging Face layout,
        or a hub id.

        Raises:
            ParentError: it is not there (names the command that makes it), or (`same_tokenizer`)
                its tokenizer or chat template differs from that of a parent resolved before.
        """
        folder = find_parent(ref, self.recipe, self.run_dir)
        if same_tokenizer:
            self._check_tokenizer(ref, folder)
        record = lineage.read_stage_file(folder)
        self._parents[ref] = {
            "ref": ref,
            "path": lineage.relative(folder, self.run_dir),
            "sha256": lineage.hash_folder(folder),
            "stage": record["stage"] if record else None,
        }
        return folder

    def _check_tokenizer(self, ref: str, folder: Path) -> None:
        tokenizer, template = tokenizer_hash(folder), template_hash(folder)
        if tokenizer is None:
            return  # rankings, a world: no model, no tokenizer
        if self._tokenizer_owner is None:
            self._tokenizer_owner = (ref, tokenizer, template)
            return
        first, first_tokenizer, first_template = self._tokenizer_owner
        pairs = (
            ("tokenizer", tokenizer, first_tokenizer),
            ("chat template", template, first_template),
        )
        for what, here, there in pairs:
            if here != there:
                raise ParentError(
                    f"stage '{self.name}': the {what} of parent '{ref}' ({folder}) differs "
                    f"from that of '{first}'",
                    "give parents that come from one chain: a reward model scores only the "
                    "tokens it was trained on",
                )

    def records(self, kind: str, split: str = "train", passes: int = 1) -> list[Any]:
        """The records of a kind (documents, demonstrations, prompts, rankings, questions), hashed
        and counted. `passes`: how often a mixture by weight will be read, see `data.mixture`.

        Raises:
            DataError: no source for them in recipe or world, a missing or malformed file.
        """
        source = lineage.source_of(self.recipe, self.run_dir, kind, split)
        if source is None:
            raise DataError(
                f"stage '{self.name}'",
                None,
                f"data.{kind}.{split}",
                "no source in the recipe and none in an embedded world",
                f"add `data: {{{kind}: {{{split}: PATH}}}}` or `data: "
                f"{{world: {{name: willowbrook}}}}` to the recipe",
            )
        from data import records

        return self._read(source, getattr(records, RECORD_TYPES[kind]), kind, split, passes)

    def is_mixture(self, kind: str, split: str = "train") -> bool:
        """Whether the source mixes several by weight, so that a pass over it is only a draw."""
        source = lineage.source_of(self.recipe, self.run_dir, kind, split)
        return isinstance(source, list) and any(
            isinstance(part, dict) and part.get("weight") is not None for part in source
        )

    def has_records(self, kind: str, split: str = "train") -> bool:
        """Whether `records(kind, split)` has a source. That it has none is noted too: a source
        added later makes the stage anew.
        """
        source = lineage.source_of(self.recipe, self.run_dir, kind, split)
        if source is None:
            self._note(kind, split, None)
        return source is not None

    def read(self, path: str | Path, record_type: type[Record]) -> list[Record]:
        """Any other file of records, hashed and counted too."""
        return self._read(str(path), record_type, None, None)

    def has_file(self, path: Path) -> bool:
        """Whether there is a file to `read`; that there is none is noted too, as in
        `has_records`.
        """
        if not path.is_file():
            missing = {"path": lineage.relative(path, self.run_dir), "sha256": None, "bytes": 0}
            self._note(None, None, str(path), files=[missing])
        return path.is_file()

    def _read(
        self,
        source: Any,
        record_type: type[Any],
        kind: str | None,
        split: str | None,
        passes: int = 1,
    ) -> list[Any]:
        from data.readers import read_with_report

        found, report = read_with_report(
            lineage.absolute(source, self.run_dir), record_type, passes
        )
        files = lineage.source_files(source, self.run_dir)
        self._note(kind, split, source, len(found), dict(report.dropped), files)
        if report.dropped or report.epochs:
            times = f", for {passes} passes" if passes > 1 else ""
            self.logbook(f"{kind or 'data'} ({split or source}{times}): {report}")
        return found

    def _note(
        self,
        kind: str | None,
        split: str | None,
        source: Any,
        records: int = 0,
        dropped: dict[str, int] | None = None,
        files: list[dict[str, Any]] | None = None,
    ) -> None:
        """Remember where data was looked for and what was found there; `source` None: nothing."""
        self._data[json.dumps([kind, split, source])] = {
            "kind": kind,
            "split": split,
            "source": source,
            "records": records,
            "dropped": dropped or {},
            "files": files or [],
        }

    def sampler(self) -> SamplerConfig:
        """How this run samples, for `make_sampler`, and a note of it in the lineage."""
        self._sampler = self.recipe.sampler
        return self._sampler

    def code(self, path: Path) -> None:
        """Note a source file from outside Podium in the lineage: other content makes the stage
        anew. A stage that stopped because the code failed goes on with what it has become.
        """
        now = {"path": lineage.relative(path, self.run_dir), "sha256": lineage.hash_file(path)}
        self._code[now["path"]] = now
        before = self._resume[1].get("code", []) if self._resume else []
        if any(old["path"] == now["path"] and old["sha256"] != now["sha256"] for old in before):
            self.logbook(f"{path} was mended after it had failed: other content from here on")

    def code_failed(self) -> bool:
        """Let the code change without the stage being made anew, from the newest checkpoint on;
        False where there is none to go on from.
        """
        newest = self._newest_checkpoint()
        if newest is None or not self._code:
            return False
        folder, state = newest
        write_json(folder / CHECKPOINT_FILE, state | {"code_failed": True})
        return True

    def world(self) -> Any | None:
        """The embedded world, for its gold score and labelers; None when the run has only data of
        its own.
        """
        source = lineage.source_of(self.recipe, self.run_dir, "world", None)
        self._note("world", None, source)
        if source is None:
            return None
        from data.worlds import open_world

        return open_world(self.parent("world", same_tokenizer=False))

    # ---- what is told --------

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, mirrored to the trackers. Log a step before saving its
        checkpoint.
        """
        if self._metrics is not None:
            self._metrics.write(step, metrics)
            for tracker in self._trackers:
                tracker.log(step, metrics)

    def logbook(self, text: str) -> None:
        """One dated line of logbook.md: what happened and why."""
        if self.is_main:
            with writing(self.dir), (self.dir / "logbook.md").open("a", encoding="utf-8") as file:
                file.write(f"- {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z} {text}\n")

    def progress(
        self, total: int, description: str, unit: str = "step", start: int = 0
    ) -> AbstractContextManager[Bar]:
        """A bar (or plain lines): `with stage.progress(...) as bar: bar.advance(tokens=n,
        loss=x)`.
        """
        return progress_bar(total, description, unit, start)

    def check_finite(self, name: str, value: float, step: int) -> float:
        """`value`, if it is a finite number.

        Raises:
            DivergenceError: NaN or infinite; nothing of this step is saved.
        """
        if not math.isfinite(value):
            self.logbook(f"diverged: {name} is {value} at step {step}")
            raise DivergenceError(
                f"stage '{self.name}' diverged: {name} is {value} at step {step}",
                f"lower the learning rate (--set {self.name}.learning_rate=...) and see "
                f"{self.dir}/metrics.jsonl",
            )
        return value

    # ---- stopping and going on --------

    @property
    def stop_requested(self) -> bool:
        """Ctrl-C or SIGTERM was seen: save a checkpoint, then `raise Interrupted()`.

        Ask once a step on every process: they agree, so that all stop at the same step.
        """
        seen = self.signal_seen is not None
        if self.world_size == 1:
            return seen
        flag = torch.tensor(float(seen), device=self.device)
        torch.distributed.all_reduce(flag)
        return bool(flag.item() > 0)

    def save_checkpoint(self, step: int, save: Callable[[Path], None]) -> None:
        """Everything needed to go on after `step` steps; the two newest are kept.

        `save(folder)` is called on every process with the same empty folder.

        Raises:
            RunFolderError: the disk refused; the checkpoints before are untouched.
        """
        position = self._metrics.position() if self._metrics else 0

        def describe(folder: Path) -> None:
            state = {
                "step": step,
                "metrics_position": position,
                "threads": self.threads,
                **self._costs(),
            }
            write_json(folder / CHECKPOINT_FILE, state | self._inputs())

        self._write_folder(self.dir / "checkpoints" / str(step), save, describe)
        if self.is_main:
            for old in _checkpoints(self.dir)[:-KEPT_CHECKPOINTS]:
                shutil.rmtree(old)
        runtime.release_memory()

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Steps done and folder of the newest checkpoint; None = begin at the beginning.

        metrics.jsonl was cut back to that checkpoint when the stage opened, so the resumed log
        equals the unbroken one.
        """
        if self._resume is None:
            return None
        folder, state = self._resume
        return state["step"], folder

    def _newest_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        found = _checkpoints(self.dir)
        return (found[-1], json.loads((found[-1] / CHECKPOINT_FILE).read_text())) if found else None

    # ---- what comes out --------

    def finish(
        self, save: Callable[[Path], None], metrics: dict[str, float], card: str, tokens: int = 0
    ) -> None:
        """Write final/: what `save(folder)` writes (called on every process), README.md with
        `card`, stage.json last.

        `metrics` are the headline numbers, `tokens` those trained on. Checkpoints are deleted: they
        were for resuming.

        Raises:
            RunFolderError: the disk refused; nothing half-written is left and the checkpoints are
                untouched.
        """
        costs = self._costs()

        def describe(folder: Path) -> None:
            facts = {
                "seed": self.seed,
                "dtype": self.dtype,
                "device": self.device.type,
                "threads": self.threads,
            }
            record = stage_record(
                self.name, folder, self._inputs(), facts, metrics, tokens, costs, self.world_size
            )
            write_text(folder / "README.md", model_card(card, record))
            write_json(folder / lineage.STAGE_FILE, record)

        self._write_folder(self.dir / "final", save, describe)
        if self.is_main:
            shutil.rmtree(self.dir / "checkpoints", ignore_errors=True)
        self.finished = True
        told = ", ".join(f"{name} {metric_text(float(v))}" for name, v in metrics.items())
        self.logbook(f"finished: {told}")

    def _write_folder(
        self, folder: Path, save: Callable[[Path], None], describe: Callable[[Path], None]
    ) -> None:
        """Fill a partial folder on all processes, describe it on the main one, publish it under its
        real name.
        """
        partial = folder.with_name(folder.name + PARTIAL)
        try:
            with writing(folder.parent):
                if self.is_main:
                    shutil.rmtree(partial, ignore_errors=True)
                    partial.mkdir(parents=True)
                self._barrier()
                save(partial)
                self._barrier()
                if self.is_main:
                    describe(partial)
                    publish(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._barrier()

    def _barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()

    def _inputs(self) -> dict[str, Any]:
        return {
            "config": lineage.fingerprint(self.recipe, self.name),
            "parents": list(self._parents.values()),
            "data": list(self._data.values()),
            "code": list(self._code.values()),
            "sampler": self._sampler and self._sampler.model_dump(mode="json"),
        }

    def _costs(self) -> dict[str, float]:
        return {
            "wall_seconds": round(self._wall_before + time.monotonic() - self._wall_start, 2),
            "cpu_seconds": round(self._cpu_before + time.process_time() - self._cpu_start, 2),
        }

    def close(self) -> None:
        """Close the log and the trackers (podium.run.launch does)."""
        if self._metrics is not None:
            self._metrics.close()
        for tracker in self._trackers:
            tracker.close()


def _checkpoints(stage_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    folders = [
        p
        for p in stage_dir.glob("checkpoints/*")
        if p.name.isdigit() and (p / CHECKPOINT_FILE).is_file()
    ]
    return sorted(folders, key=lambda p: int(p.name))


def checkpoint_record(stage_dir: Path) -> dict[str, Any] | None:
    """What the newest checkpoint was made from; None without one."""
    found = _checkpoints(stage_dir)
    return json.loads((found[-1] / CHECKPOINT_FILE).read_text()) if found else None
