"""docs/use/your-own-data.md cannot rot: its examples are read by the code they describe."""

import re
from pathlib import Path

import pytest
import yaml

from data import records
from data.readers import CONVERTERS
from data.sources import Source

PAGE = (Path(__file__).parents[2] / "docs" / "use" / "your-own-data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"\*\*(\w+)\*\*(?:(?!```).)*```jsonl\n(.*?)\n```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_example_is_a_record(name, line):
    getattr(records, name).model_validate_json(line)


def test_every_record_has_an_example():
    kinds = ["Document", "Prompt", "Demonstration", "Ranking", "Comparison", "Question"]
    assert [name for name, _ in EXAMPLES] == kinds


def test_the_recipe_example_is_valid():
    kinds = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[1])
    for source in [source for splits in kinds.values() for source in splits.values()]:
        for part in source if isinstance(source, list) else [source]:
            Source.model_validate({"path": part} if isinstance(part, str) else part)


def test_all_formats_and_options_are_told():
    first_cells = " ".join(re.findall(r"^\| (.*?) \|", PAGE, flags=re.MULTILINE))
    assert {*CONVERTERS, *Source.model_fields} <= set(re.findall(r"`(\w+)`", first_cells))
