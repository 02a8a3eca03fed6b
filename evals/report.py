"""A run on one page: three sentences, the table, the pictures, sample answers side by side, and
where everything comes from and lies.

`table` is the JSON object of `podium show RUN --json`; `render` writes report.md and report.html
(one file, pictures inside, no network) into the run folder and prints the table. Both read files
only, so they work at any time, also on a run that is not finished: what is missing is named with
the command that makes it.
"""

import base64
from pathlib import Path
from textwrap import shorten
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evals import plots
from evals.harness import ENOUGH_QUESTIONS
from evals.records import Answer
from evals.runs import Run, read_run
from evals.sentences import (
    OWN_REWARD,
    Outcome,
    change,
    duration,
    glossary,
    interval,
    number,
    opening,
    verdicts,
)
from podium.progress import say
from podium.run.registry import rows_with, split_arm
from podium.storage import write_text

FIELDS = (
    "gold",
    "win_rate",
    "win_rate_low",
    "win_rate_high",
    "kl",
    "length",
    "eos_rate",
    "pretrain_loss",
    "fact_accuracy",
)
COLUMNS = ("win rate vs SFT", "KL", "length", "ended", "pretraining loss", "facts")
SAMPLE_PROMPTS = 12


def table(run_dir: str | Path) -> dict[str, Any]:
    """One object: a key a row (`base`, `sft`, `best_of_n`, `ppo_ptx`, `ppo`, other arms) with
    FIELDS, then `wall_seconds` and `cpu_seconds` by stage; null is what could not be measured.
    `missing` only in a partial run.
    """
    run = read_run(Path(run_dir))
    rows: dict[str, Any] = {
        row: {field: values[field] for field in FIELDS}
        for row, values in run.results.get("rows", {}).items()
    }
    for cost in ("wall_seconds", "cpu_seconds"):
        rows[cost] = {stage: record[cost] for stage, record in run.stages.items()}
    return rows | ({"missing": run.missing} if run.missing else {})


def render(run_dir: str | Path) -> Path:
    """Write report.md and report.html into the run folder, print the table, and return the page's
    path.
    """
    run = read_run(Path(run_dir))
    view = view_of(run)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = run.folder / "report.html"
    write_text(page, environment.get_template("report.html.jinja").render(view))
    write_text(run.folder / "report.md", markdown(view))
    for line in [
        *view["opening"],
        "",
        *terminal_table([view["columns"], *view["rows"]] if view["rows"] else []),
        "",
        *view["verdicts"],
        *view["notes"],
        view["cost"],
        f"the whole report: {page}",
    ]:
        say(line)
    return page


def view_of(run: Run) -> dict[str, Any]:
    """Everything the Markdown and the page show."""
    outcome = run.outcome
    return {
        "name": run.folder.resolve().name,
        "folder": str(run.folder),
        "opening": opening(outcome) if outcome else unknown(run),
        "cost": cost(run),
        "tiles": tiles(run),
        "columns": ["model", outcome.score, *COLUMNS] if outcome else [],
        "rows": [cells(outcome, row) for row in outcome.rows] if outcome else [],
        "verdicts": verdicts(outcome) if outcome else [],
        "glossary": glossary(outcome) if outcome else [],
        "notes": notes(outcome) if outcome else [],
        "missing": run.missing,
        "pictures": pictures(run),
        "samples": samples(run),
        "details": details(outcome) if outcome else [],
        "stages": [stage_line(run.folder, name, record) for name, record in run.stages.items()],
        "wall": total(run, "wall_seconds"),
        "cpu": total(run, "cpu_seconds"),
    }


def unknown(run: Run) -> list[str]:
    """What a run without an evaluation can say."""
    command = run.missing.get("evals")
    how = f"{command} goes on" if command else "its recipe has no section evals"
    return [
        f"Whether RLHF worked is not known yet, for nothing has been evaluated: {how}.",
        f"So far the run took {duration(total(run, 'wall_seconds'))}.",
    ]


