"""What a recorded step does on the host; that it computes the same is shown on a card (test_gpu)."""

import contextlib

import pytest
import torch

from stylegan import rng as module
from stylegan.rng import WARM_UP, Replay


class Graph:
    """Stands for a CUDA graph: replaying it runs what was recorded, on the memory it was recorded with."""

    def register_generator_state(self, generator):
        self.generator = generator

    def replay(self):
        self.function(*self.inputs)


@pytest.fixture
def card(monkeypatch):
    """Streams and graphs as far as `Replay` uses them, without a card."""

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)

    def record(self, function, inputs):
        graph, own = Graph(), [None if tensor is None else tensor.clone() for tensor in inputs]
        graph.function, graph.inputs = function, own
        return graph, own

    monkeypatch.setattr(module.Replay, "_record", record)


def test_after_the_warm_up_each_variant_is_recorded_once_and_sees_new_inputs(card):
    total = torch.zeros(3)

    def add(x, none):
        assert none is None
        total.add_(x)

    replay = Replay(torch.Generator(), enabled=True)
    for i in range(2 * WARM_UP):
        replay(add, torch.full([3], float(i)), None, variant=("a",))
    assert total.tolist() == [sum(range(2 * WARM_UP))] * 3
    assert list(replay.recorded) == [("add", "a")]
    replay(add, torch.ones(3), None, variant=("b",))
    assert list(replay.recorded) == [("add", "a")]  # another variant warms up by itself
