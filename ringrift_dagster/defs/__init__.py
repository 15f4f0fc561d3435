"""The data plane as Dagster shows it, by domain: assets, checks, jobs, sensors and schedules.

Each is a thin face over `games`, `canonical` and `datasets`: what an asset does is there, what an operator
reads of it is here.
"""
