"""Sources of every format: small files written here, and the real ones where PODIUM_REAL_DATA names
them.
"""

import gzip
import json
import logging
import re

import pytest

from data.jsonl import write_jsonl
from data.readers import read_source, read_with_report
from data.records import Comparison, Demonstration, Document, Message, Prompt, Ranking
from data.sources import Source
from podium.errors import DataError, PodiumError

ASK = Message(role="user", content="Name a fruit.")
ANSWER = Message(role="assistant", content="A plum.")
NO = {"role": "assistant", "content": "No."}
NECTAR = "\n\nHuman: Name a fruit.\n\nAssistant:"


def save(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return str(path)


def one(path, rows, format, kind):
    """The only record a source of these rows gives, without its source field."""
    [record] = read_source({"path": save(path, rows), "format": format}, kind)
    assert record.source == path.name
    return record.model_copy(update={"source": None})


def answers(text, merit, *values, **more):
    """Answers A., B., C. as a scored list has them, under its own names."""
    return [
        {text: answer, merit: value, **more}
        for answer, value in zip(["A.", "B.", "C."], values, strict=True)
    ]


def test_alpaca(tmp_path):
    row = {"instruction": "Name", "input": "a fruit.", "output": "A plum."}
    row |= {"system": "Be kind.", "history": [["Hi", "?"]]}
    record = one(tmp_path / "a.json", [row], "alpaca", Demonstration)
    assert [(m.role, m.content) for m in record.messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "?"),
        ("user", "Name\n\na fruit."),
        ("assistant", "A plum."),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": ASK.content}, {"from": "gpt", "value": ANSWER.content}]},
        {"messages": [ASK.model_dump(), ANSWER.model_dump(), {"role": "user", "content": "unanswered"}]},
        {"messages": [
            {"role": "user", "content": [{"type": "text", "text": "Name a "}, {"type": "text", "value": "fruit."}]},
            ANSWER.model_dump(),
        ]},
    ],
    ids=["sharegpt", "openai, ends with a question", "content in parts"],
)  # fmt: skip
def test_sharegpt(tmp_path, row):
    assert one(tmp_path / "s.jsonl", [row], "sharegpt", Demonstration) == Demonstration(
        messages=[ASK, ANSWER]
    )


def test_sharegpt_comparisons(tmp_path):
    chosen, rejected = {"from": "gpt", "value": "A plum."}, {"from": "gpt", "value": "No."}
    row = {
        "conversations": [{"from": "human", "value": ASK.content}],
        "chosen": chosen,
        "rejected": rejected,
    }
    expected = Comparison(prompt=[ASK], chosen="A plum.", rejected="No.")
    assert one(tmp_path / "s.json", [row], "sharegpt", Comparison) == expected


def test_hh_joins_turns_of_one_speaker(tmp_path):
    start = "\n\nHuman: Name\n\nHuman: a fruit.\n\nAssistant:"
    row = {"chosen": f"{start} A plum.", "rejected": f"{start} No.\n\nReally: no."}
    record = one(tmp_path / "h.jsonl", [row], "hh", Comparison)
    assert record.prompt == [Message(role="user", content="Name\n\na fruit.")]
    assert (record.chosen, record.rejected) == ("A plum.", "No.\n\nReally: no.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASK.content, "chosen": "A plum.", "rejected": "No."},
        {"prompt": [ASK.model_dump()], "chosen": [ANSWER.model_dump()], "rejected": [NO]},
        {"chosen": [ASK.model_dump(), ANSWER.model_dump()], "rejected": [ASK.model_dump(), NO]},
    ],
    ids=["strings", "conversational", "prompt inside both"],
)
def test_trl_preference(tmp_path, row):
    expected = Comparison(prompt=[ASK], chosen="A plum.", rejected="No.")
    assert one(tmp_path / "t.jsonl", [row], "trl_preference", Comparison) == expected


@pytest.mark.parametrize(
    ("row", "generators"),
    [
        (
            {
                "instruction": ASK.content,
                "responses": answers("output", "score", 0.5, 2, 0.5, model="m"),
            },
            ["m"] * 3,
        ),
        ({"prompt": NECTAR, "answers": answers("answer", "rank", 2.0, 1.0, 2.0)}, None),
        (
            {
                "instruction": ASK.content,
                "completions": answers("response", "overall_score", 6.0, 8.5, 6.0),
            },
            None,
        ),
        (
            {"prompt": [ASK.model_dump()], "responses": ["A.", "B.", "C."], "scores": [0, 1, 0]},
            None,
        ),
    ],
    ids=["alpacaeval", "nectar", "ultrafeedback", "plain"],
)
def test_scored_lists_become_rankings_with_ties(tmp_path, row, generators):
    """High scores and low ranks are good. Seen red with the sign of `rank` flipped, and with scores
    sorted upwards.
    """
    record = one(tmp_path / "l.jsonl", [row], "scored_list", Ranking)
    assert (record.prompt, record.responses, record.ranks) == ([ASK], ["A.", "B.", "C."], [2, 1, 2])
    assert record.generators == generators


