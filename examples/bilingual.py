"""Learn two languages by filling blanks, as GLM did with English and Chinese: here English and
German, in sentences that this script makes up.

    python examples/bilingual.py bilingual        # a folder to write to; a minute or two

Each document says the same in both languages, now one first and now the other. The stage `pretrain`
with `infilling` learns to fill short blanks in them. Then a noun is left out of the first sentence
of pairs that it never read, once with the second sentence after it and once without: only a model
that reads on past a blank, in the other language, can know which noun it was.
"""

import random
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch

from data.jsonl import write_jsonl
from data.records import Document
from data.special_tokens import document_separator_id
from podium.models import load_causal_lm, load_tokenizer
from podium.run.launch import run_one
from podium.run.recipe import validate
from pretrain.blanks import document_row
from pretrain.infilling import add_sentinels, call_inputs

WHO = ("Anna", "Ben", "Clara", "David", "Emma", "Felix")
DOES = {"eats": "isst", "buys": "kauft", "sees": "sieht", "finds": "findet", "wants": "will"}
WHAT = {
    "apple": "Apfel",
    "cheese": "Käse",
    "fish": "Fisch",
    "cake": "Kuchen",
    "salad": "Salat",
    "pepper": "Pfeffer",
    "spinach": "Spinat",
    "sugar": "Zucker",
}
WHERE = {"today": "heute", "at home": "zu Hause", "in town": "in der Stadt", "here": "hier"}
ASKED = 100  # pairs that are held out


def pairs() -> list[tuple[str, str, str]]:
    """Every English sentence, its noun, and the same in German."""
    return [
        (f"{who} {does} the {what} {where}.", what, f"{who} {tut} den {was} {wo}.")
        for who, (does, tut), (what, was), (where, wo) in product(
            WHO, DOES.items(), WHAT.items(), WHERE.items()
        )
    ]


def write_documents(folder: Path, texts: list[tuple[str, str, str]]) -> dict[str, str]:
    """Both orders of each pair, in two files; the recipe's `data.documents`."""
    rng = random.Random(0)
    files = {}
    for split, part in (("train", texts[ASKED:]), ("validation", texts[:ASKED])):
        both = [f"{a} {b}" for english, _, german in part for a, b in ((english, german),) * 2]
        both[1::2] = [f"{german} {english}" for english, _, german in part]
        rng.shuffle(both)
        files[split] = str((folder / f"{split}.jsonl").resolve())
        write_jsonl(Path(files[split]), [Document(text=text) for text in both])
    return files


def train(folder: Path, documents: dict[str, str]) -> Path:
    """A small LLaMA that fills blanks; its folder."""
    recipe = {
        "name": "bilingual",
        "threads": 1,
        "data": {"documents": documents},
        "pretrain": {
            "infilling": {"share": 0.8, "short": 0.9},
            "vocab_size": 400,
            "context": 96,
            "tokens": 160_000,
            "batch_size": 8,
            "warmup_tokens": 10_000,
            "eval_tokens": 4_000,
        },
    }
    run_one(validate(recipe, "examples/bilingual.py"), "pretrain", folder)
    return folder / "bilingual" / "pretrain" / "final"


@torch.no_grad()
def fill(model, tokenizer, before: str, after: str) -> str:
    """What stands between the two texts, one likeliest token after the other."""
    sentinels = add_sentinels(tokenizer)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)]
    start = 1 + len(ids[0])
    span: list[int] = []
    while len(span) < 10:
        text = np.array([document_separator_id(tokenizer), *ids[0], *span, *ids[1]])
        row = document_row(text, [(start, start + len(span))], sentinels.mask, sentinels, told=[0])
        row = row[:, :-1]  # without the span's end: what comes next is asked
        token = int(model(**call_inputs(torch.from_numpy(row)[None])).logits[0, -1].argmax())
        if token == sentinels.end:
            break
        span.append(token)
    return tokenizer.decode(span)


def main() -> None:
    folder = Path(sys.argv[1])
    texts = pairs()
    random.Random(1).shuffle(texts)
    final = train(folder, write_documents(folder, texts))
    model, tokenizer = load_causal_lm(final), load_tokenizer(final)
    right = {"with": 0, "without": 0}
    for number, (english, noun, german) in enumerate(texts[:ASKED]):
        before, after = english.split(f" {noun}")
        found = {
            "with": fill(model, tokenizer, before, f"{after} {german}"),
            "without": fill(model, tokenizer, before, after),
        }
        for how, word in found.items():
            right[how] += word.strip() == noun
        if number < 3:
            print(f"{before} [{found['with'].strip()}]{after} {german}")
    print(f"nouns right with the German sentence after the blank: {right['with']} of {ASKED}")
    print(f"without it: {right['without']} of {ASKED}, of {len(WHAT)} nouns")


if __name__ == "__main__":
    main()
