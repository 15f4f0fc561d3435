"""How rule functions are compiled; nothing else."""

from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy")
"""Compile on first use and keep the machine code on disk, so that only the first process after an upgrade pays for it."""
