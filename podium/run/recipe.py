"""One recipe is one YAML file and one whole run; precedence is defaults < recipe < `--set a.b=c`.

Every stage's section is the `Config` of its module, imported only when the recipe has that section.
Unknown keys are errors that name the nearest right one.
"""

import difflib
import re
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from data.sources import Source
from data.special_tokens import SpecialTokens
from podium.errors import RecipeError
from podium.rewards.specs import RewardSpec
from podium.run.registry import STAGES, chain_of, spec_of, split_arm
from podium.sampling.kinds import EmbeddedConfig, SamplerConfig, config_class

__all__ = [
    "RECIPES",
    "DataConfig",
    "Recipe",
    "SplitSources",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "read_sampler",
    "recipe_model",
    "validate",
    "validate_reward",
    "validate_world",
]

Model = TypeVar("Model", bound=BaseModel)
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SourceSpec = str | Source | list[str | Source]  # what data.readers.read_source reads


class SplitSources(BaseModel):
    """Where one kind of records comes from: a path, a Source {path, format, split, limit, weight},
    or a list.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: SourceSpec | None = Field(None, description="records to learn from")
    validation: SourceSpec | None = Field(None, description="records to choose by")
    test: SourceSpec | None = Field(None, description="records to report on")


class DataConfig(BaseModel):
    """Your own data, kind by kind; a kind that is null comes from the embedded world."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    world: Any = Field(
        None, description="the embedded world, e.g. {name: willowbrook}; null = only your own data"
    )
    documents: SplitSources | None = Field(None, description="plain texts for pretraining and ptx")
    demonstrations: SplitSources | None = Field(
        None, description="conversations that end in a good answer"
    )
    prompts: SplitSources | None = Field(
        None, description="conversations that end with the user, for rankings and PPO"
    )
    rankings: SplitSources | None = Field(None, description="K answers a prompt, ranked")
    questions: SplitSources | None = Field(None, description="multiple-choice questions for evals")


class Recipe(BaseModel):
    """A whole run. Every stage of the registry may have a section of its name, and `<stage>_arms`
    where its row allows arms. Stages left out (null) are not in the chain.

    Files are checked against `recipe_model`, which knows each section's config. Python code may
    also hand this class the configs themselves: `Recipe(name="x", sft=sft.config.Config())`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="the run's folder is <runs-dir>/<name>")
    description: str = Field("", description="one line: what the run is, needs and costs")
    seed: int = Field(1, ge=0, description="every stage starts from this seed")
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="bf16 = autocast with fp32 weights; auto = bf16 where the hardware "
        "multiplies it",
    )
    threads: Literal["auto"] | int = Field("auto", description="CPU threads; auto = what is free")
    keep_checkpoints: int = Field(
        0,
        ge=0,
        description="newest checkpoints of a stage that stay when it is finished, for "
        "`podium rank-checkpoints`; while it runs there are always two",
    )
    trackers: list[Literal["trackio", "tensorboard", "wandb"]] = Field(
        default_factory=list,
        description="dashboards that mirror metrics.jsonl (extras of the same names)",
    )
    data: DataConfig = Field(DataConfig(), description="your own data")
    special_tokens: SpecialTokens = Field(
        SpecialTokens(),
        description="the base model's tokens for documents and padding, for every stage",
    )
    sampler: Any = Field(
        EmbeddedConfig(), description="who samples, in every stage that does and in the chat"
    )

    @model_validator(mode="after")
    def _only_known_sections(self) -> "Recipe":
        known = {*STAGES, *(f"{row}_arms" for row, spec in STAGES.items() if spec.arms)}
        unknown = sorted((self.model_extra or {}).keys() - known)
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no stage; there are {', '.join(sorted(known))}")
        return self

    def stage_config(self, stage: str) -> Any:
        """The config of a stage, an arm's overrides applied; None when it is not in the chain."""
        row, arm = split_arm(stage)
        if row == "world":
            return self.data.world
        config = getattr(self, row, None)
        if arm is None or config is None:
            return config if arm is None else None
        differences = self.arms(row).get(arm)
        if differences is None:
            return None
        return type(config).model_validate(_merge(config.model_dump(), differences))

    def arms(self, stage: str) -> dict[str, dict[str, Any]]:
        """The further runs of a stage: name -> what differs. Empty where the recipe has none."""
        return getattr(self, f"{stage}_arms", {})

    def chain(self) -> list[str]:
        """The stages of this recipe in the order they run."""
        present = [row for row in STAGES if self.stage_config(row) is not None]
        return chain_of(present, {row: self.arms(row) for row in present})


