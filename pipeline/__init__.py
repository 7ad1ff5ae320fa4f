"""Sparse circuits: train weight-sparse transformers, cut out circuits, prove them. Knows nothing of Prefect or DVC."""
