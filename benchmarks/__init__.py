"""Benchmarks: every figure beside its reference, measured in the same run. `make bench` prints them; no test asserts speed."""
