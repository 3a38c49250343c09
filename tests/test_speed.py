"""benchmarks/speed.py: what it measures, and that it runs as a script."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from stylegan import train
from stylegan.config import make_config

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "speed.py"


@pytest.fixture(scope="module")
def speed():
    spec = importlib.util.spec_from_file_location("speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_measures_every_phase_and_prints_json(speed, slices, monkeypatch, capsys):
    monkeypatch.setattr(speed, "load_slices", lambda data, resolution: slices)
    line = "speed.py --preset smoke --rounds 1 --json --batch-size 4 --device cpu --pl-weight 1 --d-reg-interval 2 --g-reg-interval 2"
    monkeypatch.setattr(sys, "argv", line.split())
    speed.main()
    found = json.loads(capsys.readouterr().out)
    assert found["preset"] == "smoke" and found["batch_size"] == 4 and found["precision"] == "fp32"
    assert set(found["phases"]) == {"data", "d", "g", "r1", "path_length", "ema"}
    assert found["img_s"] > 0 and found["sample_img_s"] > 0
    assert found["limit_img_s"] > 0 and found["of_limit"] == pytest.approx(found["img_s"] / found["limit_img_s"])


def test_a_growing_preset_is_measured_by_the_slices_it_takes(speed, slices, monkeypatch):
    """Batches are larger while the resolution is low."""
    sizes = {
        "channel_base": 64,
        "channel_max": 8,
        "z_dim": 8,
        "w_dim": 8,
        "mapping_layers": 2,
        "batch_size": 4,
        "grow_batch_max": 8,
    }
    config = make_config("stylegan1", img_resolution=16, grow_from=4, g_reg_interval=1, device="cpu", **sizes)
    shown, step = [0], train.training_step
    monkeypatch.setattr(train, "training_step", lambda state, data: (step(state, data), shown.append(state.cur_nimg)))
    monkeypatch.setattr(speed, "_now", lambda state: float(len(shown)))  # each step takes a second
    monkeypatch.setattr(speed, "_median", lambda *_: 1.0)
    monkeypatch.setattr(speed, "convolution_limit", lambda *_: 1.0)
    found = speed.bench(config, slices, rounds=1)
    assert found["resolution"] == 4 and found["batch_size"] == 8 == found["img_s"] == shown[1]


def test_the_limit_counts_dense_convolutions_forward_and_backward(speed):
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with speed._Convolutions() as seen:
        for _ in range(3):
            torch.nn.functional.conv2d(x, torch.ones(4, 4, 3, 3)).sum().backward()
            torch.nn.functional.conv2d(x, torch.ones(4, 1, 3, 3), groups=4)  # depthwise: a filter, not counted
    assert sorted((function.name(), count) for (function, _), count in seen.calls.items()) == [
        ("aten::convolution", 3), ("aten::convolution_backward", 3)
    ]  # fmt: skip
