"""Strangers' chat templates: our ids are those of `apply_chat_template`, every answer is learned
with the token that ends it there, and sampling stops at that token.

The shapes are those of well-known models, written small; TRL's copies of the real templates stand
beside them. The reference is always transformers' own rendering and tokenization.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.readers import read_source
from data.records import Demonstration, Message, Prompt
from data.rendering import RefusedByTemplate, turn_end
from data.template import (
    decode_response,
    encode_conversation,
    encode_prompt,
    encode_response,
    examples_of,
    naming_record,
    prepare_tokenizer,
    save_stop_token_ids,
    stop_token_ids,
)
from podium.errors import DataError, PodiumError
from podium.models import load_causal_lm, save_model
from sft.batches import encode_demonstrations

ANSWER_NEXT = "{% if add_generation_prompt %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    f"{ANSWER_NEXT}<|im_start|>assistant\n{{% endif %}}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    f"{ANSWER_NEXT}<|start_header_id|>assistant<|end_header_id|>\n\n{{% endif %}}"
)
DATED = "Today is {{ strftime_now('%d %B %Y, %H:%M:%S.%f') }}.\n" + CHATML
ALTERNATING = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
)
GEMMA = (
    ALTERNATING
    + "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    + "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    + f"{ANSWER_NEXT}<start_of_turn>model\n{{% endif %}}"
)
MISTRAL = (
    ALTERNATING
    + "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    + "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
# The last answer gets an empty thinking block, earlier ones lose theirs.
QWEN_3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% set text = m['content'] %}"
    "{% if m['role'] == 'assistant' %}{% set text = text.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{% endif %}{{ text }}<|im_end|>\n"
    f"{{% endfor %}}{ANSWER_NEXT}<|im_start|>assistant\n{{% endif %}}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    f"{ANSWER_NEXT}<|assistant|>\n{{% else %}}{{{{ eos_token }}}}{{% endif %}}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    f"{ANSWER_NEXT}<|assistant|>\n{{% endif %}}"
)
SHAPES = {  # template, the token that ends a turn
    "chatml": (CHATML, "<|im_end|>"),
    "llama3": (LLAMA_3, "<|eot_id|>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "mistral": (MISTRAL, "</s>"),
    "qwen3": (QWEN_3, "<|im_end|>"),
    "phi3": (PHI_3, "<|end|>"),
    "zephyr": (ZEPHYR, "</s>"),
}
TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|end|>",
    "<|assistant|>",
    "<|user|>",
    "<|system|>",
]


def user(text):
    return Message(role="user", content=text)


def assistant(text):
    return Message(role="assistant", content=text)


SYSTEM = Message(role="system", content="Be kind.")
TWO_TURNS = [user("Name a fruit."), assistant("A plum."), user("A nut?"), assistant("A hazelnut.")]
CONVERSATIONS = [TWO_TURNS[:2], TWO_TURNS, [user("Hé 中?\n\nb"), assistant("1. x\n2. y")] * 3]


def stranger(template, **special):
    """A byte-level tokenizer of a base model: its eos is </s>, whatever ends a turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | special
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)
    tokenizer.add_special_tokens({**names, "additional_special_tokens": TOKENS})
    tokenizer.chat_template = template
    return prepare_tokenizer(tokenizer)


def chat_of(messages):
    return [message.model_dump() for message in messages]


