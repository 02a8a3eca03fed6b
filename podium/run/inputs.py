"""What a stage reads: its parents, its records, its code, and a note of each for the lineage.

The notes are what `stage.json` says the output was made from. They decide later whether the stage
is up to date (`podium.run.lineage`), so that nothing was there is noted too.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from data.special_tokens import SpecialTokens
from podium.errors import DataError, ParentError
from podium.models import template_hash, tokenizer_hash
from podium.progress import say
from podium.run import lineage
from podium.run.parents import find_parent
from podium.run.recipe import Recipe
from podium.sampling.kinds import SamplerConfig
from podium.storage import hash_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from data.readers import ReadReport
    from data.windows import DocumentTokens

Record = TypeVar("Record", bound=BaseModel)

RECORD_TYPES = {
    "documents": "Document",
    "demonstrations": "Demonstration",
    "prompts": "Prompt",
    "rankings": "Ranking",
    "questions": "Question",
}


class StageInputs:
    """The half of `StageContext` that reads. Public attributes: name, recipe, run_dir."""

    def __init__(self, name: str, recipe: Recipe, run_dir: Path) -> None:
        self.name, self.recipe, self.run_dir = name, recipe, run_dir
        self._parents: dict[str, dict[str, Any]] = {}
        self._tokenizer_owner: tuple[str, str | None, str | None] | None = None
        self._data: dict[str, dict[str, Any]] = {}
        self._code: dict[str, dict[str, str]] = {}
        self._code_before: list[dict[str, str]] = []  # of the checkpoint the stage goes on from
        self._sampler: SamplerConfig | None = None
        self._special_tokens: SpecialTokens | None = None
        self.signal_seen: int | None = None  # set by the handler in podium.run.launch

    def logbook(self, text: str) -> None:
        """One line of what happened and why; the stage's context writes it."""
        raise NotImplementedError

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
        from data import records

        source = self._source(kind, split)
        return self._read(source, getattr(records, RECORD_TYPES[kind]), kind, split, passes)

    def _source(self, kind: str, split: str) -> lineage.SourceJSON:
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
        return source

    def document_tokens(
        self, tokenizer: "PreTrainedTokenizerBase", split: str = "train", passes: int = 1
    ) -> "DocumentTokens":
        """The documents as token ids, in the order of `records("documents")`, mapped from the disk
        and never read whole. They are made first where they are not there yet.

        Raises:
            DataError: as `records`. Interrupted: a signal came while they were made; what is done
                is kept.
        """
        from data import readers, tokens, windows

        source, report = self._source("documents", split), readers.ReadReport()
        named = readers.named_sources(lineage.absolute(source, self.run_dir))
        stores = {}
        for name, part in named.items():
            content = tokens.content_of(part)
            stores[name] = tokens.open_store(
                self.token_folder, part, content, tokenizer, self._signalled, say
            )
            report.dropped += stores[name].report.dropped
        documents = windows.mixed(stores, readers.weights_of(named), passes)
        report.kept, report.epochs = len(documents), documents.epochs
        self._note_read("documents", split, source, report, passes)
        return documents

    def trained_tokenizer(self, vocab_size: int) -> "PreTrainedTokenizerBase":
        """A tokenizer learned from the training documents, each source once: made by one process
        and kept, so that a resumed run begins where it trains.
        """
        from data import readers, tokens

        source = lineage.absolute(self._source("documents", "train"), self.run_dir)
        named = list(readers.named_sources(source).values())
        return tokens.open_tokenizer(self.token_folder, named, vocab_size, self._signalled)

    @property
    def token_folder(self) -> Path:
        """Where documents lie as tokens; all runs beside this one share it."""
        return self.run_dir.resolve().parent / ".tokens"

    def _signalled(self) -> bool:
        return self.signal_seen is not None

    def draws(self, kind: str, passes: float, split: str = "train") -> int:
        """How many draws of a mixture by weight `passes` passes take, for `records`; 1 where a
        source is read whole in every pass.

        Training that reads a mixture more than once asks for all its draws at once: each goes on
        into what was not read yet, where the first one repeated would leave most of a large source
        of small weight unread.
        """
        return max(math.ceil(passes), 1) if self._is_mixture(kind, split) else 1

    def _is_mixture(self, kind: str, split: str) -> bool:
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
        self._note_read(kind, split, source, report, passes)
        return found

    def _note_read(
        self, kind: str | None, split: str | None, source: Any, report: "ReadReport", passes: int
    ) -> None:
        files = lineage.source_files(source, self.run_dir)
        self._note(kind, split, source, report.kept, dict(report.dropped), files)
        if report.dropped or report.epochs:
            times = f", for {passes} passes" if passes > 1 else ""
            self.logbook(f"{kind or 'data'} ({split or source}{times}): {report}")

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

    def special_tokens(self) -> SpecialTokens:
        """What the recipe says of special tokens, and a note of it in the lineage."""
        self._special_tokens = self.recipe.special_tokens
        return self._special_tokens

    def code(self, path: Path) -> None:
        """Note a source file from outside Podium in the lineage: other content makes the stage
        anew. A stage that stopped because the code failed goes on with what it has become.
        """
        now = {"path": lineage.relative(path, self.run_dir), "sha256": hash_file(path)}
        self._code[now["path"]] = now
        before = self._code_before
        if any(old["path"] == now["path"] and old["sha256"] != now["sha256"] for old in before):
            self.logbook(f"{path} was mended after it had failed: other content from here on")

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

    def _inputs(self) -> dict[str, Any]:
        return {
            "config": lineage.fingerprint(self.recipe, self.name),
            "parents": list(self._parents.values()),
            "data": list(self._data.values()),
            "code": list(self._code.values()),
            "sampler": self._sampler and self._sampler.model_dump(mode="json"),
            "special_tokens": self._special_tokens and self._special_tokens.model_dump(),
        }
