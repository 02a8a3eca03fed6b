"""Conversations to ids: what people type stays text, the mask is on the answers, and prompt +
response == conversation.

All of it holds for Podium's own form and for tokenizers that bring a template, with {% generation
%} marks or without.
"""

import copy

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.records import Message
from data.template import (
    CHAT_TEMPLATE,
    ROLE_TOKENS,
    SPECIAL_TOKENS,
    TODAY,
    decode_response,
    encode_conversation,
    encode_prompt,
    encode_response,
    prepare_tokenizer,
    turn_end_id,
    turns_in_words,
)
from podium.errors import PodiumError
from podium.models import load_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{{ m['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_MARKED = CHATML.replace(
    "{{ m['content'] + '<|im_end|>' + '\n' }}",
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% "
    "endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>' + '\n' }}{% endif %}",
)
VICUNA = (
    "{% for m in messages %}{{ 'USER: ' + m['content'] if m['role'] == 'user' else "
    "' ASSISTANT: ' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT: ' }}{% endif %}"
)
# what hides special tokens while a foreign template is rendered
PRIVATE_USE = [chr(0xF0000 + i) for i in range(16)]
HOSTILE = [
    *SPECIAL_TOKENS,
    *PRIVATE_USE,
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<|end",
    "|>",
]

TEXT = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(HOSTILE)), max_size=4).map("".join)
ORDINARY = st.text(st.sampled_from("abc é中.\t"), min_size=1, max_size=12)


def conversations(text):
    """[system] then one to three turns of user and assistant."""
    turn = st.tuples(text, text).map(lambda pair: [user(pair[0]), assistant(pair[1])])
    turns = st.lists(turn, min_size=1, max_size=3)
    system = st.lists(text.map(lambda content: Message(role="system", content=content)), max_size=1)
    return st.tuples(system, turns).map(lambda parts: sum(parts[1], parts[0]))


def user(text):
    return Message(role="user", content=text)


def assistant(text):
    return Message(role="assistant", content=text)


HELLO = [user("Hello there."), assistant("Good day, Ana.")]


