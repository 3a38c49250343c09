"""Scores on pixels: variety, and the others against torchmetrics and closed forms, each spoiled set where it must show."""

import numpy as np
import pytest
import torch
from phantoms import phantoms

from stylegan.config import make_config
from stylegan.networks import Generator
from stylegan.predict import styles
from stylegan.scores import pixels as scores
from stylegan.scores.pixels import Variety, style_participation


@pytest.fixture(scope="module")
def heads() -> np.ndarray:
    return phantoms(12, 4, 0, 64)


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures)[:, None].float()


def test_scales_are_those_whose_window_fits():
    assert [scores.scales_that_fit(size) for size in (8, 16, 32, 64, 128, 256, 1024)] == [1, 1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize(("size", "scales"), [(32, 2), (64, 3), (128, 4)])
def test_ms_ssim_is_made_of_the_parts_that_torchmetrics_finds(size, scales):
    """Their MS-SSIM adds a border of reflected pixels to the last scale, so the oracle takes their maps without it."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    pictures = phantoms(6, 2, 1, size)
    x, y = as_tensor(pictures[:1]), as_tensor(pictures[6:7])
    weights, expected = np.array(scores.WEIGHTS[:scales]) / sum(scores.WEIGHTS[:scales]), 1.0
    for scale, weight in enumerate(weights):
        kinds = ({"return_full_image": True}, {"return_contrast_sensitivity": True})
        (_, whole), (_, structure) = (
            functional.structural_similarity_index_measure(x, y, data_range=255.0, **k) for k in kinds
        )
        part = whole[..., 5:-5, 5:-5].mean() if scale == scales - 1 else structure
        expected *= float(part) ** weight
        x, y = torch.nn.functional.avg_pool2d(x, 2), torch.nn.functional.avg_pool2d(y, 2)
    assert scores.ms_ssim(pictures[:1], pictures[6:7])[0] == pytest.approx(expected, rel=1e-3)
    assert scores.ms_ssim(pictures, pictures) == pytest.approx(np.ones(12), abs=1e-4)


def test_ssim_against_the_window_by_hand():
    rng = np.random.default_rng(0)
    a = rng.integers(60, 200, (1, 13, 13), dtype=np.uint8)
    b = (a + rng.integers(-50, 51, a.shape)).astype(np.uint8)
    taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    weights = np.outer(taps, taps) / taps.sum() ** 2
    values = []
    for i in range(3):
        for j in range(3):
            x, y = (p[0, i : i + 11, j : j + 11].astype(float) for p in (a, b))
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            vxy = (weights * (x - mx) * (y - my)).sum()
            bright = (2 * mx * my + 6.5025) / (mx**2 + my**2 + 6.5025)
            values.append(bright * (2 * vxy + 58.5225) / (vx + vy + 58.5225))
    assert scores.ms_ssim(a, b, 1)[0] == pytest.approx(np.mean(values), rel=1e-3)


def test_the_largest_ssim_is_found_as_by_looking_at_all(heads):
    rng = np.random.default_rng(1)
    noisy = (heads[::5].astype(int) + rng.integers(-20, 21, heads[::5].shape)).clip(0, 255).astype(np.uint8)
    exact = [scores.ms_ssim(np.broadcast_to(x, heads.shape), heads, 1).max() for x in noisy]
    found = scores.best_similarity(heads, noisy, candidates=8)
    assert found["value"] == pytest.approx(np.mean(exact), rel=1e-5) and found["low"] < found["value"] < found["high"]
    assert scores.best_similarity(heads, heads[:5])["value"] == pytest.approx(1, abs=1e-4)


def test_pairs_of_one_picture_are_alike_and_of_two_people_less(heads):
    people = np.repeat(np.arange(12), 4)
    same = scores.similarity_of_pairs(np.repeat(heads[:1], 40, axis=0), pairs=50)
    real = scores.similarity_of_pairs(heads, people, pairs=200)
    assert same["value"] == pytest.approx(1, abs=1e-4)
    assert real["low"] < real["value"] < real["high"] < 0.95


def test_spectrum_of_a_wave_lies_at_its_frequency():
    x = np.arange(64)
    for frequency in (3, 10, 25):
        wave = (127 + 100 * np.sin(2 * np.pi * frequency * x / 64)).round().astype(np.uint8)
        found = scores.spectrum(np.broadcast_to(wave, (1, 64, 64)))
        assert found.shape == (1, 45) and found[0].argmax() + 1 == frequency


def test_blur_takes_from_the_high_frequencies_and_a_checkerboard_adds(heads):
    plain = scores.spectrum(heads).mean(axis=0)
    soft = scores.spectrum(scores.blurred(heads)).mean(axis=0)
    board = np.where(np.indices((64, 64)).sum(axis=0) % 2, 12, -12)
    checked = scores.spectrum((heads.astype(int) + board).clip(0, 255).astype(np.uint8)).mean(axis=0)
    assert (soft[20:] < plain[20:] - 3).all() and abs(soft[0] - plain[0]) < 0.5
    assert checked[-1] > plain[-1] + 10 and abs(checked[5] - plain[5]) < 1
    assert (scores.spectrum(scores.noised(heads)).mean(axis=0)[20:] > plain[20:]).all()


def test_area_and_intensity_count_what_they_say():
    pictures = np.zeros((2, 10, 10), np.uint8)
    pictures[0, :5], pictures[1, :2] = 100, 200
    assert scores.area(pictures).tolist() == [50, 20]
    ring = np.zeros((1, 10, 10), np.uint8)
    ring[0, 2:7, 2:7], ring[0, 4, 4] = 100, 0  # a dark ventricle is part of the head
    assert scores.area(ring).tolist() == [25]
    shares = scores.intensities(pictures)
    assert shares[0, 100] == 1 and shares[1, 200] == 1 and shares.sum() == 2
    assert scores.intensity_gap(shares[:1], shares[1:]) == pytest.approx(100)  # every pixel is moved by 100
    assert scores.intensity_gap(shares, shares) == 0
    assert scores.moved(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == pytest.approx(1)


def test_symmetry_of_a_mirror_image_is_one_wherever_its_axis_lies(heads):
    half = heads[:, :, :32]
    whole = np.concatenate([half, half[:, :, ::-1]], axis=2)
    assert scores.symmetry(whole) == pytest.approx(np.ones(len(heads)), abs=1e-5)
    assert scores.symmetry(np.roll(whole, 1, axis=2)) == pytest.approx(np.ones(len(heads)), abs=1e-5)
    assert scores.symmetry(heads).max() < 1
    lopsided = heads.copy()
    lopsided[:, :, :32] //= 3
    assert (scores.symmetry(lopsided) < scores.symmetry(heads)).all()


def test_controls_keep_shape_and_type_and_leave_the_slices_alone(heads):
    before = heads.copy()
    for spoiled in (scores.blurred(heads), scores.noised(heads)):
        assert spoiled.shape == heads.shape and spoiled.dtype == np.uint8 and not np.array_equal(spoiled, heads)
    assert np.array_equal(heads, before)


# --- Variety ----------------------------------------------------------------------------------------------------------------


def test_dimensions_are_the_components_that_hold_so_much_variance():
    """Against sklearn, and where the spectrum is known: seven equal directions of noise need six for 80 % of the variance."""
    from sklearn.decomposition import PCA

    pictures = phantoms(40, 2, 0)
    held = PCA().fit(pictures.reshape(80, -1).astype(float)).explained_variance_ratio_.cumsum()
    found = Variety(pictures).numbers()
    for name, share in scores.SHARES.items():
        assert found[name] == np.argmax(held >= share) + 1
    corners = np.full((14, 8, 8), 100, np.uint8)
    for axis in range(7):
        corners[2 * axis, axis, axis], corners[2 * axis + 1, axis, axis] = 150, 50
    assert Variety(corners).numbers()["dimensions"] == 6 and Variety(corners).numbers()["dimensions_95"] == 7


def test_a_collapse_shows_in_dimensions_and_spread(heads):
    brighter = (heads[:1] * np.linspace(0.5, 1, 40)[:, None, None]).astype(np.uint8)
    assert Variety(brighter).numbers()["dimensions"] == 1
    same = Variety(np.repeat(heads[:1], 20, axis=0)).numbers()
    assert set(same.values()) == {0.0}
    assert Variety(heads).numbers()["dimensions"] > 3


def test_spread_is_to_the_third_nearest_of_somebody_else_in_the_range_of_the_pictures():
    pictures, people = phantoms(5, 3, 1), np.repeat(np.arange(5), 3)
    x = pictures.reshape(15, -1) / 127.5 - 1
    away = [sorted(np.linalg.norm(x[i] - x[j]) for j in range(15) if people[j] != people[i])[2] for i in range(15)]
    assert Variety(pictures, people).numbers()["spread"] == pytest.approx(np.median(away))
    rows = np.array([0, 1, 3, 4, 6, 9])
    some = Variety(pictures, people).numbers(rows)
    assert some == pytest.approx(Variety(pictures[rows], people[rows]).numbers())
    assert (
        Variety(pictures[:6], people[:6]).numbers()["spread"] > 0 and Variety(pictures[:3], people[:3]).numbers()["spread"] == 0
    )


def test_halves_of_the_same_people_are_as_various(heads):
    a, b = (Variety(phantoms(60, 1, seed)).numbers() for seed in (0, 1))
    assert all(0.8 < a[name] / b[name] < 1.25 for name in a)


@pytest.mark.parametrize("preset", ["smoke", "stylegan1", "dcgan"])
def test_participation_counts_the_directions_of_each_layer_s_styles(preset):
    small = {"img_resolution": 16, "channel_base": 128, "channel_max": 16, "z_dim": 16, "w_dim": 16}
    torch.manual_seed(0)
    G = Generator(make_config(preset, **small, **({"grow_from": 0} if preset == "stylegan1" else {}))).eval()
    found = style_participation(G, styles(G, range(200)))
    if preset == "dcgan":
        assert found == {}
        return
    assert list(found)[-2:] == ["16.0", "16.1"] and len(found) == (5 if preset == "smoke" else 6)
    assert all(1.1 < value <= 16 for value in found.values())
    layer = G.synthesis.blocks[-1].conv1.conv if preset == "smoke" else G.synthesis.blocks[-1].styled1.adain
    with torch.no_grad():  # of rank one
        layer.affine.weight.copy_(torch.outer(torch.randn(len(layer.affine.weight)), torch.randn(16)))
    assert style_participation(G, styles(G, range(200)))["16.1"] == pytest.approx(1, abs=1e-3)
