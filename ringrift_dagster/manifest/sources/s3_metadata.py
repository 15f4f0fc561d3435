"""What an object's key and its metadata tell. Metadata is anybody's text: each field is believed for itself, or not at all.

Nothing is asked of the bucket here.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from ringrift_dagster.games.config import UnknownConfig, parse_config
from ringrift_dagster.manifest.inventory import ItemType, Soundness
from ringrift_dagster.manifest.sources.layouts import MODEL_SUFFIXES
from ringrift_dagster.manifest.sources.probe import FUTURE_SECONDS, epoch_seconds

CHECKPOINT_FOLDERS = frozenset({"checkpoints", "model_checkpoints"})
SHA256_FIELD = "sha256"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COUNT = re.compile(r"[0-9]{1,13}")
_TYPES = {
    ".db": ItemType.GAME_DB,
    ".npz": ItemType.NPZ,
    ".parquet": ItemType.CANONICAL_GAMES,
    **dict.fromkeys(MODEL_SUFFIXES, ItemType.MODEL),
}
_MODELS = (ItemType.MODEL, ItemType.CHECKPOINT)


def type_of(key: str) -> ItemType | None:
    """What an object is by its folder and suffix; None if it is no item."""
    *folders, name = key.split("/")
    stem, dot, suffix = name.rpartition(".")
    type_ = _TYPES.get(dot + suffix.lower()) if stem else None
    if type_ is ItemType.MODEL and (name.startswith("candidate_") or not CHECKPOINT_FOLDERS.isdisjoint(folders)):
        return ItemType.CHECKPOINT
    return type_


def refined_type(by_key: ItemType, told: str | None) -> ItemType:
    """The type that metadata tells, where the key leaves a choice: a model may be a checkpoint."""
    return ItemType(told) if told in _MODELS and by_key in _MODELS else by_key


def config_of(key: str) -> str | None:
    """The config that an object's name tells, or else its folders."""
    for text in (key.rpartition("/")[2], key):
        config = _config(text)
        if config:
            return config
    return None


def hash_in(metadata: Mapping[str, str]) -> str | None:
    """The SHA-256 that metadata claims; None unless it is one."""
    claimed = next((text for name, text in metadata.items() if name.lower() == SHA256_FIELD), "").strip().lower()
    return claimed if _SHA256.fullmatch(claimed) else None


def facts_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The fields of an item that metadata tells, by their names there. Servers change the case of names, so it does not matter."""
    told = {name.lower(): text.strip() for name, text in metadata.items()}
    facts = {field: parse(told[name]) for name, (field, parse) in _FIELDS.items() if name in told}
    return {field: value for field, value in facts.items() if value is not None}


def _config(text: str) -> str | None:
    try:
        return parse_config(text).key
    except UnknownConfig:
        return None


def _count(text: str) -> int | None:
    return int(text) if _COUNT.fullmatch(text) and int(text) <= 1 << 40 else None


def _between(low: float, high: float) -> Callable[[str], float | None]:
    def parse(text: str) -> float | None:
        try:
            number = float(text)
        except ValueError:
            return None
        return number if math.isfinite(number) and low <= number <= high else None

    return parse


def _time(text: str) -> float | None:
    seconds = _between(0, 1 << 40)(text)
    if seconds is None:
        seconds = epoch_seconds(text)
    return seconds if seconds is not None and seconds <= time.time() + FUTURE_SECONDS else None


def _one_of(kind: type[ItemType] | type[Soundness]) -> Callable[[str], str | None]:
    values = {member.value for member in kind}
    return lambda text: text.upper() if text.upper() in values else None


_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "config": ("config", _config),
    "type": ("type", _one_of(ItemType)),
    "games": ("games", _count),
    "samples": ("samples", _count),
    "quality": ("quality", _between(0, 1)),
    "newest-game": ("newest_game", _time),
    "elo": ("elo", _between(-10_000, 10_000)),
    "soundness": ("soundness", _one_of(Soundness)),
}


def metadata_of(sha256: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """The metadata to upload an item with: what `hash_in` and `facts_in` read back."""
    told = {name: facts.get(field) for name, (field, _) in _FIELDS.items()}
    return {SHA256_FIELD: sha256, **{name: str(value) for name, value in told.items() if value is not None}}
