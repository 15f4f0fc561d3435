"""What assets and sensors are given: the home, and the ages at which games are no longer fresh."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
from pydantic import Field

from ringrift_dagster.home import Home


class HomeResource(dg.ConfigurableResource):
    """Where the data plane keeps its state."""

    root: str = Field(default="", description="Overrides $RINGRIFT_DATA_HOME; empty: what the environment says.")

    @property
    def home(self) -> Home:
        return Home(Path(self.root)) if self.root else Home.from_env()


class FreshnessLimits(dg.ConfigurableResource):
    """Age of a config's newest game from which training on it is doubtful, and from which it is wrong.

    The check results carry both numbers: nobody widens them unseen.
    """

    warn_hours: float = Field(default=24, gt=0)
    fail_hours: float = Field(default=48, gt=0)

    @property
    def warn(self) -> timedelta:
        return timedelta(hours=self.warn_hours)

    @property
    def fail(self) -> timedelta:
        return timedelta(hours=self.fail_hours)


@dg.definitions
def resources() -> dg.Definitions:
    return dg.Definitions(resources={"home": HomeResource(), "limits": FreshnessLimits()})
