"""What several processes agree on. With one process every function here gives back what it was given.

Started by ``torchrun --nproc-per-node N -m stylegan train ...``, and likewise ``sample`` and ``evaluate``. The networks stay bare,
without a wrapper: gradients are averaged after the backward pass, because wrappers and double backward (R1, path length) do not
go together.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(minutes=30)  # the others wait this long for the first process while it scores and saves


def rank() -> int:
    """Number of this process, 0 for a process alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """True for the one process that writes and prints."""
    return rank() == 0


def local_device(name: str) -> str:
    """'auto' and 'cuda' become this process's own card where torchrun started several per machine."""
    several = "LOCAL_RANK" in os.environ and name in ("auto", "cuda") and torch.cuda.is_available()
    return f"cuda:{os.environ['LOCAL_RANK']}" if several else name


class LostProcessError(ValueError):
    """One of the processes that train together is gone."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Join the processes that torchrun started, if it did, and leave them at the end; only the first prints.

    Raises LostProcessError in every process that is left when one of them is gone.
    """
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        yield
        return
    # torch reads this module at the first step; read later than the group is made, its default arguments would hold the group, and
    # with it gloo's threads, until Python ends under them, which now and then aborts a process that has done all its work
    importlib.import_module("torch.distributed.nn.functional")
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    with contextlib.ExitStack() as stack:
        stack.callback(dist.destroy_process_group)
        if not is_first():
            stack.enter_context(contextlib.redirect_stdout(None))
            for number in (signal.SIGINT, signal.SIGTERM):  # the first process hears them, saves, and stops all
                stack.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        try:
            yield
        except RuntimeError as error:
            if not _is_loss(error):
                raise
            raise LostProcessError(
                f"Process {rank()} of {world()} lost touch with the others ({str(error).strip().splitlines()[-1][:120]}). What was "
                "saved last is whole: run the same command again to go on, with any number of processes that divides the batch."
            ) from error


def _is_loss(error: RuntimeError) -> bool:
    signs = ("Connection closed", "Connection reset", "Timed out", "Broken pipe", "NCCL", "Socket")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()


@contextlib.contextmanager
def first_goes_ahead() -> Iterator[None]:
    """The first process does the work of the block, such as filling a cache; the others do it when it is done."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


@torch.no_grad()
def average_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one exchange for all."""
    tensors = list(tensors)
    if world() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def total(tensor: Tensor) -> Tensor:
    """Sum over the processes."""
    if world() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """[n, ...] of each process -> [world * n, ...] in the order of the processes; carries no gradient."""
    if world() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_around(tensor: Tensor) -> Tensor:
    """As `gather`, but the part of this process keeps its gradient."""
    if world() == 1:
        return tensor
    parts = list(gather(tensor.detach()).split(len(tensor)))
    parts[rank()] = tensor
    return torch.cat(parts)


def first_decides(value: object) -> object:
    """The first process's value, in every process. Waits on the host, not on the device."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def share_out(work: Callable[[int, int], tuple[np.ndarray, ...]], n: int) -> tuple[np.ndarray, ...]:
    """work(0, n), of which each process does its share work(first, last): arrays with a row for each of the n, in order."""
    edges = [n * i // world() for i in range(world() + 1)]
    mine = work(edges[rank()], edges[rank() + 1])
    if world() == 1:
        return mine
    parts: list = [None] * world()
    dist.all_gather_object(parts, mine)
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