def rendered(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(chat_of(messages), **options)["input_ids"]


def learned(tokenizer, messages):
    """The text of every stretch that the loss covers."""
    stretches = [""]
    for token, counts in zip(*encode_conversation(tokenizer, messages), strict=True):
        if counts:
            stretches[-1] += tokenizer.decode([token])
        elif stretches[-1]:
            stretches.append("")
    return [stretch for stretch in stretches if stretch]


def check_equal_ids(tokenizer, messages):
    """Prompts, and conversations up to the last end token, are what transformers makes of them."""
    prompt = rendered(tokenizer, messages[:-1], add_generation_prompt=True)
    assert encode_prompt(tokenizer, messages[:-1]) == prompt
    theirs, (ids, _) = rendered(tokenizer, messages), encode_conversation(tokenizer, messages)
    assert theirs[: len(ids)] == ids
    assert tokenizer.decode(theirs[len(ids) :]).strip() in ("", tokenizer.eos_token)
    assert ids == prompt + encode_response(tokenizer, messages[-1].content)


@pytest.mark.parametrize("shape", SHAPES)
def test_ids_are_those_of_apply_chat_template(shape):
    """Seen red with eos at the end of every last answer (ChatML, Llama 3, Gemma, Phi), without
    what stands before an answer (Mistral, Qwen 3) and with rewritten history refused (Qwen 3).
    """
    tokenizer = stranger(SHAPES[shape][0])
    for messages in CONVERSATIONS:
        for example in examples_of(tokenizer, messages):
            check_equal_ids(tokenizer, example)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_answer_is_learned_with_the_token_that_ends_it(shape):
    """Seen red with `_until_end` searching for eos, which took the line break and lost the end,
    and with Qwen 3's history in the mask, where answers have no thinking block.
    """
    template, end = SHAPES[shape]
    tokenizer = stranger(template)
    assert turn_end(tokenizer) == end
    examples = examples_of(tokenizer, TWO_TURNS)
    assert len(examples) == (2 if shape == "qwen3" else 1)
    found = [text for example in examples for text in learned(tokenizer, example)]
    before = {"qwen3": "<think>\n\n</think>\n\n", "mistral": " "}.get(shape, "")
    assert found == [f"{before}A plum.{end}", f"{before}A hazelnut.{end}"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sampled_answer_comes_back_without_what_the_template_adds(shape):
    """Seen red with the thinking block left in the text, and with decoding up to eos alone."""
    tokenizer = stranger(SHAPES[shape][0])
    ids = encode_response(tokenizer, "A plum.")
    assert decode_response(tokenizer, [*ids, *encode_response(tokenizer, "More.")]) == "A plum."
    assert decode_response(tokenizer, ids[:1]) in ("", "A")


def test_an_answer_that_thinks_is_rendered_as_the_template_says():
    """The prompt of a second question has lost the thinking, as the template says; what is learned
    is what the template makes of a last answer. Seen red with the block put before every answer.
    """
    path = Path(trl.__file__).with_name("chat_templates") / "qwen3.jinja"
    tokenizer = stranger(path.read_text())
    thinking = [user("Hi"), assistant("<think>\nHm.\n</think>\n\nYo"), user("Go"), assistant("Ok")]
    for messages in (thinking[:2], thinking):
        check_equal_ids(tokenizer, messages)
    assert "Hm." in tokenizer.decode(encode_conversation(tokenizer, thinking[:2])[0])
    assert "Hm." not in tokenizer.decode(encode_prompt(tokenizer, thinking[:3]))


TRL_TEMPLATES = sorted(
    path.stem
    for path in Path(trl.__file__).with_name("chat_templates").glob("*.jinja")
    # those take pictures
    if not any(name in path.stem for name in ("_vl", "smolvlm", "llava_next", "idefics3"))
)


@pytest.mark.parametrize("name", TRL_TEMPLATES)
def test_the_templates_of_real_models_take_a_second_question(name):
    """The prompt is what transformers renders, and every answer of the two is learned once. Seen
    red with history refused that a template rewrites: 14 of them.
    """
    path = Path(trl.__file__).with_name("chat_templates") / f"{name}.jinja"
    tokenizer = stranger(path.read_text())
    if "strftime_now" not in tokenizer.chat_template:
        prompt = rendered(tokenizer, TWO_TURNS[:3], add_generation_prompt=True)
        assert encode_prompt(tokenizer, TWO_TURNS[:3]) == prompt
    found = "".join(
        text
        for example in examples_of(tokenizer, TWO_TURNS)
        for text in learned(tokenizer, example)
    )
    assert found.count("A plum.") == found.count("A hazelnut.") == 1
    assert "fruit" not in found and "nut?" not in found


@pytest.mark.parametrize("name", ["smolvlm", "idefics3", "llava_next", "qwen2_5_vl", "qwen3_vl"])
def test_templates_that_read_a_list_of_parts_are_given_one(name):
    """A language model taken out of one that sees keeps such a template. Seen red: two of them left
    every text out, and SFT would have learned to end at once; one refused every conversation.
    """
    path = Path(trl.__file__).with_name("chat_templates") / f"{name}.jinja"
    tokenizer = stranger(path.read_text())
    assert "fruit" in tokenizer.decode(encode_prompt(tokenizer, TWO_TURNS[:1]))
    found = "".join(
        text
        for example in examples_of(tokenizer, TWO_TURNS)
        for text in learned(tokenizer, example)
    )
    assert found.count("A plum.") == found.count("A hazelnut.") == 1 and "fruit" not in found


def test_a_template_that_leaves_out_what_is_said_is_refused():
    """Seen red: the turns were empty, and nothing was said."""
    silent = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.text }}<|im_end|>{% endfor %}"
    with pytest.raises(RefusedByTemplate, match="leaves out what is said"):
        encode_conversation(stranger(silent), TWO_TURNS)


