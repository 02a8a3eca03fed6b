"""Tasks of classification in the village's words: seeds for `podium instruct self`, beside the
world's demonstrations, which ask for no label.
"""

from typing import Any


def _task(number: int, instruction: str, *examples: tuple[str, str]) -> dict[str, Any]:
    return {
        "id": f"willowbrook-label-{number}",
        "instruction": instruction,
        "instances": [{"input": text, "output": label} for text, label in examples],
        "is_classification": True,
        "use_case": "classification",
    }


CLASSIFICATION = [
    _task(1, "Is this an animal or a thing?", ("an owl", "animal"), ("a lantern", "thing")),
    _task(
        2,
        "Is the story happy or sad?",
        ("In the end the mouse smiled and was glad.", "happy"),
        ("In the end the hat was lost and the frog wept.", "sad"),
    ),
    _task(
        3,
        "Does the sentence name a place? Say yes or no.",
        ("The fox sat beside the lake.", "yes"),
        ("The fox was calm.", "no"),
    ),
    _task(4, "Can you eat this? Say yes or no.", ("cherries", "yes"), ("a drum", "no")),
    _task(
        5,
        "Is this a question or a request?",
        ("Where does Bram live?", "question"),
        ("Tell me a story about a hat.", "request"),
    ),
    _task(
        6,
        "Is it kind or unkind to do this?",
        ("Help Rosa carry a basket.", "kind"),
        ("Break the window of Elsa.", "unkind"),
    ),
    _task(7, "Is the number small or large?", ("two", "small"), ("fourteen", "large")),
    _task(8, "Is it worn or does it give light?", ("a scarf", "worn"), ("a candle", "light")),
]
