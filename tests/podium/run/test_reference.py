"""The reference of a recipe's keys: made from the configs, told to people and to programs."""

import json

import pytest
from pydantic import BaseModel, Field

from data.sources import Source
from podium.rewards.specs import EndpointSpec, ModelSpec, Weighted
from podium.run import reference
from podium.run.reference import Key, as_markdown, as_text, keys_of, schema_of


class Inner(BaseModel):
    depth: int | None = Field(None, description="how deep; null: all; GPT-3: 96; OPT: 96")


class Nested(BaseModel):
    """A part of a form."""

    share: float = Field(1.0, description="its part")


class Form(BaseModel):
    """What may stand in a value's place. More about it."""

    source: str = Field(description="where from")
    parts: list[Nested] = Field([], description="its parts")


class Outer(BaseModel):
    """What a section is for. More about it."""

    inner: Inner | None = Inner()
    kind: str = Field(description="which kind")
    reads: str | Form | list[str | Form] = Field("here", description="what is read")


def test_a_key_is_told_with_type_default_meaning_and_source():
    keys = {key.name: key for key in reference._keys(Outer, None, "")}
    assert keys["kind"] == Key("kind", "str", "required", "which kind", "", "")
    assert keys["inner.depth"] == Key(
        "inner.depth", "int | null", "null", "how deep; null: all", "GPT-3: 96; OPT: 96", ""
    )


def test_a_section_that_stands_in_a_value_s_place_has_its_keys_told_once():
    """Seen red: the reference named the types, and nobody told their keys."""
    names = [key.name for key in reference._forms(Outer)]
    assert names == ["Form", "Form.source", "Form.parts", "Nested", "Nested.share"]
    keys = {key.name: key for key in reference._forms(Outer)}
    assert keys["Form"].meaning == (
        "{source: ...} where a key's type names it: What may stand in a value's place"
    )
    assert keys["Nested.share"] == Key("Nested.share", "float", "1.0", "its part", "", "")


def test_forms_of_rewards_and_sources_are_in_the_reference(all_keys):
    """Of every recipe, and of one that names them. Seen red as above."""
    told = {key.name: key for key in all_keys}
    for form in (ModelSpec, EndpointSpec, Weighted, Source):
        for name in form.model_fields:
            assert told[f"{form.__name__}.{name}"].meaning
    assert told["ModelSpec.batch_tokens"].default == "4096"
    assert "ModelSpec.label" in {key.name for key in keys_of("willowbrook")}


@pytest.fixture(scope="module")
def all_keys():
    return keys_of()


def test_every_key_of_every_stage_says_what_it_means(all_keys):
    """Red for a field without a description, and for one that names only the paper's value."""
    assert len(all_keys) > 150
    assert not [key.name for key in all_keys if not key.meaning]


def test_a_recipe_shows_its_own_stages_and_values():
    """The README's command: it failed, since the schema took no recipe."""
    keys = {key.name: key for key in keys_of("willowbrook")}
    assert keys["ppo.kl_coef"].here == "0.05" and keys["ppo.kl_coef"].default == "0.1"
    assert keys["ppo.kl_coef"].paper == "C.4: 0.02"
    assert not any(name.startswith("rl_init") for name in keys)
    changed = {key.name: key for key in keys_of("willowbrook", ["ppo.kl_coef=0.1"])}
    assert changed["ppo.kl_coef"].here == ""


def test_the_reference_is_read_by_people_and_programs(all_keys):
    text = as_text(all_keys)
    assert "ppo.clip_range   float, default 0.2\n    of the probability ratio; C.4" not in text
    assert "ppo.clip_range   float, default 0.2\n    of the probability ratio   [C.4: 0.2]" in text
    rows = as_markdown(all_keys).splitlines()
    assert sum(row.startswith("| `ppo.") for row in rows) == sum(
        key.name.startswith("ppo.") and key.type != "section" for key in all_keys
    )
    assert "properties" in json.loads(schema_of("willowbrook"))


def test_markdown_shows_bars_as_bars_and_no_table_without_rows():
    """Red with types set as code: the site showed `auto \\| int`; and with a head a section."""
    keys = [
        Key("outer", "section", "", "holds sections alone", "", ""),
        Key("outer.inner", "section", "", "holds a key", "", ""),
        Key("outer.inner.kind", "auto | int", '"auto"', "is <name>", "", ""),
    ]
    page = as_markdown(keys)
    assert r'| `outer.inner.kind` | auto \| int | `"auto"` | is &lt;name> |  |' in page
    assert page.count("| key | type |") == 1
