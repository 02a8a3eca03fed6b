"""The token before documents and the pad: which they are, where they are kept, what is refused."""

import json

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from data.special_tokens import SpecialTokens, document_separator, document_separator_id
from data.template import CHAT_TEMPLATE, prepare_tokenizer, turn_end_id
from podium.errors import ParentError, RecipeError
from podium.models import load_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} "
    "[/INST]{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m['role'] }}\n{{ m['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant\n{% endif %}"
)
CHATS = ["<|im_start|>", "<|im_end|>"]
FAMILIES = {  # what its tokenizer says and holds: the token before its documents, and its pad
    "GPT-2": (
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        None,
        [],
        ("<|endoftext|>", "<|pad|>"),
    ),
    "OPT": (
        {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"},
        None,
        ["<s>"],
        ("</s>", "<pad>"),
    ),
    "Pythia": (
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        None,
        ["<|padding|>"],
        ("<|endoftext|>", "<|padding|>"),
    ),
    "LLaMA 2": ({"bos_token": "<s>", "eos_token": "</s>"}, LLAMA_2, ["<unk>"], ("<s>", "<|pad|>")),
    "LLaMA 3": (
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        LLAMA_3,
        ["<|end_of_text|>", "<|finetune_right_pad_id|>", "<|header|>"],
        ("<|begin_of_text|>", "<|finetune_right_pad_id|>"),
    ),
    "Gemma": (
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        LLAMA_3,
        ["<|eot_id|>"],
        ("<bos>", "<pad>"),
    ),
    "Qwen 2.5": (
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        CHATML,
        [*CHATS, "<|fim_pad|>"],
        ("<|endoftext|>", "<|fim_pad|>"),
    ),
    "SmolLM2": (
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        CHATML,
        ["<|endoftext|>", "<repo_name>", "<reponame>"],
        ("<|endoftext|>", "<reponame>"),
    ),
    "Phi-3": (
        {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        CHATML,
        CHATS,
        ("<s>", "<|pad|>"),
    ),
    "its end of text used by nobody": (
        {"bos_token": "<s>", "eos_token": "<|im_end|>"},
        CHATML,
        ["<|im_start|>", "<|endoftext|>"],
        ("<s>", "<|endoftext|>"),
    ),
    "turns alone": (
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<pad>"},
        CHATML,
        [],
        ("<|im_end|>", "<pad>"),
    ),
    "no bos, another end of text": (
        {"eos_token": "<|im_end|>", "pad_token": "<pad>"},
        CHATML,
        ["<|im_start|>", "<|end_of_text|>"],
        ("<|end_of_text|>", "<pad>"),
    ),
    "T5": ({"eos_token": "</s>", "pad_token": "<pad>"}, None, [], ("</s>", "<pad>")),
    "a pad that the template writes": (
        {"bos_token": "<s>", "eos_token": "<|im_end|>"},
        CHATML + "<pad>",
        ["<|im_start|>", "<pad>", "[PAD]"],
        ("<s>", "[PAD]"),
    ),
}


def family(name: str) -> PreTrainedTokenizerFast:
    names, template, more, _ = FAMILIES[name]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **names)
    tokenizer.add_special_tokens({"additional_special_tokens": more})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_has_its_separator_before_and_after_it_is_prepared(name):
    """And its pad is none of the tokens that mean something. Mutations seen red: bos whatever
    begins turns; a bos that is written once an exchange taken for one that begins turns; eos before
    an end of text; the rule asked once a bos was given; a new bos where there is an end of text; a
    pad that the template writes; a new pad always.
    """
    tokenizer, (separator, pad) = family(name), FAMILIES[name][3]
    assert document_separator(tokenizer) == separator
    size = len(tokenizer)
    prepare_tokenizer(tokenizer)
    if tokenizer.chat_template != CHAT_TEMPLATE:  # which has tokens for roles
        assert len(tokenizer) == size + (pad == "<|pad|>")
    assert (document_separator(tokenizer), tokenizer.pad_token) == (separator, pad)
    means = {tokenizer.bos_token_id, tokenizer.eos_token_id, turn_end_id(tokenizer)}
    assert tokenizer.pad_token_id not in {*means, document_separator_id(tokenizer)}


def test_the_folder_keeps_it_and_a_second_preparation_changes_nothing(turns_tokenizer, tmp_path):
    """Mutations seen red: nothing kept; the rule before what is kept."""
    prepare_tokenizer(turns_tokenizer, SpecialTokens(document_separator="<|system|>"))
    turns_tokenizer.save_pretrained(tmp_path / "one")
    for before, after in (("one", "two"), ("two", "three")):
        found = load_tokenizer(tmp_path / before)
        assert document_separator_id(found) == found.convert_tokens_to_ids("<|system|>")
        prepare_tokenizer(found).save_pretrained(tmp_path / after)
    kept = json.loads((tmp_path / "three" / "tokenizer_config.json").read_text())
    assert kept["document_separator"] == "<|system|>" and kept["pad_token"] == "<|pad|>"
    kept["document_separator"] = "<lost>"
    (tmp_path / "three" / "tokenizer_config.json").write_text(json.dumps(kept))
    with pytest.raises(ParentError, match="document_separator names <lost>"):
        document_separator_id(load_tokenizer(tmp_path / "three"))


def test_a_tokenizer_with_no_token_that_could_is_refused():
    with pytest.raises(ParentError, match="no bos and no eos"):
        document_separator(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())))


