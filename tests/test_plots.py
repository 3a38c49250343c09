"""Sheets of slices: the right pixels at the right place, nothing changed on the way."""

from __future__ import annotations

import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from stylegan import plots


@pytest.fixture
def slices():
    return np.random.default_rng(0).integers(0, 256, (10, 16, 16), dtype=np.uint8)


def rendered(figure) -> np.ndarray:
    """The figure as grey pixels [H, W]."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return np.asarray(Image.open(png).convert("L"))


def holds(picture: np.ndarray, tile: np.ndarray) -> bool:
    """Whether the tile stands somewhere in the picture, pixel for pixel."""
    corners = np.argwhere(picture[: -tile.shape[0], : -tile.shape[1]] == tile[0, 0])
    return any(np.array_equal(picture[y : y + tile.shape[0], x : x + tile.shape[1]], tile) for y, x in corners)


def test_floats_become_grey_levels():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2)
    assert plots.to_uint8(x).tolist() == [[[0, 0], [128, 255]]]
    assert plots.to_uint8(torch.zeros(2, 3, 4, 4)).shape == (2, 4, 4, 3)
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(plots.to_uint8(torch.from_numpy(every).float()[:, None] / 127.5 - 1), every)


def test_uint8_stays_and_other_shapes_are_refused(slices):
    assert np.array_equal(plots.to_uint8(slices), slices)
    assert np.array_equal(plots.to_uint8(slices[:, None]), slices)
    for wrong in (np.zeros((4, 4)), np.zeros((1, 2, 4, 4))):
        with pytest.raises(ValueError, match="Slices have shape"):
            plots.to_uint8(wrong)


def test_a_sheet_shows_every_slice_in_whole_pixels(slices):
    figure = plots.grid(slices, 4, scale=3, title="Title", caption="caption", row_titles=("a", "b", "c"), column_titles="wxyz")
    picture = rendered(figure)
    assert all(holds(picture, tile) for tile in plots.enlarge(slices, 3))
    assert len(figure.axes) == 1 and "10 slices, 4 in a row" in figure.alt_text


def test_one_slice_is_a_sheet_too(slices):
    assert holds(rendered(plots.grid(slices[:1])), plots.enlarge(slices[:1], 4)[0])


def test_the_window_of_grey_levels_is_fixed():
    flat = np.full((2, 16, 16), 100, np.uint8)
    assert holds(rendered(plots.grid(flat, scale=2)), np.full((32, 32), 100, np.uint8))


def test_sheets_fit_the_page():
    for n, size, columns in ((64, 64, 8), (8, 256, 4), (12, 64, 2)):
        width, height = plots.grid(np.zeros((n, size, size), np.uint8), columns).get_size_inches() * plots.DPI
        assert width <= plots.WIDTH + 16 and height <= plots.HEIGHT + 60


def test_marks_are_written_once(slices):
    texts = [text.get_text() for text in plots.grid(slices, marks=("A", "P", "R", "")).axes[0].texts]
    assert [text for text in texts if text] == ["A", "P", "R"]


def test_preview_takes_one_person_per_class_and_the_asked_levels():
    images = np.arange(48, dtype=np.uint8)[:, None, None] + np.zeros((1, 16, 16), np.uint8)  # 2 classes x 3 people x 8 levels
    labels, subjects, levels = np.repeat([0, 1], 24), np.repeat(list("abcdef"), 8), np.tile(np.arange(8), 6)
    order = np.random.default_rng(0).permutation(48)
    figure = plots.preview(
        images[order], labels[order], ("control", "atrophy"), levels[order], columns=4, subjects=subjects[order], scale=1
    )
    shown = figure.axes[0].images[0].get_array()[8::18, 8::18, 0]
    assert (levels[shown] == [0, 2, 5, 7]).all() and (labels[shown] == [[0], [1]]).all()
    assert all(len(set(subjects[row])) == 1 for row in shown)


def test_preview_without_levels_and_with_unknown_classes(slices):
    labels = np.array([0, 0, 0, -1, -1, 0, 0, 0, 0, 0])
    figure = plots.preview(slices, labels, ("control", "empty"), np.full(10, -1), columns=4, scale=1)
    picture = rendered(figure)
    assert [holds(picture, tile) for tile in slices] == [True] * 6 + [False] * 4
    assert "control, unknown" in figure.alt_text


def test_compare_asks_for_equal_numbers(slices):
    assert "3 real" in plots.compare(slices[:3], slices[3:6]).alt_text
    with pytest.raises(ValueError, match="as many slices"):
        plots.compare(slices[:3], slices[3:5])


def test_a_projection_shows_both_and_their_difference_in_a_fixed_window(slices):
    other = slices.copy()
    other[0, 0, :4] = slices[0, 0, :4].astype(int) + np.where(slices[0, 0, :4] < 128, (0, 32, 64, 127), (0, -32, -64, -128))
    away = plots.difference(slices, other)
    assert np.abs(away[0, 0, :4].astype(int) - (0, 64, 128, 255)).max() <= 2 and away.sum() == away[0, 0, :4].sum()
    picture = rendered(plots.projections(slices[:2], other[:2], scale=2))
    assert all(holds(picture, tile) for sheet in (slices[:2], other[:2], away[:2]) for tile in plots.enlarge(sheet, 2))


def test_sheets_of_two_sizes_are_matched_by_whole_numbers(slices):
    small, large = plots.matched(slices[:2, :8, :8], slices)
    assert np.array_equal(small[:, ::2, ::2], slices[:2, :8, :8]) and np.array_equal(large, slices)


def test_matrices_and_strips(slices):
    images = torch.from_numpy(slices).float()[:, None] / 127.5 - 1
    matrix = images[:6].unflatten(0, (2, 3))
    for figure, expected in (
        (plots.truncation(matrix, (0, 0.5, 1), (4, 5), scale=1), slices[:6]),
        (plots.classes_at_seed(matrix, "abc", (4, 5), scale=1), slices[:6]),
        (plots.mixing_matrix(matrix, images[6:8], images[7:10], (0, 1), (2, 3, 4), scale=1), slices),
        (plots.strip(images, [str(i) for i in range(10)], scale=1), slices),
    ):
        picture = rendered(figure)
        assert figure.alt_text and all(holds(picture, tile) for tile in expected)


def test_deviation_has_its_panels_and_a_bar_in_grey_levels(slices):
    mean, std = torch.zeros(1, 16, 16), torch.full((1, 16, 16), 2 / 127.5)
    figure = plots.deviation(mean, std, mean, title="Seed 3")
    assert [ax.get_title() for ax in figure.axes[:3]] == ["noise off", "mean over noise draws", "standard deviation, of 255"]
    assert figure.axes[2].images[0].get_array().max() == pytest.approx(2) and "at most 2.0" in figure.alt_text
    assert len(plots.deviation(mean, torch.zeros_like(std)).axes) == 3


def test_inputs_are_not_changed_and_no_figure_stays_open(slices):
    before, images = slices.copy(), torch.zeros(4, 1, 16, 16)
    plots.grid(slices)
    plots.compare(images, images)
    plots.preview(slices, np.zeros(10, int), ("a",), np.arange(10))
    assert np.array_equal(slices, before) and (images == 0).all() and not plt.get_fignums()


def test_figures_show_themselves_with_alt_text(slices):
    figure = plots.describe(plots.grid(slices), "Ten slices.")
    data, metadata = figure._repr_mimebundle_()
    assert data["image/png"].startswith("iVBOR") and metadata == {"image/png": {"alt": "Ten slices."}}


def test_titles_may_hold_any_class_name(slices):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rendered(plots.grid(slices[:2], 1, row_titles=("a_b$c", "x^2 100%"), title="a_b", caption="$5 to $6"))
