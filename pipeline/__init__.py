"""Sparse circuits: train weight-sparse transformers, cut out circuits, prove them. Knows nothing of Prefect or DVC."""

import os

# torch's OpenMP threads spin for milliseconds after each operation, on the very cores that the compiled kernels'
# threads then need. It reads this when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
