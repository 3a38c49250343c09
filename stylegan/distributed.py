"""What several processes agree on. With one process every function here gives back what it was given.

Started by ``torchrun --nproc-per-node N -m stylegan train ...``, and likewise ``sample`` and ``evaluate``. The networks have no
wrapper, which would not go together with double backward (R1, path length): gradients are averaged after the backward pass.
"""

import contextlib
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=30)  # the others wait this long for the main process while it scores and saves
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
LOST = ("Connection", "Timed out", "Broken pipe", "NCCL", "Socket")  # in the errors that a process meets when another is gone


class LostProcessError(ValueError):
    """One of the processes that train together is gone."""


def rank() -> int:
    """Number of this process, 0 for a process alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True for the one process that writes and prints."""
    return rank() == 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes of torchrun, if any; only the main one prints. LostProcessError where one of them is gone."""
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        yield
        return
    # Read after the group is made, this module's default arguments would hold the group, and with it gloo's threads, until
    # Python ends under them, which now and then aborts a process that has done all its work.
    importlib.import_module("torch.distributed.nn.functional")
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    with contextlib.ExitStack() as stack:
        stack.callback(dist.destroy_process_group)
        if not is_main():
            stack.enter_context(contextlib.redirect_stdout(None))
            for number in STOP_SIGNALS:  # the main process hears them, saves, and stops all
                stack.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not any(sign in str(error) for sign in LOST):
                raise
            why = str(error).strip().splitlines()[-1][:120]
            way = "run the same command again to go on, with any number of processes that divides the batch"
            lost = f"Process {rank()} of {world()} lost touch with the others ({why})"
            raise LostProcessError(f"{lost}. What was saved last is whole: {way}.") from error


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """The main process does the work of the block, such as filling a cache; the others do it when it is done."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


@torch.no_grad()
def sum_(tensors: list[Tensor], divide: float = 1.0) -> None:
    """Replace each tensor by its sum over the processes, divided by a number, in one exchange for all."""
    if world() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= divide
    for tensor, own in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(own.view_as(tensor))


def gather(tensor: Tensor | None) -> Tensor | None:
    """[n, ...] of each process -> [world * n, ...] in their order; only this process's rows keep a gradient. None stays None."""
    if world() == 1 or tensor is None:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(parts, tensor.detach().contiguous())
    parts[rank()] = tensor
    return torch.cat(parts)


def broadcast_from_main(value: object) -> object:
    """The main process's value, in every process. Waits on the host, not on the device."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def split_across_processes(work: Callable[[int, int], np.ndarray], n: int) -> np.ndarray:
    """work(0, n), an array with a row for each of the n, in order, of which each process does its share work(first, last)."""
    if world() == 1 or n < world():  # too few to share: each process does all
        return work(0, n)
    mine = work(n * rank() // world(), n * (rank() + 1) // world())
    parts: list = [None] * world()
    dist.all_gather_object(parts, mine)
    return np.concatenate(parts)


class Tally:
    """Running means by name, such as of losses. Each process counts by itself, without waiting for its device, until `collect`."""

    def __init__(self, device: torch.device):
        self.device = device
        self.sums: dict[str, Tensor] = {}  # name -> float64 [2]: sum and number

    def __call__(self, **values: Tensor) -> None:
        """Count the mean of each tensor once."""
        for name, value in values.items():
            new = torch.stack([value.detach().double().mean(), torch.ones((), device=self.device, dtype=torch.float64)])
            self.sums.setdefault(name, torch.zeros_like(new)).add_(new)

    def means(self) -> dict[str, float]:
        counted = {name: pair.tolist() for name, pair in self.sums.items()}
        return {name: total / number for name, (total, number) in counted.items() if number}

    def clear(self) -> None:
        for pair in self.sums.values():
            pair.zero_()

    def collect(self, *further: Tensor) -> None:
        """Bring what all processes have counted, here and in further tensors, to the main one; the others count from zero."""
        counted = [*(self.sums[name] for name in sorted(self.sums)), *further]
        wide = [tensor.double() for tensor in counted]
        sum_(wide)
        for tensor, total in zip(counted, wide, strict=True):
            tensor.copy_(total if is_main() else torch.zeros_like(total))
