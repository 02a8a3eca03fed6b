"""Prompts unlike the training prompts are found by their hidden states."""

import json

from data.records import Message, Prompt
from evals.distance import far_prompts
from evals.report import render


def asked(texts) -> list[Prompt]:
    return [Prompt(messages=[Message(role="user", content=text)]) for text in texts]


def test_a_prompt_of_another_kind_is_flagged(tiny_llama, tokenizer):
    """Sixty questions about villagers, asked about another, and lines of digits. The last token is
    the same turn's everywhere, so what differs is what it has read. Seen red with those
    within the bound flagged.
    """
    names = ["Ana", "Bram", "Cleo", "Dov", "Eli", "Fay"]
    foods = ["honey", "plums", "bread", "figs", "oats", "jam", "nuts", "tea", "pie", "soup"]
    known = asked([f"Does {n} like {f}?" for n in names for f in foods])
    new = asked(["Does Ana like corn?", "9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9"])
    found = far_prompts(tiny_llama, tokenizer, known, new, 100)
    assert found["flagged"][0] == 1 and found["farthest"][0]["prompt"].startswith("9 9")
    assert found["farthest"][0]["distance"] > found["bound"]
    assert far_prompts(tiny_llama, tokenizer, known[:5], new, 100) is None


def test_the_report_says_which_prompts_are_far(copied_run):
    """Of the miniature run's evaluation, and with one flagged."""
    path = copied_run / "evals/final/results.json"
    results = json.loads(path.read_text())
    far = results["setup"]["far_prompts"]
    assert far["asked"] == 6 and len(far["farthest"]) <= len(far["flagged"])
    assert f"{len(far['flagged'])} of 6 test prompts lie farther" in render(copied_run).read_text()
    one = {"prompt": "Integrate <x> dx", "distance": 9.0, "use_case": None}
    results["setup"]["far_prompts"] = far | {"flagged": [0], "farthest": [one]}
    path.write_text(json.dumps(results))
    assert "Integrate &lt;x&gt; dx” (9.0" in render(copied_run).read_text()
