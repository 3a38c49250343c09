"""benchmarks/speed.py, peer.py and race.py: what they measure; our own networks under the names of the official code stand in for the peer."""

import dataclasses
import itertools
import json
import sys
import types

import numpy as np
import pytest
import torch
from conftest import script

from stylegan import train
from stylegan.config import make_config

speed, peer, race = (script(f"benchmarks/{name}.py") for name in ("speed", "peer", "race"))


def test_the_command_measures_every_phase_and_prints_json(slices, monkeypatch, capsys):
    monkeypatch.setattr(speed, "load_slices", lambda data, resolution: slices)
    line = "speed.py --preset smoke --rounds 1 --json --batch-size 4 --device cpu --pl-weight 1 --d-reg-interval 2 --g-reg-interval 2"
    monkeypatch.setattr(sys, "argv", line.split())
    speed.main()
    found = json.loads(capsys.readouterr().out)
    assert found["preset"] == "smoke" and found["batch_size"] == 4 and found["sample_img_s"] > 0
    assert set(found["phases"]) == {"data", "d", "g", "r1", "path_length", "ema"}
    assert 0 < found["of_limit"] == pytest.approx(found["img_s"] / found["limit_img_s"])


def test_a_growing_preset_is_measured_by_the_slices_it_takes(slices, monkeypatch):
    """Batches are larger while the resolution is low."""
    sizes = {"channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "batch_size": 4}
    config = make_config("stylegan1", img_resolution=16, grow_from=4, grow_batch_max=8, g_reg_interval=1, device="cpu", **sizes)
    shown, step = [0], train.training_step
    monkeypatch.setattr(train, "training_step", lambda state, data: (step(state, data), shown.append(state.cur_nimg)))
    monkeypatch.setattr(speed, "_now", lambda state: float(len(shown)))  # each step takes a second
    monkeypatch.setattr(speed, "_median", lambda *_: 1.0)
    monkeypatch.setattr(speed, "convolution_limit", lambda *_: 1.0)
    found = speed.bench(config, slices, rounds=1)
    assert found["resolution"] == 4 and found["batch_size"] == 8 == found["img_s"] == shown[1]


def test_the_limit_counts_dense_convolutions_forward_and_backward():
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with speed._Convolutions() as seen:
        for _ in range(3):
            torch.nn.functional.conv2d(x, torch.ones(4, 4, 3, 3)).sum().backward()
            torch.nn.functional.conv2d(x, torch.ones(4, 1, 3, 3), groups=4)  # depthwise: a filter, not counted
    counted = {function.name(): count for (function, _), count in seen.calls.items()}
    assert counted == {"aten::convolution": 3, "aten::convolution_backward": 3}


STAND_IN = """
from stylegan import networks
from stylegan.config import Config

def config(size, channels, num_fp16_res=0, conv_clamp=None, **widths):
    return Config(img_resolution=size, img_channels=channels, z_dim=16, w_dim=16, mapping_layers=2, mbstd_group_size=4, **widths)

class Generator(networks.Generator):
    def __init__(self, z_dim, c_dim, w_dim, size, channels, mapping_kwargs, synthesis_kwargs):
        super().__init__(config(size, channels, **synthesis_kwargs))

class Discriminator(networks.Discriminator):
    def __init__(self, c_dim, size, channels, epilogue_kwargs, **widths):
        super().__init__(config(size, channels, **widths))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "networks.py").write_text(STAND_IN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "training"]:
        del sys.modules[name]


def test_both_sides_take_the_same_steps_and_ratios_are_round_by_round(checkout, slices):
    config = make_config("smoke", device="cpu", d_reg_interval=2, g_reg_interval=2)
    found = peer.compare(config, peer.import_peer(checkout), slices, rounds=3)
    assert json.loads(json.dumps(found)) == found
    ratios = sorted(ours / peer for ours, peer in zip(found["rounds"]["ours"], found["rounds"]["peer"], strict=True))
    assert len(ratios) == 3 and found["ratio_same_schedule_fp32"] == pytest.approx(ratios[1])
    assert found["best_uses"] and found["peer_operators"] == {"bias_act": False, "upfirdn2d": False, "conv2d_gradfix": False}
    with pytest.raises(AssertionError, match="not the same architecture"):
        peer.compare(make_config("smoke", device="cpu", mapping_layers=3), peer.import_peer(checkout), slices, rounds=1)
    with pytest.raises(SystemExit, match=r"holds no training/networks\.py"):
        peer.import_peer(checkout / "training")


def test_a_race_keeps_pictures_of_each_minute_and_scores_both_sides(checkout, slices, tmp_path, monkeypatch, capsys):
    smoke = make_config("smoke", device="cpu")
    monkeypatch.setattr(race, "load_slices", lambda data, resolution: slices)
    monkeypatch.setattr(race, "make_config", lambda preset, **changes: dataclasses.replace(smoke, **changes))
    monkeypatch.setattr(race, "peer_config", lambda seed: dataclasses.replace(smoke, seed=seed))
    monkeypatch.setattr(race, "FAKES", 24)
    monkeypatch.setattr(race, "EVERY", 0.005)
    clock = itertools.count(step=0.125)  # each step takes so long, on a busy machine too
    monkeypatch.setattr(race, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    for side in ("ours", "peer"):
        race.run(side, 0, 0.01, None, tmp_path, checkout)
    monkeypatch.setattr(sys, "argv", ["race.py", "score", "--out", str(tmp_path)])
    race.main()
    found = json.loads((tmp_path / "race.json").read_text())
    assert set(found) == {"real people", "ours-0", "peer-0"} and (tmp_path / "race.png").stat().st_size > 0
    for curve in (found["ours-0"], found["peer-0"]):
        assert len(curve["minutes"]) == len(curve["kid"]) == len(curve["dimensions"]) == 2
    assert "dimensions of" in capsys.readouterr().out
    assert race.dimensions(np.repeat(slices.images[:1], 24, axis=0)) == 0 < race.dimensions(slices.images)
