"""Compiled kernels: numba for CPUs, Triton for GPUs; plain torch versions are the oracles of the tests."""