class _FileRecipe(Recipe):
    """Of a file, in which a key that no section has is a mistake to be named."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_recipe(path: str | Path, sets: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe: a path, or the bare name of a file in recipes/.

    Raises:
        RecipeError: missing file, broken YAML, unknown key (named with the nearest right one),
            wrong value.
    """
    file = find_recipe(path)
    tree = _read_tree(file)
    tree.setdefault("name", file.stem)
    for assignment in sets:
        _assign(tree, assignment)
    return validate(tree, str(file))


def _read_tree(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=_RecipeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{file} is not valid YAML: {error}", "compare it with a file in recipes/"
        ) from error
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{file} holds no recipe (a recipe is `key: value` lines)",
            "start from a file in recipes/",
        )
    return tree


def validate(tree: dict[str, Any], source: str) -> Recipe:
    """The typed recipe of a YAML tree; `source` names it in errors."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(tree.get("name"))):
        raise RecipeError(
            f"{source}: name '{tree.get('name')}' cannot be a folder", "use letters, digits, - _ ."
        )
    data = tree.get("data")
    present = [s for s in STAGES if s != "world" and tree.get(s) is not None]
    has_world = isinstance(data, dict) and data.get("world") is not None
    model = recipe_model(present, has_world, tree.get("sampler"))
    recipe = _checked(model, tree, source)
    for row in STAGES:
        _check_arms(recipe, row, source)
    return recipe


def _check_arms(recipe: Recipe, row: str, source: str) -> None:
    """An arm says what differs from its stage, so the stage must be there and know the keys."""
    config, key = recipe.stage_config(row), f"{row}_arms"
    if recipe.arms(row) and config is None:
        raise RecipeError(
            f"{source}: {key} without {row}",
            f"add a {row} section; arms say what differs from it",
        )
    for arm, differences in recipe.arms(row).items():
        _checked(type(config), _merge(config.model_dump(), differences), source, (key, arm))


def _checked(model: type[Model], tree: Any, source: str, place: tuple[str, ...] = ()) -> Model:
    """`tree` as a `model`; mistakes are named by their keys under `place`."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(*_explain(error, model, source, place)) from error


def validate_world(tree: dict[str, Any], sets: Sequence[str] = ()) -> Any:
    """The config of an embedded world alone, with its own `--set key=value`."""
    for assignment in sets:
        _assign(tree, assignment)
    return _checked(spec_of("world").config_class(), tree, "world")


class _Rewarded(BaseModel):
    reward: RewardSpec


def validate_reward(text: str, source: str) -> RewardSpec:
    """A reward as an option of a command names it: what `ppo.reward` takes, a section or a sum in
    YAML's braces and brackets. `source` names the option in errors.

    Raises:
        RecipeError: no such key, or broken YAML.
    """
    value: Any = text
    if text.lstrip().startswith(("{", "[")):
        try:
            value = yaml.load(text, Loader=_RecipeLoader)
        except yaml.YAMLError as error:
            fix = "for example '{model: org/reward-model, label: helpful}', quoted for the shell"
            raise RecipeError(f"{source} is not valid YAML: {error}", fix) from error
    return _checked(_Rewarded, {"reward": value}, source).reward


def recipe_model(stages: Iterable[str], world: bool, sampler: Any = None) -> type[Recipe]:
    """`Recipe` with a section for every stage; for `stages` it is their real config class (which
    imports their modules), for the others anything. `sampler`: the section of that name.
    """
    loaded = set(stages)
    own = Recipe.model_fields["sampler"]
    sections: dict[str, Any] = {
        "sampler": (config_class(sampler), Field(own.default, description=own.description))
    }
    for stage, spec in STAGES.items():
        if stage == "world":
            continue  # its config lies in data.world
        config = spec.config_class() if stage in loaded else Any
        sections[stage] = (config | None, Field(None, description=spec.reason))
        if spec.arms:
            sections[f"{stage}_arms"] = (
                dict[str, dict[str, Any]],
                Field(
                    default_factory=dict,
                    description=f"further runs beside `{stage}`: name -> what differs",
                ),
            )
    if world:
        config = spec_of("world").config_class()
        data = create_model("DataConfig", __base__=DataConfig, world=(config | None, None))
        sections["data"] = (data, Field(default_factory=data, description="your own data"))
    return create_model("Recipe", __base__=_FileRecipe, **sections)


