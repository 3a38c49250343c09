"""The comparison with a peer's networks, with a stand-in for the peer: our own networks under the names of the official code."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from stylegan.config import make_config

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "peer.py"
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


@pytest.fixture(scope="module")
def peer():
    spec = importlib.util.spec_from_file_location("peer", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "networks.py").write_text(STAND_IN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "training"]:
        del sys.modules[name]


def test_both_sides_take_the_same_steps_and_ratios_are_round_by_round(peer, checkout, slices):
    config = make_config("smoke", device="cpu", d_reg_interval=2, g_reg_interval=2)
    found = peer.compare(config, peer.import_peer(checkout), slices, rounds=3)
    assert json.loads(json.dumps(found)) == found
    ratios = sorted(ours / peer for ours, peer in zip(found["rounds"]["ours"], found["rounds"]["peer"], strict=True))
    assert len(ratios) == 3 and found["ratio_same_schedule_fp32"] == pytest.approx(ratios[1])
    assert 0.2 < ratios[1] < 5  # the same networks
    assert found["best_uses"] and found["peer_operators"] == {"bias_act": False, "upfirdn2d": False, "conv2d_gradfix": False}


def test_networks_of_another_size_are_no_comparison(peer, checkout, slices):
    with pytest.raises(AssertionError, match="not the same architecture"):
        peer.compare(make_config("smoke", device="cpu", mapping_layers=3), peer.import_peer(checkout), slices, rounds=1)


def test_a_folder_without_networks_is_refused_in_a_sentence(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["peer.py", "--peer", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"holds no training/networks\.py"):
        peer.main()
