"""Reference tables that other assets follow: the AI registry."""
