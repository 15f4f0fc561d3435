"""The names of published models are those that RingRift's readers look for."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from ringrift_dagster.games.config import CONFIG_KEYS, UnknownConfig, parse_config
from ringrift_dagster.models.manifest import Current
from ringrift_dagster.models.publishing.names import meta, meta_name, model_names, sidecar, sidecar_name

LOADER = {"square8": "sq8", "square19": "sq19", "hex8": "hex8", "hexagonal": "hexagonal"}
"""Board names in RingRift's default model ids, `ringrift_best_{board}_{n}p` (`_neural_net_legacy.py:3320`)."""
DISCOVERY = (r"^ringrift_best_([a-z0-9]+)_(\d)p\.pth$", r"^canonical_([a-z0-9]+)_(\d)p\.pth$")
"""Patterns of RingRift's `app/models/discovery.py`."""


@pytest.mark.parametrize("config", CONFIG_KEYS)
def test_every_reader_finds_the_model_of_a_config(config: str) -> None:
    names = model_names(config)
    parsed = parse_config(config)
    assert f"ringrift_best_{LOADER[parsed.board]}_{parsed.players}p.pth" in names
    for pattern in DISCOVERY:
        assert (parsed.board, str(parsed.players)) in [match.groups() for name in names if (match := re.match(pattern, name))]
    assert len(names) == (3 if parsed.board.startswith("square") else 2)


def test_no_two_configs_share_a_name() -> None:
    names = [name for config in CONFIG_KEYS for name in model_names(config)]
    assert len(names) == len(set(names)) == 30


@pytest.mark.parametrize("config", ["hex9_2p", "sq8_2p", "canonical_hex8_2p.pth", ""])
def test_names_of_no_config_are_refused(config: str) -> None:
    with pytest.raises(UnknownConfig):
        model_names(config)


def test_sidecars_are_checked_by_sha256sum(tmp_path: Path) -> None:
    name = "canonical_hex8_2p.pth"
    (tmp_path / name).write_bytes(b"weights")
    digest = "9f94d6a7d9a5e7c9b9f3c33e8d3b5dd3bdd1d7a32f3a8e3ec2a8b1a3e0a0b3c1"
    for sha256, code in ((digest, 1), (_sha256(b"weights"), 0)):
        (tmp_path / sidecar_name(name)).write_bytes(sidecar(name, sha256))
        assert (
            subprocess.run(["sha256sum", "-c", sidecar_name(name)], cwd=tmp_path, capture_output=True, check=False).returncode
            == code
        )


def test_meta_files_have_the_fields_of_ringrift_as_far_as_they_are_known() -> None:
    current = Current(sha256="a" * 64, promoted_at=1765676601.771118, elo=1650.5, games=480, model="candidate 7", file="c/7.pth")
    content = json.loads(meta("ringrift_best_sq8_2p.pth", "square8_2p", current))
    assert meta_name("ringrift_best_sq8_2p.pth") == "ringrift_best_sq8_2p.meta.json"
    assert content == {
        "alias_id": "ringrift_best_sq8_2p",
        "board_type": "square8",
        "num_players": 2,
        "source_model_id": "candidate 7",
        "source_checkpoint": "c/7.pth",
        "elo_rating": 1650.5,
        "games_played": 480,
        "published_at": "2025-12-14T01:43:21.771118Z",
        "sha256": "a" * 64,
    }
    bare = json.loads(meta("canonical_hex8_3p.pth", "hex8_3p", Current(sha256="b" * 64, promoted_at=0.0)))
    assert "elo_rating" not in bare
    assert bare["source_model_id"] == "hex8_3p_bbbbbbbbbbbb"


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()