def test_text_files_are_split_at_the_separator_and_folders_read_whole(tmp_path):
    (tmp_path / "b.txt").write_text("One.<|endoftext|>\nTwo.\n<|endoftext|>", encoding="utf-8")
    (tmp_path / "a.txt").write_text("Zero.", encoding="utf-8")
    found, report = read_with_report({"path": str(tmp_path / "b.txt"), "format": "text"}, Document)
    assert [d.text for d in found] == ["One.", "Two."] and report.dropped == {"blank document": 1}
    assert [d.text for d in read_source(tmp_path / "b.txt", Document)] == ["One.", "Two."]
    folder = read_source({"path": str(tmp_path), "format": "text"}, Document)
    assert [d.text for d in folder] == ["Zero.", "One.", "Two."]
    lines = read_source(
        {"path": save(tmp_path / "p.jsonl", ["Name a fruit."]), "format": "text"}, Prompt
    )
    assert lines[0].messages == [ASK]


def test_our_own_records_by_path_list_or_another_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    comparison = Comparison(prompt=[ASK], chosen="A plum.", rejected="No.")
    write_jsonl(tmp_path / "c.jsonl", [comparison] * 3)
    assert read_source("${HERE}/c.jsonl", Comparison) == [comparison] * 3
    assert read_source("${HERE}/c.jsonl", Ranking) == [comparison.ranking()] * 3
    assert (
        len(
            read_source(
                ["${HERE}/c.jsonl", {"path": "${HERE}/c.jsonl", "skip": 1, "limit": 1}], Comparison
            )
        )
        == 4
    )
    assert len(read_source(Source(path="${HERE}/c.jsonl", limit=2), Prompt)) == 2


def test_parquet_and_folders_written_by_datasets_are_read(tmp_path):
    from data.jsonl import to_dataset

    comparison = Comparison(prompt=[ASK], chosen="A plum.", rejected="No.", meta={"n": 1})
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "c.parquet", tmp_path / "folder" / "train.parquet"):
        to_dataset([comparison] * 2).to_parquet(path)
    assert read_source(tmp_path / "c.parquet", Comparison) == [comparison] * 2
    assert read_source(tmp_path / "folder", Comparison) == [comparison] * 2


def test_a_mixture_by_weight_reports_its_epochs(tmp_path, caplog):
    write_jsonl(tmp_path / "a.jsonl", [Document(text="a" * 10)] * 10)
    write_jsonl(tmp_path / "b.jsonl", [Document(text="b" * 10)] * 30)
    spec = [{"path": str(tmp_path / f"{name}.jsonl"), "weight": 1} for name in "ab"]
    with caplog.at_level(logging.WARNING, "podium.data"):
        mixed = read_source(spec, Document)
    assert sum(d.text[0] == "a" for d in mixed) == 20 and len(mixed) == 40
    assert "a.jsonl 2.00" in caplog.text and "b.jsonl 0.67" in caplog.text
    del spec[1]["weight"]
    with pytest.raises(DataError, match=r"b\.jsonl.*weight"):
        read_source(spec, Document)


def test_dropped_rows_are_counted_by_reason_and_told(tmp_path, caplog):
    good = {"instruction": ASK.content, "output": "A plum."}
    blank = [{**good, "output": " "}, {**good, "output": ""}, {**good, "instruction": ""}]
    path = save(tmp_path / "a.jsonl", [good, *blank])
    with caplog.at_level(logging.WARNING, "podium.data"):
        assert len(read_source({"path": path, "format": "alpaca"}, Demonstration)) == 1
    assert "1 records read, 3 rows dropped (2 blank answer, 1 blank question)" in caplog.text
    tool = {
        "conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "{}"}]
    }
    with pytest.raises(DataError, match=r"nothing usable.*1 a tool call that names no"):
        read_source(
            {"path": save(tmp_path / "s.jsonl", [tool]), "format": "sharegpt"}, Demonstration
        )


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        (
            {"path": "{a}", "format": "sharegpt"},
            Demonstration,
            r"line 1, field 'conversations'(.|\n)*sharegpt\?",
        ),
        (
            {"path": "{a}", "format": "alpaca"},
            Ranking,
            "alpaca does not hold Rankings\n.*hh, trl_preference",
        ),
        ({"path": "{a}", "fromat": "alpaca"}, Prompt, "field 'fromat': unknown key\n.*'format'"),
        (
            {"path": "{a}", "format": "alpacca"},
            Prompt,
            "field 'format'(.|\n)*did you mean 'alpaca'",
        ),
        ({"path": "{a}", "limit": 0}, Prompt, "field 'limit'"),
        ("${NOT_SET_ANYWHERE}/x.jsonl", Prompt, "variable NOT_SET_ANYWHERE is not set"),
        ("{a}x", Prompt, "no such file\n.*did you mean .*a.jsonl"),
        ("some/data-set-nobody-made", Prompt, "no file here, and could not be loaded"),
        ({"path": "{bad}", "format": "alpaca"}, Prompt, "bad.json, line 3.*not valid JSON"),
        ({"path": "{latin}", "format": "text"}, Document, "latin.txt, line 2.*not UTF-8"),
    ],
)
def test_sources_that_cannot_be_read_say_why(tmp_path, spec, kind, said):
    paths = {"a": save(tmp_path / "a.jsonl", [{"instruction": "x", "output": "y"}]),
             "bad": str(tmp_path / "bad.json"), "latin": str(tmp_path / "latin.txt")}  # fmt: skip
    (tmp_path / "bad.json").write_text('[\n{"instruction": "x"},\n{"instruction" "x"}]')
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9")

    def fill(value):
        for key, path in paths.items():
            value = value.replace("{" + key + "}", path) if isinstance(value, str) else value
        return value

    with pytest.raises(PodiumError, match=said):
        read_source(
            {k: fill(v) for k, v in spec.items()} if isinstance(spec, dict) else fill(spec), kind
        )


