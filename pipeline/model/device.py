"""Where a model runs and with which numbers, from ``compute`` in params.yaml."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext

import torch

from pipeline.config import ComputeConfig, ConfigError

# Of glibc's mallopt: tensors not from mmap; bytes kept at the heap's end; heaps, of which each thread could have one.
M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX = -4, -1, -8


def pick_device(compute: ComputeConfig) -> torch.device:
    """The device asked for; ``auto``: cuda, else mps, else cpu. Raises ConfigError for one that is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if compute.device == "auto":
        return torch.device(next(name for name, there in present.items() if there))
    if not present[compute.device]:
        there = ", ".join(name for name, is_there in present.items() if is_there)
        raise ConfigError(f"compute.device: {compute.device!r} is not on this machine; it has {there}")
    return torch.device(compute.device)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 (on a CPU: AVX512-BF16 or AMX), so that it is worth using."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def training_precision(compute: ComputeConfig, device: torch.device) -> AbstractContextManager[None]:
    """The context of training's forward pass: matrix products in bfloat16 over float32 weights, or all in float32."""
    wanted = compute.precision == "bfloat16" or (compute.precision == "auto" and has_fast_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def prepare_cpu(threads: int) -> None:
    """Fix the thread count (part of what makes results bit-identical), flush denormals, which slow Adam down, and keep
    freed memory: a step frees and asks for the same tensors, and new pages from the system cost a sixth of its time."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's allocator
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
