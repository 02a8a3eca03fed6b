"""`podium data`: work on files of records. `check` shows what a file is taken for and what training
would see of it; `clean` cleans a source and splits it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Work on files of records.",
)


def _fields(text: str) -> tuple[str, str]:
    """prompt=question as a pair."""
    name, found, column = text.partition("=")
    if not (name and found and column):
        raise typer.BadParameter(f"'{text}' is not of the form prompt=question")
    return name, column


def _shares(text: str) -> dict[str, float]:
    """train=0.8,test=0.2 as a dict."""
    try:
        shares = {
            name: float(share) for name, share in (part.split("=") for part in text.split(","))
        }
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not of the form train=0.8,test=0.2") from None
    if min(shares.values()) <= 0:
        raise typer.BadParameter(f"'{text}': a split without a share would stay empty")
    return shares


@app.command()
def clean(
    source: Annotated[str, typer.Argument(help="File, folder or hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder to write into.")],
    kind: Annotated[
        Literal["documents", "prompts", "demonstrations", "rankings", "comparisons"],
        typer.Option(help="What the records are; the rules go by it."),
    ],
    format: Annotated[
        str, typer.Option(help="Of the source: docs/use/your-own-data.md.")
    ] = "records",
    shares: Annotated[
        Any, typer.Option(parser=_shares, metavar="SHARES", help="The splits and their sizes.")
    ] = "train=0.8,validation=0.1,test=0.1",
    prefix_characters: Annotated[
        int | None,
        typer.Option(min=1, help="Drop what begins as an earlier one for so long; prompts: 200."),
    ] = None,
    no_common_prefix: Annotated[bool, typer.Option("--no-common-prefix")] = False,
    near_duplicate: Annotated[
        float | None,
        typer.Option(min=0.8, max=1, help="Drop from this Jaccard similarity on; 0.95."),
    ] = None,
    no_near_duplicates: Annotated[bool, typer.Option("--no-near-duplicates")] = False,
    user_cap: Annotated[
        int | None, typer.Option(min=1, help="Keep so many of one user; prompts: 200.")
    ] = None,
    no_user_cap: Annotated[bool, typer.Option("--no-user-cap")] = False,
    personal_data: Annotated[
        Literal["drop", "redact", "keep"] | None,
        typer.Option(help="Addresses, phone numbers, ...; prompts: drop, others: redact."),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(help="Texts of an evaluation that the split train must not contain."),
    ] = None,
    overlap: Annotated[
        Literal["drop", "cut", "keep"] | None,
        typer.Option(help="What held-out texts have in common; documents: cut, others: drop."),
    ] = None,
    overlap_words: Annotated[
        int | None, typer.Option(min=1, help="In a row, in common with a held-out text; 13.")
    ] = None,
    dropped: Annotated[
        Path | None, typer.Option(help="Write what was dropped, with the reason, to this JSONL.")
    ] = None,
) -> None:
    """Clean a source, split it, and say what went and why. Which rules a kind of record gets, and
    the reasons, are told in docs/use/your-own-data.md.
    """
    # Imported here so that --help answers at once.
    from data import records
    from data.cleaning import RULES
    from data.cleaning import clean as clean_records
    from data.jsonl import write_jsonl
    from data.readers import read_source, read_with_report

    record_type = getattr(records, kind.removesuffix("s").capitalize())
    if overlap == "cut" and kind != "documents":
        raise typer.BadParameter("only documents can be cut", param_hint="--overlap")
    given = {
        "prefix_characters": prefix_characters,
        "near_duplicate": near_duplicate,
        "user_cap": user_cap,
        "personal_data": personal_data,
        "overlap": overlap,
        "overlap_words": overlap_words,
    }
    off = {
        "prefix_characters": no_common_prefix,
        "near_duplicate": no_near_duplicates,
        "user_cap": no_user_cap,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    changes |= {name: None for name, switched_off in off.items() if switched_off}
    rules = replace(RULES[record_type], **changes)

    found, read = read_with_report({"path": source, "format": format}, record_type)
    texts = [d.text for d in read_source(held_out, records.Document)] if held_out else []
    splits, report = clean_records(found, shares, rules, texts)
    typer.echo(f"{source}: {read}\n{report}")
    for split, part in splits.items():
        write_jsonl(out / f"{kind}.{split}.jsonl", part)
    if dropped is not None:
        write_jsonl(dropped, report.dropped)


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="File, folder or hub id.", metavar="PATH")],
    kind: Annotated[
        Literal["documents", "prompts", "demonstrations", "rankings", "comparisons", "questions"]
        | None,
        typer.Option(help="What the records are to be; otherwise what fits."),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Of the file; otherwise the first that every row fits.")
    ] = None,
    field: Annotated[
        list[str],
        typer.Option(metavar="NAME=COLUMN", help="What the file calls a column, prompt=question."),
    ] = [],  # noqa: B006  typer copies it
    model: Annotated[
        str | None,
        typer.Option(help="Its tokenizer and chat template; without, plain text and characters."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="How many records to show.")] = 10,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Count what is longer, in tokens of the model.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write what was read as records to this JSONL.")
    ] = None,
) -> None:
    """Say what a file is taken for, show examples with the part that is learned marked, how long
    they are, and what is dropped and why. Nothing is trained.
    """
    import sys

    from data.check import check as check_source

    coloured = sys.stdout.isatty()

    def marked(text: str, learned: bool) -> str:
        """Green on a terminal; between marks elsewhere, so that a pipe shows it too."""
        if coloured:
            return typer.style(text, fg="green") if learned else typer.style(text, dim=True)
        return f"⟦{text}⟧" if learned else text

    described: dict[str, Any] = {"path": source} | ({"format": format} if format else {})
    if field:
        described["fields"] = dict(_fields(text) for text in field)
    tokenizer = _tokenizer(model) if model else None
    if limit is None and tokenizer is not None and tokenizer.model_max_length < 10**9:
        limit = tokenizer.model_max_length
    for line in check_source(described, kind, tokenizer, examples, limit, marked, save):
        typer.echo(line)
    typer.echo(f"the loss falls on what is {'green' if coloured else 'between ⟦ and ⟧'}")


def _tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    from data.template import prepare_tokenizer
    from podium.errors import DataError

    try:
        return prepare_tokenizer(AutoTokenizer.from_pretrained(model))
    except (OSError, ValueError) as error:
        raise DataError(
            model, problem=f"has no tokenizer: {error}", fix="give a model's folder or hub id"
        ) from error
