"""Compiled kernels: numba for CPUs, Triton for GPUs; plain torch versions of all of them are the oracles of the tests."""
