"""Partitions: the twelve configs."""

from __future__ import annotations

import dagster as dg

from ringrift_dagster.games.config import CONFIG_KEYS

CONFIGS = dg.StaticPartitionsDefinition(list(CONFIG_KEYS))