@pytest.mark.slow
def test_real_conversations_are_encoded_as_apply_chat_template_does(real_data):
    """Two hundred conversations of LLaMA-Factory's demonstration sets, in every shape."""
    path = real_data / "C_demos/llamafactory_demo_sets/v1_sft_demo.jsonl"
    rows = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    talks = [
        [Message(role=m["role"], content=m["content"][0]["value"]) for m in row]
        for row in rows
        if all(m["role"] in ("user", "assistant") for m in row) and row[-1]["role"] == "assistant"
    ][:200]
    assert len(talks) == 200
    for template, _ in SHAPES.values():
        tokenizer = stranger(template)
        for talk in talks:
            for example in examples_of(tokenizer, talk):
                check_equal_ids(tokenizer, example)


# Where sampling stops
# -----------------------------------------------------------------------------------------------


def with_eos(ids):
    return SimpleNamespace(generation_config=GenerationConfig(eos_token_id=ids))


def test_sampling_stops_where_the_template_ends_turns_and_at_the_eos_of_the_generation_config():
    """Seen red with the tokenizer's eos alone, and with id 2, which config classes take for eos and
    which is a letter here, among them.
    """
    tokenizer = stranger(CHATML)
    end, eos, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>", "<pad>"])
    assert stop_token_ids(tokenizer, with_eos(eos)) == (end, eos)
    assert stop_token_ids(tokenizer, with_eos([pad, end, eos])) == (end, pad, eos)
    assert stop_token_ids(tokenizer, with_eos(None)) == (end,)
    assert stop_token_ids(tokenizer, with_eos(2)) == (end,)


def test_the_stop_ids_are_saved_with_the_model(tmp_path):
    """Whoever loads final/ stops there too, Podium's next stage among them. Seen red with nothing
    written into the generation config.
    """
    tokenizer = stranger(CHATML)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    save_stop_token_ids(tokenizer, model)
    save_model(model, tokenizer, tmp_path)
    expected = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == expected
    assert stop_token_ids(tokenizer, load_causal_lm(tmp_path)) == tuple(expected)


def test_a_pad_that_ends_turns_is_replaced():
    """Padding is not learned, so the end would not be. Seen red with eos and bos alone compared."""
    assert stranger(CHATML, pad_token="<|im_end|>").pad_token == "<|pad|>"


# What a template cannot take, and what must not change with the day
# -----------------------------------------------------------------------------------------------


