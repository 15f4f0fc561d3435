"""The sensor that evaluates the automation conditions of the assets in `datasets`."""

from __future__ import annotations

import dagster as dg

training_data_automation = dg.AutomationConditionSensorDefinition(
    "training_data_automation",
    target=["canonical_games", "training_npz", "freshness_report"],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    run_tags={"ringrift/op_class": "PIPELINE"},
    description="Rebuilds what was made of something that changed, whoever changed it.",
)
