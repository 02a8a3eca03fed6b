"""`podium data check`, as it is typed: what a file is taken for and what would be learned of it."""

import json

import numpy as np
import pytest

from data.check import length_lines, recognise
from data.jsonl import read_jsonl, write_jsonl
from data.records import Demonstration, Message, Ranking
from podium.errors import DataError

CHAT = [
    {"role": "user", "content": "What floats?"},
    {"role": "assistant", "content": "Corks do."},
    {"role": "user", "content": "And what sinks?"},
    {"role": "assistant", "content": "Stones."},
]
FILES = {  # name -> rows, the kind and the format they are taken for
    "alpaca.json": ([{"instruction": "Add 1 and 2.", "input": "", "output": "3"}], "demonstrations", "alpaca"),
    "chat.jsonl": ([{"messages": CHAT}], "demonstrations", "records"),
    "pairs.jsonl": (
        [{"prompt": CHAT[:1], "chosen": CHAT[1:2], "rejected": [{"role": "assistant", "content": "No."}]}],
        "comparisons", "trl_preference",
    ),
    "shared.json": (
        [{
            "conversations": [{"from": "human", "value": "What floats?"}],
            "chosen": {"from": "gpt", "value": "Corks."},
            "rejected": {"from": "gpt", "value": "Stones."},
        }],
        "comparisons", "sharegpt",
    ),
    "scored.jsonl": (
        [{"instruction": "Hi", "responses": [{"text": "a", "score": 1.0}, {"text": "b", "score": 2.0}]}],
        "rankings", "scored_list",
    ),
    "preference.jsonl": (
        [{"prompt": "What floats?", "response_1": "No.", "response_2": "Corks.", "preference_strength": 1}],
        "comparisons", "judged_pair",
    ),
    "shp.jsonl": (
        [{"history": "What floats?", "human_ref_A": "No.", "human_ref_B": "Corks.", "labels": 0}],
        "comparisons", "judged_pair",
    ),
    "asked.jsonl": ([{"messages": CHAT[:1]}], "prompts", "records"),
    "text.jsonl": ([{"text": "Once upon a time."}], "documents", "records"),
    "split.jsonl": ([{"prompt": "What floats?", "completion": "Corks."}], "demonstrations", "prompt_completion"),
}  # fmt: skip


def write(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_taken_for_what_it_is(name, podium, tmp_path):
    """Pairs have an answer a prompt too, but are not taken for demonstrations. Seen red with
    demonstrations tried first.
    """
    rows, kind, format = FILES[name]
    done = podium("data", "check", write(tmp_path / name, rows * 3))
    assert done.exit_code == 0, done.output
    assert f"{kind}, in the format `{format}`" in done.stdout and "3 records read" in done.stdout


def test_what_is_learned_is_marked_with_the_token_that_ends_it(podium, tokenizer, tmp_path):
    """Both answers of two turns. Seen red with the mask turned."""
    tokenizer.save_pretrained(tmp_path / "model")
    path = write(tmp_path / "chat.jsonl", [{"messages": CHAT}])
    done = podium("data", "check", path, "--model", tmp_path / "model", "--limit", 20)
    end = tokenizer.eos_token
    assert f"⟦Corks do.{end}⟧" in done.stdout and f"⟦Stones.{end}⟧" in done.stdout
    assert "1 of 1 are longer than 20 tokens" in done.stdout
    # without a model the messages stand as they are
    plain = podium("data", "check", path)
    assert "user: What floats?\n⟦assistant: Corks do.\n⟧" in plain.stdout
    assert "characters" in plain.stdout


def test_a_ranking_shows_every_answer_with_its_rank_and_is_saved_as_records(podium, tmp_path):
    rows, _, _ = FILES["scored.jsonl"]
    done = podium(
        "data", "check", write(tmp_path / "s.jsonl", rows), "--save", tmp_path / "out.jsonl"
    )
    assert "[rank 1] " in done.stdout and "[rank 2] " in done.stdout
    (ranking,) = read_jsonl(tmp_path / "out.jsonl", Ranking)
    assert sorted(zip(ranking.ranks, ranking.responses, strict=True)) == [(1, "b"), (2, "a")]


def test_columns_are_mapped_and_drops_are_told(podium, tmp_path):
    rows = [{"question": "What floats?", "better": "Corks."}] * 4
    options = ("--format", "prompt_completion")
    options += ("--field", "prompt=question", "--field", "completion=better")
    done = podium("data", "check", write(tmp_path / "mine.jsonl", rows), *options)
    assert "4 records read" in done.stdout and "⟦assistant: Corks." in done.stdout
    rows.append({"question": "What sinks?", "better": None})
    refused = podium("data", "check", write(tmp_path / "mine.jsonl", rows), *options)
    assert refused.exit_code == 2 and "mine.jsonl, line 5" in refused.output
    labelled = [{"messages": CHAT, "label": good} for good in (True, True, False)]
    done = podium("data", "check", write(tmp_path / "kto.jsonl", labelled), "--format", "sharegpt")
    assert "2 records read, 1 rows dropped (1 labelled as a bad answer)" in done.stdout
    wrong = podium("data", "check", tmp_path / "mine.jsonl", "--field", "question")
    assert wrong.exit_code == 2 and "prompt=question" in wrong.output


def test_what_fits_nothing_is_refused_with_the_formats_there_are(podium, tmp_path):
    path = write(tmp_path / "odd.jsonl", [{"colour": "red", "weight": 3}])
    done = podium("data", "check", path)
    assert done.exit_code == 2
    assert "reads as no format that Podium knows" in done.output and "trl_preference" in done.output
    missing = podium("data", "check", tmp_path / "none.jsonl")
    assert missing.exit_code == 2 and "no such file" in missing.output
    nameless = podium("data", "check", path, "--model", tmp_path)
    assert nameless.exit_code == 2


def test_a_bad_line_is_named_where_the_kind_is_known(tmp_path):
    good = Demonstration(messages=[Message(**m) for m in CHAT])
    path = tmp_path / "d.jsonl"
    write_jsonl(path, [good] * 2)
    path.write_text(path.read_text() + '{"messages": [{"role": "user", "content": "x"}]}\n')
    with pytest.raises(DataError, match=r"d\.jsonl, line 3"):
        recognise({"path": str(path), "format": "records"}, "demonstrations")


def test_the_histogram_counts_every_sequence_and_its_tail():
    """Mutation: the last bin closed at the 99th percentile."""
    lengths = np.array([10] * 500 + [20] * 498 + [5000, 9000])
    lines = length_lines(lengths, "tokens", limit=100)
    counted = [
        int(line.split()[-1].replace(",", "")) for line in lines if line.startswith("  from")
    ]
    assert sum(counted) == 1000 and "median 15" in lines[0]
    assert lines[-1] == "2 of 1,000 are longer than 100 tokens"


def test_a_file_that_is_not_there_is_said_in_a_sentence(podium, tmp_path):
    """Seen red: it "reads as no format", and the fix was to name one. So for one object alone."""
    done = podium("data", "check", tmp_path / "nothere.json")
    assert done.exit_code == 2 and "there is no such file" in done.stderr
    assert done.stderr.count("fix:") == 1 and "format" not in done.stderr
    (tmp_path / "config.json").write_text('{\n "a": 1\n}')
    done = podium("data", "check", tmp_path / "config.json")
    assert "is not a JSON list of rows" in done.stderr and done.stderr.count("fix:") == 1