@pytest.fixture(scope="module")
def tokenizers(tokenizer):
    """One of each kind: ours, two foreign byte-level ones with ChatML, a SentencePiece-like one
    without a template.
    """
    kinds = {"podium": tokenizer}
    for name, template in (("chatml", CHATML), ("marked", CHATML_MARKED)):
        foreign = copy.deepcopy(tokenizer)
        foreign.add_special_tokens(
            {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
        )
        foreign.chat_template = template
        kinds[name] = prepare_tokenizer(foreign)
    kinds["sentencepiece"] = prepare_tokenizer(sentencepiece_like())
    return kinds


def sentencepiece_like():
    """Marks the start of a string, and of nothing else, with a space: LLaMA 2's and Mistral's
    habit.
    """
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(special_tokens=specials, vocab_size=300)
    bpe.train_from_iterator(["hello there ana good day"] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


KINDS = ["podium", "chatml", "marked", "sentencepiece"]


@pytest.mark.parametrize("kind", KINDS)
@given(messages=conversations(TEXT))
@example(messages=[user("a"), assistant("\nb<|end|>")])
def test_prompt_and_response_make_the_conversation(tokenizers, kind, messages):
    """Seen red with the answer rendered by the template instead of encoded by itself (ChatML, an
    answer "\\n...").
    """
    tokenizer = tokenizers[kind]
    ids, mask = encode_conversation(tokenizer, messages)
    prompt = encode_prompt(tokenizer, messages[:-1])
    response = encode_response(tokenizer, messages[-1].content)
    assert prompt + response == ids
    assert mask[len(prompt) :] == [True] * len(response)


@given(messages=conversations(TEXT))
def test_what_people_type_never_becomes_a_special_token(tokenizer, messages):
    """The only special tokens are the template's. Seen red with `split_special_tokens=False` in
    `_ids`.
    """
    ids, _ = encode_conversation(tokenizer, messages)
    expected = ["<|endoftext|>"] + [
        token for m in messages for token in (ROLE_TOKENS[m.role], "<|end|>")
    ]
    special = [i for i in ids if i in tokenizer.all_special_ids]
    assert tokenizer.convert_ids_to_tokens(special) == expected


@pytest.mark.parametrize("kind", ["chatml", "marked"])
@given(messages=conversations(TEXT))
def test_nor_with_a_foreign_template(tokenizers, kind, messages):
    """Seen red with `_hide_specials` left out of `_render`."""
    tokenizer = tokenizers[kind]
    ids, _ = encode_conversation(tokenizer, messages)
    special = [i for i in ids if i in tokenizer.all_special_ids]
    assert tokenizer.convert_ids_to_tokens(special) == ["<|im_start|>", "<|im_end|>"] * len(
        messages
    )


@pytest.mark.parametrize("kind", KINDS)
@given(messages=conversations(ORDINARY))
def test_the_mask_covers_every_answer_and_its_end_token(tokenizers, kind, messages):
    """Seen red with the end token left out of the mask, with the role token in it, and with only
    the last answer.
    """
    tokenizer = tokenizers[kind]
    ids, mask = encode_conversation(tokenizer, messages)
    answers, current = [], []
    for token, learned in zip(ids, mask, strict=True):
        current += [token] * learned
        if learned and token == tokenizer.eos_token_id:
            answers.append(current)
            current = []
    assert not current
    assert answers == [
        encode_response(tokenizer, m.content) for m in messages if m.role == "assistant"
    ]


@given(messages=conversations(ORDINARY))
def test_our_form_is_what_the_saved_template_renders(tokenizer, messages):
    """Ids and mask are those of `apply_chat_template`. Seen red with a line break added to
    CHAT_TEMPLATE.
    """
    chat = [message.model_dump() for message in messages]
    theirs = tokenizer.apply_chat_template(
        chat, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = encode_conversation(tokenizer, messages)
    assert (ids, mask) == (theirs["input_ids"], [m == 1 for m in theirs["assistant_masks"]])
    prompt = tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True)["input_ids"]
    assert encode_prompt(tokenizer, messages[:-1]) == prompt


@pytest.mark.parametrize("kind", KINDS)
@given(messages=conversations(st.sampled_from(["hello", "good day, ana", "a b", "x"])))
def test_ordinary_text_is_encoded_as_apply_chat_template_does(tokenizers, kind, messages):
    """Foreign ids stop at the last end token; ChatML's line break after it is not ours to learn.

    Seen red for "sentencepiece" with `_like_a_start` answering {"special", "text"} for every
    tokenizer.
    """
    tokenizer = tokenizers[kind]
    theirs = tokenizer.apply_chat_template([message.model_dump() for message in messages])[
        "input_ids"
    ]
    ids, _ = encode_conversation(tokenizer, messages)
    assert theirs[: len(ids)] == ids
    assert tokenizer.decode(theirs[len(ids) :]).strip() == ""


def test_a_template_that_begins_with_words_begins_a_string():
    """Vicuna's kind on a SentencePiece tokenizer, which marks the start of a string and only that.
    Mutation seen red: the first piece encoded as what stands after other text.
    """
    tokenizer = sentencepiece_like()
    tokenizer.chat_template = VICUNA
    prepare_tokenizer(tokenizer)
    messages = [user("hello there"), assistant("good day")]
    theirs = tokenizer.apply_chat_template([m.model_dump() for m in messages])["input_ids"]
    assert encode_conversation(tokenizer, messages)[0] == theirs


@given(text=TEXT)
def test_any_answer_comes_back(tokenizer, text):
    assert decode_response(tokenizer, encode_response(tokenizer, text)) == text
    assert decode_response(tokenizer, encode_response(tokenizer, text, ended=False)) == text


def test_decoding_stops_at_the_first_end_token(tokenizer):
    ids = (
        encode_response(tokenizer, "Plum jam.")
        + encode_response(tokenizer, "More.")
        + [tokenizer.pad_token_id]
    )
    assert decode_response(tokenizer, ids) == "Plum jam."


def test_a_conversation_that_ends_with_the_user_has_no_answer_to_learn(tokenizer):
    ids, mask = encode_conversation(tokenizer, HELLO[:1])
    assert not any(mask)
    assert [*ids, tokenizer.convert_tokens_to_ids("<|assistant|>")] == encode_prompt(
        tokenizer, HELLO[:1]
    )


def test_the_form_is_saved_with_the_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == CHAT_TEMPLATE == loaded.chat_template
    assert encode_conversation(loaded, HELLO) == encode_conversation(tokenizer, HELLO)
    assert len(prepare_tokenizer(loaded)) == len(tokenizer)


def bare(tokenizer, **special):
    """A base tokenizer that has only the special tokens given."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.mark.parametrize(
    "special",
    [
        {},  # none at all
        {"bos_token": "<s>", "eos_token": "</s>"},  # LLaMA
        # GPT-2
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"},  # OPT
    ],
)
def test_a_base_tokenizer_gets_what_it_lacks_and_keeps_what_it_has(tokenizer, special):
    """Seen red with the pad kept when it equals eos: the model would never learn to end."""
    prepared = prepare_tokenizer(bare(tokenizer, **special))
    assert prepared.pad_token_id not in (None, prepared.eos_token_id, prepared.bos_token_id)
    assert prepared.bos_token == special.get("bos_token", "<|endoftext|>")
    assert prepared.eos_token == special.get("eos_token", "<|end|>")
    assert prepared.chat_template == CHAT_TEMPLATE
    assert prepared.convert_ids_to_tokens(encode_prompt(prepared, HELLO[:1]))[-1] == "<|assistant|>"
    size = len(prepared)
    assert len(prepare_tokenizer(prepared)) == size


def test_a_foreign_template_is_kept_and_gets_no_role_tokens(tokenizers):
    assert tokenizers["chatml"].chat_template == CHATML
    foreign = prepare_tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.BPE()), eos_token="<|im_end|>", chat_template=CHATML
        )
    )
    assert "<|user|>" not in foreign.get_vocab()


def test_templates_that_cannot_be_used_say_so(tokenizers):
    strict = copy.deepcopy(tokenizers["chatml"])
    refuse = (
        "{% if messages[0]['content'] == 'Be kind.' %}{{ raise_exception('no way') }}{% endif %}"
    )
    strict.chat_template = refuse + CHATML
    with pytest.raises(PodiumError, match="no way"):
        encode_prompt(strict, [user("Be kind."), *HELLO[::-1]])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ 1 // 0 }}",
            "refuses a conversation: .*zero",
        ),
        (
            "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}"
            "{% endfor %}",
            "leaves out what is said",
        ),
    ],
)
def test_a_template_that_stops_or_leaves_the_answers_out_is_refused(tokenizers, template, said):
    """Seen red: a traceback of Python's arithmetic; and histories without the assistant's turns,
    learned in silence.
    """
    strange = copy.deepcopy(tokenizers["chatml"])
    strange.chat_template = template
    with pytest.raises(PodiumError, match=said):
        encode_conversation(strange, [user("Hi?"), assistant("An owl."), user("Who?")])


def test_named_templates_need_a_default(tokenizers, tmp_path):
    """Seen red: transformers' own error, as a traceback, at the first conversation."""
    named = copy.deepcopy(tokenizers["chatml"])
    named.chat_template = {"rag": named.chat_template, "tool_use": named.chat_template}
    named.save_pretrained(tmp_path)
    with pytest.raises(PodiumError, match="chat templates rag, tool_use and none"):
        load_tokenizer(tmp_path)


def test_stories260k_works_with_our_form(real_data):
    """A real LLaMA tokenizer of 512 entries without pad or template; the checkpoint of
    recipes/stories260k.yaml.
    """
    tokenizer = prepare_tokenizer(
        AutoTokenizer.from_pretrained(real_data / "A_models/stories260K/hf")
    )
    assert (
        len(tokenizer) == 512 + 4
        and tokenizer.pad_token == "<|pad|>"
        and tokenizer.eos_token == "</s>"
    )
    messages = [*HELLO, user("Say </s> é 中\n"), assistant("No, <|user|>!")]
    ids, _ = encode_conversation(tokenizer, messages)
    assert ids.count(tokenizer.eos_token_id) == 4
    assert (
        decode_response(tokenizer, encode_response(tokenizer, messages[-1].content))
        == messages[-1].content
    )
    chat = [message.model_dump() for message in HELLO]
    theirs = tokenizer.apply_chat_template(
        chat, return_dict=True, return_assistant_tokens_mask=True
    )
    assert encode_conversation(tokenizer, HELLO) == (
        theirs["input_ids"],
        [m == 1 for m in theirs["assistant_masks"]],
    )


def test_a_card_says_what_ends_an_answer_and_which_day_it_is(tokenizer):
    """Mutations seen red: the first stop token alone; a day that no template asks for."""
    stops = (turn_end_id(tokenizer), tokenizer.bos_token_id)
    names = [f"`{token}`" for token in tokenizer.convert_ids_to_tokens(list(stops))]
    end = tokenizer.convert_ids_to_tokens(stops[0])
    said = f"Answers end with `{end}`; sampling stops at {', '.join(names)}."
    assert turns_in_words(tokenizer, stops) == said
    dated = copy.deepcopy(tokenizer)
    dated.chat_template += "{# strftime_now #}"
    assert turns_in_words(dated, stops) == (
        f"{said} The template names today's date: in every prompt here that was {TODAY:%d %B %Y}."
    )
