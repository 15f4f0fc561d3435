"""Self-play databases: the asset that snapshots them and the sensor that notices new games."""
