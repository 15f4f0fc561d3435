"""What assets and sensors are given: the home, the coordinator's plane, and the limits an operator may change.

No resource opens anything before it is used, and none imports what only some of its users need.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ringrift_dagster.home import Home

if TYPE_CHECKING:
    from ringrift_dagster.cluster.topology import AgeLimits, Cluster
    from ringrift_dagster.manifest.plane import Plane
    from ringrift_dagster.manifest.store import Store

S3_ATTEMPTS = 2
"""Of one request to S3; who does not answer twice is asked again in the next cycle."""


class HomeResource(dg.ConfigurableResource):
    """Where the data plane keeps its state."""

    root: str = Field(default="", description="Overrides $RINGRIFT_DATA_HOME; empty: what the environment says.")

    @property
    def home(self) -> Home:
        return Home(Path(self.root)) if self.root else Home.from_env()


class FreshnessLimits(dg.ConfigurableResource):
    """Age of a config's newest game from which training on it is doubtful, and from which it is wrong.

    The hosts file says both, in its section `freshness`. What is set here may only be stricter: nobody widens the limits unseen.
    """

    warn_hours: float | None = Field(default=None, gt=0, description="Stricter than the hosts file says; empty: what it says.")
    fail_hours: float | None = Field(default=None, gt=0, description="Stricter than the hosts file says; empty: what it says.")

    def within(self, declared: AgeLimits) -> AgeLimits:
        """The limits that hold, given those of the hosts file. Raises dagster.Failure if these here are wider."""
        given = {name: value for name in ("warn_hours", "fail_hours") if (value := getattr(self, name)) is not None}
        for name, value in given.items():
            if value > (allowed := getattr(declared, name)):
                raise dg.Failure(
                    f"limits.{name} is {value:g}, wider than the {allowed:g} of the hosts file; change it there, or leave it empty",
                    allow_retries=False,
                )
        fail = given.get("fail_hours", declared.fail_hours)
        warn = min(given.get("warn_hours", declared.warn_hours), fail)
        return declared.model_copy(update={"warn_hours": warn, "fail_hours": fail})


class PlaneResource(dg.ConfigurableResource):
    """The hosts file, the manifest, and a source for every place that holds data.

    What is left empty the environment says: $RINGRIFT_HOSTS_FILE, $RINGRIFT_MANIFEST_URL, $AWS_ENDPOINT_URL and the other `AWS_*`.
    """

    home: HomeResource
    hosts_file: str = Field(default="", description="Overrides $RINGRIFT_HOSTS_FILE.")
    manifest_url: str = Field(default="", description="Overrides $RINGRIFT_MANIFEST_URL: SQLAlchemy URL of SQLite or PostgreSQL.")
    s3_endpoint: str = Field(default="", description="Overrides $AWS_ENDPOINT_URL: an S3 server other than Amazon's.")
    s3_region: str = Field(default="", description="Overrides the region of the hosts file.")

    @contextmanager
    def open(self) -> Iterator[Plane]:
        """Everything, with the manifest's locations made those of the hosts file. Raises HostsFileError and StoreError."""
        from ringrift_dagster.manifest.plane import open_plane

        with open_plane(
            self.home.home,
            hosts_file=Path(self.hosts_file) if self.hosts_file else None,
            url=self.manifest_url or None,
            s3_client=self.s3_client,
        ) as plane:
            yield plane

    def cluster(self) -> Cluster:
        """What the hosts file says; an empty cluster without one. Raises HostsFileError."""
        from ringrift_dagster.manifest.plane import load_cluster

        return load_cluster(self.home.home, Path(self.hosts_file) if self.hosts_file else None)

    @contextmanager
    def manifest(self) -> Iterator[Store]:
        """The manifest alone, also when the hosts file is broken. Raises StoreError."""
        from ringrift_dagster.manifest.store import Store, default_url

        with Store.open(self.manifest_url or default_url(self.home.home)) as store:
            yield store

    def s3_client(self) -> Any:
        """A client of the bucket's server. Made here and not as a resource of its own: boto3 takes a second to import,
        and most processes never speak to S3.
        """
        from dagster_aws.s3 import S3Resource

        declared = self.cluster().s3
        region = self.s3_region or (declared.region if declared else None)
        return S3Resource(region_name=region, endpoint_url=self.s3_endpoint or None, max_attempts=S3_ATTEMPTS).get_client()


class ScrubBudget(dg.ConfigurableResource):
    """How much of what is stored is read again each day, at each location, and how long one run of it may take."""

    daily_gib: float = Field(default=50, gt=0)
    hours: float = Field(default=1, gt=0, le=12)

    @property
    def daily_bytes(self) -> int:
        return int(self.daily_gib * (1 << 30))

    @property
    def seconds(self) -> float:
        return self.hours * 3600


@dg.definitions
def resources() -> dg.Definitions:
    home = HomeResource()
    return dg.Definitions(
        resources={"home": home, "limits": FreshnessLimits(), "plane": PlaneResource(home=home), "scrubbing": ScrubBudget()}
    )
