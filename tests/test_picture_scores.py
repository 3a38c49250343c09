"""Scores on pixels: against torchmetrics and closed forms, and each control where it must show."""

import numpy as np
import pytest
import torch
from phantoms import phantoms

from stylegan.scores import picture_scores as scores


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
    a, b = rng.integers(0, 256, (2, 1, 13, 13), dtype=np.uint8)
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
    assert scores.ssim(a, b)[0] == pytest.approx(np.mean(values), rel=1e-3)


def test_the_most_similar_slice_is_found_as_by_looking_at_all(heads):
    rng = np.random.default_rng(1)
    noisy = (heads[::5].astype(int) + rng.integers(-20, 21, heads[::5].shape)).clip(0, 255).astype(np.uint8)
    exact = [scores.ssim(np.broadcast_to(x, heads.shape), heads) for x in noisy]
    value, row = scores.most_similar(noisy, heads, candidates=8)
    assert row.tolist() == [np.argmax(e) for e in exact] and value == pytest.approx([e.max() for e in exact], rel=1e-5)


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
