"""The manifest as an operator sees it: what is where, what is in danger, what changed, what was read again."""
