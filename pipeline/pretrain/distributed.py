"""One training run in several processes, each with its own device and its share of every batch.

``torchrun`` starts the processes and tells each its place in environment variables (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE). All hold the whole model. Gradients are averaged by DistributedDataParallel; from equal gradients
every rank makes the same Adam step; each weight matrix is then made sparse by one rank, its owner, and sent to the
others. So the weights, and with them the masks, are the same bits everywhere, which ``check_identical`` verifies. A
run of two that was interrupted ends equal to an unbroken one; of three and more within rounding, since the first step
after a start sums gradients in buckets of its own.

The stage pretrain starts ``compute.processes`` of them on this machine. For several machines, run on each, in a study's
folder that all of them share (NODE counts the machines from 0, HOST is the first one)::

    torchrun --nnodes 2 --node-rank NODE --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        --rdzv-id pretrain -m flows.torchrun --model sparse_d2048

and then ``dvc commit pretrain@sparse_d2048``, once, so that DVC knows the result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import ConfigError
from pipeline.model.transformer import Transformer

T = TypeVar("T")

# The others wait as long for the first rank, which alone validates, takes means and writes files.
TIMEOUT = timedelta(hours=1)


class DriftError(RuntimeError):
    """Processes that train one model together no longer have the same weights, or never began at the same step."""


@dataclass(frozen=True)
class Ranks:
    """This process' place among the ``n`` that train one model together. All of them call the same methods in the
    same order; with ``n`` 1 there is no process group, and nothing is sent or changed."""

    rank: int
    n: int

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that validates, logs and writes files."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This rank's sequences of a batch [batch, …], whose number ``n`` divides."""
        return batch.chunk(self.n)[self.rank]

    def trained(self, model: Transformer) -> nn.Module:
        """The module that the training step calls: the model, its gradients averaged over several ranks."""
        return model if self.n == 1 else DistributedDataParallel(model, gradient_as_bucket_view=True)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of every rank's ``x``, on all ranks."""
        if self.n > 1:
            x = x.clone()
            dist.all_reduce(x)
            x /= self.n
        return x

    def share(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Overwrite every tensor, in place and on all ranks, by what its owner has."""
        if self.n > 1:
            sent = [dist.broadcast(x, owner, async_op=True) for x, owner in zip(tensors, owners, strict=True)]
            for one in sent:
                one.wait()

    def from_first(self, value: T) -> T:
        """The first rank's ``value``, on all ranks; the others wait for it."""
        if self.n == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def check_step(self, step: int) -> None:
        """Raises DriftError where this rank goes on from another step than the first one."""
        if self.from_first(step) != step:
            raise DriftError(
                f"rank {self.rank} begins at step {step} and rank 0 at another: they do not see the same checkpoint; "
                "several machines need one study's folder that all of them share"
            )

    def check_identical(self, model: nn.Module) -> None:
        """Raises DriftError, on all ranks, where any weight of any rank differs in any bit from the first one's."""
        if self.n == 1:
            return
        wrong = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
        for parameter in model.parameters():
            mine = parameter.detach().view(torch.int32)  # bits: a NaN equals itself, and 0 is not −0
            firsts = mine.clone()
            dist.broadcast(firsts, src=0)
            wrong += torch.count_nonzero(firsts != mine)
        dist.all_reduce(wrong)
        if wrong:
            raise DriftError(
                f"{int(wrong)} weights differ between the {self.n} processes that train one model; they have to run "
                "the same code on the same kind of device: see that they do, or set compute.processes to 1"
            )


ALONE = Ranks(rank=0, n=1)


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """This process' ranks, as torchrun's environment variables say; from here on "cuda" is this rank's own GPU.

    Raises ConfigError for a device that cannot be shared out so. After an error the group is not closed, since that can
    wait for the other ranks for ever: this process has to end, upon which torchrun ends the others.
    """
    if _torchrun("WORLD_SIZE") == 1:
        yield ALONE
        return
    check_device(device, _torchrun("LOCAL_WORLD_SIZE"))
    if device.type == "cuda":
        torch.cuda.set_device(_torchrun("LOCAL_RANK"))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    yield Ranks(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()


def check_device(device: torch.device, processes: int) -> None:
    """Raises ConfigError where this machine has no device of its own for each of ``processes`` processes."""
    if device.type == "cuda" and processes > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ConfigError(f"compute.processes {processes}: this machine has {there} GPUs; at most {there} are allowed")
    if device.type not in ("cuda", "cpu"):
        raise ConfigError(
            f"compute.processes {processes} with compute.device {device.type}; allowed: cuda or cpu, or 1 process"
        )


def _torchrun(variable: str) -> int:
    """A number that torchrun tells its processes. Raises ConfigError where it did not start this one."""
    try:
        return int(os.environ[variable])
    except KeyError as error:
        raise ConfigError(f"{variable} is not set: torchrun has to start this (see {__name__})") from error


def owners(sizes: Sequence[int], n: int) -> list[int]:
    """The rank that owns each of the tensors of these sizes: the largest first, each to the rank with least so far."""
    load = [0] * n
    owner = [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owner[i] = load.index(min(load))
        load[owner[i]] += sizes[i]
    return owner


def without_averaging(model: nn.Module) -> AbstractContextManager[None]:
    """In this context backward passes leave gradients where they are: on this rank, to be averaged with later ones."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
