"""The code location: what `workspace.yaml` loads.

Everything it holds is found in `defs/`; only what applies to all of it belongs here.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """All assets, checks, jobs, sensors and schedules, run in one process a run: steps are few and share what they import."""
    found = _found_in(Path(__file__).parent)
    return dg.Definitions.merge(found, dg.Definitions(executor=dg.in_process_executor))


def _found_in(project: Path) -> dg.Definitions:
    """What `dg.load_from_defs_folder` finds, without the component libraries that are installed.

    That function also imports every such library for the UI's catalogue, boto3 among them: two seconds in each run's process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.ComponentTree.for_project(project).build_defs(Path())
