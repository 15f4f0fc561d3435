"""Events: what hosts tell the coordinator, and what it tells them. No Dagster here, and no HTTP server.

At least once, idempotent by id, in order per host. What is done about an event is its consumers' business.
"""
