"""Training sets are known by their hash, also after another export has taken their place."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.datasets.npz_export import export_canonical
from ringrift_dagster.datasets.training_sets import read_manifest, training_set
from ringrift_dagster.home import Home


def test_a_set_is_known_after_the_next_export(home: Home, recorded: Callable[[str], Path]) -> None:
    append_canonical("square8_4p", [recorded("canonical_square8_4p")], home)
    first = export_canonical("square8_4p", home)
    append_canonical("square8_4p", [recorded("square8_4p_1")], home)
    second = export_canonical("square8_4p", home)
    assert first.sha256 != second.sha256
    for result in (first, second):
        known = training_set(home, result.sha256)
        assert known is not None
        assert (known.config, known.samples, known.games) == ("square8_4p", result.samples, result.games)
        assert (known.game_digests_root, known.canonical) == (result.digest_root, True)
    assert training_set(home, "0" * 64) is None


def test_a_set_is_canonical_by_its_kept_manifest_alone(home: Home, recorded: Callable[[str], Path]) -> None:
    append_canonical("square8_4p", [recorded("canonical_square8_4p")], home)
    result = export_canonical("square8_4p", home)
    (home.datasets / "manifests" / f"{result.sha256}.json").unlink()
    assert training_set(home, result.sha256) is None
    result = export_canonical("square8_4p", home)
    known = training_set(home, result.sha256)
    assert known is not None
    assert known.newest_game == datetime.fromisoformat(result.newest_game or "").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "short"},
        {"encoder": None},
        {"samples": "many"},
        {"newest_game_time": "yesterday"},
        {"game_digests_root": ...},
    ],
    ids=str,
)
def test_a_manifest_that_lacks_something_describes_nothing(change: dict[str, object], tmp_path: Path) -> None:
    manifest: dict[str, object] = {
        "sha256": "a" * 64,
        "config": "hex8_2p",
        "samples": 1,
        "games": 1,
        "game_digests_root": "b" * 64,
        "newest_game_time": "2026-01-01T00:00:00",
        "encoder": {"type": "hex_v3", "feature_version": 2},
        "rules_version": "canonical-3",
        "exported_at": "2026-01-01T00:00:00+00:00",
    }
    path = tmp_path / "set.manifest.json"
    path.write_bytes(orjson.dumps(manifest))
    assert read_manifest(path) is not None
    changed = {name: value for name, value in {**manifest, **change}.items() if value is not ...}
    path.write_bytes(orjson.dumps(changed))
    assert read_manifest(path) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000], ids=["empty", "list", "bytes", "deep"])
def test_a_file_that_is_no_manifest_describes_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "set.manifest.json"
    path.write_bytes(content)
    assert read_manifest(path) is None
    assert read_manifest(tmp_path / "none.json") is None