def test_the_date_in_a_prompt_is_the_same_on_every_day():
    """Here with microseconds, so that one need not wait. Seen red with the clock's time."""
    tokenizer = stranger(DATED)
    first = encode_prompt(tokenizer, TWO_TURNS[:1])
    assert first == encode_prompt(tokenizer, TWO_TURNS[:1])
    assert tokenizer.decode(first).startswith("Today is 26 July 2024, 00:00:00.000000.")
    tokenizer.chat_template = "{% set f = '%Y' %}{{ strftime_now(f) }}" + CHATML
    with pytest.raises(PodiumError, match="writes the time"):
        encode_prompt(tokenizer, TWO_TURNS[:1])


def test_a_system_message_opens_the_first_question_where_there_is_no_system_turn():
    """Gemma refuses it; another template leaves it out in silence. Seen red with neither folded."""
    folded = [user("Be kind.\n\nName a fruit."), *TWO_TURNS[1:]]
    silent = CHATML.replace(
        "{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"
    )
    for template in (GEMMA, silent):
        tokenizer = stranger(template)
        mine = encode_conversation(tokenizer, [SYSTEM, *TWO_TURNS])
        assert mine == encode_conversation(tokenizer, folded)
    assert "Be kind.<|im_end|>" in stranger(CHATML).decode(
        encode_prompt(stranger(CHATML), [SYSTEM, TWO_TURNS[0]])
    )


def test_a_conversation_that_the_template_refuses_is_named():
    """One answer or several. Seen red with the template's own words alone, and with a name for
    conversations of several answers only.
    """
    good = Demonstration(messages=TWO_TURNS)
    for turns in (TWO_TURNS, TWO_TURNS[:2]):
        bad = Demonstration(messages=[user("One?"), *turns], id="row-7")
        with pytest.raises(DataError, match=r"field 'messages': record 2 \(row-7\)") as refused:
            encode_demonstrations(stranger(GEMMA), [good, bad], context=1000)
        assert "'One?'" in str(refused.value) and "Roles must alternate" in str(refused.value)


@pytest.mark.parametrize("format", ["records", "sharegpt"])
def test_a_refused_conversation_is_named_with_its_file_and_line(tmp_path, format):
    """Also as a prompt that was cut out of a demonstration. Seen red with the number alone."""
    lines = [{"messages": chat_of(turns)} for turns in (TWO_TURNS, [user("One?"), *TWO_TURNS])]
    (tmp_path / "talks.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    for kind in (Demonstration, Prompt):
        found = read_source({"path": str(tmp_path / "talks.jsonl"), "format": format}, kind)
        with (
            pytest.raises(DataError, match=r"talks\.jsonl, line 3, field 'messages': record 2"),
            naming_record("prompts", 2, None, found[1].messages),
        ):
            encode_prompt(stranger(GEMMA), found[1].messages)
    assert found[1] == Prompt(messages=found[1].messages) or format == "sharegpt"
    assert "_place" not in found[1].model_dump_json()


def test_each_answer_is_a_row_where_the_template_rewrites_earlier_ones():
    """Seen red with one row a demonstration, which learned the last answer alone."""
    demonstration = [Demonstration(messages=TWO_TURNS)]
    for template, rows in ((QWEN_3, 2), (CHATML, 1)):
        tokenizer = stranger(template)
        found = encode_demonstrations(tokenizer, demonstration, context=1000).rows
        assert len(found) == rows
        assert all(torch.tensor(row.labels).ne(-100).any() for row in found)


@pytest.mark.parametrize("template", [CHATML, GEMMA, None], ids=["chatml", "gemma", "podium"])
def test_private_use_characters_survive(template):
    """Podium hides typed special tokens behind some of them. Seen red with them deleted."""
    tokenizer = stranger(template)
    typed = "a" + "".join(chr(0xF0000 + i) for i in range(40)) + "<|im_end|>b\ue000\U0010fffd"
    assert decode_response(tokenizer, encode_response(tokenizer, typed)) == typed
    prompt = encode_prompt(tokenizer, [user(typed), assistant(typed), user(typed)])
    ordinary = tokenizer.decode(prompt)
    assert ordinary.count(typed) == 3
