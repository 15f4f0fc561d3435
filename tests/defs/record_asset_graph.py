"""Writes the asset graph that `test_definitions` compares with."""

from __future__ import annotations

import json

from ringrift_dagster.definitions import defs
from tests.defs.test_definitions import SNAPSHOT, described

if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(described(defs()), indent=2) + "\n")
