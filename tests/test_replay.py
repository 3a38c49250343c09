"""What a recorded step does on the host; that it computes the same is shown on a card (test_gpu)."""

from unittest.mock import MagicMock

import pytest
import torch

from stylegan.rng import WARM_UP, Replay


@pytest.fixture
def card(monkeypatch):
    """Streams and graphs without a card: replaying runs what was recorded, on the memory that it was recorded with."""
    for name in ("Stream", "current_stream", "stream", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())

    def record(self, function, inputs):
        own = [None if tensor is None else tensor.clone() for tensor in inputs]
        return MagicMock(replay=lambda: function(*own)), own

    monkeypatch.setattr(Replay, "_record", record)


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
