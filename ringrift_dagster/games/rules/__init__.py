"""The canonical rules, compiled: what moves do, when they are legal, how turns pass and games end.

Functions here work on the `POSITION` record and the `TOPOLOGY` tables and are compiled by Numba, so that a game
replays in microseconds a move; `NUMBA_DISABLE_JIT=1` runs the same code as plain Python. Authority: RULES_CANONICAL_SPEC and the
engines that implement it; rule numbers (R…) stand at each function.
"""