def read_sampler(run_dir: Path) -> SamplerConfig:
    """How a run samples, by its recipe.yaml alone (no stage is imported); embedded without one.

    Raises:
        RecipeError: the section cannot be understood.
    """
    path = run_dir / "recipe.yaml"
    section = _read_tree(path).get("sampler", {}) if path.is_file() else {}
    return _checked(config_class(section), section, str(path), ("sampler",))


def find_recipe(path: str | Path) -> Path:
    """A file, or the bare name of one in recipes/.

    Raises:
        RecipeError: neither exists; lists the recipes there are.
    """
    for candidate in (Path(path), RECIPES / f"{path}", RECIPES / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml"))) or "none yet"
    raise RecipeError(
        f"no recipe '{path}'", f"give a path, or one of the recipes that come with Podium: {known}"
    )


def dump_recipe(recipe: BaseModel) -> str:
    """YAML that loads to the same recipe."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120
    )


def _assign(tree: dict[str, Any], assignment: str) -> None:
    """Put one `a.b=value` into the tree; the value is read as YAML."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            f"--set {assignment}: expected key=value", "for example --set ppo.kl_coef=0.05"
        )
    *parents, last = key.strip().split(".")
    try:
        value = yaml.load(text, Loader=_RecipeLoader) if text else None
    except yaml.YAMLError as error:
        raise RecipeError(
            f"--set {assignment}: the value is not valid YAML: {error}", "quote it"
        ) from error
    node = tree
    for depth, parent in enumerate(parents, start=1):
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            where = ".".join(parents[:depth])
            raise RecipeError(
                f"--set {assignment}: '{where}' is a value, not a section", "set it as a whole"
            )
    node[last] = value


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(
    error: ValidationError, model: type[BaseModel], source: str, place: tuple[str, ...]
) -> tuple[str, str]:
    """The message and fix of the recipe's mistakes, all of them at once."""
    problems: dict[tuple[str, ...], list[str]] = {}
    fixes = []
    for item in error.errors():
        keys = _keys(model, item["loc"])
        if item["type"] != "extra_forbidden":
            problems.setdefault(keys, []).append(item["msg"].removeprefix("Value error, "))
            continue
        problems.setdefault(keys, []).append("unknown key")
        known, section = _fields_at(model, keys[:-1]), [*place, *keys[:-1]]
        if keys[-1] == "weights" and keys[0] in STAGES:
            fixes.append(
                f"{keys[0]} trains, and narrow weights are for answering alone (evals.weights, "
                "--weights of podium chat, serve, compare, eval); half precision is `dtype: bf16`"
            )
            continue
        near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        meant = f"did you mean '{'.'.join([*section, near[0]])}'?" if near else None
        fixes.append(meant or f"{'.'.join(section) or 'the recipe'} knows: {', '.join(known)}")
    lines = [
        f"{source}: '{'.'.join([*place, *keys])}': {' or '.join(dict.fromkeys(messages))}"
        for keys, messages in problems.items()
        # A union complains about each of its types; the mistake deeper inside is the one that was
        # meant.
        if not any(len(other) > len(keys) and other[: len(keys)] == keys for other in problems)
    ]
    return "\n".join(lines), "; ".join(
        dict.fromkeys(fixes)
    ) or "see every key and its meaning: podium config schema"


def _keys(model: type[BaseModel], location: Sequence[str | int]) -> tuple[str, ...]:
    """The keys a person wrote, without the type names that pydantic puts between them for
    unions.
    """
    keys: list[str] = []
    current = [model]
    for part in map(str, location):
        fields = [m.model_fields[part] for m in current if part in m.model_fields]
        names = ("str", "int", "float", "bool", *(m.__name__ for m in current))
        if not fields and (part in names or "[" in part):
            continue
        current = [m for field in fields for m in _models_in(field.annotation)] or current
        keys.append(part)
    return tuple(keys)


def _fields_at(model: type[BaseModel], keys: Sequence[str]) -> list[str]:
    """The keys allowed at a place in the recipe; empty where it is no section. Where several kinds
    of section may stand there, the keys of all.
    """
    current: list[type[BaseModel]] = [model]
    for key in keys:
        fields = [m.model_fields[key] for m in current if key in m.model_fields]
        current = [m for field in fields for m in _models_in(field.annotation)] or current
    return list(dict.fromkeys(name for m in current for name in m.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The config classes in an annotation: `X`, `X | None`, `list[X] | Y`, `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


class _RecipeLoader(yaml.SafeLoader):
    """YAML in which `1e-5` is a number and a key given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key given twice: {twice.pop()}", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)
