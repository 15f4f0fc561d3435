"""What assets and sensors are given: the home, the coordinator's plane, and the limits an operator may change.

No resource opens anything before it is used, and none imports what only some of its users need.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ringrift_dagster.home import Home

if TYPE_CHECKING:
    from ringrift_dagster.cluster.topology import Cluster
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
