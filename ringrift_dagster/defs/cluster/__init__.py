"""What hosts tell, and what follows from it, as Dagster shows it."""
