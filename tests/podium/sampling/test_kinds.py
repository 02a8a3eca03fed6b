"""A recipe's section `sampler:` chooses who samples; a wrong one is an error that says what is
right.
"""

import pytest
import yaml

from podium.errors import PodiumError, RecipeError
from podium.run.recipe import load_recipe, read_sampler
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.kinds import (
    EmbeddedConfig,
    SamplerConfig,
    make_sampler,
    make_streaming_sampler,
)
from podium.sampling.protocol import SamplingParams


@pytest.fixture
def recipe(tmp_path):
    """`recipe(sampler=section) -> path` of a recipe with these sections."""

    def write(**sections):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"name": "run"} | sections))
        return path

    return write


def test_a_recipe_without_the_section_samples_in_this_process(tiny_llama, recipe):
    config = load_recipe(recipe()).sampler
    assert config == EmbeddedConfig()
    sampler = make_sampler(config, tiny_llama, 1, max_batch=5)
    assert isinstance(sampler, EmbeddedSampler) and sampler.max_batch == 5


def test_options_are_those_of_the_kind(tiny_llama, recipe):
    config = load_recipe(recipe(sampler={"max_tokens": 64})).sampler
    assert make_sampler(config, tiny_llama, 1).max_tokens == 64
    with pytest.raises(RecipeError, match=r"'sampler.max_token': unknown key") as caught:
        load_recipe(recipe(sampler={"kind": "embedded", "max_token": 64}))
    assert caught.value.fix == "did you mean 'sampler.max_tokens'?"


def test_an_unknown_kind_is_an_error_that_lists_the_known_ones(recipe, counting_sampler):
    with pytest.raises(RecipeError, match=r"sampler.kind.*'vlm'") as caught:
        load_recipe(recipe(sampler={"kind": "vlm"}))
    assert "embedded, vllm, counting" in caught.value.fix
    with pytest.raises(RecipeError, match="'vlm'"):
        make_sampler(SamplerConfig(kind="vlm"), None, 1)


def test_a_kind_that_cannot_stream_is_refused_by_name(tiny_llama, recipe, counting_sampler):
    """The chat asks for a stream. Seen red without the check: an AttributeError in the middle of a
    conversation.
    """
    config = read_sampler(recipe(sampler={"kind": "counting"}).parent)
    assert config.most == 1000
    with pytest.raises(PodiumError, match="'counting' cannot stream"):
        make_streaming_sampler(config, tiny_llama, 1)
    sampler = make_streaming_sampler(EmbeddedConfig(), tiny_llama, 1)
    assert len(list(sampler.stream([5, 6], SamplingParams(3)))) == 3


def test_a_folder_without_a_recipe_is_read_with_the_embedded_sampler(tmp_path, recipe):
    assert read_sampler(tmp_path) == EmbeddedConfig()
    recipe(sampler={"kind": "embedded", "max_tokens": 0})
    with pytest.raises(RecipeError, match=r"sampler\.max_tokens"):
        read_sampler(tmp_path)
