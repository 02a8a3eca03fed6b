"""`podium instruct self RUN`: a model makes up tasks and answers them, from a few of people's own
(Self-Instruct, Wang et al. 2022).

1. The model goes on with a list of tasks, mostly seeds and some that it made itself; with uses of
   people (InstructGPT's user-based prompts, appendix A.1) it writes a task for each use in turn.
2. What breaks a rule or is like a task that is there (ROUGE-L above 0.7) is thrown away.
3. Each task is called classification or not, by which of ` Yes` and ` No` the model finds likelier.
4. The model writes examples, the input first, or of classification the label first; rules again.
   A model whose context does not hold that request answers the task in its own turns.

Writes, in a folder: tasks.jsonl (seeds for the next time), demonstrations.jsonl (for SFT),
report.json. Every record says which model said it, from which seeds, in which round. Each round is
on the disk before the next begins, and its random numbers are those of its number, so that the same
command after a kill -9 ends in the same files.

Left out: the penalties on repetition that the paper's model was asked with, and its request for
several inputs with one output.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data.jsonl import write_jsonl
from data.records import Message
from data.template import decode_response, encode_prompt, stop_token_ids
from podium.errors import PodiumError
from podium.models import absent_token_ids, check_rows, context_of, load_tokenizer
from podium.progress import progress_bar
from podium.run.lineage import hash_folder
from podium.runtime import device
from podium.sampling.kinds import SamplerConfig, make_sampler
from podium.sampling.protocol import SamplingParams, StopStrings
from podium.storage import write_json, writing
from podium.widths import Weights, load_to_answer
from sft.instruct.filters import Pool, fault_of, keep_instances
from sft.instruct.prompts import (
    VERDICTS,
    drawn,
    fitting,
    instance_prompt,
    label_prompt,
    list_prompt,
    read_instances,
    read_list,
    use_prompt,
)
from sft.instruct.tasks import Instance, Task, append, demonstrations, whole_rows

SETTINGS_FILE, REPORT_FILE = "settings.json", "report.json"
TASKS_FILE, DEMONSTRATIONS_FILE = "tasks.jsonl", "demonstrations.jsonl"
ROUNDS_FILE, ANSWERS_FILE = "rounds.jsonl", "answers.jsonl"  # what was made, as it was made


@dataclass(frozen=True)
class Settings:
    """What decides the tasks; a folder holds those of one of these.

    Attributes:
        tasks: how many to make. shown: tasks in the list that the model goes on with. own: of
            these, at most so many of its own. Paper: 8 and 2.
        requests: lists in a round, continued together.
        ask: put requests in the model's turns; else it goes on with plain text.
        temperature, top_p, seed: of the tasks; examples are drawn greedily. Paper: 0.7 and 0.5.
        max_new_tokens: of one list, and of the examples of one task.
        patience: rounds without a new task after which there are enough.
        uses: of people, for a task each in turn; none: lists.
    """

    tasks: int = 200
    shown: int = 8
    own: int = 2
    requests: int = 16
    ask: bool = False
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0
    max_new_tokens: int = 256
    patience: int = 20
    uses: tuple[str, ...] = ()
    weights: Weights = "fp32"


class Asker:
    """A model that is asked for a continuation."""

    def __init__(self, folder: Path, config: SamplerConfig, settings: Settings) -> None:
        self.settings, self.tokenizer = settings, load_tokenizer(folder)
        model = load_to_answer(folder, settings.weights, device())
        check_rows(self.tokenizer, model, folder)
        self.context = context_of(model.config) or 2048
        self._sampler = make_sampler(config, model, int(self.tokenizer.pad_token_id))
        self._params = SamplingParams(
            self.new_tokens,
            stop_token_ids=stop_token_ids(self.tokenizer, model),
            absent_token_ids=absent_token_ids(self.tokenizer, model.config),
        )

    @property
    def new_tokens(self) -> int:
        """A small context is shared between what is shown and what is said."""
        return min(self.settings.max_new_tokens, self.context // 2)

    def encode(self, text: str) -> list[int]:
        if self.settings.ask:
            return encode_prompt(self.tokenizer, [Message(role="user", content=text)])
        return self.tokenizer.encode(text)

    def turns(self, instruction: str) -> list[int] | None:
        """The task asked as people would, for a model whose context does not hold the request with
        an example; None where it has no turns, or no room.
        """
        if self.tokenizer.chat_template is None:
            return None
        ids = encode_prompt(self.tokenizer, [Message(role="user", content=instruction)])
        return ids if len(ids) + self.new_tokens <= self.context else None

    def answer(self, prompt: list[int], stop: Sequence[str]) -> tuple[str, bool]:
        """The likeliest continuation."""
        return self.go_on([prompt], stop, seed=0, greedy=True)[0]

    def go_on(
        self, prompts: Sequence[list[int]], stop: Sequence[str], seed: int, greedy: bool = False
    ) -> list[tuple[str, bool]]:
        """The continuation of each, up to a text of `stop`, and whether it ended by itself."""
        ending = StopStrings(tuple(stop), partial(decode_response, self.tokenizer))
        params = replace(
            self._params,
            temperature=0.0 if greedy else self.settings.temperature,
            top_p=self.settings.top_p,
            seed=seed,
            stop=ending,
        )
        found = self._sampler.generate(prompts, params)
        return [(ending.text(sample.tokens), sample.finished) for sample in found]

    def log_odds(self, prompt: list[int]) -> float:
        """How much likelier the model finds ` Yes` than ` No`, in nats."""
        words = [self.tokenizer.encode(word, add_special_tokens=False) for word in VERDICTS]
        yes, no = self._sampler.logprobs([prompt] * 2, words)
        return sum(yes) - sum(no)


def make_tasks(
    folder: Path, config: SamplerConfig, seeds: Sequence[Task], settings: Settings, out: Path
) -> dict[str, Any]:
    """Make tasks with the model in `folder`, or go on where an earlier call stopped; report.json.

    Raises:
        PodiumError: `out` holds those of other settings, or the model's context holds no request.
    """
    origin = {"model": str(folder), "sha256": hash_folder(folder)}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        _claim(out, asdict(settings) | origin | {"seeds": [task.model_dump() for task in seeds]})
        asker: list[Asker] = []  # loaded when there is something to ask

        def ask() -> Asker:
            if not asker:
                asker.append(Asker(folder, config, settings))
            return asker[0]

        rounds = _rounds(out / ROUNDS_FILE, seeds, settings, ask)
        made = [row for one in rounds for row in one["kept"]][: settings.tasks]
        answers = _answers(out / ANSWERS_FILE, made, seeds, settings, ask)
        tasks = [
            _task(row, answer, origin)
            for row, answer in zip(made, answers, strict=True)
            if answer["instances"]
        ]
        write_jsonl(out / TASKS_FILE, tasks)
        write_jsonl(out / DEMONSTRATIONS_FILE, [d for task in tasks for d in demonstrations(task)])
        report = _report(rounds, made, answers, tasks) | {"settings": asdict(settings)} | origin
        write_json(out / REPORT_FILE, report)
    return report


def _rounds(
    path: Path, seeds: Sequence[Task], settings: Settings, ask: Any
) -> list[dict[str, Any]]:
    """Every round, those of earlier calls from the disk: what was kept of it, and why not the
    rest.
    """
    found = whole_rows(path)
    pool = Pool([task.instruction for task in seeds])
    own: list[Task] = []
    for row in (row for one in found for row in one["kept"]):
        _take(row, pool, own, seeds)
    with progress_bar(settings.tasks, "tasks", "task", min(len(own), settings.tasks)) as bar:
        while len(own) < settings.tasks and not _tired(found, settings.patience):
            one = _round(len(found), seeds, own, pool, settings, ask())
            append(path, one)
            found.append(one)
            for row in one["kept"]:
                _take(row, pool, own, seeds)
            bar.advance(len(one["kept"]))
    return found


def _tired(found: Sequence[dict[str, Any]], patience: int) -> bool:
    return len(found) >= patience and not any(one["kept"] for one in found[-patience:])


def _take(row: dict[str, Any], pool: Pool, own: list[Task], seeds: Sequence[Task]) -> None:
    """An instruction that was kept can be shown from now on; its example is a seed's until it has
    its own.
    """
    pool.add(row["instruction"])
    use = {"use_case": row["use_case"], "id": row["id"], "instruction": row["instruction"]}
    own.append(seeds[0].model_copy(update=use))


def _round(
    number: int,
    seeds: Sequence[Task],
    own: Sequence[Task],
    pool: Pool,
    settings: Settings,
    asker: Asker,
) -> dict[str, Any]:
    """One round: requests, and what is left of the answers."""
    rng = random.Random(f"{settings.seed} round {number}")
    prompts, shown, uses = [], [], []
    for place in range(settings.requests):
        use = None
        if settings.uses:
            use = settings.uses[(number * settings.requests + place) % len(settings.uses)]
        mine = drawn(rng, own, settings.own)
        tasks = [*drawn(rng, seeds, settings.shown - len(mine)), *mine]
        rng.shuffle(tasks)
        write = partial(_request, use=use)
        fit = fitting(write, tasks, asker.encode, asker.context - asker.new_tokens)
        if fit is None:
            raise PodiumError(
                f"the model reads {asker.context} tokens, too few for one seed and an answer",
                "give shorter seeds (--seeds) or a lower --max-new-tokens",
            )
        prompts.append(fit[0])
        shown.append(fit[1])
        uses.append(use)
    stop = ("\n\n", "\nUse:") if settings.uses else ("\n\n",)
    said = asker.go_on(prompts, stop, seed=settings.seed * 1_000_003 + 2 * number)
    kept: list[dict[str, Any]] = []
    why: Counter[str] = Counter()
    likely = Pool([])
    for (text, finished), ids, use in zip(said, shown, uses, strict=True):
        found, cut = read_list(text, finished)
        if use is not None:  # one task a request, whatever numbers stand in it
            found = found[:1]
        why["cut off"] += cut
        for instruction in found:
            fault = fault_of(instruction)
            if fault is None and (pool.has_like(instruction) or likely.has_like(instruction)):
                fault = "like another task"
            if fault is not None:
                why[fault] += 1
                continue
            likely.add(instruction)
            name = f"made-{settings.seed}-{number:04d}-{len(kept)}"
            row = {"id": name, "instruction": instruction, "use_case": use, "shown": ids}
            kept.append(row | {"round": number})
    return {"round": number, "kept": kept, "refused": dict(why)}


def _request(shown: Sequence[Task], use: str | None) -> str:
    return list_prompt([t.instruction for t in shown]) if use is None else use_prompt(shown, use)


def _answers(
    path: Path,
    made: Sequence[dict[str, Any]],
    seeds: Sequence[Task],
    settings: Settings,
    ask: Any,
) -> list[dict[str, Any]]:
    """The verdict and the examples of every task that was made, in their order."""
    found = whole_rows(path)
    with progress_bar(len(made), "examples", "task", len(found)) as bar:
        for row in made[len(found) :]:
            found.append(_answer(row, seeds, settings, ask()))
            append(path, found[-1])
            bar.advance()
    return found


def _answer(
    row: dict[str, Any], seeds: Sequence[Task], settings: Settings, asker: Asker
) -> dict[str, Any]:
    rng = random.Random(f"{settings.seed} answer {row['id']}")
    instruction, room = row["instruction"], asker.context - 8
    kinds = {kind: [t for t in seeds if t.is_classification is kind] for kind in (True, False)}
    odds = float("-inf")  # without an example of both kinds there is nothing to tell apart
    if kinds[True] and kinds[False]:
        both = [t for kind in (True, False) for t in drawn(rng, kinds[kind], settings.shown // 2)]
        rng.shuffle(both)
        fit = fitting(lambda shown: label_prompt(shown, instruction), both, asker.encode, room)
        odds = odds if fit is None else asker.log_odds(fit[0])
    kind = odds > 0
    fit = fitting(
        lambda shown: instance_prompt(shown, instruction, kind),
        drawn(rng, kinds[kind] or seeds, settings.shown // 2),
        asker.encode,
        asker.context - asker.new_tokens,
    )
    found: list[Instance | None] = []
    if fit is not None:
        text, finished = asker.answer(fit[0], ("\nTask:", "\n\n"))
        found = read_instances(text, kind, finished)
    elif turns := asker.turns(instruction):
        text, finished = asker.answer(turns, ())
        found = [Instance(output=text.strip()) if finished and text.strip() else None]
    kept, why = keep_instances(found)
    return {
        "id": row["id"],
        "classification": kind,
        "log_odds": odds if odds > float("-inf") else None,
        "instances": [one.model_dump() for one in kept],
        "shown": fit[1] if fit is not None else [],
        "refused": dict(why) if found else {"too long to ask": 1},
    }


def _task(row: dict[str, Any], answer: dict[str, Any], origin: dict[str, Any]) -> Task:
    kind = bool(answer["classification"])
    meta = {
        "source": "self-instruct" if row["use_case"] is None else "self-instruct, user-based",
        "made": origin
        | {key: row[key] for key in ("round", "shown")}
        | {"log_odds": answer["log_odds"], "examples_from": answer["shown"]},
    }
    return Task(
        instruction=row["instruction"],
        instances=answer["instances"],
        is_classification=kind,
        use_case=row["use_case"],
        id=row["id"],
        meta=meta,
    )


def _report(
    rounds: Sequence[dict[str, Any]],
    made: Sequence[dict[str, Any]],
    answers: Sequence[dict[str, Any]],
    tasks: Sequence[Task],
) -> dict[str, Any]:
    """What came of it: counts, and why the rest was thrown away."""
    why: Counter[str] = Counter()
    for one in rounds:
        why.update(one["refused"])
    kept = sum(len(one["kept"]) for one in rounds)
    of_examples: Counter[str] = Counter()
    for answer in answers:
        of_examples.update(answer["refused"])
    return {
        "tasks": len(tasks),
        "classification": sum(task.is_classification for task in tasks),
        "examples": sum(len(task.instances) for task in tasks),
        "rounds": len(rounds),
        "instructions said": kept + why.total(),
        "instructions kept": len(made),
        "instructions refused": dict((+why).most_common()),
        "tasks without an example": len(made) - len(tasks),
        "examples refused": dict(of_examples.most_common()),
    }


def _claim(out: Path, claimed: dict[str, Any]) -> None:
    path, plain = out / SETTINGS_FILE, json.loads(json.dumps(claimed))
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != plain:
        raise PodiumError(
            f"{out} holds tasks of other settings (see {SETTINGS_FILE} there)",
            "give another --out, or the same settings and seeds to go on",
        )
    write_json(path, plain)
