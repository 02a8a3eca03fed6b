"""Hallucination on questions about a passage: what counts as made up, which files are read, and
every figure from the answers that the model gives.
"""

import inspect
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from data.records import Message, Prompt
from data.template import decode_response, encode_prompt, stop_token_ids
from evals.hallucination import (
    Closed,
    _holds,
    measure_hallucination,
    names_and_numbers,
    read_closed,
    summary,
    unsupported,
)
from evals.prefixed import RESPECTFUL
from podium.cli.asking import hallucination as command
from podium.errors import DataError, PodiumError
from podium.models import absent_token_ids, save_model
from podium.sampling.kinds import EmbeddedConfig, make_sampler
from podium.sampling.protocol import SamplingParams
from podium.statistics import mean_with_interval, paired_difference

PASSAGE = "In 1875 the miller Bram Vos built a barn. It cost 1,200 crowns."


@pytest.mark.parametrize(
    ("said", "made_up"),
    [
        ("Bram Vos built it in 1875.", False),
        ("bram vos, for 1200 crowns", False),
        ("Nobody knows. Perhaps I do.", False),  # a sentence begins with a capital, "I" is one
        ("It was built by Ana.", True),
        ("In 1876.", True),
        ("The barn (Ana's) cost 1,300.", True),
        ("1,20 crowns", True),
        ("", False),
    ],
)
def test_a_name_or_a_number_that_is_not_there_is_made_up(said, made_up):
    """Mutations seen red: numbers not looked at; names not looked at; a word counted as a name
    wherever it stands; commas of numbers kept.
    """
    asked = Prompt(messages=[Message(role="user", content=f"{PASSAGE}\n\nWho built it?")])
    assert unsupported([asked], [said]) == [float(made_up)]


def test_what_a_name_is():
    assert names_and_numbers('So Ana said: "Come to Rome in 3.5 days" and Bram went.') == {
        "ana",
        "rome",
        "3.5",
        "bram",
    }


