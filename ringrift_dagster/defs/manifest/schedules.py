"""Jobs and schedules over the manifest: the hourly report, the daily scrub."""

from __future__ import annotations

import dagster as dg

manifest_job = dg.define_asset_job(
    "manifest_job",
    selection=["data_manifest"],
    description="Ask every place what it holds, and report what is where and what is in danger.",
)

manifest_schedule = dg.ScheduleDefinition(
    job=manifest_job, cron_schedule="35 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)

scrub_job = dg.define_asset_job(
    "scrub_job",
    selection=["scrub_report"],
    description="Read again what is stored, longest unread first, until today's budget is used.",
    tags={"ringrift/op_class": "BACKGROUND"},
)

scrub_schedule = dg.ScheduleDefinition(job=scrub_job, cron_schedule="50 4 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
