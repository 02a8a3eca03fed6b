"""A run on one page: the table, the pictures, sample answers side by side, and where everything
comes from and lies.

`table` is the JSON object of `podium show RUN --json`; `render` writes report.md and report.html
(one file, pictures inside, no network) into the run folder and prints the table. Both read files
only, so they work at any time, also on a run that is not finished: what is missing is named with
the command that makes it.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data.jsonl import read_jsonl
from evals import plots
from evals.records import ANSWERS_FILE, RESULTS_FILE, Answer
from evals.winrate import judge_arms
from podium.metrics import read_metrics
from podium.progress import say
from podium.run.folders import finished_stages
from podium.run.registry import STAGES, chain_of, split_arm
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
COLUMNS = ("model", "gold", "win rate vs SFT", "KL", "length", "EOS", "pretraining loss", "facts")
ROW_NAMES = {
    "base": "base",
    "sft": "SFT",
    "best_of_n": "best of n",
    "ppo_ptx": "PPO-ptx",
    "ppo": "PPO (no ptx)",
}
SAMPLE_PROMPTS = 12


@dataclass(frozen=True)
class Run:
    """What lies in a run folder, as far as it is finished."""

    folder: Path
    stages: dict[str, dict[str, Any]]  # stage.json by stage
    metrics: dict[str, plots.Metrics]  # metrics.jsonl by stage, also of unfinished ones
    results: dict[str, Any]  # results.json; empty before the evaluation
    answers: list[Answer]
    missing: dict[str, str]  # stage of the recipe without output -> the command that makes it


def read_run(folder: Path) -> Run:
    """Read a run folder, whatever is in it."""
    finished = finished_stages(folder)
    planned = planned_stages(folder)
    stages = {
        name: finished[name] for name in dict.fromkeys([*planned, *finished]) if name in finished
    }
    metrics = {
        path.parent.name: read_metrics(path) for path in sorted(folder.glob("*/metrics.jsonl"))
    }
    evals = folder / "evals" / "final"
    done = "evals" in stages
    results = json.loads((evals / RESULTS_FILE).read_text(encoding="utf-8")) if done else {}
    answers = read_jsonl(evals / ANSWERS_FILE, Answer) if done else []
    command = f"podium run {folder / 'recipe.yaml'} --runs-dir {folder.parent}"
    missing = {stage: command for stage in planned if stage not in stages}
    order = dict.fromkeys([*planned, *metrics])
    logged = {stage: metrics[stage] for stage in order if metrics.get(stage)}
    return Run(folder, stages, logged, results, answers, missing)


def planned_stages(folder: Path) -> list[str]:
    """The chain of the run's recipe, in order."""
    path = folder / "recipe.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    has_world = (tree.get("data") or {}).get("world") is not None
    present = [
        row for row in STAGES if (has_world if row == "world" else tree.get(row) is not None)
    ]
    return chain_of(present, {row: tree.get(f"{row}_arms") or {} for row in present})


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
        *terminal_table(view["rows"]),
        *view["verdicts"],
        *view["notes"],
        f"the whole report: {page}",
    ]:
        say(line)
    return page


def view_of(run: Run) -> dict[str, Any]:
    """Everything the Markdown and the page show."""
    setup = run.results.get("setup", {})
    return {
        "name": run.folder.resolve().name,
        "folder": str(run.folder),
        "columns": COLUMNS,
        "rows": [cells(row, values, setup) for row, values in run.results.get("rows", {}).items()],
        "verdicts": verdicts(run.results.get("rows", {})),
        "notes": notes(setup) if setup else [],
        "missing": run.missing,
        "pictures": pictures(run),
        "samples": samples(run),
        "details": details(run.results.get("rows", {})),
        "stages": [stage_line(run.folder, name, record) for name, record in run.stages.items()],
        "wall": sum(record["wall_seconds"] for record in run.stages.values()),
        "cpu": sum(record["cpu_seconds"] for record in run.stages.values()),
    }


def name_of(row: str, setup: dict[str, Any]) -> str:
    """How people call a row."""
    if row == "best_of_n":
        return f"best of {setup.get('best_of', 'n')}"
    return ROW_NAMES.get(row, row.replace("_", " "))