SQUAD = {"data": [{"paragraphs": [{"context": PASSAGE, "qas": [
    {"question": "Who?", "answers": [{"text": "Bram Vos"}, {"text": "Bram Vos"}, {"text": "Vos"}]},
    {"question": "Why?", "answers": [], "is_impossible": True},
]}]}]}  # fmt: skip
FILES = {
    "squad.json": (json.dumps(SQUAD), [Closed(PASSAGE, "Who?", ("Bram Vos", "Vos")),
                                       Closed(PASSAGE, "Why?", ())]),
    "hub.jsonl": (json.dumps({"context": PASSAGE, "question": "Who?",
                              "answers": {"text": ["Vos"], "answer_start": [3]}}),
                  [Closed(PASSAGE, "Who?", ("Vos",))]),
    "dolly.jsonl": (json.dumps({"instruction": "Who?", "context": PASSAGE, "response": "Vos."})
                    + "\n\n" + json.dumps({"instruction": "Name a fruit.", "context": "",
                                           "response": "A plum."}),
                    [Closed(PASSAGE, "Who?", ("Vos.",))]),
    "alpaca.json": (json.dumps([{"instruction": "Who?", "input": PASSAGE, "output": "Vos"}]),
                    [Closed(PASSAGE, "Who?", ("Vos",))]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_files_that_people_have_are_read(tmp_path, name):
    """Mutation seen red: rows without a passage kept."""
    text, expected = FILES[name]
    (tmp_path / name).write_text(text)
    assert read_closed(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no question about a passage"),
        ('{"instruction": "Name a fruit.", "output": "A plum."}', "holds no question about"),
        ('{"passage": "A barn."}', "line 1, field 'question': is no text"),
        ('{"passage": 3, "question": "Who?"}', "line 1"),
        ('{"passage": "A barn."', "is not read"),
        ("[1, 2]", "a row is no object"),
        ('{"data": [{"paragraphs": 3}]}', "is not read"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, text, said):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(DataError, match=said):
        read_closed(tmp_path / "rows.jsonl")


def test_an_answer_holds_a_right_one_as_whole_words():
    """Mutation seen red: a part of a word counts."""
    assert _holds("It was Bram Vos, I think.", ["the miller", "bram vos"])
    assert not _holds("It was Bram Vossen.", ["Bram Vos"]) and not _holds("", ["Vos"])


def test_the_figures_are_by_hand():
    """Mutation seen red: "right" over the questions without a known answer too."""
    values = {
        "made up": np.array([[1.0, 0.0], [0.0, 0.0]]),
        "right": np.array([[0.0, 1.0], [0.0, 0.0]]),
    }
    told = summary(values, np.array([True, False]))
    assert told["made up"]["value"] == 0.25 and told["right"]["value"] == 0.5
    assert "right" not in summary(values, np.array([False, False]))


ROWS = [
    {"passage": "Bram ate 3.", "question": "Who?", "answers": ["a"]},
    {"passage": "Ana.", "question": "Why?"},
    {"passage": "So Rome.", "question": "Is it?", "answers": ["b", "e"]},
]
EVEN = """
def even(prompts, responses):
    return [float((len(p.messages[-1].content) + len(text)) % 2) for p, text in zip(prompts, responses)]
def large(prompts, responses):
    return [3.0 for _ in responses]
"""


@pytest.fixture
def files(tmp_path, tiny_llama, tokenizer):
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "scorer.py").write_text(EVEN)
    return tmp_path


class Lines:
    """The embedded sampler, and after the second token of each answer the line ends, which a model
    of random weights does too seldom.
    """

    def __init__(self, tokenizer, *made) -> None:
        self.end, self.sampler = tokenizer.encode("\n"), make_sampler(*made)

    def generate(self, rows, params):
        drawn = self.sampler.generate(rows, replace(params, stop=None))
        return [replace(s, tokens=[*s.tokens[:2], *self.end, *s.tokens[2:]]) for s in drawn]


@pytest.mark.parametrize("ask", [False, True])
def test_every_figure_is_of_the_answers_that_the_model_gives(
    files, tiny_llama, tokenizer, ask, monkeypatch
):
    """Sampled again here, from the same random numbers. Mutations seen red: the request left out of
    the second arm; "Answer:" left out of plain text, or put in the model's turns; an answer in
    plain text not cut at its line; the arms or the difference turned round; empty answers
    counted as full.
    """
    monkeypatch.setattr("evals.prefixed.make_sampler", partial(Lines, tokenizer))
    path, scorer = files / "rows.jsonl", f"{files / 'scorer.py'}:even"
    found = measure_hallucination(str(files / "model"), path, scorer, 6, 24, 0.95, ask, seed=3)
    sampler = Lines(tokenizer, EmbeddedConfig(), tiny_llama.eval(), int(tokenizer.pad_token_id))
    params = SamplingParams(24, top_p=0.95, seed=3, stop_token_ids=stop_token_ids(tokenizer, tiny_llama),
                            absent_token_ids=absent_token_ids(tokenizer, tiny_llama.config))  # fmt: skip
    made_up, empty, right = [], [], []
    for prefix in ("", f"{RESPECTFUL} "):
        texts = [f"{prefix}{r['passage']}\n\n{r['question']}" + ("" if ask else "\nAnswer:")
                 for r in ROWS]  # fmt: skip
        rows = [
            encode_prompt(tokenizer, [Message(role="user", content=t)])
            if ask
            else tokenizer.encode(t)
            for t in texts
        ]
        drawn = sampler.generate([row for row in rows for _ in range(6)], params)
        said = [decode_response(tokenizer, sample.tokens) for sample in drawn]
        said = [(s if ask else s.split("\n")[0]).strip() for s in said]
        asked = [text for text in texts for _ in range(6)]
        wanted = [r.get("answers", ()) for r in ROWS for _ in range(6)]
        made_up.append([float((len(t) + len(s)) % 2) for t, s in zip(asked, said, strict=True)])
        empty.append([float(s == "") for s in said])
        right.append([float(_holds(s, a)) for s, a in zip(said, wanted, strict=True)])
    made_up, empty, right = (
        np.array(v).reshape(2, 3, 6).mean(axis=2) for v in (made_up, empty, right)
    )

    def share(values):
        return mean_with_interval(values, range(len(values)), (0.0, 1.0))._asdict()

    assert not np.array_equal(*made_up)
    for arm, name in enumerate(("as it is", "respectful")):
        assert found["arms"][name] == {"made up": share(made_up[arm]), "empty": share(empty[arm]),
                                       "right": share(right[arm][[0, 2]])}  # fmt: skip
    expected = paired_difference(made_up[1], made_up[0], range(3), (-1.0, 1.0))._asdict()
    assert found["respectful minus as it is"] == expected
    assert (found["questions"], found["samples"], found["scorer"]) == (3, 6, scorer)
    one = measure_hallucination(str(files / "model"), path, scorer, 1, 4, ask=ask, limit=1)
    assert one["questions"] == 1


def test_by_default_four_answers_of_48_tokens_are_taken():
    """In the function and in the command."""
    own, told = (inspect.signature(each).parameters for each in (measure_hallucination, command))
    defaults = {"samples": 4, "new_tokens": 48, "top_p": 0.9, "ask": False, "seed": 0}
    assert {name: own[name].default for name in defaults} == defaults
    defaults["max_new_tokens"] = defaults.pop("new_tokens")
    assert {name: told[name].default for name in defaults} == defaults


def test_what_is_refused_by_name_and_the_command(files, podium):
    """A script without capital letters has no names for the default scorer to miss. Mutation seen
    red: such a file counted as free of hallucination.
    """
    with pytest.raises(PodiumError, match="gave 3 to 3; hallucination is a share"):
        measure_hallucination(
            str(files / "model"), files / "rows.jsonl", f"{files / 'scorer.py'}:large", 1, 2
        )
    (files / "low.jsonl").write_text('{"passage": "\u8c37\u4ed3", "question": "\u8c01?"}')
    with pytest.raises(DataError, match="no name and no number in any passage"):
        measure_hallucination(str(files / "model"), files / "low.jsonl", samples=1, new_tokens=2)
    options = ["--samples", 2, "--max-new-tokens", 4, "--ask", "--limit", 2]
    result = podium("eval", "hallucination", files / "model", files / "rows.jsonl", *options)
    told = json.loads(result.stdout)
    assert result.exit_code == 0 and told["scorer"] == "evals.hallucination:unsupported"
    assert told["questions"] == 2 and set(told["arms"]) == {"as it is", "respectful"}
