"""AI: the registry of AI types, seeds, policies and self-play on top of the rules."""
