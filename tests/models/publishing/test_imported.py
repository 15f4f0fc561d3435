"""RingRift's own records of promotions, in the forms that its scripts write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.models.evaluation.imported import ImportRefused
from ringrift_dagster.models.manifest import Current
from ringrift_dagster.models.publishing import imported
from ringrift_dagster.models.publishing.imported import LACKS, ImportedPromotion, read_promotions
from ringrift_dagster.models.publishing.names import meta

ENTRY = {
    "alias_id": "ringrift_best_sq8_2p",
    "alias_paths": ["/Users/somebody/RingRift/ai-service/models/ringrift_best_sq8_2p.pth"],
    "model_id": "ringrift_v4_sq8_2p_20251212_094248",
    "elo_rating": 1625.7988915487879,
    "games_played": 45,
    "promoted_at": "2025-12-14T01:43:21.771118Z",
}
EXPECTED = ImportedPromotion(
    source="promoted_models",
    model="ringrift_v4_sq8_2p_20251212_094248",
    config="square8_2p",
    alias="ringrift_best_sq8_2p",
    elo=1625.7988915487879,
    games=45,
    at=1765676601.771118,
    sha256=None,
    lacks=("no_hash", "no_evidence"),
)


def written(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(document))
    return path


def test_promoted_models_json_of_the_promotion_manager(tmp_path: Path) -> None:
    document = {"updated_at": "2025-12-14T01:43:21Z", "models": {"square8_2p": {"path": "promoted/square8_2p_best.pth", **ENTRY}}}
    assert read_promotions(written(tmp_path, document)) == [EXPECTED]


def test_the_history_of_the_promotion_manager(tmp_path: Path) -> None:
    record = {"board_type": "square8", "num_players": 2, "model_path": "x.pth", "symlink_name": "square8_2p_best.pth", **ENTRY}
    (first, second) = read_promotions(written(tmp_path, [record, {**record, "model_id": "hex8_4p_best"}]))
    assert (first.source, first.config, first.at) == ("model_promotion_history", "square8_2p", EXPECTED.at)
    assert second.config == "square8_2p"
    assert "config_disputed" in second.lacks


def test_the_history_of_auto_promote_has_names_alone_or_gauntlets(tmp_path: Path) -> None:
    entry = {
        "model_id": "candidate_hex8_2p.pth",
        "config": "hex8_2p",
        "elo": 1512,
        "timestamp": "2026-01-02T03:04:05.678",
        "method": "gauntlet",
        "gauntlet_results": {"win_rate_vs_random": 0.9},
    }
    named, recorded = read_promotions(written(tmp_path, {"promoted": ["some_model", entry], "last_check": None}))
    assert (named.model, named.config) == ("some_model", None)
    assert named.lacks == ("no_hash", "no_config", "no_evidence", "no_elo", "no_time")
    assert (recorded.config, recorded.elo, recorded.lacks) == ("hex8_2p", 1512.0, ("no_hash", "no_time_zone"))


def test_meta_files_and_the_placeholder_of_the_improvement_loop(tmp_path: Path) -> None:
    document = {
        "alias_id": "ringrift_best_hex_3p",
        "board_type": "hexagonal",
        "num_players": 3,
        "source_model_id": "run_7",
        "elo_rating": 0.0,
        "games_played": 40,
        "published_at": "2025-12-20T00:00:00Z",
        "promotion_method": "improvement_loop",
    }
    (promotion,) = read_promotions(written(tmp_path, document))
    assert (promotion.source, promotion.config, promotion.model, promotion.elo) == ("meta", "hexagonal_3p", "run_7", None)
    assert "no_elo" in promotion.lacks


def test_our_own_meta_files_identify_the_model(tmp_path: Path) -> None:
    path = tmp_path / "canonical_hex8_2p.meta.json"
    path.write_bytes(meta("canonical_hex8_2p.pth", "hex8_2p", Current(sha256="a" * 64, promoted_at=1765676601.0, elo=1500.0)))
    (promotion,) = read_promotions(path)
    assert (promotion.sha256, promotion.config, promotion.at, promotion.lacks) == (
        "a" * 64,
        "hex8_2p",
        1765676601.0,
        ("no_evidence",),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"7",
        b"{}",
        b'{"models": 3}',
        b"[3]",
        b'[{"board_type": "square8"}]',
        b'[{"model_id": "a", "elo_rating": 1500}]',
        b'{"promoted": [null]}',
        b"[" * 100_000,
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(ImportRefused) as refused:
        read_promotions(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_files_that_are_missing_or_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportRefused, match="No such file"):
        read_promotions(tmp_path / "nowhere.json")
    path = written(tmp_path, [{"model_id": "a", "alias_id": "x"}, {"model_id": "b"}])
    monkeypatch.setattr(imported, "MAX_RECORDS", 1)
    with pytest.raises(ImportRefused, match="more than 1 records"):
        read_promotions(path)
    monkeypatch.setattr(imported, "MAX_BYTES", 10)
    with pytest.raises(ImportRefused, match="more than 10 bytes"):
        read_promotions(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["hex8_2p", "square8", "2025-01-01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["models", "promoted", *ENTRY, "board_type", "num_players", "config", "timestamp"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(JSON)
def test_whatever_the_json_is_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    path = written(tmp_path_factory.getbasetemp(), document)
    try:
        promotions = read_promotions(path)
    except ImportRefused:
        return
    for promotion in promotions:
        assert set(promotion.lacks) <= set(LACKS)
        json.dumps(promotion.to_dict(), allow_nan=False)
