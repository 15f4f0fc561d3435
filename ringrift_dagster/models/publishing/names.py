"""The file names under which RingRift's readers look for the promoted model of a config, and the two files beside each.

Sources in RingRift: `_neural_net_legacy.py` (`ringrift_best_` with sq8, sq19, hex8, hexagonal), `ladder_config.py` (the same but
hex8) and `app/models/discovery.py` (`canonical_{config}`, and `ringrift_best_` before it). `<name>.sha256` is compared when a
checkpoint is loaded; `<stem>.meta.json` has the fields that `model_promotion_manager.py` writes. Only names and contents here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import orjson

from ringrift_dagster.games.config import BOARD_ALIASES, UnknownConfig, parse_config
from ringrift_dagster.models.manifest import Current

MODELS: Final = "models"
"""Where they are, relative to a RingRift tree."""
SUFFIX: Final = ".pth"
SIDECAR_SUFFIX: Final = ".sha256"
META_SUFFIX: Final = ".meta.json"
DEVICE_SUFFIX: Final = "_mps.pth"
"""RingRift on Apple's GPUs prefers `<stem>_mps.pth`, which its promotion manager writes, to the file without that suffix."""
_SHORT: Final = {board: short for short, board in BOARD_ALIASES.items() if board.startswith("square")}
"""Nobody reads `ringrift_best_hex_…`."""


def model_names(config: str) -> tuple[str, ...]:
    """The names of a config's model, e.g. `canonical_square8_2p.pth`; the canonical one first. Raises UnknownConfig."""
    parsed = parse_config(config)
    if parsed.key != config:
        raise UnknownConfig(f"{config!r} is no config key; {parsed.key!r} is")
    names = [f"canonical_{parsed.key}", f"ringrift_best_{parsed.key}"]
    if short := _SHORT.get(parsed.board):
        names.append(f"ringrift_best_{short}_{parsed.players}p")
    return tuple(f"{name}{SUFFIX}" for name in names)


def sidecar_name(name: str) -> str:
    return f"{name}{SIDECAR_SUFFIX}"


def meta_name(name: str) -> str:
    return f"{name.removesuffix(SUFFIX)}{META_SUFFIX}"


def sidecar(name: str, sha256: str) -> bytes:
    """The content of the sidecar, as `sha256sum` writes and checks it."""
    return f"{sha256}  {name}\n".encode()


def meta(name: str, config: str, current: Current) -> bytes:
    """The content of the meta file: RingRift's fields, as far as they are known, and what identifies the model.

    The same bytes for the same entry; `published_at` is the time of the promotion. Raises UnknownConfig.
    """
    parsed = parse_config(config)
    moment = datetime.fromtimestamp(min(current.promoted_at, 1e11), UTC)
    values: dict[str, Any] = {
        "alias_id": name.removesuffix(SUFFIX),
        "board_type": parsed.board,
        "num_players": parsed.players,
        "source_model_id": current.model or f"{parsed.key}_{current.sha256[:12]}",
        "source_checkpoint": current.file,
        "elo_rating": current.elo,
        "games_played": current.games,
        "published_at": moment.isoformat().replace("+00:00", "Z"),
        "sha256": current.sha256,
        "architecture": current.architecture,
        "decision": current.decision,
    }
    known = {field: value for field, value in values.items() if value is not None}
    return orjson.dumps(known, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"
