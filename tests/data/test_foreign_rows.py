"""What strangers' files hold: each row means what its author meant, or is left out and counted, or
is refused with file, line, field and fix. No row ends in a traceback.
"""

import copy
import json
import os

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data.readers import CONVERTERS, read_with_report
from data.records import Comparison, Demonstration, Document, Message, Prompt, Ranking
from podium.errors import PodiumError

# Rows a format; PODIUM_FUZZ_ROWS=1200 makes more than ten thousand.
EXAMPLES = int(os.environ.get("PODIUM_FUZZ_ROWS", "150"))
ASK = {"role": "user", "content": "Name a fruit."}
YES = {"role": "assistant", "content": "A plum."}
NO = {"role": "assistant", "content": "No."}
KIND = Message(role="system", content="Be kind.")


def read(tmp_path, rows, format, kind, name="rows.jsonl", **more):
    """(records, dropped by reason) of a file with these rows."""
    path = tmp_path / name
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    path.write_text(text)
    records, report = read_with_report({"path": str(path), "format": format, **more}, kind)
    return records, dict(report.dropped)


def turns(messages):
    return [(message.role, message.content) for message in messages]


# ---- what the author meant ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "row", "kind"),
    [
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"},
                                        {"from": "gpt", "value": "Ho"}]}, Demonstration),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}],
                      "chosen": {"from": "gpt", "value": "Ho"},
                      "rejected": {"from": "gpt", "value": "He"}}, Comparison),
        ("trl_preference", {"prompt": "Hi", "chosen": "Ho", "rejected": "He"}, Comparison),
        ("trl_preference", {"chosen": [ASK, YES], "rejected": [ASK, NO]}, Comparison),
        ("prompt_completion", {"prompt": "Hi", "completion": "Ho"}, Demonstration),
        ("alpaca", {"instruction": "Hi", "output": "Ho"}, Demonstration),
        ("scored_list", {"prompt": "Hi", "responses": ["A", "B"], "scores": [1, 2]}, Ranking),
        ("hh", {"chosen": "\n\nHuman: Hi\n\nAssistant: Ho",
                "rejected": "\n\nHuman: Hi\n\nAssistant: He"}, Comparison),
        ("oasst_kway", {"history": [{"role": "prompter", "text": "Hi"}],
                        "responses": [{"text": "A", "rank": 0}, {"text": "B", "rank": 1}]}, Ranking),
        ("judged_pair", {"prompt": "Hi", "response_1": "Ho", "response_2": "He",
                         "preference_strength": 1}, Comparison),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["system", "system_prompt"])
def test_a_system_prompt_beside_the_turns_comes_first(tmp_path, key, format, row, kind):
    """Open-Orca calls it system_prompt. Seen red: it was dropped, and nothing was said."""
    [record], dropped = read(tmp_path, [row | {key: "Be kind."}], format, kind)
    messages = record.messages if kind is Demonstration else record.prompt
    assert messages[0] == KIND and not dropped
    assert [message.role for message in messages].count("system") == 1


def test_a_system_turn_of_its_own_is_not_doubled(tmp_path):
    row = {"messages": [{"role": "system", "content": "Be brief."}, ASK, YES], "system": "Be kind."}
    [record], _ = read(tmp_path, [row], "sharegpt", Demonstration)
    assert turns(record.messages)[0] == ("system", "Be brief.") and len(record.messages) == 3


def test_a_prompt_that_the_answers_repeat_counts_once(tmp_path):
    """As in UltraFeedback-binarized. Seen red: the question stood twice in every prompt."""
    row = {"prompt": "Name a fruit.", "chosen": [ASK, YES], "rejected": [ASK, NO]}
    [record], _ = read(tmp_path, [row], "trl_preference", Ranking)
    assert turns(record.prompt) == [("user", "Name a fruit.")]
    row = {"prompt": "Name a fruit.", "chosen": [YES], "rejected": [NO]}
    assert read(tmp_path, [row], "trl_preference", Ranking)[0][0].prompt == record.prompt