def total(run: Run, cost: str) -> float:
    """One cost over all finished stages."""
    return sum(record.get(cost, 0) for record in run.stages.values())


def tiles(run: Run) -> list[tuple[str, str]]:
    """What the run cost, a number and its meaning each."""
    watts = next((r["energy_assumption"] for r in run.stages.values()), "nothing has run")
    return [
        (duration(total(run, "wall_seconds")), "time, all stages"),
        (duration(total(run, "cpu_seconds")), "CPU time"),
        (f"{total(run, 'tokens'):,.0f}", "tokens read and written"),
        (f"{total(run, 'energy_watt_hours'):.3g} Wh", f"energy, estimated: {watts}"),
    ]


def cost(run: Run) -> str:
    """The same in a line."""
    return "the run cost " + "; ".join(f"{value} ({what})" for value, what in tiles(run))


def cells(outcome: Outcome, row: str) -> list[str]:
    """A row of the table as text, column by column."""
    values = outcome.rows[row]
    wins = (values["win_rate"], values["win_rate_low"], values["win_rate_high"])
    return [
        outcome.label(row),
        interval(values["gold"], values["gold_low"], values["gold_high"]),
        "-" if row == "sft" else interval(*wins, as_percent=True),
        # What best-of-n adds to the KL is known as a bound.
        ("≤ " if row == "best_of_n" and values["kl"] is not None else "") + number(values["kl"]),
        number(values["length"], 1),
        number(values["eos_rate"], as_percent=True),
        number(values["pretrain_loss"], 3),
        number(values["fact_accuracy"], as_percent=True),
    ]


def notes(outcome: Outcome) -> list[str]:
    """How the table was measured."""
    setup = outcome.setup
    kl = (
        "there is no KL, as answers were not sampled from the whole distribution;"
        if setup["temperature"] == 0 or setup.get("top_p", 1) < 1
        else f"KL is in nats an answer, from {outcome.reference}, and of best-of-n a bound that "
        "like answers stay below;"
    )
    return [
        f"{setup['prompts']:,} held-out prompts, {setup['samples']} answers each of at most "
        f"{setup['max_new_tokens']} "
        f"tokens at temperature {setup['temperature']}; brackets are 95 % intervals over prompts. "
        "A row is said to beat SFT where chance, among as many rows as were compared (Holm), would "
        "give such a win rate in under 5 %.",
        f"Wins are decided by {setup['judge']}, ties count half; {kl} "
        f"facts are {setup['questions']:,} questions, each with one right choice.",
        *_few_questions(outcome),
        *_far_prompts(outcome),
    ]


def _far_prompts(outcome: Outcome) -> list[str]:
    """Which test prompts are unlike the training prompts."""
    far = outcome.setup.get("far_prompts")
    if not far:
        return []
    told = (
        f"{len(far['flagged'])} of {far['asked']:,} test prompts lie farther from the training "
        "prompts than 99 % of these do, by SFT's hidden states (Mahalanobis distance)"
    )
    if not far["farthest"]:
        return [f"{told}."]
    texts = "; ".join(
        f"“{shorten(one['prompt'], 80, placeholder=' ...')}” ({one['distance']:.1f}, the bound is "
        f"{far['bound']:.1f})"
        for one in far["farthest"]
    )
    return [f"{told}; what the models do there says less about them. The farthest: {texts}."]


def _few_questions(outcome: Outcome) -> list[str]:
    """Tasks whose differences say little."""
    tasks = next(iter(outcome.rows.values())).get("tasks", {})
    few = [name for name, found in tasks.items() if found["questions"] < ENOUGH_QUESTIONS]
    if not few:
        return []
    return [
        f"Of {', '.join(few)} fewer than {ENOUGH_QUESTIONS} questions were asked: an accuracy is "
        "then known to 7 points and worse, and most differences cannot be told from none."
    ]


