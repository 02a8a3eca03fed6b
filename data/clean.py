"""Clean a source and split it by user: `python -m data.clean prompts.jsonl out/ --kind Prompt`.

Reads what data.readers reads, writes `<kind>s.{train,validation,test}.jsonl` and prints what was
dropped and why.
"""

import argparse
import sys
from pathlib import Path

from data import records
from data.cleaning import clean
from data.jsonl import write_jsonl
from data.readers import read_source, read_with_report
from podium.errors import PodiumError

KINDS = ("Document", "Prompt", "Demonstration", "Ranking", "Comparison")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m data.clean", description=__doc__.split("\n")[0]
    )
    parser.add_argument("path", help="file, folder or hub id")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--kind", choices=KINDS, default="Prompt", help="kind of record to make")
    parser.add_argument(
        "--format", default="records", help="format of the source, see docs/data.md"
    )
    parser.add_argument(
        "--shares", type=_shares, default="train=0.8,validation=0.1,test=0.1", help="splits, sizes"
    )
    parser.add_argument(
        "--held-out", help="text file of evaluation texts that training must not contain"
    )
    options = parser.parse_args(arguments)
    try:
        source = {"path": options.path, "format": options.format}
        found, read = read_with_report(source, getattr(records, options.kind))
        held_out = (
            [d.text for d in read_source(options.held_out, records.Document)]
            if options.held_out
            else []
        )
        splits, report = clean(found, options.shares, held_out=held_out)
        print(f"{options.path}: {read}\n{report}")
        for split, part in splits.items():
            write_jsonl(options.out / f"{options.kind.lower()}s.{split}.jsonl", part)
    except PodiumError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _shares(text: str) -> dict[str, float]:
    """train=0.8,test=0.2 as a dict; argparse makes a usage error of the ValueError."""
    return {name: float(share) for name, share in (part.split("=") for part in text.split(","))}


if __name__ == "__main__":
    sys.exit(main())
