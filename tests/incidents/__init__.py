"""One test an incident of the system that this project replaces; each fails on the behaviour that the incident describes."""