def cells(row: str, values: dict[str, Any], setup: dict[str, Any]) -> list[str]:
    """A row of the table as text, column by column."""
    return [
        name_of(row, setup),
        _interval(values["gold"], values["gold_low"], values["gold_high"]),
        "-"
        if row == "sft"
        else _interval(values["win_rate"], values["win_rate_low"], values["win_rate_high"], True),
        # What best-of-n adds to the KL is known as a bound.
        ("≤ " if row == "best_of_n" and values["kl"] is not None else "") + _number(values["kl"]),
        _number(values["length"], 1),
        _number(values["eos_rate"], percent=True),
        _number(values["pretrain_loss"], 3),
        _number(values["fact_accuracy"], percent=True),
    ]


def verdicts(rows: dict[str, dict[str, Any]]) -> list[str]:
    """What the numbers allow to say, and no more: a difference that chance explains, among as many
    arms as there are, is not called one.
    """
    found, judged = [], judge_arms(rows)
    for row in ("ppo_ptx", "ppo", "best_of_n"):
        values = rows.get(row)
        if values is None or row not in judged:
            continue
        interval = _interval(
            values["win_rate"], values["win_rate_low"], values["win_rate_high"], percent=True
        )
        text = f"{ROW_NAMES[row]} {judged[row]} SFT: win rate {interval}."
        tax = values.get("pretrain_loss_increase")
        if tax and row != "best_of_n":
            change = f"{100 * tax['value']:+.1f} %"
            if tax["low"] is not None:  # several blocks of text
                change += f" [{100 * tax['low']:+.1f}, {100 * tax['high']:+.1f}]"
            text += f" Its pretraining loss is {change} against SFT's."
        found.append(text)
    return found


def notes(setup: dict[str, Any]) -> list[str]:
    """How the table was measured."""
    kl = (
        "there is no KL, as answers were not sampled from the whole distribution;"
        if setup["temperature"] == 0 or setup.get("top_p", 1) < 1
        else f"KL is in nats an answer, from `{setup['reference']}`, and of best-of-n a bound that "
        "like answers stay below;"
    )
    return [
        f"{setup['prompts']} held-out prompts, {setup['samples']} answers each of at most "
        f"{setup['max_new_tokens']} "
        f"tokens at temperature {setup['temperature']}; brackets are 95 % intervals over prompts. "
        "A row is said to beat SFT where chance, among as many rows as were compared (Holm), would "
        "give such a win rate in under 5 %.",
        f"Wins are decided by {setup['judge']}, ties count half; {kl} "
        f"facts are {setup['questions']} questions, each with one right choice.",
    ]


def pictures(run: Run) -> list[dict[str, str]]:
    """The pictures there are numbers for, each with a title, a sentence and its PNG as base64."""
    models = run.results.get("setup", {}).get("models", {})
    rows = {stage: row for row, stage in models.items()}
    arms = [name for name in run.metrics if split_arm(name)[0] == "ppo"]
    ppo = {rows.get(name, name): run.metrics[name] for name in arms}
    trust = run.folder / "reward" / "final" / "trust.png"
    drawn = [
        (
            "Reward and gold against the KL",
            "Where gold falls while the reward still rises, the reward is being hacked.",
            plots.reward_against_kl(ppo, run.results),
        ),
        (
            "How far to trust the reward model",
            "Accuracy and calibration on rankings it was not trained on.",
            trust.read_bytes() if trust.is_file() else None,
        ),
        (
            "What PPO's guard watches",
            "Falling endings and entropy, or answers alike to every prompt, mean hacking.",
            plots.watched(ppo),
        ),
        (
            "Losses",
            "Every loss that the stages logged.",
            plots.losses({name: lines for name, lines in run.metrics.items() if name != "evals"}),
        ),
    ]
    return [
        {"title": title, "text": text, "png": base64.b64encode(png).decode()}
        for title, text, png in drawn
        if png
    ]


