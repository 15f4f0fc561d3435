"""Data on the move as an operator sees it: one run a host and priority class, and the cold copies in the bucket."""
