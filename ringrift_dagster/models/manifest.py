"""The model manifest: one JSON format that says which model is current for each config, by hash. Its types, reading and writing.

Two files have this format: a host's `data/model_manifest.json`, which its agent keeps, and the `model_manifest.json` of a published
set. A model that a host's manifest names may still be on its way: whoever loads one compares its hash. RingRift's own
`promoted_models.json` has absolute paths of one machine and no hashes; it is left alone. `docs/model_manifest.schema.json` is the
JSON Schema. Which model becomes current is not decided here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import orjson
from filelock import FileLock
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.models.publishing.files import sync_directory, write_durably

PATH = "data/model_manifest.json"
"""Relative to a host's RingRift tree."""
MAX_BYTES = 1 << 20
LOCK_SECONDS: Final = 30.0
"""How long a writer waits for another one."""


def _known_config(text: str) -> str:
    if text not in CONFIG_KEYS:
        raise ValueError("not one of the twelve configs")
    return text


ConfigKey = Annotated[str, AfterValidator(_known_config), WithJsonSchema({"type": "string", "enum": list(CONFIG_KEYS)})]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0, le=1 << 40, allow_inf_nan=False)]
Elo = Annotated[float, Field(ge=-10_000, le=10_000, allow_inf_nan=False)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
_Size = Annotated[int, Field(ge=0, le=1 << 50, strict=True)]
_Text = Annotated[str, Field(min_length=1, max_length=200)]


class Current(BaseModel):
    """One config's current model. What is None is not known to whoever wrote the file."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    sha256: Sha256
    """Of the model file: the model's identity."""
    promoted_at: Seconds
    """When it was promoted, in seconds since 1970. The latest promotion of a config counts."""
    file: str | None = Field(default=None, max_length=200)
    """Its path below `models/` where it was sent."""
    elo: Elo | None = None
    """Its estimated strength when it was promoted."""
    model: str | None = Field(default=None, max_length=500)
    """A name for people."""
    bytes: _Size | None = None
    """The size of the file."""
    architecture: _Text | None = None
    """The class of the network."""
    architecture_version: _Text | None = None
    encoder: _Text | None = None
    """The encoder of positions that the network was trained with."""
    in_channels: _Size | None = None
    """Planes of the network's input."""
    policy_size: _Size | None = None
    """Outputs of the policy head."""
    training_data_sha256: Sha256 | None = None
    """Of the training set that the model was made from."""
    decision: _Text | None = None
    """The id of the decision that promoted it."""
    games: _Size | None = None
    """Evaluation games that the decision rests on."""
    files: tuple[FileName, ...] = Field(default=(), max_length=20)
    """The names under which a published set has the model."""


class ModelManifest(BaseModel):
    """Every config's current model. Readers ignore fields that they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    version: int = 1
    """Raised only when older readers would misunderstand the file."""
    models: dict[ConfigKey, Current] = Field(default_factory=dict)
    """Current models by config."""

    def dump(self) -> bytes:
        """The file's content: the same bytes for the same manifest."""
        content = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        content = {"version": self.version, "models": content.get("models", {})}
        return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"


def later(known: Current | None, current: Current) -> Current:
    """Which of two entries of a config counts: the later promotion, with all that either says of the same one.

    The order in which entries arrive makes no difference; of two promotions at the same time the greater hash counts.
    """
    if known is None:
        return current
    first, second = ((entry.promoted_at, entry.sha256) for entry in (known, current))
    if first == second:
        return known.model_copy(update={name: getattr(current, name) for name in current.model_dump(exclude_defaults=True)})
    return max(known, current, key=lambda entry: (entry.promoted_at, entry.sha256))


def read(root: Path) -> ModelManifest:
    """The manifest of a tree; an empty one if there is none, or none that can be read."""
    try:
        with (root / PATH).open("rb") as file:
            return ModelManifest.model_validate_json(file.read(MAX_BYTES))
    except (OSError, ValidationError):
        return ModelManifest()


def note(root: Path, config: str, current: Current) -> bool:
    """Say that a model is its config's current one, unless a later one was promoted; returns whether that changed anything.

    The file is replaced as a whole and is on disk when this returns. Raises OSError (TimeoutError while another process writes).
    """
    target = root / PATH
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with FileLock(target.with_name(f".{target.name}.lock"), timeout=LOCK_SECONDS):
        known = read(root)
        before = known.models.get(config)
        after = later(before, current)
        if after == before:
            return False
        changed = known.model_copy(update={"models": {**known.models, config: after}})
        part.unlink(missing_ok=True)
        write_durably(part, changed.dump())
        part.replace(target)
        sync_directory(target.parent)
    return True


def json_schema() -> bytes:
    """The JSON Schema of the format, as `docs/model_manifest.schema.json` has it."""
    return orjson.dumps(ModelManifest.model_json_schema(), option=orjson.OPT_INDENT_2) + b"\n"
