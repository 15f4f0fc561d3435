"""The kinds of values of a hosts file, with their bounds, and what all of its sections have in common.

What the fields mean stands where they are: `host` and `topology`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ringrift_dagster.games.config import parse_config

Name = Annotated[str, StringConstraints(pattern=re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}\Z"))]
"""Of a host or a place: what the manifest takes as a location's name."""
Text = Annotated[str, StringConstraints(max_length=500, pattern=re.compile(r"^[^\x00-\x1f\x7f]*\Z"))]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=re.compile(r"^[^\x00-\x1f\x7f]+\Z"))]
Folder = Annotated[str, StringConstraints(max_length=500, pattern=re.compile(r"^(?!/)(?!(.*/)?\.\.(/|\Z))[^\x00-\x1f\x7f\\]*\Z"))]
"""Relative, and never upwards."""
User = Annotated[str, StringConstraints(pattern=re.compile(r"^[^-\s@\x00-\x1f\x7f][^\s@\x00-\x1f\x7f]{0,63}\Z"))]
Bucket = Annotated[str, StringConstraints(pattern=re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z"))]
Region = Annotated[str, StringConstraints(pattern=re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"))]
ConfigName = Annotated[str, AfterValidator(lambda text: parse_config(text).key)]
Port = Annotated[int, Field(ge=1, le=65535)]
Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Speed = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Interval = Annotated[float, Field(gt=0, le=10_000_000, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=10_000_000, allow_inf_nan=False)]
HoursOfGames = Annotated[float, Field(gt=0, lt=168, allow_inf_nan=False)]
"""A week is too much, whoever writes it: RingRift tolerated that once, and eight of twelve configs got worse."""
Whole = Annotated[int, Field(ge=0, le=10_000_000)]


class Section(BaseModel):
    """Part of the file. Fields that the project has no use for are tolerated; an empty one counts as not written."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")
    null_means: ClassVar[frozenset[str]] = frozenset()
    """Fields whose emptiness says something."""

    @model_validator(mode="before")
    @classmethod
    def _written(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key in cls.null_means}
