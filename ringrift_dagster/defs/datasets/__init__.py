"""From snapshots to training sets: canonical games, NPZ, and how fresh they are."""
