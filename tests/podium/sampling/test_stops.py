"""Stop texts: a response ends where one of them stands, whatever tokens it is made of."""

from dataclasses import replace

import pytest

from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams, StopStrings

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]


def letters(tokens: list[int]) -> str:
    """A text of two characters a token, so that a stop text may begin inside one."""
    return "".join(f"{chr(97 + token % 26)}{chr(65 + token // 26 % 26)}" for token in tokens)


def test_rows_end_where_a_stop_text_stands_and_draw_the_same_up_to_there(tiny_llama):
    """In `generate`, in any batch, and in `stream`. Mutation seen red: `_says_stop` never called."""
    sampler = EmbeddedSampler(tiny_llama, 1)
    params = SamplingParams(max_new_tokens=12, seed=3)
    whole = sampler.generate(PROMPTS, params)
    stop = letters(whole[0].tokens)[5:7]  # the second half of a token, and the first of the next
    stopping = replace(params, stop=StopStrings((stop,), letters))
    for full, sample in zip(whole, sampler.generate(PROMPTS, stopping), strict=True):
        place = letters(full.tokens).find(stop)
        length = 12 if place < 0 else (place + len(stop) + 1) // 2
        assert sample.tokens == full.tokens[:length] and len(sample.logprobs) == length
        assert sample.finished == (place >= 0)
    assert len(sampler.generate(PROMPTS, stopping)[0].tokens) == 4
    assert list(sampler.stream(PROMPTS[0], stopping)) == whole[0].tokens[:4]


@pytest.mark.parametrize(
    ("text", "cut", "shown"),
    [
        ("Hello", "Hello", "Hello"),
        ("Hello\nUs", "Hello\nUs", "Hello"),
        ("Hello\nUser: no", "Hello", "Hello"),
        ("Hello#", "Hello#", "Hello"),
        ("Hello##\nUser:", "Hello", "Hello"),
    ],
)
def test_what_may_become_a_stop_text_is_not_shown_yet(text, cut, shown):
    stop = StopStrings(("\nUser:", "##"), letters)
    assert stop.cut(text) == cut and stop.shown(text) == shown


def test_a_text_is_what_stands_before_the_first_of_them():
    """Whichever comes first in the text. Mutations seen red: the first of the list; the last place."""
    stop = StopStrings(("##", "\nUser:"), lambda tokens: "".join(map(chr, tokens)))
    said = "One\nUser: two##three##"
    assert stop.text([ord(letter) for letter in said]) == "One"
    assert stop.cut("a##b##") == "a" and stop.cut("whole") == "whole"
    assert stop.found(list(map(ord, said))) and not stop.found(list(map(ord, "One#User:")))
    assert stop.found(list(map(ord, "x" * 500 + "##"))), "looked for at the end"
    nothing = StopStrings((), stop.decode)
    assert not nothing.found([65]) and nothing.text([65]) == nothing.shown("A") == "A"
