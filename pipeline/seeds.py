"""One seed from params.yaml, a different and stable one for every purpose."""

from __future__ import annotations

import hashlib


def seed_of(seed: int, *names: str) -> int:
    """A 63-bit seed that depends on the study's seed and on every name, the same on all machines."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
