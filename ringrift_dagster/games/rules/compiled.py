"""How rule functions are compiled; nothing else."""

from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Compile on first use and keep the machine code on disk, so that only the first process after an upgrade pays for it."""

entry = njit(cache=True, nogil=True, error_model="numpy")
