"""Dialogue by OPT's protocol: what is asked, ParlAI's F1 by hand, and perplexity per token of another
tokenizer.
"""

import json
import math

import numpy as np
import pytest

from data.records import Message
from evals import dialogue
from evals.dialogue import as_lines, measure_dialogue, turns_of
from evals.generation import unigram_f1
from evals.loglikelihood import encode_pair, loglikelihoods
from podium.errors import DataError
from podium.models import save_model
from podium.sampling.protocol import Sample

TALKS = [
    [
        ("user", "Hi, who\nare you?"),
        ("assistant", "I am Ana."),
        ("user", "And?"),
        ("assistant", "The owl!"),
    ],
    [("assistant", "Good morning."), ("user", "Tell me more."), ("assistant", "No.")],
]


def messages(talk) -> list[Message]:
    return [Message(role=role, content=content) for role, content in talk]


@pytest.fixture
def files(tmp_path, tiny_llama, tokenizer):
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    rows = [
        {"messages": [m.model_dump(include={"role", "content"}) for m in messages(t)]}
        for t in TALKS
    ]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_lines_are_opts():
    """Mutations seen red: the first turn of an answerer who begins counted; persons swapped."""
    first, second, third = turns_of([messages(talk) for talk in TALKS])
    assert as_lines(first.before) == "Person 1: Hi, who are you?\nPerson 2:"
    assert as_lines(second.before).endswith("Person 2: I am Ana.\nPerson 1: And?\nPerson 2:")
    assert (second.said, third.said) == ("The owl!", "No.")
    assert (first.conversation, third.conversation) == (0, 1)
    assert as_lines(third.before).startswith("Person 2: Good morning.\nPerson 1:")


def parlai_f1(guess: str, answer: str) -> float:
    """ParlAI's definition, from its formula: precision and recall over the multiset of words that
    are left when case, punctuation and articles are gone.
    """
    gone = "!\"#$%&()*+,-./:;<=>?@[]\\^_`{|}~'"

    def words(text: str) -> list[str]:
        spaced = "".join(" " if c in gone else c for c in text.lower())
        return [word for word in spaced.split() if word not in ("a", "an", "the")]

    left, same = words(answer), 0
    for word in words(guess):
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(words(guess)), same / len(words(answer))
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("guess", "answer", "by_hand"),
    [
        ("The owl, the OWL!", "an owl", 2 / 3),  # precision 1/2, recall 1
        ("I like plum jam.", "I like the jam", 6 / 7),
        ("no", "yes", 0.0),
        ("", "yes", 0.0),
        ("it's the owl's", "it s owl s", 1.0),
        ("theory and anatomy", "theory anatomy", 4 / 5),  # articles are whole words
    ],
)
def test_unigram_f1_is_parlais_by_hand(guess, answer, by_hand):
    """Mutations seen red: articles kept; sets in place of multisets; accuracy in place of F."""
    assert unigram_f1(guess, [answer]) == pytest.approx(by_hand)
    assert parlai_f1(guess, answer) == pytest.approx(by_hand)


def test_perplexity_is_by_hand_and_per_token_of_whom_one_says(
    files, tiny_llama, tokenizer, monkeypatch
):
    """Mutations seen red: the mean of the turns' perplexities; the model's own tokens counted when
    another's were asked for.
    """
    turns = turns_of([messages(talk) for talk in TALKS])
    pairs = [encode_pair(tokenizer, as_lines(t.before), f" {t.said}") for t in turns]
    nats = -sum(one.total for one in loglikelihoods(tiny_llama, pairs, 128))
    found = measure_dialogue(str(files / "model"), files / "talks.jsonl")
    own = sum(len(continuation) for _, continuation in pairs)
    assert found["turns"] == 3 and found["conversations"] == 2
    assert found["perplexity"]["value"] == pytest.approx(math.exp(nats / own), rel=1e-4)
    assert found["perplexity"]["low"] <= found["perplexity"]["value"] <= found["perplexity"]["high"]
    tokenizer.save_pretrained(files / "other")
    monkeypatch.setattr(dialogue, "_count", lambda _, said: 2 * len(said.split()))
    other = measure_dialogue(
        str(files / "model"), files / "talks.jsonl", tokens_of=str(files / "other")
    )
    assert other["perplexity"]["value"] == pytest.approx(math.exp(nats / 12), rel=1e-4)  # 6 words
    assert other["perplexity per token of"] == str(files / "other")


def test_the_answer_is_the_line_and_scored_against_what_was_said(files, tokenizer, monkeypatch):
    """Mutations seen red: the text after the line's end kept; 64 tokens; sampled at 1."""
    asked = []

    class Says:
        def __init__(self, *_args) -> None: ...

        def generate(self, prompts, params):
            asked.append(params)
            says = tokenizer.encode(" I am the owl!\nPerson 1: I am", add_special_tokens=False)
            return [Sample(says, [0.0] * len(says), True) for _ in prompts]

    monkeypatch.setattr(dialogue, "make_sampler", Says)
    found = measure_dialogue(str(files / "model"), files / "talks.jsonl")
    by_hand = [parlai_f1("I am the owl!", said) for said in ("I am Ana.", "The owl!", "No.")]
    assert by_hand == pytest.approx([2 / 3, 1 / 2, 0.0])
    assert found["unigram f1"]["value"] == pytest.approx(np.mean(by_hand))
    assert asked[0].max_new_tokens == 32 and asked[0].temperature == 0.0


def test_in_the_models_own_turns_and_errors(files, podium):
    asked = podium(
        "eval", "dialogue", files / "model", files / "talks.jsonl", "--ask", "--limit", 1
    )
    told = json.loads(asked.stdout)
    assert asked.exit_code == 0 and told["form"] == "the model's turns" and told["turns"] == 2
    (files / "none.jsonl").write_text('{"messages": [{"role": "assistant", "content": "Hi."}]}\n')
    with pytest.raises(DataError, match="holds no answer to predict"):
        measure_dialogue(str(files / "model"), files / "none.jsonl")