def test_a_hub_error_without_a_word_is_told_by_its_kind(monkeypatch):
    """Seen red with the first line of its text taken unconditionally."""

    def load_dataset(*args, **kwargs):
        raise ConnectionError

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError, match="as a data set: ConnectionError"):
        read_source("some/data-set", Prompt)


REAL = [
    ("C_demos/llamafactory_demo_sets/alpaca_en_demo.json", "alpaca", Demonstration, 999, 0),
    ("C_demos/llamafactory_demo_sets/alpaca_zh_demo.json", "alpaca", Demonstration, 1000, 0),
    ("C_demos/gpteacher/codegen-instruct.json", "alpaca", Demonstration, 4535, 0),
    (
        "C_demos/llamafactory_demo_sets/glaive_toolcall_en_demo.json",
        "sharegpt",
        Demonstration,
        300,
        0,
    ),
    ("C_demos/llamafactory_demo_sets/v1_sft_demo.jsonl", "sharegpt", Demonstration, 500, 0),
    ("C_demos/llamafactory_demo_sets/kto_en_demo.json", "sharegpt", Demonstration, 150, 150),
    ("C_demos/llamafactory_demo_sets/dpo_en_demo.json", "sharegpt", Ranking, 300, 0),
    ("C_demos/oasst_en_100_trees/prompt_lottery_en_250_text.jsonl", "text", Prompt, 250, 0),
    ("D_prefs/hh_rlhf_harmless_base_test/test.jsonl.gz", "hh", Ranking, 2308, 4),
    ("D_prefs/alpacaeval_split_dev/dev_k8.jsonl", "scored_list", Ranking, 473, 0),
    ("B_pretrain/tinystories_2MiB/tinystories_sample.txt", "text", Document, 2317, 0),
    ("B_pretrain/100_english_novels", "text", Document, 20, 0),
    ("C_demos/llamafactory_demo_sets/c4_demo.jsonl", "text", Document, 300, 0),
]


@pytest.mark.parametrize(
    ("path", "format", "kind", "kept", "dropped"), REAL, ids=[path for path, *_ in REAL]
)
def test_real_files(real_data, path, format, kind, kept, dropped):
    records, report = read_with_report({"path": str(real_data / path), "format": format}, kind)
    assert (len(records), report.dropped.total()) == (kept, dropped)


def test_real_transcripts_keep_every_word(real_data):
    """Seen red with `_transcript` splitting at "Human:" anywhere in a line."""
    path = real_data / "D_prefs/hh_rlhf_harmless_base_test/test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    written = [
        "".join(re.sub(r"\n\n(Human|Assistant):", "", row["chosen"]).split()) for row in rows
    ]
    records = read_source({"path": str(path), "format": "hh"}, Comparison)
    read = ["".join("".join([*(m.content for m in r.prompt), r.chosen]).split()) for r in records]
    remaining = iter(written)
    assert all(words in remaining for words in read), (
        "every record holds one row's words, in the rows' order"
    )


def test_real_score_order(real_data):
    """The order of AlpacaEval's eight responses is that of their scores."""
    path = real_data / "D_prefs/alpacaeval_split_dev/dev_k8.jsonl"
    for ranking in read_source({"path": str(path), "format": "scored_list"}, Ranking):
        by_rank = [
            score for _, score in sorted(zip(ranking.ranks, ranking.meta["scores"], strict=True))
        ]
        assert by_rank == sorted(by_rank, reverse=True) and ranking.k == 8