SYSTEM = KIND.model_dump(exclude_none=True)
HI = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}]
START = "\n\nHuman: Name a fruit.\n\nAssistant:"
REPEATED = {
    "a system message in the prompt alone": (
        "trl_preference", {"prompt": [SYSTEM, ASK], "chosen": [ASK, YES], "rejected": [ASK, NO]}
    ),
    "a system message in the answers alone": (
        "trl_preference",
        {"prompt": [ASK], "chosen": [SYSTEM, ASK, YES], "rejected": [SYSTEM, ASK, NO]},
    ),
    "the last message alone": (
        "trl_preference", {"prompt": [*HI, ASK], "chosen": [ASK, YES], "rejected": [ASK, NO]}
    ),
    "transcripts": (
        "trl_preference",
        {"prompt": START, "chosen": f"{START} A plum.", "rejected": f"{START} No."},
    ),
    "the whole of it, under LLaMA-Factory's newer names": (
        "trl_preference", {"chosen_messages": [ASK, YES], "rejected_messages": [ASK, NO]}
    ),
    "turns beside a conversation": (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Name a fruit."}],
         "chosen": [ASK, YES], "rejected": [ASK, NO]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REPEATED)
def test_a_prompt_that_is_repeated_in_part_counts_once(tmp_path, what):
    """Seen red: twice in the prompt (a system message in the answers), whole transcripts as
    answers, and the others left out.
    """
    format, row = REPEATED[what]
    [record], dropped = read(tmp_path, [row], format, Comparison)
    assert [m.content for m in record.prompt].count("Name a fruit.") == 1
    assert turns(record.prompt)[-1] == ("user", "Name a fruit.") and not dropped
    assert (record.chosen, record.rejected) == ("A plum.", "No.")
    first = {"a": "system", "t": "user"}[what[0]]
    assert record.prompt[0].role == first


def test_what_is_no_answer_is_not_compared(tmp_path):
    """Seen red: the user's last words were the better answer."""
    row = {"chosen": [ASK, YES, ASK], "rejected": [ASK, YES, HI[0]]}
    good = {"prompt": "Hi", "chosen": "Ho", "rejected": "He"}
    _, dropped = read(tmp_path, [row, good], "trl_preference", Ranking)
    assert dropped == {"chosen or rejected does not end with an answer": 1}


def test_a_prompt_and_answers_that_do_not_fit_together_are_left_out(tmp_path):
    other = {"prompt": "Another one?", "chosen": [ASK, YES], "rejected": [ASK, NO]}
    good = {"prompt": "Name a fruit.", "chosen": [YES], "rejected": [NO]}
    records, dropped = read(tmp_path, [other, good], "trl_preference", Ranking)
    assert len(records) == 1 and dropped == {"two turns of the user in a row": 1}


def test_trl_prompt_and_completion(tmp_path):
    rows = [
        {"prompt": "Name a fruit.", "completion": "A plum."},
        {"prompt": [ASK], "completion": [YES]},
    ]
    first, second = read(tmp_path, rows, "prompt_completion", Demonstration)[0]
    assert (
        turns(first.messages)
        == turns(second.messages)
        == [tuple(ASK.values()), tuple(YES.values())]
    )


def flat(id, parent, role, text, **more):
    return {"message_id": id, "parent_id": parent, "role": role, "text": text, **more}


def test_flat_messages_are_put_together_by_their_parents(tmp_path):
    """oasst1 and oasst2 as the hub has them, in any order. Seen red: SFT learned lone answers, bad
    ones too, and PPO was asked follow-up questions without what was said before.
    """
    rows = [
        flat("m4", "m2", "prompter", "Another one?"),
        flat("m1", None, "prompter", "Name a fruit."),
        flat("m2", "m1", "assistant", "A plum.", rank=0),
        flat("m3", "m1", "assistant", "No.", rank=1),
    ]
    [demonstration], _ = read(tmp_path, rows, "oasst_tree", Demonstration)
    assert turns(demonstration.messages) == [("user", "Name a fruit."), ("assistant", "A plum.")]
    prompts, _ = read(tmp_path, rows, "oasst_tree", Prompt)
    assert [len(prompt.messages) for prompt in prompts] == [1, 3]
    [ranking], _ = read(tmp_path, rows, "oasst_tree", Ranking)
    assert ranking.responses == ["A plum.", "No."] and ranking.ranks == [1, 2]


def test_flat_messages_in_parquet_and_without_their_parent(tmp_path):
    """As the hub has them: a table's nulls are left out, so the first row has no parent_id. Seen
    red: every message was a tree, and follow-up questions were asked without what was said before;
    a message without its parent went uncounted.
    """
    rows = [
        flat("m1", None, "prompter", "Name a fruit.", rank=None),
        flat("m2", "m1", "assistant", "A plum.", rank=0),
        flat("m4", "m2", "prompter", "Another one?", rank=None),
        flat("m9", "m8", "prompter", "And then?", rank=None),
    ]
    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    prompts, report = read_with_report({"path": str(path), "format": "oasst_tree"}, Prompt)
    assert [len(prompt.messages) for prompt in prompts] == [1, 3]
    assert report.dropped == {"a message whose parent is not in the file": 1}


def test_prompts_are_made_from_a_file_of_demonstrations(tmp_path):
    """Both have `messages`; who speaks last tells them apart."""
    rows = [{"messages": [ASK, YES]}, {"messages": [ASK, YES, ASK, NO]}]
    prompts, _ = read(tmp_path, rows, "records", Prompt)
    assert [len(prompt.messages) for prompt in prompts] == [1, 3]
    assert isinstance(prompts[0], Prompt)


def test_an_answer_labelled_as_bad_is_not_learned(tmp_path):
    """KTO's rows in TRL's form. Seen red: the bad answer was a demonstration."""
    rows = [{"prompt": "Hi", "completion": c, "label": c == "Ho"} for c in ("Ho", "He")]
    records, dropped = read(tmp_path, rows, "prompt_completion", Demonstration)
    assert len(records) == 1 and dropped == {"labelled as a bad answer": 1}


def test_an_answer_without_a_question_makes_no_prompt(tmp_path):
    """Seen red: a traceback out of the conversion, in both ways of reading."""
    good = {"messages": [ASK, YES]}
    with pytest.raises(PodiumError, match="line 2, field 'messages': holds no question"):
        read(tmp_path, [good, {"messages": [YES]}], "records", Prompt)
    lone = {"messages": [{"role": "system", "content": "Be kind."}, YES]}
    records, dropped = read(tmp_path, [good, lone], "sharegpt", Prompt)
    assert len(records) == 1 and dropped == {"no question in it": 1}


def test_columns_are_renamed_by_the_recipe(tmp_path):
    row = {"question": "Name a fruit.", "pair": {"better": "A plum.", "worse": "No."}, "n": 3}
    fields = {"prompt": "question", "chosen": "pair.better", "rejected": "pair.worse"}
    [record], _ = read(tmp_path, [row], "trl_preference", Comparison, fields=fields)
    assert (record.chosen, record.rejected) == ("A plum.", "No.")
    with pytest.raises(PodiumError, match="field 'chosen'"):
        read(tmp_path, [row], "trl_preference", Comparison, fields={"prompt": "question"})


def test_columns_of_our_own_records_are_renamed_too(tmp_path):
    [record], _ = read(tmp_path, [{"body": "A."}], "records", Document, fields={"text": "body"})
    assert record.text == "A."


def test_tables(tmp_path):
    """CSV cells that hold JSON are read as that: a table cannot hold a conversation otherwise."""
    (tmp_path / "pairs.csv").write_text(
        'prompt,chosen,rejected\n"Name a fruit, please.",A plum.,No.\n'
        '"[{""role"": ""user"", ""content"": ""Hi""}]",Ho,He\n'
    )
    source = {"path": str(tmp_path / "pairs.csv"), "format": "trl_preference"}
    first, second = read_with_report(source, Comparison)[0]
    assert first.prompt[0].content == "Name a fruit, please." and second.prompt[0].content == "Hi"
    (tmp_path / "bad.tsv").write_text("prompt\tcompletion\nHi\tHo\nHi\n")
    source = {"path": str(tmp_path / "bad.tsv"), "format": "prompt_completion"}
    with pytest.raises(PodiumError, match=r"bad\.tsv, line 3: has another number of cells"):
        read_with_report(source, Demonstration)


def test_parquet_fills_objects_up_with_nulls_that_mean_nothing(tmp_path):
    rows = [
        {"messages": [ASK, YES | {"tool_calls": None}]},
        {"messages": [ASK, YES | {"tool_calls": [{"name": "x"}]}]},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    source = {"path": str(tmp_path / "rows.parquet"), "format": "sharegpt"}
    records, report = read_with_report(source, Demonstration)
    assert len(records) == 2 and not report.dropped
    assert records[0].messages[-1].tool_calls is None
    assert records[1].messages[-1].tool_calls[0].function.name == "x"


@pytest.mark.parametrize("name", ["rows.json", "rows.data", "rows", "rows.txt"])
def test_a_row_a_line_is_read_under_any_name(tmp_path, name):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps({"prompt": "Hi", "completion": c}) for c in ("Ho", "He")))
    records, _ = read_with_report({"path": str(path), "format": "prompt_completion"}, Demonstration)
    assert len(records) == 2


