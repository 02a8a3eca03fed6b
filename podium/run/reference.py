"""The reference of a recipe's keys, made from the configs themselves, so that it cannot go stale.

Each key is told with its type, its default, what it means and the paper's value where there is one.
With a recipe, what the recipe says in place of the default stands beside it.
"""

import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from podium.run.recipe import Recipe, load_recipe, recipe_model
from podium.run.registry import STAGES
from podium.sampling.kinds import KINDS

# A description ends with its sources, each behind a semicolon: "of the ratio; C.4: 0.2; OPT: 1.0".
_SOURCE = re.compile(
    r"((appendix )?C(\.\d)?|(all )?papers?|GPT-\d|OPT|LLaMA|GLM(-130B)?|InstructGPT|Ziegler|OpenAI"
    r"|Bai)\b.*: "
    r"|not in the paper|the paper (names|gives) "
)
HEAD = ["| key | type | default | meaning | the source's value |", "|---|---|---|---|---|"]


class Key(NamedTuple):
    """One key of a recipe. `here` is what the recipe says where it differs from the default."""

    name: str
    type: str
    default: str
    meaning: str
    paper: str
    here: str


def keys_of(recipe: str = "", sets: Sequence[str] = ()) -> list[Key]:
    """Every key of a recipe's stages, in the order of the file; of all stages without a recipe.
    Then those of the sections that may stand in a value's place (`{model: ..., label: ...}` as a
    reward), under the name that the types of keys call them by, and of further kinds of sampler.

    Raises:
        RecipeError: the recipe is not there or not valid.
    """
    loaded = load_recipe(recipe, sets) if recipe else None
    model = type(loaded) if loaded is not None else _whole_model()
    return [*_keys(model, loaded, ""), *_forms(model), *_samplers(model)]


def schema_of(recipe: str = "", sets: Sequence[str] = ()) -> str:
    """The same for programs: JSON schema of the recipe."""
    model = type(load_recipe(recipe, sets)) if recipe else _whole_model()
    return json.dumps(model.model_json_schema(), indent=2)


def as_text(keys: Sequence[Key]) -> str:
    """For people at a terminal: a key and its type, then what it means, section by section."""
    lines = []
    for key in keys:
        if key.type == "section":
            lines += ["", f"{key.name}: {key.meaning}", "=" * (len(key.name) + 1)]
            continue
        here = f"   here: {key.here}" if key.here else ""
        lines.append(f"{key.name}   {key.type}, default {key.default}{here}")
        lines.append(f"    {key.meaning}" + (f"   [{key.paper}]" if key.paper else ""))
    return "\n".join(lines).strip()


def as_markdown(keys: Sequence[Key]) -> str:
    """For the documentation: a table a section, where a section has keys of its own."""
    lines: list[str] = []
    in_table = False
    for key in keys:
        if key.type == "section":
            lines += ["", f"## `{key.name}`", "", _sentence(_escaped(key.meaning))]
            in_table = False
            continue
        if not in_table:
            lines += ["", *HEAD]
            in_table = True
        # In code a bar would keep its backslash on the site, so types stand as plain text.
        kind, meaning, paper = _escaped(key.type), _escaped(key.meaning), _escaped(key.paper)
        lines.append(f"| `{key.name}` | {kind} | `{key.default}` | {meaning} | {paper} |")
    return "\n".join(lines).strip() + "\n"


def _escaped(text: str) -> str:
    """Inside a table and outside of code neither bars nor angle brackets mean themselves."""
    return text.replace("<", "&lt;").replace("|", r"\|")


def _whole_model() -> type[Recipe]:
    return recipe_model([stage for stage in STAGES if stage != "world"], "world" in STAGES)


def _keys(model: type[BaseModel], value: BaseModel | None, prefix: str) -> Iterator[Key]:
    """The plain keys of a section first, then its sections, so that no key reads as another's."""
    fields = model.model_fields.items()
    for plain in (True, False):
        for name, field in fields:
            section = _section_in(field.annotation)
            if (section is None) != plain:
                continue
            here = getattr(value, name, None) if value is not None else None
            if section is None:
                if not _is_absent(field, value, here):
                    yield _key(prefix + name, field, here if value is not None else ...)
            elif value is None or here is not None:
                meaning = field.description or _first_sentence(section)
                yield Key(prefix + name, "section", "", " ".join(meaning.split()), "", "")
                inner = here if isinstance(here, BaseModel) else None
                yield from _keys(section, inner, f"{prefix}{name}.")


def _forms(model: type[BaseModel]) -> Iterator[Key]:
    """The keys of every section that a key's type names among others, each once."""
    found: dict[str, type[BaseModel]] = {}

    def look(current: type[BaseModel]) -> None:
        for field in current.model_fields.values():
            if section := _section_in(field.annotation):
                look(section)
                continue
            for form in _sections_in(field.annotation):
                if form.__name__ not in found:
                    found[form.__name__] = form
                    look(form)

    look(model)
    for name, form in found.items():
        needed = ", ".join(
            f"{k}: ..." for k, field in form.model_fields.items() if field.is_required()
        )
        said = f"{{{needed}}} where a key's type names it: {_first_sentence(form)}"
        yield from _form(name, form, said)


def _samplers(model: type[BaseModel]) -> Iterator[Key]:
    """The keys of the kinds of sampler that the recipe does not name."""
    used = _section_in(model.model_fields["sampler"].annotation)
    for kind, row in KINDS.items():
        if row.config is not used:
            said = f"`sampler: {{kind: {kind}}}`: {_first_sentence(row.config)}"
            yield from _form(row.config.__name__, row.config, said)


def _form(name: str, form: type[BaseModel], said: str) -> Iterator[Key]:
    yield Key(name, "section", "", said, "", "")
    yield from (_key(f"{name}.{key}", field, ...) for key, field in form.model_fields.items())


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The config classes named anywhere in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in _sections_in(part)]


def _is_absent(field: FieldInfo, value: BaseModel | None, here: Any) -> bool:
    """A stage that the recipe leaves out has no config to tell of, only `null`."""
    return value is not None and here is None and Any in typing.get_args(field.annotation)


def _key(name: str, field: FieldInfo, here: Any) -> Key:
    text = " ".join((field.description or "").split())
    parts = text.split("; ")
    told = len(parts)
    while told and _SOURCE.match(parts[told - 1]):
        told -= 1
    meaning, paper = "; ".join(parts[:told]), "; ".join(parts[told:])
    default = "required"
    if not field.is_required():
        default = _shown(field.get_default(call_default_factory=True))
    now = "" if here is ... or _shown(here) == default else _shown(here)
    return Key(name, _type(field.annotation), default, meaning, paper, now)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The config class of a section: `X` or `X | None`; a list or union of values is no section."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return _section_in(kinds[0]) if len(kinds) == 1 else None
    return None


def _first_sentence(section: type[BaseModel]) -> str:
    return " ".join((section.__doc__ or "").split()).split(". ")[0]


def _type(annotation: Any) -> str:
    """`Literal["a", "b"] | None` as people write it: a | b | null."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return " | ".join(str(choice) for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(_type(kind) for kind in inner))
    if origin is typing.Annotated:
        return _type(inner[0])
    if inner:
        named = getattr(origin, "__name__", str(origin))
        return f"{named}[{', '.join(_type(kind) for kind in inner if kind is not ...)}]"
    return getattr(annotation, "__name__", str(annotation)).replace("Any", "any")


def _shown(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, ensure_ascii=False, default=str)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
