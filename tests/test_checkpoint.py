"""Files that hold networks: round trips, and everything else refused with a sentence."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from stylegan.checkpoint import load_generator, save_generator, save_tensors
from stylegan.config import make_config
from stylegan.networks import Generator

INFO = {"classes": ["a"], "train_subjects": ["S1", "S2"], "data": {"title": "t"}, "cur_nimg": 8000}


@pytest.fixture
def saved(tmp_path):
    config = make_config("smoke")
    G = Generator(config)
    path = tmp_path / "generator.safetensors"
    save_generator(path, G, {"config": config.to_dict(), **INFO})
    return path, G


def test_a_generator_comes_back_with_all_that_is_known_of_it(saved):
    path, G = saved
    loaded, info = load_generator(path)
    z = torch.randn(3, G.z_dim)
    torch.testing.assert_close(loaded(z), G(z))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert {k: info[k] for k in INFO} == INFO and len(info["model_hash"]) == 16
    assert load_generator(path.parent)[1] == info  # a run folder gives its generator


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "random", "empty", "truncated", "zip"])
def test_any_other_file_is_refused_and_never_executed(saved, tmp_path, kind):
    path, _ = saved
    bad, trap = tmp_path / "bad.safetensors", tmp_path / "executed"
    if kind == "pickle":
        bad.write_bytes(pickle.dumps(Payload(trap)))
    elif kind == "torch":
        torch.save({"G": Payload(trap)}, bad)
    elif kind == "zip":
        with zipfile.ZipFile(bad, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(Payload(trap)))
    else:
        bad.write_bytes({"random": bytes(range(256)) * 40, "empty": b"", "truncated": path.read_bytes()[:-100]}[kind])
    with pytest.raises(ValueError, match=r"bad\.safetensors is not a whole \.safetensors file"):
        load_generator(bad)
    assert not trap.exists()


def test_a_safetensors_file_of_somebody_else_is_refused(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not written by this package"):
        load_generator(tmp_path / "other.safetensors")


def test_another_architecture_is_refused(tmp_path):
    config = make_config("smoke")
    wider = make_config("smoke", channel_max=8)
    save_generator(tmp_path / "g.safetensors", Generator(config), {"config": wider.to_dict(), **INFO})
    with pytest.raises(ValueError, match="does not fit this architecture"):
        load_generator(tmp_path / "g.safetensors")


def test_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="train there first"):
        load_generator(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_generator(tmp_path / "none.safetensors")


def test_a_failed_write_leaves_the_old_file(saved):
    path, _G = saved
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_tensors(path, {"x": torch.zeros(1)}, {"not json": object()})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
