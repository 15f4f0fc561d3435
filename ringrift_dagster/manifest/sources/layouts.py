"""Where things lie below a location's root: data only.

A layout says which folders are looked into and what a file there is, by its folder and name. What a file's content tells is
`probe`'s business, walking that of `tree_walk`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from ringrift_dagster.manifest.inventory import ItemType

MODEL_SUFFIXES = (".pth", ".pt", ".onnx")
SIDE_SUFFIXES = ("-wal", "-shm", "-journal", ".part", ".tmp")
"""Files that belong to another file, or are not finished: never listed."""
SIDECAR_SUFFIX = ".meta.json"
"""RingRift writes a model's Elo and id beside it, under its name with this suffix."""
SNAPSHOT_FOLDER = ".ringrift-node/snapshots"
"""Where a location's own snapshots of its source databases are, as its inventory names them."""

_FINISHED_DATABASE = re.compile(r"[0-9a-f]{64}\.db")


@dataclass(frozen=True)
class Rule:
    """Files below `folder` (POSIX, relative; "" is everywhere) whose names fit are items of a type.

    `live`: a database there is in use and never an item itself, unless its name is its own hash.
    """

    folder: str
    suffixes: tuple[str, ...]
    type: ItemType
    live: bool = False
    prefix: str = ""
    retired: bool = False
    """What goes from there was retired by whoever keeps it, after something that holds as much had come."""

    def fits(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        below = not self.folder or path.startswith(self.folder + "/")
        return below and name.endswith(self.suffixes) and name.startswith(self.prefix)


@dataclass(frozen=True)
class Layout:
    """The first rule that fits decides. Nothing outside the rules' folders is looked at.

    `set_aside` names folders whose files are never training data, at any depth.
    """

    name: str
    rules: tuple[Rule, ...]
    set_aside: frozenset[str] = frozenset({"holdouts", "quarantine", "corrupted"})

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders to look into, none within another."""
        wanted = sorted({rule.folder for rule in self.rules})
        return tuple(folder for folder in wanted if not any(_within(folder, other) for other in wanted if other != folder))

    @property
    def identity(self) -> str:
        """Changes whenever the layout does."""
        return repr((self.name, self.rules, sorted(self.set_aside)))

    def rule(self, path: str) -> Rule | None:
        """What decides about a file, if anything does."""
        return next((rule for rule in self.rules if rule.fits(path)), None)

    def leads_to(self, folder: str) -> bool:
        """Whether a folder has to be entered: it is within a folder of a rule, or one is within it."""
        return any(folder == wanted or _within(folder, wanted) or _within(wanted, folder) for wanted in self.folders)

    def is_set_aside(self, path: str) -> bool:
        return not self.set_aside.isdisjoint(path.split("/")[:-1])


def is_listed(name: str) -> bool:
    """Whether a file or folder of this name counts at all."""
    return not name.startswith(".") and not name.endswith(SIDE_SUFFIXES)


def is_named_by_hash(name: str) -> bool:
    """Whether a database's name claims to be the hash of its content."""
    return _FINISHED_DATABASE.fullmatch(name) is not None


def _within(folder: str, other: str) -> bool:
    return not other or folder.startswith(other + "/")


def _models(folder: str) -> tuple[Rule, ...]:
    return (
        Rule(folder, MODEL_SUFFIXES, ItemType.CHECKPOINT, prefix="candidate_"),
        Rule(folder, MODEL_SUFFIXES, ItemType.MODEL),
    )


def _everything(folder: str) -> tuple[Rule, ...]:
    return (
        Rule(folder, (".db",), ItemType.GAME_DB),
        Rule(folder, (".npz",), ItemType.NPZ),
        Rule(folder, (".parquet",), ItemType.CANONICAL_GAMES),
        *_models(folder),
    )


NODE = Layout(
    "node",
    (
        Rule("data/games", (".db",), ItemType.GAME_DB, live=True),
        Rule("data/selfplay", (".db",), ItemType.GAME_DB, live=True),
        Rule("data/sync_incoming", (".db",), ItemType.GAME_DB, live=True),
        Rule("data/sync_incoming", (".npz",), ItemType.NPZ),
        Rule("data/training", (".npz",), ItemType.NPZ),
        Rule("data/canonical", (".parquet",), ItemType.CANONICAL_GAMES),
        Rule("checkpoints", MODEL_SUFFIXES, ItemType.CHECKPOINT),
        Rule("models/checkpoints", MODEL_SUFFIXES, ItemType.CHECKPOINT),
        *_models("models"),
    ),
)
"""A host's RingRift tree."""

HOME = Layout(
    "home",
    (
        Rule("snapshots", (".db",), ItemType.GAME_DB, retired=True),
        Rule("canonical", (".parquet",), ItemType.CANONICAL_GAMES),
        Rule("datasets", (".npz",), ItemType.NPZ),
        Rule("models/published", (".pth",), ItemType.MODEL, prefix="canonical_", retired=True),
    ),
)
"""This project's own home; one name of every current model. Source databases are not looked at: the pipeline keeps snapshots."""

SHARED = Layout("shared", (Rule("checkpoints", MODEL_SUFFIXES, ItemType.CHECKPOINT), *_everything("")))
"""A file system that several hosts mount: anything anywhere, databases only when they are finished."""

DRIVE_FOLDERS = (
    "selfplay_repository",
    "canonical_data",
    "canonical_games",
    "cluster_games",
    "canonical_models",
    "model_checkpoints",
    "consolidated/games",
    "consolidated/training",
    "models",
)
"""Both layouts that RingRift's scripts gave its external drive: by kind of data, and `consolidated/`."""


def drive(subdirectories: Iterable[str] = ()) -> Layout:
    """An external drive, with what the hosts file adds to the known folders. Raises ValueError for a path that leads out."""
    added = []
    for each in subdirectories:
        path = PurePosixPath(each)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"not a folder below the drive: {each!r}")
        added.append(path.as_posix())
    checkpoints = Rule("model_checkpoints", MODEL_SUFFIXES, ItemType.CHECKPOINT)
    folders = (*DRIVE_FOLDERS, *(folder for folder in added if folder not in DRIVE_FOLDERS))
    return Layout("drive", (checkpoints, *(rule for folder in folders for rule in _everything(folder))))


DRIVE = drive()
