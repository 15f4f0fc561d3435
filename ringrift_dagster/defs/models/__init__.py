"""Assets of models: candidates, their evaluation games, and what is promoted."""
