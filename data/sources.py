"""What a recipe says of a source of records: where it lies, in which format, how much of it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Format = Literal[
    "records",
    "text",
    "alpaca",
    "sharegpt",
    "oasst_tree",
    "oasst_kway",
    "hh",
    "trl_preference",
    "prompt_completion",
    "scored_list",
    "scored_rows",
    "judged_pair",
]


class Source(BaseModel):
    """Where records come from and how they lie there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="file, folder or hub id; ${VARIABLES} are filled in")
    format: Format = Field(default="records", description="our own records, or a public format")
    fields: dict[str, str] = Field(
        default={},
        description="the format's name of a column -> what the file calls it; a.b leads into "
        "nested objects",
    )
    split: str = Field(default="train", description="split of a hub data set")
    config: str | None = Field(
        default=None, description="configuration of a hub data set that has several"
    )
    separator: str = Field(
        default="<|endoftext|>", description="what stands between documents in a text file"
    )
    skip: int = Field(default=0, ge=0, description="leave out so many records at the beginning")
    limit: int | None = Field(
        default=None, gt=0, description="read at most so many records after these"
    )
    weight: float | None = Field(
        default=None, gt=0, description="share in a mixture; without, all of it once"
    )
