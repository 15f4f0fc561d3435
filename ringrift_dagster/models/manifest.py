"""The model manifest: one JSON format that says which model is current for each config, by hash. Its types, reading and writing.

Two files have this format: a host's `data/model_manifest.json`, which its agent keeps, and the `model_manifest.json` of a published
set. A model that a host's manifest names may still be on its way: whoever loads one compares its hash. RingRift's own
`promoted_models.json` has absolute paths of one machine and no hashes; it is left alone. `docs/model_manifest.schema.json` is the
JSON Schema. Which model becomes current is not decided here.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import orjson
from filelock import FileLock
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.models.publishing.files import sync_directory, write_durably
from ringrift_dagster.models.publishing.reasons import PublishingRefused

if TYPE_CHECKING:
    from ringrift_dagster.models.publishing.published_set import Verifier

PATH = "data/model_manifest.json"
"""Relative to a host's RingRift tree."""
SIGNATURE_PATH: Final = f"{PATH}.sig"
"""Where a host checks signatures: that of the manifest, as it was published."""
MAX_BYTES = 1 << 20
MAX_SIGNATURE_BYTES: Final = 4096
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
    if _rank(known) == _rank(current):
        return known.model_copy(update={name: getattr(current, name) for name in current.model_dump(exclude_defaults=True)})
    return max(known, current, key=_rank)


def read(root: Path) -> ModelManifest:
    """The manifest of a tree; an empty one if there is none, or none that can be read."""
    try:
        return ModelManifest.model_validate_json(_head(root / PATH, MAX_BYTES))
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


@dataclass(frozen=True)
class SignedManifest:
    """A manifest as it was published, and its detached signature."""

    content: bytes
    signature: bytes


def read_signed(root: Path, verify: Verifier) -> ModelManifest:
    """The manifest of a tree, if it is one that was signed. Raises PublishingRefused (`no_signature`, `bad_signature`)."""
    try:
        content, signature = (_head(root / path, most) for path, most in ((PATH, MAX_BYTES), (SIGNATURE_PATH, MAX_SIGNATURE_BYTES)))
    except OSError as error:
        raise PublishingRefused("no_signature", f"{error.filename}: {error.strerror}") from error
    return _verified(SignedManifest(content, signature), verify)


def note_signed(root: Path, signed: SignedManifest, verify: Verifier) -> bool:
    """Make a published manifest that of a tree, unless a later one is; returns whether that changed anything.

    What is there without a valid signature counts for nothing. Both files are on disk when this returns; for whoever reads between
    the two, and after a loss of power there, the signature is bad until this is done again. Raises PublishingRefused
    (`no_signature`, `bad_signature`, `contradicts`), and OSError as `note` does.
    """
    offered = _verified(signed, verify)
    target = root / PATH
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock"), timeout=LOCK_SECONDS):
        known = ModelManifest()
        with suppress(PublishingRefused):
            known = read_signed(root, verify)
        newer = [config for config, entry in offered.models.items() if _rank(entry) > _rank(known.models.get(config))]
        older = [config for config, entry in known.models.items() if _rank(entry) > _rank(offered.models.get(config))]
        if newer and older:
            raise PublishingRefused("contradicts", f"of {older[0]} the tree has a later model, and of {newer[0]} an earlier one")
        if older or offered == known:
            return False
        parts = [(path, path.with_name(f".{path.name}.part")) for path in (root / PATH, root / SIGNATURE_PATH)]
        for (_, part), content in zip(parts, (signed.content, signed.signature), strict=True):
            part.unlink(missing_ok=True)
            write_durably(part, content)
        for path, part in parts:
            part.replace(path)
        sync_directory(target.parent)
    return True


def _verified(signed: SignedManifest, verify: Verifier) -> ModelManifest:
    verify(signed.content, signed.signature)
    try:
        return ModelManifest.model_validate_json(signed.content)
    except ValidationError as error:
        raise PublishingRefused("bad_signature", "what was signed is no model manifest") from error


def _rank(entry: Current | None) -> tuple[float, str]:
    """The later of two promotions has the greater rank."""
    return (entry.promoted_at, entry.sha256) if entry is not None else (-1.0, "")


def _head(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most)


def json_schema() -> bytes:
    """The JSON Schema of the format, as `docs/model_manifest.schema.json` has it."""
    return orjson.dumps(ModelManifest.model_json_schema(), option=orjson.OPT_INDENT_2) + b"\n"
