"""Partitions: the twelve configs, and the hosts of the hosts file."""

from __future__ import annotations

import dagster as dg

from ringrift_dagster.games.config import CONFIG_KEYS

CONFIGS = dg.StaticPartitionsDefinition(list(CONFIG_KEYS))

HOSTS = dg.DynamicPartitionsDefinition(name="hosts")
"""Hosts that can hold data: kept in step with the hosts file by `host_change_sensor`."""