def pictures(run: Run) -> list[dict[str, Any]]:
    """The pictures there are numbers for, each with a title, a sentence and its PNGs as base64; a
    `wide` one scrolls on a small screen.
    """
    setup = run.results.get("setup", {})
    rows = {stage: row for row, stage in setup.get("models", {}).items()}
    labels = setup.get("labels", {})
    # Of the policies those that sampled while they learned: DPO, say, has no rollouts to watch.
    policies = [name for name in run.metrics if split_arm(name)[0] in rows_with("policy")]
    arms = [name for name in policies if any("objective/kl" in line for line in run.metrics[name])]
    ppo = {rows.get(name, name): run.metrics[name] for name in arms}
    score = run.outcome.score if run.outcome else "gold"
    reward = rows_with("reward")[0]
    trust = run.folder / reward / "final" / "trust.png"
    trained = {
        name: lines
        for name, lines in run.metrics.items()
        if split_arm(name)[0] not in rows_with("report")
    }
    drawn = [
        (
            f"Reward and {score} against the KL",
            "Nobody but the reward judged the answers, so hacking it would not show here."
            if score == OWN_REWARD
            else f"Where {score} falls while the reward still rises, the reward is being hacked.",
            plots.reward_against_kl(ppo, run.results, labels, score),
        ),
        (
            "How far to trust the reward model",
            "Accuracy and calibration on rankings it was not trained on.",
            [trust.read_bytes()] if trust.is_file() else [],
        ),
        (
            "What PPO's guard watches",
            "Falling endings and entropy, or answers alike to every prompt, mean hacking.",
            plots.watched(ppo, labels),
        ),
        ("Losses", "Every loss that the stages logged.", plots.losses(trained)),
    ]
    return [
        {
            "title": title,
            "text": text,
            "pngs": [base64.b64encode(png).decode() for png in pngs],
            "wide": len(pngs) == 1,
        }
        for title, text, pngs in drawn
        if pngs
    ]


