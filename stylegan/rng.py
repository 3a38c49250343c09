"""Random numbers of a training step, and recordings of whole steps on a GPU, which draw from the same generator.

All processes draw the numbers of the whole batch and keep their own rows: slice i does not depend on which process computes it.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from stylegan import distributed


@dataclass(frozen=True)
class Shard:
    """Share ``index`` of ``count`` of a batch. Minibatch standard deviation groups slices i, i + M, i + 2M, ...: no group is cut."""

    index: int = 0
    count: int = 1
    group_size: int = 4

    @classmethod
    def own(cls, batch_size: int, group_size: int) -> "Shard":
        """The share of this process. ValueError where the processes cannot share such a batch."""
        world, group = distributed.world(), min(group_size, batch_size)
        if batch_size % (group * world):
            way = f"take a --batch-size that is a multiple of {group * world}"
            raise ValueError(f"{world} processes cannot share a batch of {batch_size} in whole groups of {group}; {way}.")
        return cls(distributed.rank(), world, group)

    def take(self, whole: Tensor | None) -> Tensor | None:
        """The rows of a tensor [total, ...] that belong to this share: whole groups, in order. None stays None."""
        if whole is None or self.count == 1:
            return whole
        total = len(whole)
        size = min(self.group_size, total // self.count)
        groups = total // size  # slice i sits in group i mod groups
        assert size * groups == total and groups % self.count == 0, f"{total} rows do not fall into {self.count} shares"
        own = torch.arange(total) % groups // (groups // self.count) == self.index
        return whole[own.nonzero().flatten().to(whole.device)]  # a mask on a device would make the host wait for it


@dataclass(frozen=True)
class BatchRNG:
    """A source of random numbers; ``n`` is the number of rows of this share."""

    device: torch.device
    generator: torch.Generator | None = None
    shard: Shard = Shard()

    def normal(self, n: int, *shape: int) -> Tensor:
        """[n, *shape], standard normal."""
        return self.shard.take(torch.randn(n * self.shard.count, *shape, generator=self.generator, device=self.device))

    def uniform(self, n: int, *shape: int) -> Tensor:
        """[n, *shape], uniform in [0, 1)."""
        return self.shard.take(torch.rand(n * self.shard.count, *shape, generator=self.generator, device=self.device))

    def integers(self, low: int, high: int, n: int, *shape: int) -> Tensor:
        """[n, *shape], int64 from low to high - 1."""
        size = (n * self.shard.count, *shape)
        return self.shard.take(torch.randint(low, high, size, generator=self.generator, device=self.device))


WARM_UP = 3  # runs before recording: buffers, optimiser slots and the choice of algorithms settle


class Replay:
    """Runs functions of device tensors; where ``enabled``, each is recorded at its fourth run and replayed from then on.

    A step of a small network is thousands of kernels of microseconds; launching them from Python takes longer than they do.
    A function may read and write any tensor that lives as long as the replay does, must not look at values on the host, and must
    draw random numbers from ``generator`` alone. Anything that changes control flow must be part of ``variant``.
    """

    def __init__(self, generator: torch.Generator, enabled: bool):
        self.generator, self.enabled = generator, enabled
        self.runs: Counter = Counter()
        self.recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor | None]]] = {}
        self.stream = torch.cuda.Stream() if enabled else None
        self.pool = torch.cuda.graph_pool_handle() if enabled else None

    def __call__(self, function: Callable[..., None], *inputs: Tensor | None, variant: tuple = ()) -> None:
        """function(*inputs), on a copy of the inputs where it is recorded. Its result, if any, is lost."""
        if not self.enabled:
            function(*inputs)
            return
        key = (getattr(function, "func", function).__name__, *variant)
        self.runs[key] += 1
        if self.runs[key] <= WARM_UP:
            # On the stream that recording will use: gradients remember the stream they were first made on.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                function(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if key not in self.recorded:
            self.recorded[key] = self._record(function, inputs)
        graph, own = self.recorded[key]
        for mine, given in zip(own, inputs, strict=True):
            if mine is not None:
                mine.copy_(given)
        graph.replay()

    def _record(self, function: Callable[..., None], inputs: tuple) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None]]:
        own = [None if tensor is None else tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            function(*own)
        return graph, own
