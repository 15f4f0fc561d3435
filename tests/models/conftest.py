"""Tests that need torch are left out where it is not installed; `make test` says so."""

from __future__ import annotations

from importlib.util import find_spec

NEED_TORCH = ["test_playing.py", "training/test_command.py", "training/test_network.py", "training/test_trainer.py"]
collect_ignore = [] if find_spec("torch") else NEED_TORCH