# ---- left out and counted -------------------------------------------------------------------------

SCORED = {
    "prompt": "Name a fruit.",
    "responses": ["A plum.", "No.", "A pear."],
    "scores": [3, 1, 2],
}
LEFT_OUT = {
    "NaN for a score": (
        "scored_list", SCORED | {"scores": [1.0, float("nan"), 3.0]}, "an answer without a score or rank"
    ),
    "too few scores": ("scored_list", SCORED | {"scores": [1.0, 3.0]}, "2 scores for 3 answers"),
    "null for an answer": ("scored_list", SCORED | {"responses": [None, "A.", "B."]}, None),
    "null for a rank": (
        "oasst_kway",
        {"history": [{"role": "prompter", "text": "?"}],
         "responses": [{"text": "A", "rank": None}, {"text": "B", "rank": 1}]},
        "an answer without a rank",
    ),
    "an empty transcript": (
        "hh", {"chosen": "\n\nHuman: ?\n\nAssistant: A.", "rejected": ""},
        "transcript does not end with an answer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_ranking_without_its_order_is_left_out(tmp_path, case):
    """Seen red: tracebacks, and an answer without a score was ranked best."""
    format, row, reason = LEFT_OUT[case]
    good = {
        "scored_list": SCORED,
        "oasst_kway": {"history": [{"role": "prompter", "text": "?"}],
                       "responses": [{"text": "A", "rank": 0}, {"text": "B", "rank": 1}]},
        "hh": {"chosen": "\n\nHuman: ?\n\nAssistant: A.", "rejected": "\n\nHuman: ?\n\nAssistant: B."},
    }[format]  # fmt: skip
    records, dropped = read(tmp_path, [row, good], format, Ranking)
    assert len(records) == 1 and sum(dropped.values()) == 1
    assert reason is None or reason in dropped


def test_a_null_answer_is_left_out_and_the_rest_is_read(tmp_path):
    rows = [{"instruction": "Hi", "output": "Ho"}, {"instruction": "Hi", "output": None}]
    records, dropped = read(tmp_path, rows, "alpaca", Demonstration, name="a.json")
    assert len(records) == 1 and dropped == {"null for output": 1}


def test_the_instances_of_an_instruction_are_a_demonstration_each(tmp_path):
    """Self-Instruct's seed tasks. Seen red: no format took them."""
    row = {"instruction": "Double it.", "instances": [
        {"input": "2", "output": "4"}, {"input": "", "output": "It is doubled."},
    ]}  # fmt: skip
    records, _ = read(tmp_path, [row], "alpaca", Demonstration)
    assert [turns(record.messages) for record in records] == [
        [("user", "Double it.\n\n2"), ("assistant", "4")],
        [("user", "Double it."), ("assistant", "It is doubled.")],
    ]


def test_histories_of_objects(tmp_path):
    row = {"instruction": "And a nut?", "output": "A hazel.",
           "history": [{"instruction": "Name a fruit.", "output": "A plum."}]}  # fmt: skip
    [record], _ = read(tmp_path, [row], "alpaca", Demonstration, name="a.json")
    assert [m.role for m in record.messages] == ["user", "assistant", "user", "assistant"]
    rows = [row, row | {"history": [["a", "b", "2024"]]}]
    records, dropped = read(tmp_path, rows, "alpaca", Demonstration, name="a.json")
    assert len(records) == 1 and "a history that is not of questions and answers" in dropped


# ---- never a traceback ----------------------------------------------------------------------------

ROWS = {
    "text": {"text": "A story."},
    "alpaca": {"instruction": "Name", "input": "a fruit.", "output": "A plum.",
               "system": "Be kind.", "history": [["Hi", "Ho"]]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
                 "system": "Be kind."},
    "oasst_tree": {"prompt": {"role": "prompter", "text": "?", "message_id": "m1", "replies": [
        {"role": "assistant", "text": "A", "rank": 0, "replies": []},
        {"role": "assistant", "text": "B", "rank": 1, "replies": []}]}},
    "oasst_kway": {"history": [{"role": "prompter", "text": "?"}],
                   "responses": [{"text": "A", "rank": 0}, {"text": "B", "rank": 1}]},
    "hh": {"chosen": "\n\nHuman: ?\n\nAssistant: A.", "rejected": "\n\nHuman: ?\n\nAssistant: B."},
    "trl_preference": {"prompt": [ASK], "chosen": [YES], "rejected": [NO]},
    "prompt_completion": {"prompt": [ASK], "completion": [YES]},
    "scored_list": SCORED,
    "scored_rows": {"prompt": "Name a fruit.", "response": "A plum.", "helpfulness": 3},
    "judged_pair": {"prompt": "Name a fruit.", "response_1": "No.", "response_2": "A plum.",
                    "preference_strength": 2},
}  # fmt: skip
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("\ud800"),
    st.lists(st.none(), max_size=2), st.dictionaries(st.sampled_from(["role", "text", "x"]), st.none()),
)  # fmt: skip


def places(value, path=()):
    """Every place in a row, the row itself left out."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield (*path, key)
            yield from places(item, (*path, key))


def mutated(row, path, odd, how):
    """A copy of the row with one place taken out, replaced, doubled or put under another name."""
    row = copy.deepcopy(row)
    inside = row
    for key in path[:-1]:
        inside = inside[key]
    key = path[-1]
    if how == "replace":
        inside[key] = odd
    elif how == "remove":
        del inside[key]
    elif how == "double" and isinstance(inside, list):
        inside.append(inside[key])
    elif isinstance(inside, dict):
        inside[f"{key}_"] = inside.pop(key)
    return row


def test_every_format_has_a_row_to_be_mutated():
    assert set(ROWS) == set(CONVERTERS)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.parametrize("format", ROWS)
@given(data=st.data())
def test_a_mutated_row_is_read_or_left_out_or_refused_by_name(tmp_path, format, data):
    """Seen red without the net in data.readers, and for the shapes named above."""
    row = ROWS[format]
    path = data.draw(st.sampled_from(list(places(row))))
    how = data.draw(st.sampled_from(["replace", "remove", "double", "rename"]))
    broken = mutated(row, path, data.draw(ODD), how)
    kind = data.draw(st.sampled_from(CONVERTERS[format][1]))
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps(broken) + "\n")
    try:
        records, report = read_with_report({"path": str(file), "format": format}, kind)
    except PodiumError as error:
        assert "rows.jsonl" in error.message and error.fix
    else:
        assert records and all(isinstance(record, kind) for record in records)
        for record in records:
            record.model_dump_json().encode()  # a lone surrogate is no text
        one = format == "scored_rows"  # rows of one prompt are one ranking
        assert len(records) + sum(report.dropped.values()) >= (1 if one else 2)
