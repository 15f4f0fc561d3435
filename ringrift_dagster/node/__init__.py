"""The agent on every host: tells what the host holds and serves it by hash. No Dagster, no decisions about other hosts."""
