"""Moving data: what should be moved, in which order, and how it gets there verified. No Dagster here."""
