"""Training jobs: a command that trains on another host, started once, followed over ssh, its checkpoint brought home."""
