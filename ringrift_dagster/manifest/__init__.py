"""The manifest: what exists, where, and whether it is good.

No Dagster here. Moving data is `transfer`'s business; what a game or a training set means that of `games` and `datasets`.
"""
