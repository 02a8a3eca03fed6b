"""Tool calls and thinking: read in every way people write them, rendered as the model's own template
does, with the loss where it was asked for.

The templates are TRL's copies of real ones; the reference is transformers' own rendering.
"""

import json
from pathlib import Path

import pytest
import trl
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl.chat_template_utils import supports_tool_calling

from data.cleaning import texts, with_texts
from data.jsonl import from_dataset, read_jsonl, to_dataset, write_jsonl
from data.near_duplicates import near_duplicates
from data.readers import read_with_report
from data.records import Comparison, Demonstration, Message, Prompt, Ranking
from data.rendering import RefusedByTemplate, tool_form
from data.template import (
    CHAT_TEMPLATE,
    LossOn,
    encode_conversation,
    encode_prompt,
    examples_of,
    prepare_tokenizer,
)
from podium.errors import DataError
from sft.batches import encode_demonstrations
from tests.data.test_turn_ends import CHATML, TOKENS, stranger

TEMPLATES = Path(trl.__file__).with_name("chat_templates")
TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "Of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]  # fmt: skip
CALL = {"id": "call12345", "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Ulm"}}}  # fmt: skip
TURNS = [
    {"role": "user", "content": "Rain in Ulm?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "wet", "tool_call_id": "call12345", "name": "weather"},
    {"role": "assistant", "content": "It rains."},
]


def of(name):
    return stranger((TEMPLATES / f"{name}.jinja").read_text())


def conversation(turns=TURNS, tools=TOOLS):
    return Demonstration.model_validate({"messages": turns, "tools": tools}).messages


def learned(tokenizer, messages, loss_on=LossOn()):
    """The text that the loss covers, over all the examples of a conversation."""
    return [
        tokenizer.decode([i for i, counts in zip(*encoded, strict=True) if counts])
        for part in examples_of(tokenizer, messages, loss_on)
        if (encoded := encode_conversation(tokenizer, part, loss_on))
    ]


# ---- reading --------------------------------------------------------------------------------------


def with_text_arguments(turns):
    call = {**CALL, "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    return [{**turn, "tool_calls": [call]} if "tool_calls" in turn else turn for turn in turns]


SHAREGPT = [
    {"from": "human", "value": "Rain in Ulm?"},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Ulm"}}'},
    {"from": "observation", "value": "wet"},
    {"from": "gpt", "value": "It rains."},
]
OLD = [TURNS[0], {"role": "assistant", "content": None,
                  "function_call": {"name": "weather", "arguments": '{"city": "Ulm"}'}},
       {"role": "function", "name": "weather", "content": "wet"}, TURNS[3]]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS, "tools": TOOLS},
        {"messages": with_text_arguments(TURNS), "tools": json.dumps(TOOLS)},
        {"conversations": SHAREGPT, "tools": json.dumps([TOOLS[0]["function"]])},
        {"messages": OLD, "tools": TOOLS},
    ],
    ids=["openai", "arguments as text", "LLaMA-Factory", "function_call"],
)
def test_tool_turns_are_read_in_every_way_that_people_write_them(tmp_path, row):
    """Before: rows with calls or tools were left out."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    source = {"path": str(tmp_path / "rows.jsonl"), "format": "sharegpt"}
    [record], report = read_with_report(source, Demonstration)
    assert not report.dropped and record.messages[0].tools == TOOLS
    assert [message.role for message in record.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    call = record.messages[1].tool_calls[0].function
    assert (call.name, call.arguments) == ("weather", {"city": "Ulm"})
    [prompt], _ = read_with_report(source, Prompt)
    assert prompt.messages == record.messages[:3]


def test_records_with_tool_turns_are_stored_and_read_again(tmp_path):
    """Also through a Dataset, whose columns would fill every call's arguments up with the others'
    keys. Mutation: the arguments left as objects there.
    """
    other = {**CALL, "function": {"name": "add", "arguments": {"a": 1, "b": [None]}}}
    turns = [TURNS[0], {**TURNS[1], "tool_calls": [CALL, other]}, *TURNS[2:]]
    demonstration = Demonstration.model_validate({"messages": turns, "tools": TOOLS})
    prompt = demonstration.messages[:3]
    records = [
        demonstration,
        Ranking(prompt=prompt, responses=["Rain.", "No."], ranks=[1, 2]),
        Comparison(prompt=prompt, chosen="Rain.", rejected="No."),
    ]
    for record in records:
        write_jsonl(tmp_path / "r.jsonl", [record])
        assert read_jsonl(tmp_path / "r.jsonl", type(record)) == [record]
        assert from_dataset(to_dataset([record]), type(record)) == [record]


def test_what_is_no_tool_turn_is_refused_by_field():
    for turn, field in (
        ({"role": "user", "content": "Hi", "weight": 0}, "weight"),
        ({"role": "assistant", "content": "Hi", "weight": 2}, "weight"),
        ({"role": "assistant", "content": None}, "content"),
        ({"role": "assistant", "content": None, "tool_calls": [{"x": 1}]}, "tool_calls"),
        ({"role": "tool", "content": "Hi", "tool_calls": [CALL]}, "tool_calls"),
    ):
        with pytest.raises(ValidationError, match=field):
            Message.model_validate(turn)


def test_an_ordinary_message_is_its_role_and_content_alone():
    """Templates ask whether a message has a key `tool_calls`. Mutation: nulls written."""
    message = Message.model_validate({**TURNS[0], "tool_calls": None, "tools": []})
    assert message.model_dump() == TURNS[0]
    assert Message(**TURNS[3], tool_calls=[]).model_dump() == TURNS[3]


def test_arguments_are_cleaned_and_compared():
    """Mutation: the messages' content alone."""
    record = Demonstration(messages=conversation())
    assert "Ulm" in texts(record)
    new = with_texts(record, [text.replace("Ulm", "Bonn") for text in texts(record)])
    assert new.messages[1].tool_calls[0].function.arguments == {"city": "Bonn"}
    assert near_duplicates([record, new], 0.95) == [None, None]
    assert near_duplicates([record, record], 0.95) == [None, 0]


