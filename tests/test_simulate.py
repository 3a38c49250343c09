"""The simulated population: the same for the same seed, no folds, and a ground truth that holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stylegan.data import simulate as atlas


def test_shapes_and_names(simulated):
    assert simulated.images.shape == (48, 32, 32) and simulated.images.dtype == np.uint8
    assert simulated.subjects[[0, 3, 4, -1]].tolist() == ["SIM_0001", "SIM_0001", "SIM_0002", "SIM_0012"]
    assert simulated.levels[:6].tolist() == [0, 1, 2, 3, 0, 1] and np.bincount(simulated.labels).tolist() == [24, 24]
    assert all(len(values) == 48 and np.isfinite(values).all() for values in simulated.columns.values())
    for size in ((0, 4, 32), (2, 0, 32), (2, 4, 8), (2, 4, 1024)):
        with pytest.raises(ValueError, match="Cannot simulate"):
            atlas.simulate(*size)


def test_pictures_depend_on_the_seed_alone_and_the_number_of_threads_is_left_as_found(simulated):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again, other = (atlas.simulate(2, 4, 32, seed=seed).images for seed in (0, 1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(again, simulated.images[:8])  # whatever the size of the population
    assert not np.array_equal(other, again)


@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_resolutions_show_the_same_head(resolution):
    fine, coarse = (atlas.simulate(1, 1, size).images[0].astype(float) for size in (resolution, 32))
    fine, coarse = (image.reshape(16, len(image) // 16, 16, -1).mean((1, 3)) for image in (fine, coarse))
    assert np.abs(fine - coarse).max() < 16


def _jacobian(subject: atlas.Subject, step: float = 2.0) -> np.ndarray:
    x, y = np.arange(-80, 81, step), np.arange(-115, 81, step)
    z = np.arange(atlas.LEVELS_MM[0] - 10, atlas.LEVELS_MM[1] + 11, step)
    source = atlas.pull_back(subject, x, y, z).double().numpy()
    gradients = np.stack([np.stack(np.gradient(source[..., i], step, step, step)[::-1], -1) for i in range(3)], -2)
    return np.linalg.det(gradients)


def test_no_head_is_torn_or_folded_and_a_fold_would_be_seen():
    for k in range(12):
        subject = atlas.draw_subject(np.random.default_rng([0, k]), label=k % 2)
        determinant = _jacobian(subject)
        assert determinant.min() > 0 and determinant.max() < 4, k
    assert _jacobian(replace(subject, controls=tuple(8 * grid for grid in subject.controls))).min() < 0


def test_the_measured_area_follows_the_known_enlargement_and_groups_differ_and_overlap():
    population = atlas.simulate(24, 6, 32, seed=5)
    area, known = (population.columns[name].reshape(24, 6).mean(1) for name in ("ventricle_area", "ventricle"))
    assert np.corrcoef(area, known)[0, 1] > 0.9 and area[1::2].mean() > area[::2].mean()
    assert known[1::2].mean() - known[::2].mean() > 1.5 and known[::2].max() > known[1::2].min()


def test_heads_fill_the_picture_stay_inside_and_differ_visibly(simulated):
    images = simulated.images
    assert (images.max(0) > 12).any(1).sum() >= 29  # of 32 rows
    assert images[:, :, [0, -1]].max() < 12 and images[:, [0, -1]].max() < 100  # at most a brushing forehead
    assert np.median(images[:, 0, 0]) == 0
    correlation = np.corrcoef(images.reshape(12, -1).astype(float))[np.triu_indices(12, 1)]
    assert correlation.max() < 0.985 and correlation.min() > 0.6  # no two are alike
