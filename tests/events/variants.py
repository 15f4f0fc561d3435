"""Every payload that RingRift's components are known to send, as they send it, with what it means: the table of the contract.

Each is (a name, the event's name as sent, the payload, the event that it is, the fields that have to come out of it). Those that
cannot become an event name the reason instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ringrift_dagster.events.model import EventType as E

NOW = 1_767_000_000.0
ISO = "2025-12-29T09:20:00"
ISO_SECONDS = 1_767_000_000.0
HERE = "gpu-1"
"""The host that is told all of this."""
HEX = {"board_type": "hex8", "num_players": 2}


@dataclass(frozen=True)
class Variant:
    """One payload; `means` are fields of the typed payload."""

    name: str
    sent: str
    payload: dict[str, Any]
    type: E
    means: dict[str, Any]


def _stage(**fields: Any) -> dict[str, Any]:
    """A StageCompletionResult."""
    return {**HEX, "timestamp": ISO, "iteration": 3, "success": True, **fields}


UNDERSTOOD = [
    Variant(
        "started, emit", "training_started", {"config": "hex8_2p", "model_path": "models/hex8_2p_v3.pth"}, E.TRAINING_STARTED,
        {"config": "hex8_2p", "host": HERE, "model_path": "models/hex8_2p_v3.pth"},
    ),
    Variant(
        "started, the trainer", "TRAINING_STARTED",
        {"total_epochs": 50, "start_epoch": 0, "config": "sq8_2p", "model_path": "models/square8_2p.pth"}, E.TRAINING_STARTED,
        {"config": "square8_2p", "host": HERE, "other": {"total_epochs": 50, "start_epoch": 0}},
    ),
    Variant(
        "started, stage result", "DataEventType.TRAINING_STARTED",
        _stage(metadata={"job_id": "j-1", "model_version": "v12", "node_name": "lambda-2"}), E.TRAINING_STARTED,
        {"config": "hex8_2p", "host": "lambda-2", "job": "j-1", "model": "v12", "iteration": 3, "success": True},
    ),
    Variant(
        "threshold, emit", "training_threshold", {"config": "hexagonal_3p", "games": 5000}, E.TRAINING_THRESHOLD_REACHED,
        {"config": "hexagonal_3p", "games": 5000, "host": HERE},
    ),
    Variant(
        "threshold, pipeline and master loop", "TRAINING_THRESHOLD_REACHED",
        {"config": "hex8_2p", "priority": "high", "reason": "enough games", **HEX}, E.TRAINING_THRESHOLD_REACHED,
        {"config": "hex8_2p", "urgency": "high", "reason": "enough games"},
    ),
    Variant(
        "threshold, as documented", "TRAINING_THRESHOLD_REACHED",
        {"config_key": "hex8_2p", "sample_count": 90_000, "threshold": 80_000, "quality_score": 0.8, "triggered_at": NOW},
        E.TRAINING_THRESHOLD_REACHED, {"samples": 90_000, "threshold": 80_000, "quality": 0.8},
    ),
    Variant(
        "stale, freshness check", "data_stale",
        {"node_id": "vast-1", **HEX, "is_fresh": False, "data_age_hours": 30.5, "games_available": 12, "timestamp": NOW},
        E.DATA_STALE,
        {"config": "hex8_2p", "host": "vast-1", "age": 109_800.0, "games": 12, "fresh": False},
    ),
    Variant(
        "stale, emit", "DATA_STALE",
        {"config": "hex8_2p", "data_age_hours": 2, "last_sync_time": ISO, "threshold_hours": 1.5}, E.DATA_STALE,
        {"config": "hex8_2p", "host": HERE, "age": 7200.0, "last_sync": ISO_SECONDS, "threshold": 5400.0},
    ),
    Variant(
        "selfplay, emit", "selfplay_complete",
        {"config_key": "square19_4p", "games_played": 64, "db_path": "data/games/selfplay.db", "duration_seconds": 12.5,
         "engine": "nn"},
        E.SELFPLAY_COMPLETE,
        {"config": "square19_4p", "games": 64, "path": "data/games/selfplay.db", "seconds": 12.5, "engine": "nn", "host": HERE},
    ),
    Variant(
        "selfplay, stage result", "SELFPLAY_COMPLETE",
        {**HEX, "games_generated": 100, "success": True,
         "metadata": {"task_id": "t-9", "node_id": "vast-7", "duration_seconds": 60, "selfplay_type": "gumbel"}},
        E.SELFPLAY_COMPLETE,
        {"config": "hex8_2p", "host": "vast-7", "games": 100, "task": "t-9", "seconds": 60.0, "engine": "gumbel", "success": True},
    ),
    Variant(
        "selfplay, as documented", "SELFPLAY_COMPLETE",
        {"config_key": "hex8_2p", "games_completed": 7, "total_games": 700, "node_id": "vast-7", "model_id": "hex8_2p_v3"},
        E.SELFPLAY_COMPLETE, {"games": 7, "total_games": 700, "host": "vast-7", "model": "hex8_2p_v3"},
    ),
    Variant(
        "selfplay, what readers expect", "SELFPLAY_COMPLETE", {"config": "hex8_2p", "game_count": 8, "count": 8},
        E.SELFPLAY_COMPLETE, {"games": 8},
    ),
    Variant(
        "export, pipeline", "npz_export_complete",
        {**HEX, "samples_exported": 1000, "games_exported": 40, "output_path": "data/training/hex8_2p.npz", "success": True,
         "duration_seconds": 3.5, "iteration": 0},
        E.NPZ_EXPORT_COMPLETE,
        {"config": "hex8_2p", "samples": 1000, "games": 40, "path": "data/training/hex8_2p.npz", "seconds": 3.5, "host": HERE},
    ),
    Variant(
        "export, in metadata", "NPZ_EXPORT_COMPLETE",
        {**HEX, "success": True, "metadata": {"config_key": "hex8_2p", **HEX, "samples_exported": 1000, "games_exported": 40,
                                              "output_path": "data/training/hex8_2p.npz"}},
        E.NPZ_EXPORT_COMPLETE, {"config": "hex8_2p", "samples": 1000, "games": 40, "path": "data/training/hex8_2p.npz"},
    ),
    Variant(
        "export, the daemon's stage result", "NPZ_EXPORT_COMPLETE",
        _stage(games_generated=0, metadata={"config": "hex8_2p", "output_path": "data/training/hex8_2p.npz", "samples": 9000,
                                            "games_exported": 812}),
        E.NPZ_EXPORT_COMPLETE, {"config": "hex8_2p", "games": 812, "samples": 9000, "path": "data/training/hex8_2p.npz"},
    ),
    Variant(
        "started from a model of another config", "TRAINING_STARTED",
        {"config": "square8_4p", "model_path": "models/canonical_square8_2p.pth"}, E.TRAINING_STARTED,
        {"config": "square8_4p", "model_path": "models/canonical_square8_2p.pth"},
    ),
    Variant(
        "promotion that failed", "PROMOTION_COMPLETE",
        _stage(success=False, model_path="models/hex8_2p_v9.pth", metadata={"error": "win rate 0.41"}),
        E.MODEL_PROMOTED, {"config": "hex8_2p", "success": False},
    ),
    Variant(
        "blocked, without a reason", "TRAINING_BLOCKED_BY_QUALITY",
        {**HEX, "iteration": 3, "npz_path": "data/training/hex8_2p.npz", "quality_score": 0.41, "threshold": 0.6,
         "recommendation": "more games"},
        E.TRAINING_BLOCKED_BY_DATA,
        {"config": "hex8_2p", "reason": "no reason was given", "quality": 0.41, "path": "data/training/hex8_2p.npz"},
    ),
    Variant(
        "promoted, emit", "model_promoted", {"model_id": "hex8_2p_v9", "config": "hex8_2p", "elo": 1650.5, "elo_gain": 31},
        E.MODEL_PROMOTED, {"config": "hex8_2p", "model": "hex8_2p_v9", "elo": 1650.5, "elo_gain": 31.0, "host": HERE},
    ),
    Variant(
        "promoted, daemon", "MODEL_PROMOTED",
        {"config_key": "hex8_2p", "model_path": "models/canonical_hex8_2p.pth", **HEX, "reason": "passed", "vs_random": 0.98,
         "vs_heuristic": 0.71, "timestamp": ISO},
        E.MODEL_PROMOTED,
        {"path": "models/canonical_hex8_2p.pth", "reason": "passed", "other": {"vs_random": 0.98, "vs_heuristic": 0.71}},
    ),
    Variant(
        "promoted, promotion complete", "PROMOTION_COMPLETE",
        {"model_id": "v9", "promotion_type": "production", "model_path": "models/canonical_hex8_2p.pth", "elo_delta": 12},
        E.MODEL_PROMOTED, {"config": "hex8_2p", "model": "v9", "promotion": "production", "elo_gain": 12.0},
    ),
    Variant(
        "promoted, gating", "tier_gating_complete", {"model_id": "hex8_2p_v9", **HEX}, E.MODEL_PROMOTED, {"config": "hex8_2p"},
    ),
    Variant(
        "online, emit", "host_online", {"host": "vast-3", "capabilities": ["training", "selfplay"]}, E.HOST_ONLINE,
        {"host": "vast-3", "capabilities": ("training", "selfplay")},
    ),
    Variant(
        "online, emitters", "HOST_ONLINE",
        {"node_id": "vast-3", "host_id": "vast-3", "host_type": "gpu", "capabilities": {"training": True, "selfplay": False}},
        E.HOST_ONLINE, {"host": "vast-3", "kind": "gpu", "capabilities": ("training",)},
    ),
    Variant(
        "offline, emit", "host_offline", {"host": "vast-3", "reason": "timeout", "last_seen": NOW}, E.HOST_OFFLINE,
        {"host": "vast-3", "reason": "timeout", "last_seen": NOW},
    ),
    Variant(
        "offline, emitters", "HOST_OFFLINE", {"node_id": "vast-3", "host_id": "vast-3", "reason": "gone"}, E.HOST_OFFLINE,
        {"host": "vast-3", "reason": "gone"},
    ),
    Variant("offline, terminating", "NODE_TERMINATING", {"node_id": "vast-3"}, E.HOST_OFFLINE, {"host": "vast-3"}),
    Variant(
        "pressure, coordinator", "BACKPRESSURE_ACTIVATED",
        {"overall_pressure": 0.9, "spawn_rate_multiplier": 0.5, "queue_pressure": 0.9, "training_pressure": 0.1,
         "disk_pressure": 0.7, "sync_pressure": 0.2, "memory_pressure": 0.3, "details": {"queue": "900 of 1000"}},
        E.BACKPRESSURE_ACTIVATED,
        {"host": HERE, "overall": 0.9, "queue": 0.9, "disk": 0.7, "spawn_rate": 0.5, "other": {"details.queue": "900 of 1000"}},
    ),
    Variant(
        "pressure, emitters", "backpressure_activated",
        {"node_id": "vast-3", "level": "high", "reason": "disk", "resource_type": "disk", "utilization": 0.93},
        E.BACKPRESSURE_ACTIVATED, {"host": "vast-3", "level": "high", "resource": "disk", "utilization": 0.93},
    ),
    Variant(
        "pressure, emit", "BACKPRESSURE_ACTIVATED", {"reason": "queue", "queue_depth": 900, "utilization_percent": 93},
        E.BACKPRESSURE_ACTIVATED, {"reason": "queue", "queue_depth": 900, "utilization": 0.93},
    ),
    Variant(
        "pressure, router", "BACKPRESSURE_ACTIVATED", {"source_node": "vast-4", "queue_depth": 60, "threshold": 50},
        E.BACKPRESSURE_ACTIVATED, {"host": "vast-4", "queue_depth": 60, "threshold": 50.0},
    ),
    Variant(
        "released, coordinator", "backpressure_released", {"overall_pressure": 0.3, "spawn_rate_multiplier": 1.0},
        E.BACKPRESSURE_RELEASED, {"overall": 0.3, "spawn_rate": 1.0, "host": HERE},
    ),
    Variant(
        "released, emitters", "BACKPRESSURE_RELEASED", {"node_id": "vast-3", "previous_level": "high", "duration_seconds": 61},
        E.BACKPRESSURE_RELEASED, {"host": "vast-3", "level": "high", "seconds": 61.0},
    ),
    Variant(
        "released, emit", "BACKPRESSURE_RELEASED", {"reason": "drained", "duration_seconds": 61}, E.BACKPRESSURE_RELEASED,
        {"reason": "drained", "seconds": 61.0},
    ),
    Variant(
        "orphans, daemon", "ORPHAN_GAMES_DETECTED",
        {"orphan_count": 2, "total_games": 90, "total_bytes": 4096, "orphan_paths": ["/d/a.db", "/d/b.db"], "board_types": ["hex8"],
         "timestamp": NOW},
        E.ORPHAN_DETECTED,
        {"host": HERE, "count": 2, "games": 90, "bytes": 4096, "paths": ("/d/a.db", "/d/b.db"), "boards": ("hex8",)},
    ),
    Variant(
        "orphans, emit", "orphan_games_detected",
        {"host": "vast-3", "orphan_count": 1, "orphan_paths": ["/d/a.db"], "total_games": 9},
        E.ORPHAN_DETECTED, {"host": "vast-3", "count": 1, "games": 9},
    ),
    Variant(
        "sync, emit", "sync_completed",
        {"host": "vast-3", "games_synced": 40, "duration": 2.5, "bytes_transferred": 1000, "avg_quality_score": 0.7,
         "high_quality_count": 30, "config": "hex8_2p"},
        E.SYNC_COMPLETED,
        {"host": "vast-3", "games": 40, "seconds": 2.5, "bytes": 1000, "config": "hex8_2p",
         "other": {"avg_quality_score": 0.7, "high_quality_count": 30}},
    ),
    Variant(
        "sync, as documented", "DATA_SYNC_COMPLETED",
        {"source": "vast-3", "targets": ["gpu-1", "gpu-2"], "files_synced": 4, "bytes_transferred": 10, "duration_seconds": 1,
         "sync_type": "games"},
        E.SYNC_COMPLETED,
        {"host": None, "source": "vast-3", "targets": ("gpu-1", "gpu-2"), "files": 4, "bytes": 10, "seconds": 1.0, "kind": "games"},
    ),
    Variant(
        "sync, unified daemon", "CLUSTER_SYNC_COMPLETE",
        {"source_node": "vast-3", "target_nodes": ["gpu-1"], "config_key": "hex8_2p", "reason": "stale", "entry_count": 3,
         "bytes_synced": 77},
        E.SYNC_COMPLETED, {"source": "vast-3", "targets": ("gpu-1",), "config": "hex8_2p", "files": 3, "bytes": 77},
    ),
    Variant("sync, short name", "SYNC_COMPLETE", {"host": "vast-3", "games_synced": 0}, E.SYNC_COMPLETED, {"games": 0}),
    Variant(
        "new games, counts", "new_games", {"host": "vast-3", "new_games": 5, "total_games": 500}, E.SELFPLAY_COMPLETE,
        {"host": "vast-3", "config": None, "games": 5, "total_games": 500},
    ),
    Variant(
        "new games, a config", "NEW_GAMES_AVAILABLE", {"config_key": "hex8_2p", "source_node": "vast-3", "count": 5},
        E.SELFPLAY_COMPLETE, {"host": "vast-3", "config": "hex8_2p", "games": 5},
    ),
    Variant(
        "blocked, stale", "TRAINING_BLOCKED_BY_QUALITY",
        {"config_key": "hex8_2p", "reason": "stale_data", "data_age_hours": 30, "threshold_hours": 24, "games_available": 9},
        E.TRAINING_BLOCKED_BY_DATA, {"reason": "stale_data", "age": 108_000.0, "threshold": 86_400.0, "games": 9, "host": HERE},
    ),
    Variant(
        "blocked, quality", "training_blocked_by_quality",
        {"config_key": "hex8_2p", "reason": "low_quality", "quality_score": 0.4, "threshold": 0.6, "npz_path": "data/t.npz"},
        E.TRAINING_BLOCKED_BY_DATA, {"quality": 0.4, "threshold": 0.6, "path": "data/t.npz"},
    ),
    Variant(
        "sync request", "SYNC_REQUEST",
        {"source": "vast-3", "targets": ["gpu-1", "gpu-2"], "data_type": "games", "reason": "new", "priority": "emergency"},
        E.DATA_NEEDED, {"source": "vast-3", "hosts": ("gpu-1", "gpu-2"), "type": "GAME_DB", "urgency": "CRITICAL", "reason": "new"},
    ),
    Variant(
        "data needed, ours", "DATA_NEEDED",
        {"config": "hex8_2p", "host": "gpu-2", "type": "NPZ", "min_samples": 1000, "max_age_hours": 4}, E.DATA_NEEDED,
        {"config": "hex8_2p", "hosts": ("gpu-2",), "type": "NPZ", "min_samples": 1000, "max_age": 14_400.0},
    ),
    Variant("data needed here", "DATA_NEEDED", {"config": "hex8_2p"}, E.DATA_NEEDED, {"hosts": (HERE,), "type": "NPZ"}),
]  # fmt: skip
"""What becomes an event."""

SHA = "a" * 64
REFUSED: list[tuple[str, Any, str]] = [
    ("a list", ["TRAINING_STARTED"], "not_an_object"),
    ("nothing", None, "not_an_object"),
    ("no name", {"payload": {"config": "hex8_2p"}}, "no_type"),
    ("a number as name", {"type": 7, "payload": {}}, "no_type"),
    ("another event", {"type": "REGRESSION_DETECTED", "payload": {"config": "hex8_2p"}}, "unknown_type"),
    ("two configs", {"type": "TRAINING_STARTED", "payload": {"config": "hex8_2p", "config_key": "hex8_3p"}}, "contradiction"),
    ("board against config", {"type": "TRAINING_STARTED", "payload": {"config": "hex8_3p", **HEX}}, "contradiction"),
    ("half a board against config", {"type": "DATA_STALE", "payload": {"config": "hex8_3p", "num_players": 2}}, "contradiction"),
    ("two configs in one", {"type": "TRAINING_STARTED", "payload": {"config": "hex8_2p or hex8_3p"}}, "bad_config"),
    ("the word unknown", {"type": "DATA_STALE", "payload": {"config": "unknown"}}, "bad_config"),
    ("a mapping as config", {"type": "TRAINING_STARTED", "payload": {"config": {"board": "hex8"}}}, "bad_config"),
    ("an unknown board", {"type": "TRAINING_STARTED", "payload": {"board_type": "hex9", "num_players": 2}}, "bad_config"),
    ("five players", {"type": "TRAINING_STARTED", "payload": {"board_type": "hex8", "num_players": 5}}, "bad_config"),
    ("no config", {"type": "TRAINING_STARTED", "payload": {"model_path": "m.pth"}}, "missing_config"),
    ("half a board", {"type": "TRAINING_STARTED", "payload": {"board_type": "hex8"}}, "missing_config"),
    ("promoted without config", {"type": "PROMOTION_COMPLETE", "payload": {"model_id": "v9"}}, "missing_config"),
    ("another model", {"type": "MODEL_PROMOTED", "payload": {"config": "hex8_2p", "model_path": "hex8_4p.pth"}}, "contradiction"),
    ("offline without host", {"type": "HOST_OFFLINE", "payload": {"reason": "gone"}}, "missing_host"),
    ("two hosts", {"type": "HOST_OFFLINE", "payload": {"node_id": "a", "host_id": "b"}}, "contradiction"),
    ("one host inside", {"type": "DATA_STALE", "payload": {"host": "a", **HEX, "metadata": {"node_id": "b"}}}, "contradiction"),
    ("a host that is none", {"type": "HOST_ONLINE", "payload": {"host": "rm -rf /"}}, "bad_host"),
    ("two counts", {"type": "SELFPLAY_COMPLETE", "payload": {**HEX, "games_played": 1, "game_count": 2}}, "contradiction"),
    ("a negative count", {"type": "SELFPLAY_COMPLETE", "payload": {**HEX, "games_played": -1}}, "bad_field"),
    ("half a game", {"type": "SELFPLAY_COMPLETE", "payload": {**HEX, "games_played": 1.5}}, "bad_field"),
    ("true games", {"type": "SELFPLAY_COMPLETE", "payload": {**HEX, "games_played": True}}, "bad_field"),
    ("words for success", {"type": "SELFPLAY_COMPLETE", "payload": {**HEX, "success": "yes"}}, "bad_field"),
    ("a time that is none", {"type": "DATA_STALE", "payload": {**HEX, "timestamp": "yesterday"}}, "bad_time"),
    ("a last look that is none", {"type": "DATA_STALE", "payload": {**HEX, "last_sync_time": "never"}}, "bad_time"),
    ("a time of another century", {"type": "DATA_STALE", "payload": {**HEX, "timestamp": 12}}, "bad_time"),
    ("more than everything", {"type": "BACKPRESSURE_ACTIVATED", "payload": {"utilization_percent": 230}}, "bad_field"),
    ("an item that is none", {"type": "SYNC_REQUEST", "payload": {"targets": ["a"], "data_type": "everything"}}, "bad_field"),
    ("no such urgency", {"type": "SYNC_REQUEST", "payload": {"targets": ["a"], "priority": "someday"}}, "bad_field"),
    ("an orphan without count", {"type": "ORPHAN_DETECTED", "payload": {"host": "a"}}, "missing_field"),
    ("a bad id", {"type": "HOST_ONLINE", "payload": {"host": "a"}, "id": "1"}, "bad_id"),
]  # fmt: skip
"""What does not: a name, the raw event, the reason."""
