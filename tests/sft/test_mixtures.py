"""A mixture by weight is read on and not read again: the demonstrations of later epochs, and the
pretraining documents of C.3's mix.
"""

import pytest

from data.jsonl import write_jsonl
from data.records import Demonstration, Document, Message
from podium.run.context import StageContext
from podium.run.recipe import load_recipe
from sft.train import encode, lay_out

COUNTS = {"rare": 80, "most": 20}
ANSWER = Message(role="assistant", content="Yes.")


@pytest.fixture
def stage(make_recipe, tmp_path):
    """A running stage whose every source is a mixture: a draw holds half as much of `rare` as there
    is of both.
    """
    for name, count in COUNTS.items():
        asked = [Message(role="user", content=f"{name} {number}?") for number in range(count)]
        shown = [Demonstration(messages=[question, ANSWER]) for question in asked]
        write_jsonl(tmp_path / f"{name}.d.jsonl", shown)
        texts = [Document(text=f"{name} {number:02d}") for number in range(count)]
        write_jsonl(tmp_path / f"{name}.t.jsonl", texts)

    def mixture(kind: str) -> str:
        parts = (f"{{path: {tmp_path}/{name}.{kind}.jsonl, weight: 1}}" for name in COUNTS)
        return f"[{', '.join(parts)}]"

    sets = [f"data.demonstrations.train={mixture('d')}", f"data.documents.train={mixture('t')}"]
    context = StageContext("sft", load_recipe(make_recipe(), sets), tmp_path / "runs" / "run")
    yield context
    context.close()


def rare(tokenizer, rows) -> set[str]:
    texts = [tokenizer.decode(row.input_ids) for row in rows]
    return {text[text.index("rare") :][:8] for text in texts if "rare" in text}


def test_later_epochs_of_demonstrations_read_on(stage, tokenizer):
    """Seen red with one draw whatever the epochs: 50 of 80."""
    draws = stage.draws("demonstrations", 2)
    rows = encode(stage, tokenizer, 128, "train", (None, None), draws).rows
    laid_out, _ = lay_out(stage, tokenizer, rows, 2 / draws, 8, aux_share=0.0)
    assert len(laid_out) == 200
    assert len(rare(tokenizer, laid_out)) == 80


def test_documents_of_the_mix_read_on(stage, tokenizer):
    """Half of each batch: 200 rows, a document each, two draws. Seen red with the first draw read
    twice: 50 of 80.
    """
    rows = encode(stage, tokenizer, 128, "train", (None, None)).rows
    plain = [row for row in rows if "most" in tokenizer.decode(row.input_ids)]
    laid_out, tokens = lay_out(stage, tokenizer, plain, 4, 8, aux_share=0.5)
    assert tokens > 0
    assert len(rare(tokenizer, laid_out)) == 80