# ---- rendering ------------------------------------------------------------------------------------

WITH_TOOLS = ["qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3_1", "glm4moe", "qwen3_5_think"]


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tool_turns_are_rendered_by_the_models_own_template(name):
    """Ids are those of `apply_chat_template`, and the loss is on calls and answers alone: not on
    what came back.
    """
    tokenizer, messages = of(name), conversation()
    options = {"tools": TOOLS}
    theirs = tokenizer.apply_chat_template(TURNS, **options)["input_ids"]
    ids, _ = encode_conversation(tokenizer, messages)
    if name == "glm4moe":  # it ends no turn, the next speaker does: ours ends with eos
        assert ids.pop() == tokenizer.eos_token_id
    assert theirs[: len(ids)] == ids and len(theirs) - len(ids) <= 1
    for cut in (1, 3):
        prompt = tokenizer.apply_chat_template(TURNS[:cut], add_generation_prompt=True, **options)[
            "input_ids"
        ]
        assert encode_prompt(tokenizer, messages[:cut]) == prompt
        assert encode_conversation(tokenizer, messages[: cut + 1])[0][: len(prompt)] == prompt
    found = "".join(learned(tokenizer, messages))
    assert found.count("weather") == 1 and found.count("It rains.") == 1
    assert "wet" not in found and "Rain in Ulm" not in found


def test_our_idea_of_a_template_with_tools_is_trls():
    """`tool_form` finds a form wherever TRL's check passes, and in more: null for content, or
    arguments as text (DeepSeek).
    """
    ours, theirs = {}, {}
    for path in sorted(TEMPLATES.glob("*.jinja")):
        if any(part in path.stem for part in ("_vl", "smolvlm", "llava", "idefics", "training")):
            continue
        tokenizer = of(path.stem)
        ours[path.stem] = tool_form(tokenizer, tokenizer.chat_template) is not None
        theirs[path.stem] = supports_tool_calling(tokenizer)
    assert [name for name, found in theirs.items() if found and not ours[name]] == []
    assert ours["deepseekv3"] and ours["deepseek_r1_distill"]
    assert not ours["llama3"] and not ours["phi3"] and not ours["gemma"]


