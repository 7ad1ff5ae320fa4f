"""Speed and cost, measured side by side: each module is a command (python -m benchmarks.pretrain, …)."""

import pipeline  # noqa: F401  (tells OpenMP how to wait, before torch is imported)
