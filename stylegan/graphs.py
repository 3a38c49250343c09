"""CUDA graphs: the kernels of a training step are recorded once and then launched as a whole.

A step of a small network is thousands of kernels of a few microseconds; launching them one by one from Python takes longer than
running them. What is replayed is what was recorded, to the last kernel: results are those of the steps as they stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

WARM_UP = 3  # runs as written before recording: buffers, optimiser slots and the choice of algorithms settle


class Replay:
    """Runs functions of device tensors; where ``enabled``, each is recorded at its fourth run and replayed from then on.

    A function may read and write any tensor that lives as long as the replay does, must not look at values on the host, and must
    draw random numbers from ``generator`` alone. Anything that changes control flow must be part of ``variant``, which keys the recording.
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
            self._aside(function, *inputs)
            return
        if key not in self.recorded:
            self.recorded[key] = self._record(function, inputs)
        graph, own = self.recorded[key]
        for mine, given in zip(own, inputs, strict=True):
            if mine is not None:
                mine.copy_(given)
        graph.replay()

    def _aside(self, function: Callable[..., None], *inputs: Tensor | None) -> None:
        """Run on the stream that recording will use: gradients remember the stream they were first made on."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            function(*inputs)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _record(self, function: Callable[..., None], inputs: tuple) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None]]:
        own = [None if tensor is None else tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            function(*own)
        return graph, own
