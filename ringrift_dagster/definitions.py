"""The code location: what `workspace.yaml` loads.

Everything it holds is found in `defs/`; only what applies to all of it belongs here.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """All assets, checks, jobs, sensors and schedules, run in one process a run: steps are few and share what they import."""
    found = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(found, dg.Definitions(executor=dg.in_process_executor))
