"""Where an item belongs below a root, and what its file is called. Names only: nothing here looks at a disk."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.sources.layouts import MODEL_SUFFIXES, Layout, is_listed, is_named_by_hash
from ringrift_dagster.transfer.model import OrderedItem

CANDIDATE_PREFIX = "candidate_"
"""RingRift's mark of a checkpoint that waits for its evaluation among the models."""
LIVE_FOLDER = "data/games"
"""Where the databases are that a host's games are added to."""
SOURCE_FOLDER = "selfplay"
"""Where the pipeline's sources are in the project's own home."""

_FOLDERS: Mapping[str, Mapping[ItemType, str]] = MappingProxyType(
    {
        "tree": {
            ItemType.GAME_DB: "data/sync_incoming",
            ItemType.NPZ: "data/training",
            ItemType.CANONICAL_GAMES: "data/canonical",
            ItemType.MODEL: "models",
            ItemType.CHECKPOINT: "checkpoints",
        },
        "drive": {
            ItemType.GAME_DB: "selfplay_repository",
            ItemType.NPZ: "canonical_data",
            ItemType.CANONICAL_GAMES: "canonical_games",
            ItemType.MODEL: "canonical_models",
            ItemType.CHECKPOINT: "model_checkpoints",
        },
        "shared": {
            ItemType.GAME_DB: "games",
            ItemType.NPZ: "training",
            ItemType.CANONICAL_GAMES: "canonical",
            ItemType.MODEL: "models",
            ItemType.CHECKPOINT: "checkpoints",
        },
    }
)
_SUFFIXES: Mapping[ItemType, tuple[str, ...]] = MappingProxyType(
    {
        ItemType.GAME_DB: (".db",),
        ItemType.NPZ: (".npz",),
        ItemType.CANONICAL_GAMES: (".parquet",),
        ItemType.MODEL: MODEL_SUFFIXES,
        ItemType.CHECKPOINT: MODEL_SUFFIXES,
    }
)


class Unplaceable(ValueError):
    """There is no place for the item below such a root; the text says why."""


class Known(Protocol):
    """What has to be known of an item to name it: a row of the manifest will do."""

    @property
    def sha256(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def config(self) -> str | None: ...


def file_name(item: Known, suffix: str) -> str:
    """What an item's file is called wherever it is sent: a name under which no other content can stand.

    `suffix` is that of a file that holds it now, e.g. `.npz`. Raises Unplaceable for one that the type does not have.
    """
    type_ = ItemType(item.type)
    if suffix not in _SUFFIXES[type_]:
        raise Unplaceable(f"no {type_} ends in {suffix!r}")
    if type_ == ItemType.GAME_DB:
        return f"{item.sha256}.db"
    prefix = CANDIDATE_PREFIX if type_ == ItemType.CHECKPOINT else ""
    return f"{prefix}{item.config or 'any'}_{item.sha256[:12]}{suffix}"


def place(kind: str, layout: Layout, item: OrderedItem) -> str:
    """The path, relative to a root of this kind (tree, drive, shared or home), at which the item belongs.

    Into the home only games are sent, to be merged into the pipeline's sources. Raises Unplaceable when the root's own layout would
    not find such an item there.
    """
    if kind == "home" and item.merge and item.type == ItemType.GAME_DB and is_listed(item.name) and not is_named_by_hash(item.name):
        return f"{SOURCE_FOLDER}/{item.name}"
    folder = _folder(kind, item)
    path = f"{folder}/{item.name}"
    rule = layout.rule(path)
    if rule is None or rule.type != item.type or not is_listed(item.name) or layout.is_set_aside(path):
        raise Unplaceable(f"{path} would not be a {item.type} of a {layout.name}")
    if not item.merge and rule.live and item.name != f"{item.sha256}.db":
        raise Unplaceable(f"{path} would be a live database: one that is to stay what it is bears its hash as a name")
    return path


def _folder(kind: str, item: OrderedItem) -> str:
    folders = _FOLDERS.get(kind)
    if folders is None:
        raise Unplaceable(f"nothing is sent to a root of the kind {kind!r}")
    if item.merge:
        if item.type != ItemType.GAME_DB or kind != "tree" or is_named_by_hash(item.name):
            raise Unplaceable(f"only games are merged, and only into a live database of a host, not into {item.name}")
        return LIVE_FOLDER
    if kind == "tree" and item.type == ItemType.CHECKPOINT and item.name.startswith(CANDIDATE_PREFIX):
        return folders[ItemType.MODEL]
    return folders[item.type]
