"""A trainer that speaks Dagster Pipes: reports an epoch, metadata, and writes a copy of a model."""

import os
import shutil
import sys

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    pipes.log.info(f"trains {pipes.partition_key} on {pipes.get_extra('training_data_sha256')[:8]}")
    pipes.report_custom_message({"epoch": 1, "val_loss": 0.125})
    shutil.copyfile(sys.argv[1], os.environ["RINGRIFT_TRAINING_SAVE_PATH"])
    pipes.report_asset_materialization(metadata={"policy accuracy": 0.75})
