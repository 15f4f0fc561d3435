"""Training data: canonical games in Parquet, their encoding as NPZ, and reading NPZ files back safely.

Encoders, writers, readers and validators belong here; which games may be in a dataset is decided by `canonical`.
"""