@pytest.mark.parametrize("template", [CHATML, CHAT_TEMPLATE], ids=["chatml", "podium"])
def test_a_template_without_a_place_for_calls_refuses_them_by_name(template):
    """Before: ChatML wrote an empty answer for the call, and learned it."""
    tokenizer = prepare_tokenizer(stranger(template))
    row = Demonstration(messages=conversation(tools=None), id="row-3")
    with pytest.raises(DataError, match=r"row-3.*no place for tool calls"):
        encode_demonstrations(tokenizer, [row], context=1000)
    offered = conversation([TURNS[0], TURNS[3]])
    with pytest.raises(RefusedByTemplate, match="definitions of tools"):
        encode_conversation(tokenizer, offered)


def test_what_people_type_into_arguments_stays_text():
    """Mutation: the calls given to the template as they are."""
    tokenizer = of("qwen3")
    call = {"name": "weather", "arguments": {"city": "<|im_end|>"}}
    typed = [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [call]}]
    ids, _ = encode_conversation(tokenizer, conversation(typed))
    plain, _ = encode_conversation(tokenizer, conversation(TURNS[:2]))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == plain.count(end)


# ---- where the loss is ----------------------------------------------------------------------------

TWICE = [
    {"role": "user", "content": "One?"}, {"role": "assistant", "content": "First."},
    {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Second."},
]  # fmt: skip


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, CHATML, "qwen3", "qwen3_training"])
def test_the_loss_is_on_the_turns_that_were_asked_for(template):
    """In one row and in one a turn, with and without {% generation %}. Mutation: the weights and
    `last_answer_only` left out of the mask, and of `examples_of` (qwen3).
    """
    tokenizer = stranger(template) if "{" in template else of(template)
    both = [*map(Message.model_validate, TWICE)]
    assert "First." in "".join(learned(tokenizer, both))
    last = "".join(learned(tokenizer, both, LossOn(last_answer_only=True)))
    assert "First." not in last and "Second." in last
    weighted = [both[0], both[1], both[2], both[3].model_copy(update={"weight": 0})]
    first = "".join(learned(tokenizer, weighted))
    assert "First." in first and "Second." not in first
    assert learned(tokenizer, weighted, LossOn(last_answer_only=True)) == []
    row = Demonstration(messages=weighted)
    options = {"context": 1000, "loss_on": LossOn(last_answer_only=True)}
    encoded = encode_demonstrations(tokenizer, [row], **options)
    assert (len(encoded.rows), encoded.without_loss) == (0, 1)


THOUGHTS = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "First.", "reasoning_content": "Hm, one."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Second.", "reasoning_content": "Hm, two."},
]
IN_TEXT = [
    {"role": t["role"], "content": f"<think>\n{t['reasoning_content']}\n</think>\n\n{t['content']}"}
    if "reasoning_content" in t else t
    for t in THOUGHTS
]  # fmt: skip


@pytest.mark.parametrize("turns", [THOUGHTS, IN_TEXT], ids=["field", "text"])
@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1_distill", "deepseekv3", "glm4moe"])
def test_thinking_is_learned_by_choice_and_stripped_as_the_template_does(name, turns):
    """Every turn's thinking is learned once, in the row that ends with it, and no prompt holds
    earlier thinking. Mutation: R1's block opened twice, and with the thought lost there.
    """
    tokenizer, messages = of(name), [*map(Message.model_validate, turns)]
    rows = learned(tokenizer, messages)
    assert len(rows) == 2
    for row, thought, answer in zip(rows, ["one", "two"], ["First.", "Second."], strict=True):
        assert f"Hm, {thought}.\n</think>" in row or f"Hm, {thought}.</think>" in row
        assert row.count("</think>") == 1 and answer in row
    without = learned(tokenizer, messages, LossOn(thinking=False))
    for row, answer in zip(without, ["First.", "Second."], strict=True):
        assert row.startswith(answer)
    prompt = tokenizer.decode(encode_prompt(tokenizer, messages[:3]))
    assert "Hm, one." not in prompt and "First." in prompt
    whole = tokenizer.decode(encode_conversation(tokenizer, messages[:2])[0])
    assert whole.count("<think>") == 1


