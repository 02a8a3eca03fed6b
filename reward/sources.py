"""Where rankings come from, and which of them may teach, validate or stand for people the model has
never met.

A source is a stage of this run ("rankings"), a folder with rankings.train.jsonl (and .validation,
.heldout), one JSONL file (an export of the labeling site is one), or null for the recipe's own
`data.rankings`. Whatever the source:

- held-out labelers (cohort "heldout") never teach; they make a split of their own (InstructGPT,
  section 3.4);
- a prompt is in one split only, over all sets of a recipe together;
- without a validation file, a tenth of the prompts is set aside, by hash, so that a longer file
  moves no prompt.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.records import Message, Ranking
from podium.errors import DataError
from podium.run.context import StageContext
from podium.run.lineage import STAGE_FILE

HELDOUT = "heldout"
VALIDATION_SHARE = 0.1
SPLITS = ("train", "validation", "heldout")


class RankingSplits(NamedTuple):
    """Rankings by what they may be used for."""

    train: list[Ranking]
    validation: list[Ranking]  # other prompts, the same labelers
    heldout: list[Ranking]  # other prompts, labelers of the cohort "heldout"
    dropped: Counter[str]  # by reason


def prompt_key(prompt: Sequence[Message]) -> str:
    """The prompt's identity: equal messages, equal key."""
    text = "\x1e".join(f"{message.role}\x1f{message.content}" for message in prompt)
    return hashlib.sha256(text.encode()).hexdigest()


def share_of(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on a prompt's key and a salt alone."""
    return int(hashlib.sha256(f"{salt}{key}".encode()).hexdigest()[:12], 16) / 16**12


def read_splits(stage: StageContext, source: str | None, draws: int = 1) -> RankingSplits:
    """The rankings of one source, split. `draws`: how often a mixture in `data.rankings` is drawn;
    what is held back of it is held back once, however often it was drawn.

    Raises:
        DataError: nothing to train on, or a labeler in both cohorts.
    """
    if source is None:
        found = {"train": stage.records("rankings", "train", draws)}
        if stage.has_records("rankings", "validation"):
            found["validation"] = stage.records("rankings", "validation")
        splits = split_rankings(found, "data.rankings")
        if draws == 1:
            return splits
        return splits._replace(validation=once(splits.validation), heldout=once(splits.heldout))
    path = Path(os.path.expandvars(source)).expanduser()
    if path.suffix == ".jsonl":
        return split_rankings({"train": stage.read(path, Ranking)}, source)
    by_hand = (path / "rankings.train.jsonl").is_file() and not (path / STAGE_FILE).is_file()
    folder = path if by_hand else stage.parent(source)
    files = {split: folder / f"rankings.{split}.jsonl" for split in SPLITS}
    if not files["train"].is_file():
        raise DataError(
            folder,
            problem="holds no rankings.train.jsonl",
            fix="name a rankings stage or a JSONL file",
        )
    return split_rankings(
        {s: stage.read(file, Ranking) for s, file in files.items() if stage.has_file(file)}, source
    )


def draws_of(stage: StageContext, rankings: Any, epochs: float) -> int:
    """How many draws of a mixture the epochs take; 1 for rankings that are read whole each epoch,
    as all are but a mixture by weight in `data.rankings` (`rankings` null).
    """
    return stage.draws("rankings", epochs) if rankings is None else 1


def once(rankings: Sequence[Ranking]) -> list[Ranking]:
    """The rankings without those that were there before, to the letter."""
    return list({ranking.model_dump_json(): ranking for ranking in rankings}.values())


def split_rankings(files: dict[str, list[Ranking]], source: str) -> RankingSplits:
    """Sort the records of a source's files into `RankingSplits` by the rules above. Order within a
    split is the files'.

    files: records by split; "train" is needed.

    Raises:
        DataError: a labeler in both cohorts, or no rankings left to train on.
    """
    everything = [ranking for rankings in files.values() for ranking in rankings]
    check_cohorts(everything, source)
    train = [r for r in files["train"] if r.cohort != HELDOUT]
    if "validation" in files:
        validation = [r for r in files["validation"] if r.cohort != HELDOUT]
    else:
        aside = [share_of(prompt_key(r.prompt), "validation") < VALIDATION_SHARE for r in train]
        validation = [r for r, out in zip(train, aside, strict=True) if out]
        train = [r for r, out in zip(train, aside, strict=True) if not out]
    if not train:
        raise DataError(
            source,
            problem="no rankings by training labelers",
            fix="give rankings of another cohort too",
        )
    taught = {prompt_key(r.prompt) for r in train}
    heldout = [r for r in everything if r.cohort == HELDOUT]
    kept = [
        [r for r in split if prompt_key(r.prompt) not in taught] for split in (validation, heldout)
    ]
    dropped = Counter(
        {
            "validation rankings whose prompt is also in training (dropped)": len(validation)
            - len(kept[0]),
            "rankings by held-out labelers whose prompt is also in training (dropped)": len(heldout)
            - len(kept[1]),
        }
    )
    return RankingSplits(train, kept[0], kept[1], +dropped)


def one_split(sets: list[RankingSplits], source: str) -> list[RankingSplits]:
    """The splits of several sets as one split of their union: what any set holds back, no other
    teaches. Training rankings of prompts that another set holds back validate instead.

    Raises:
        DataError: a labeler is held out in one set and not in another.
    """
    check_cohorts([r for splits in sets for part in splits[:3] for r in part], source)
    held_back = {
        prompt_key(r.prompt)
        for splits in sets
        for part in (splits.validation, splits.heldout)
        for r in part
    }
    found = []
    for splits in sets:
        moved = [r for r in splits.train if prompt_key(r.prompt) in held_back]
        train = [r for r in splits.train if prompt_key(r.prompt) not in held_back]
        told = "training rankings of prompts that another set holds back (validate instead)"
        found.append(
            RankingSplits(
                train,
                [*splits.validation, *moved],
                splits.heldout,
                splits.dropped + Counter({told: len(moved)}),
            )
        )
    return found


def check_cohorts(rankings: Iterable[Ranking], source: str) -> None:
    """A held-out labeler who also teaches is not held out.

    Raises:
        DataError: names the labeler and both cohorts.
    """
    cohorts: dict[str, set[str]] = defaultdict(set)
    for ranking in rankings:
        if ranking.labeler is not None:
            cohorts[ranking.labeler].add(ranking.cohort)
    for labeler, names in cohorts.items():
        if HELDOUT in names and len(names) > 1:
            others = ", ".join(sorted(names - {HELDOUT}))
            raise DataError(
                source,
                field="labeler",
                problem=f"'{labeler}' is in the cohorts {others} and {HELDOUT}",
                fix="give each labeler one cohort; a held-out labeler's rankings must not teach",
            )


def in_half(ranking: Ranking, half: str) -> bool:
    """Whether a ranking belongs to a half ("first", "second", or "all") of the prompts, by hash of
    the prompt.
    """
    return half == "all" or (share_of(prompt_key(ranking.prompt), "half") < 0.5) == (
        half == "first"
    )


def merge_splits(sets: list[tuple[RankingSplits, float]]) -> RankingSplits:
    """All sets as one, for the report; weights matter only in training."""
    kinds = zip(*(splits[:3] for splits, _ in sets), strict=True)
    train, validation, heldout = ([ranking for part in kind for ranking in part] for kind in kinds)
    return RankingSplits(train, validation, heldout, Counter())
