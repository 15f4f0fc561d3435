"""What everything else is governed by: the AI registry."""
