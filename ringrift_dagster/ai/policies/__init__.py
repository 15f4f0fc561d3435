"""Policies that play without a model, by name. Self-play chooses from `POLICIES`; the types are in `interface`."""

from __future__ import annotations

from ringrift_dagster.ai.policies.heuristic import heuristic_policy
from ringrift_dagster.ai.policies.interface import Factory
from ringrift_dagster.ai.policies.mcts import mcts_policy
from ringrift_dagster.ai.policies.uniform import random_policy

POLICIES: dict[str, Factory] = {"random": random_policy, "heuristic": heuristic_policy, "mcts": mcts_policy}
"""Factories by the name of the AI: `POLICIES[name](config, budget)` is a policy for games of the config."""