def samples(run: Run) -> list[dict[str, Any]]:
    """A dozen prompts, evenly spread over the test prompts, with each model's first answer."""
    first: dict[int, dict[str, Answer]] = {}
    for answer in run.answers:
        first.setdefault(answer.prompt_index, {}).setdefault(answer.row, answer)
    chosen = sorted(first)[:: max(1, len(first) // SAMPLE_PROMPTS)][:SAMPLE_PROMPTS]
    outcome = run.outcome
    if outcome is None:
        return []
    return [
        {
            "prompt": [
                (message.role, message.content)
                for message in next(iter(first[index].values())).prompt
            ],
            "use_case": next(iter(first[index].values())).use_case or "",
            "answers": [
                {
                    "name": outcome.label(row),
                    "text": answer.response,
                    "about": about(answer, outcome.score),
                }
                for row, answer in first[index].items()
            ],
        }
        for index in chosen
    ]


def about(answer: Answer, score: str) -> str:
    """The line under a sample answer; `score` is what the judge's scores are called."""
    parts = [f"{score} {answer.gold:.2f}"] if answer.gold is not None else []
    parts += [f"reward {answer.reward:+.2f}"] if answer.reward is not None else []
    return ", ".join([*parts, f"{answer.tokens} tokens", *([] if answer.finished else ["cut off"])])


def details(outcome: Outcome) -> list[tuple[str, list[str]]]:
    """Further numbers, a line each over all rows; the header comes first."""
    rows = outcome.rows

    def line(label: str, pick: Any) -> tuple[str, list[str]]:
        return label, [pick(values) for values in rows.values()]

    def loss(values: dict[str, Any]) -> str:
        found = values.get("pretrain_loss_increase")
        return "-" if not found or values is rows.get("sft") else change(found)

    def facts(values: dict[str, Any]) -> str:
        drop = values.get("fact_accuracy_drop")
        if not drop or values is rows.get("sft"):
            return "-"
        ends = {"value": "value", "low": "high", "high": "low"}
        rise = {end: None if drop[of] is None else -drop[of] for end, of in ends.items()}
        return change(rise, " points")

    def matched(values: dict[str, Any]) -> str:
        found = values.get("win_rate_length_matched")
        return (
            interval(found["rate"], found["low"], found["high"], as_percent=True) if found else "-"
        )

    lines = [
        line("reward model's score", lambda v: number(v.get("reward"))),
        line("win rate among answers of equal length", matched),
        line("share of ties", lambda v: number(v["ties"], as_percent=True)),
        line("pretraining loss", loss),
        line("facts", facts),
        line("different answers", lambda v: number(v["distinct_answers"], as_percent=True)),
        line("different word pairs", lambda v: number(v["distinct_2"], as_percent=True)),
    ]
    some = next(iter(rows.values()))
    for kind in some.get("fact_accuracy_by_kind", {}):
        lines.append(
            line(
                f"questions: {kind}",
                lambda v, k=kind: number(v["fact_accuracy_by_kind"][k], as_percent=True),
            )
        )
    for task in some.get("tasks", {}):
        lines.append(line(f"lm-eval: {task}", lambda v, t=task: _task(v["tasks"][t])))
        lines.append(
            line(
                "the same, against SFT",
                lambda v, t=task: (
                    "-" if v is rows.get("sft") else change(v["tasks"][t]["difference"], " points")
                ),
            )
        )
    if "hallucination" in some:
        lines.append(
            line("closed questions, something made up", lambda v: _task(v["hallucination"]))
        )
    for feature in some.get("features", {}):
        lines.append(line(f"feature: {feature}", lambda v, f=feature: number(v["features"][f])))
    return [("", [outcome.label(row) for row in rows]), *lines]


def _task(found: dict[str, Any]) -> str:
    """A task's accuracy with its interval."""
    return interval(found["value"], found["low"], found["high"], as_percent=True)


def stage_line(folder: Path, name: str, record: dict[str, Any]) -> dict[str, str]:
    """Cost and lineage of a finished stage."""
    parents = [f"{parent['ref']} {parent['sha256'][:8]}" for parent in record["parents"]]
    return {
        "name": name,
        "wall": f"{record['wall_seconds']:,.0f}",
        "cpu": f"{record['cpu_seconds']:,.0f}",
        "tokens": f"{record.get('tokens', 0):,}",
        "parents": ", ".join(parents) or "-",
        "seed": str(record["seed"]),
        "folder": str(folder / name / "final"),
    }


def terminal_table(rows: list[list[str]]) -> list[str]:
    """The table, its heading first, in columns of even width."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def markdown(view: dict[str, Any]) -> str:
    """report.md: the page without its pictures, which are in report.html."""

    def grid(header: Any, rows: Any) -> list[str]:
        lines = [header, ["---"] * len(header), *rows]
        return ["| " + " | ".join(_one_line(cell) for cell in line) + " |" for line in lines]

    parts = [f"# Run {view['name']}", *(f"\n{sentence}" for sentence in view["opening"])]
    parts += ["", *grid(view["columns"], view["rows"])] if view["rows"] else []
    parts += ["", *(f"- {line}" for line in [*view["verdicts"], *view["notes"], view["cost"]])]
    parts += [
        f"- missing: `{stage}`, made by `{command}`" for stage, command in view["missing"].items()
    ]
    parts += ["", "Pictures: report.html"] if view["pictures"] else []
    for sample in view["samples"]:
        asked = " / ".join(_one_line(text) for _, text in sample["prompt"])
        parts += [
            "",
            f"## {asked}",
            "",
            *grid(
                ("model", "answer", "scores"),
                [(answer["name"], answer["text"], answer["about"]) for answer in sample["answers"]],
            ),
        ]
    columns = ("name", "wall", "cpu", "tokens", "parents", "seed", "folder")
    header = ("stage", "wall s", "CPU s", "tokens", "parents", "seed", "files")
    parts += [
        "",
        "## Stages",
        "",
        *grid(header, [[line[c] for c in columns] for line in view["stages"]]),
    ]
    return "\n".join(parts) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
