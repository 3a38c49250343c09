"""Rules for grey values, by person."""

from dataclasses import replace

import numpy as np
import pytest

from stylegan.dataset import min_max, normalised, percentiles, standardise_then_unit
from stylegan.scores import case


def test_standardising_before_min_max_changes_nothing():
    """Seed 004's two steps: the mean and the deviation cancel out exactly."""
    rng = np.random.default_rng(0)
    for x in (rng.normal(50, 7, (3, 8, 8)), rng.integers(0, 256, (3, 8, 8)), rng.exponential(9, (5, 4, 4))):
        np.testing.assert_allclose(standardise_then_unit(x), min_max(x), atol=1e-12)
    full = np.arange(256.0)
    np.testing.assert_allclose(standardise_then_unit(full), full / 255, atol=1e-12)  # of 8-bit slices: dividing by 255


def test_percentiles_cut_off_a_hot_pixel():
    x = np.linspace(10, 110, 1001)
    x[-1] = 5000
    y = percentiles(x)
    assert y[0] == 0 and y[-1] == 1 and y[500] == pytest.approx(0.5, abs=0.01)
    assert min_max(x)[500] < 0.02  # one pixel takes all the range


def test_rules_act_on_each_person_by_itself(slices):
    dark = slices.subjects == slices.subjects[0]
    images = np.array(slices.images)
    images[dark] //= 3
    data = replace(slices, images=images)
    for rule in ("percentiles", "standardise"):
        found = normalised(data, rule)
        assert found.images.dtype == np.uint8 and found.images[dark].max() == 255 and found.key != data.key
        others = np.asarray(found.images)[~dark]
        np.testing.assert_array_equal(others, normalised(slices, rule).images[~dark])
    assert normalised(data, "fixed") is data
    with pytest.raises(ValueError, match=r"normalise is 'z'.*percentiles"):
        normalised(data, "z")


def test_scores_compare_with_slices_under_the_generator_s_rule(slices):
    for rule in ("fixed", "percentiles"):
        info = {"config": {"img_channels": 1, "img_resolution": 16, "normalise": rule}}
        np.testing.assert_array_equal(case._as_dataset(slices, info, None).images, normalised(slices, rule).images)
    older = {"config": {"img_channels": 1, "img_resolution": 16}}
    assert case._as_dataset(slices, older, None) is slices
