"""The data card that lies beside Willowbrook's files, for people."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from data.willowbrook import documents, requests
from data.willowbrook.gold import GOLD
from data.willowbrook.labelers import HELD_OUT, LABELERS

CARD = """\
# Willowbrook

A made-up village, written by Podium's seeded generator (`data/willowbrook/`): everything the chain's four stages read,
in plain English that a person can read, rank and chat in. No text comes from anywhere else.

{villagers} villagers have a job, a home, a food, a pet and a best friend each; {users} simulated people ask about
them and want stories told. World seed {seed}; the same seed and sizes give the same bytes.

## Files

| file | records | what |
|---|---:|---|
{files}

- **Documents** (pretraining, ptx): {kinds}. Facts appear by fame (Zipf), in many wordings.
- **Prompts**: {use_cases}; about {two_turns:.0%} take two turns. `meta` repeats what the text asks for,
  never the truth.
- **Demonstrations** answer prompts of their own. They are of mixed quality on purpose: careful and careless writers
  miss wishes, err in facts, slip in grammar, serve harm or refuse what is harmless. Their mean gold is about
  60 % of a perfect answer's, so a model that follows them well still has something to learn from preferences.
- **Questions**: four choices each, `source` one_hop and two_hop (facts of the documents), sums and names (skills
  that no prompt touches, for the alignment tax).

## Splits

A user is in one split only, and so is every combination an answer turns on: animal x object, villager x relation,
theme x banned item, deed x victim. No prompt occurs twice in these files, and no validation document is also a
training document.

## Gold and labelers

Gold, {gold}, is known to the generator alone; a perfect answer scores 5. It is logged, never trained on. {labelers}
simulated labelers ({held_out} of them held out) rank by weights of their own, opposed in part, with noise: two of
them agree on about 73 % of the pairs that neither ties.

## Known limits

- About 600 words, template grammar: a language model's loss falls fast and means little outside the village.
- Gold reads words, not sense: a story can be silly and perfect.
- A passage that contradicts the village is always right about what it says.
- Harm here is petty (theft, lies, a stone through a window); nothing is learned about real safety.

## Examples
{examples}
"""


def data_card(config: Mapping[str, Any], files: Mapping[str, Sequence[BaseModel]]) -> str:
    """The card as Markdown, with one example out of the middle of each training file."""
    table = [
        f"| `{name}` | {len(records):,} | {type(records[0]).__name__} |"
        for name, records in files.items()
    ]
    examples = {
        name: records[len(records) // 2]
        for name, records in files.items()
        if "train" in name or "questions" in name
    }
    shown = "".join(
        f"\n`{name}`:\n```json\n{json.dumps(record.model_dump(exclude_defaults=True), indent=1)}\n```\n"
        for name, record in examples.items()
    )
    return CARD.format(
        villagers=config["villagers"],
        users=config["users"],
        seed=config["seed"],
        files="\n".join(table),
        examples=shown,
        kinds=_shares(documents.SHARES),
        use_cases=_shares(requests.SHARES),
        two_turns=requests.TWO_TURNS,
        gold=" + ".join(f"{weight:g} {name}" for name, weight in GOLD.items()).replace("+ -", "- "),
        labelers=LABELERS,
        held_out=HELD_OUT,
    )


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {share:.0%}" for name, share in shares.items())
