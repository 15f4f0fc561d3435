"""The canonical gate: which games may be trained on, and why the others may not.

Verdicts, their reasons and where they are kept belong here; the rules themselves are in `games`.
"""