def samples(run: Run) -> list[dict[str, Any]]:
    """A dozen prompts, evenly spread over the test prompts, with each model's first answer."""
    first: dict[int, dict[str, Answer]] = {}
    for answer in run.answers:
        first.setdefault(answer.prompt_index, {}).setdefault(answer.row, answer)
    chosen = sorted(first)[:: max(1, len(first) // SAMPLE_PROMPTS)][:SAMPLE_PROMPTS]
    setup = run.results.get("setup", {})
    return [
        {
            "prompt": [
                (message.role, message.content)
                for message in next(iter(first[index].values())).prompt
            ],
            "use_case": next(iter(first[index].values())).use_case or "",
            "answers": [
                {"name": name_of(row, setup), "text": answer.response, "about": about(answer)}
                for row, answer in first[index].items()
            ],
        }
        for index in chosen
    ]


def about(answer: Answer) -> str:
    """The line under a sample answer."""
    parts = [f"gold {answer.gold:.2f}"] if answer.gold is not None else []
    parts += [f"reward {answer.reward:+.2f}"] if answer.reward is not None else []
    return ", ".join([*parts, f"{answer.tokens} tokens", *([] if answer.finished else ["cut off"])])


def details(rows: dict[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Further numbers, a line each over all rows; the header comes first."""
    if not rows:
        return []

    def line(label: str, pick: Any) -> tuple[str, list[str]]:
        return label, [pick(values) for values in rows.values()]

    def estimate(values: dict[str, Any], field: str) -> str:
        found = values.get(field)
        return (
            _interval(found["value"], found["low"], found["high"], percent=True) if found else "-"
        )

    def matched(values: dict[str, Any]) -> str:
        found = values.get("win_rate_length_matched")
        return _interval(found["rate"], found["low"], found["high"], percent=True) if found else "-"

    lines = [
        line("reward model's score", lambda v: _number(v.get("reward"))),
        line("win rate among answers of equal length", matched),
        line("share of ties", lambda v: _number(v["ties"], percent=True)),
        line("pretraining loss above SFT's", lambda v: estimate(v, "pretrain_loss_increase")),
        line("fact accuracy below SFT's", lambda v: estimate(v, "fact_accuracy_drop")),
        line("different answers", lambda v: _number(v["distinct_answers"], percent=True)),
        line("different word pairs", lambda v: _number(v["distinct_2"], percent=True)),
    ]
    some = next(iter(rows.values()))
    for kind in some.get("fact_accuracy_by_kind", {}):
        lines.append(
            line(
                f"questions: {kind}",
                lambda v, k=kind: _number(v["fact_accuracy_by_kind"][k], percent=True),
            )
        )
    for feature in some.get("features", {}):
        lines.append(line(f"feature: {feature}", lambda v, f=feature: _number(v["features"][f])))
    return [("", [ROW_NAMES.get(row, row) for row in rows]), *lines]


def stage_line(folder: Path, name: str, record: dict[str, Any]) -> dict[str, str]:
    """Cost and lineage of a finished stage."""
    parents = [f"{parent['ref']} {parent['sha256'][:8]}" for parent in record["parents"]]
    return {
        "name": name,
        "wall": f"{record['wall_seconds']:.0f}",
        "cpu": f"{record['cpu_seconds']:.0f}",
        "tokens": f"{record.get('tokens', 0):,}",
        "parents": ", ".join(parents) or "-",
        "seed": str(record["seed"]),
        "folder": str(folder / name / "final"),
    }


def terminal_table(rows: list[list[str]]) -> list[str]:
    """The table in columns of even width."""
    if not rows:
        return []
    widths = [max(len(cell) for cell in column) for column in zip(COLUMNS, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (COLUMNS, *rows)
    ]


def markdown(view: dict[str, Any]) -> str:
    """report.md: the page without its pictures, which are in report.html."""

    def grid(header: Any, rows: Any) -> list[str]:
        lines = [header, ["---"] * len(header), *rows]
        return ["| " + " | ".join(_one_line(cell) for cell in line) + " |" for line in lines]

    parts = [f"# Run {view['name']}", *(f"- {verdict}" for verdict in view["verdicts"])]
    parts += ["", *grid(view["columns"], view["rows"])] if view["rows"] else []
    parts += ["", *view["notes"]]
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


def _number(value: float | None, digits: int = 2, percent: bool = False) -> str:
    if value is None:
        return "-"
    text = f"{100 * value:.1f} %" if percent else f"{value:.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0. %") else text  # no minus before a zero


def _interval(
    value: float | None, low: float | None, high: float | None, percent: bool = False
) -> str:
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{_number(value, percent=percent)} (one prompt)"
    if percent:
        return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