def test_a_call_after_thinking():
    tokenizer = of("qwen3")
    turns = [TURNS[0], {**TURNS[1], "reasoning_content": "I must look."}, *TURNS[2:]]
    for part in (turns, turns[:2]):
        ids, _ = encode_conversation(tokenizer, conversation(part))
        theirs = tokenizer.apply_chat_template(part, tools=TOOLS)["input_ids"]
        assert theirs[: len(ids)] == ids
    found = "".join(learned(tokenizer, conversation(turns), LossOn(thinking=False)))
    assert "I must look." not in found and "weather" in found


def with_spaces_marked(template):
    """A tokenizer that marks the start of a string with a space, as SentencePiece does: an answer's
    ids depend on what it stands after.
    """
    letters = [*map(chr, range(32, 127)), "\n", "▁"]
    bpe = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer.add_special_tokens({**names, "additional_special_tokens": TOKENS})
    tokenizer.chat_template = template
    return prepare_tokenizer(tokenizer)


def test_thinking_is_left_out_to_the_token_where_a_space_marks_the_start():
    """After a role's token an answer begins with a marked space. Mutations seen red: the last answer
    and its thinking encoded as if they stood within a text.
    """
    thinks = "{% if m['reasoning_content'] %}<think>{{ m['reasoning_content'] }}</think>{% endif %}"
    tokenizer = with_spaces_marked(
        "{% for m in messages %}<|{{ m['role'] }}|>" + thinks + "{{ m['content'] }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    messages = [*map(Message.model_validate, THOUGHTS[:2])]
    ids, mask = encode_conversation(tokenizer, messages, LossOn(thinking=False))
    assert ids == tokenizer.apply_chat_template(THOUGHTS[:2])["input_ids"]
    learns = [token for token, counts in zip(ids, mask, strict=True) if counts]
    assert tokenizer.convert_ids_to_tokens(learns) == [*"First.", "<|end|>"]


def test_an_earlier_answer_that_no_token_ends_is_learned_to_its_last_letter():
    """A space marks its start, after the role's token, and the next speaker its end. Mutation seen
    red: its length counted as if it stood within a text, so that its last letter was not learned.
    """
    tokenizer = with_spaces_marked(
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    ids, mask = encode_conversation(tokenizer, [*map(Message.model_validate, TWICE)])
    learns = [token for token, counts in zip(ids, mask, strict=True) if counts]
    assert tokenizer.convert_ids_to_tokens(learns) == [*"▁First.", *"▁Second.", "</s>"]


def test_with_our_own_template_earlier_thinking_is_learned_unless_it_is_not_wanted():
    """Mutation seen red: left out of every earlier answer, whatever was asked."""
    tokenizer, messages = stranger(CHAT_TEMPLATE), [*map(Message.model_validate, IN_TEXT)]
    for thinking, lead in ((True, "<think>\nHm, {}.\n</think>\n\n"), (False, "")):
        [found] = learned(tokenizer, messages, LossOn(thinking=thinking))
        one, two = lead.format("one"), lead.format("two")
        assert found == f"{one}First.</s>{two}Second.</s>"


def test_thinking_ends_with_the_thought_where_no_tag_marks_its_end():
    """Mutation seen red: the thought not looked for, and so learned."""
    tokenizer = stranger(CHATML.replace("\n{{", "\n{{ m['reasoning_content'] }}{{"))
    messages = [*map(Message.model_validate, THOUGHTS[:2])]
    [row] = learned(tokenizer, messages, LossOn(thinking=False))
    assert row == "First.<|im_end|>"
    [whole] = learned(tokenizer, messages)
    assert whole == "Hm, one.First.<|im_end|>"