def test_a_recipe_chooses_both_and_no_later_stage_otherwise(turns_tokenizer):
    """Mutations seen red: each key not read; each compared with nothing that is kept."""
    chosen = SpecialTokens(document_separator="<|system|>", pad_token="<|assistant|>")
    size = len(turns_tokenizer)
    prepare_tokenizer(turns_tokenizer, chosen)
    assert document_separator(turns_tokenizer) == "<|system|>"
    assert turns_tokenizer.pad_token == "<|assistant|>" and len(turns_tokenizer) == size
    prepare_tokenizer(turns_tokenizer, chosen)
    with pytest.raises(RecipeError, match=r"_separator: '<\|pad\|>', but .* '<\|system\|>'"):
        prepare_tokenizer(turns_tokenizer, SpecialTokens(document_separator="<|pad|>"))
    with pytest.raises(RecipeError, match=r"pad_token: '<\|pad\|>', but .* keeps '<\|assistant"):
        prepare_tokenizer(turns_tokenizer, SpecialTokens(pad_token="<|pad|>"))


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"pad_token": "<|lost|>"}, r"pad_token: '<\|lost\|>' is no token .*\n.*<\|pad\|>"),
        ({"document_separator": "a"}, "document_separator: 'a' is an ordinary word .*\n.*pad"),
        ({"pad_token": "<|end|>"}, r"pad_token: '<\|end\|>' is the token that ends a turn"),
        ({"pad_token": "<|user|>"}, r"pad_token: '<\|user\|>' is .*\(bos\)"),
        ({"pad_token": "<|endoftext|>"}, "is the token before each document"),
        (
            {"pad_token": "<|system|>", "document_separator": "<|system|>"},
            r"pad_token: '<\|system\|>' is the token before each document",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_the_key(turns_tokenizer, chosen, said):
    """Mutations seen red: a token that is not there added; each of the uses not looked at."""
    with pytest.raises(RecipeError, match=said):
        prepare_tokenizer(turns_tokenizer, SpecialTokens(**chosen))


def test_padding_that_becomes_special_is_read_as_text_in_texts(turns_tokenizer):
    """Qwen's `<|fim_pad|>` is a token of its own without being special: typed, it is no padding."""
    turns_tokenizer.add_tokens("<|fim_pad|>")
    chosen = SpecialTokens(pad_token="<|fim_pad|>")
    typed = {"add_special_tokens": False, "split_special_tokens": True}
    assert len(turns_tokenizer("<|fim_pad|>", **typed)["input_ids"]) == 1
    prepare_tokenizer(turns_tokenizer, chosen)
    assert turns_tokenizer.pad_token_id not in turns_tokenizer("<|fim_pad|>", **typed)["input_ids"]


def test_smollm2_keeps_its_vocabulary(smollm2_folder):
    """The real tokenizer: documents follow `<|endoftext|>`, and nothing is added to 49,152."""
    tokenizer = load_tokenizer(smollm2_folder)
    assert tokenizer.bos_token == "<|im_start|>" and document_separator_id(tokenizer) == 0
    prepare_tokenizer(tokenizer)
    assert len(tokenizer) == 49_152 and document_separator_id(tokenizer) == 0
    assert tokenizer.pad_token_id not in (None, 0, 1, 2)
