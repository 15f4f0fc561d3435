"""What a file is, by where it lies."""

from __future__ import annotations

import pytest

from ringrift_dagster.manifest.sources.layouts import DRIVE, NODE, SHARED, Layout, drive, is_listed, is_named_by_hash


@pytest.mark.parametrize(
    ("layout", "path", "type_", "live"),
    [
        (NODE, "data/games/selfplay.db", "GAME_DB", True),
        (NODE, "data/selfplay/unified_7/games.db", "GAME_DB", True),
        (NODE, "data/sync_incoming/x.npz", "NPZ", False),
        (NODE, "data/training/hex8_2p.npz", "NPZ", False),
        (NODE, "models/canonical_hex8_2p.pth", "MODEL", False),
        (NODE, "models/legacy/nnue_hex8_2p.pt", "MODEL", False),
        (NODE, "models/candidate_hex8_2p.pth", "CHECKPOINT", False),
        (NODE, "models/checkpoints/hex8_2p.pth", "CHECKPOINT", False),
        (NODE, "checkpoints/run/epoch_7.pth", "CHECKPOINT", False),
        (NODE, "data/unified_elo.db", None, False),
        (NODE, "data/training.npz", None, False),
        (NODE, "logs/x.npz", None, False),
        (DRIVE, "consolidated/games/x.db", "GAME_DB", False),
        (DRIVE, "selfplay_repository/merged/x.db", "GAME_DB", False),
        (DRIVE, "canonical_data/x.npz", "NPZ", False),
        (DRIVE, "canonical_models/x.pth", "MODEL", False),
        (DRIVE, "model_checkpoints/x.pth", "CHECKPOINT", False),
        (DRIVE, "Photos/x.db", None, False),
        (SHARED, "anything/anywhere.npz", "NPZ", False),
        (SHARED, "top.db", "GAME_DB", False),
    ],
)
def test_the_first_rule_that_fits_decides(layout: Layout, path: str, type_: str | None, live: bool) -> None:
    rule = layout.rule(path)
    assert (rule.type if rule else None) == type_
    assert (rule.live if rule else False) == live


def test_only_folders_that_lead_somewhere_are_entered() -> None:
    assert all(NODE.leads_to(folder) for folder in ("data", "data/games", "data/games/staging", "models/legacy"))
    assert not any(NODE.leads_to(folder) for folder in ("logs", "data/coordination", "modelsx", "data/gamesx"))
    assert SHARED.leads_to("anything")


def test_set_aside_counts_at_any_depth_but_not_for_names_of_files() -> None:
    assert NODE.is_set_aside("data/games/holdouts/deep/x.db")
    assert NODE.is_set_aside("data/games/corrupted/x.db")
    assert not NODE.is_set_aside("data/games/quarantine")
    assert not NODE.is_set_aside("data/games/corrupted_hex8_2p.db")


def test_a_drive_takes_more_folders_and_none_outside() -> None:
    layout = drive(["extra/games/", "models"])
    assert layout.rule("extra/games/x.db") is not None
    assert layout.identity != DRIVE.identity == drive().identity
    for bad in ("../x", "/etc", "", "a/../../b"):
        with pytest.raises(ValueError, match="not a folder below the drive"):
            drive([bad])


def test_names_that_count() -> None:
    assert not any(is_listed(name) for name in (".x.db", "x.db-wal", "x.db-shm", "x.db-journal", "x.npz.part", "x.tmp"))
    assert is_listed("x.db")
    assert is_named_by_hash("a" * 64 + ".db")
    assert not any(is_named_by_hash(name) for name in ("A" * 64 + ".db", "a" * 63 + ".db", "a" * 64 + ".db\n", "x.db"))
