"""Jobs over data on the move."""

from __future__ import annotations

import dagster as dg

replication_job = dg.define_asset_job(
    "replication_job",
    selection=["host_replicas"],
    description="Bring a host what the queue has for it: leases operations, has the host's agent pull, records what came.",
)

cold_storage_job = dg.define_asset_job(
    "cold_storage_job",
    selection=["cold_storage"],
    description="Bring the bucket what it lacks, read it back, and name it in the bucket's manifest.",
)

retention_job = dg.define_asset_job(
    "retention_job",
    selection=["retention"],
    description="Remove from places that are too full what is safe elsewhere.",
    tags={"ringrift/op_class": "BACKGROUND"},
)

retention_schedule = dg.ScheduleDefinition(
    job=retention_job, cron_schedule="15 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
