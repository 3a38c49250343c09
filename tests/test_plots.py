"""Sheets of slices: the right pixels at the right place, nothing changed on the way."""

import io
import itertools
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from stylegan import plots

SLICES = np.random.default_rng(0).integers(0, 256, (10, 16, 16), dtype=np.uint8)


def shown(figure, tiles: np.ndarray) -> list[bool]:
    """Of each tile of [n, h, w] whether it stands somewhere in the rendered figure, pixel for pixel."""
    figure.savefig(png := io.BytesIO(), format="png")
    picture, (_, h, w) = np.asarray(Image.open(png).convert("L")), tiles.shape
    corners = [np.argwhere(picture[:-h, :-w] == tile[0, 0]) for tile in tiles]
    return [
        any((picture[y : y + h, x : x + w] == tile).all() for y, x in found) for tile, found in zip(tiles, corners, strict=True)
    ]


def test_a_sheet_shows_every_slice_in_whole_pixels():
    figure = plots.grid(SLICES, 4, scale=3, caption="caption", row_titles=("a", "b", "c"), column_titles="wxyz")
    assert all(shown(figure, plots.enlarge(SLICES, 3))) and all(shown(plots.grid(SLICES[:1]), plots.enlarge(SLICES[:1], 4)))
    assert "10 slices, 4 in a row" in figure.alt_text and not plt.get_fignums()


def test_sheets_fit_the_page():
    for n, size, columns in ((64, 64, 8), (8, 256, 4), (12, 64, 2)):
        width, height = plots.grid(np.zeros((n, size, size), np.uint8), columns).get_size_inches() * plots.DPI
        assert width <= plots.WIDTH + 16 and height <= plots.HEIGHT + 60


def test_words_stand_where_they_belong_and_do_not_meet():
    """Marks once, notes on each; names hold any character and are no formulas."""
    titles = ("noise off", "standard deviation, of 255", "VeryMildDemented", "AD")
    texts = plots.grid(SLICES[:4], column_titles=titles).axes[0].texts
    assert all(a.get_window_extent().x1 < b.get_window_extent().x0 for a, b in itertools.pairwise(texts))
    sheet = plots.grid(SLICES[:2], 1, marks=("A", "P", "R", ""), notes=("1.5", "x^2 100%"), row_titles=("a_b$c", "$5 to $6"))
    words = [text.get_text() for text in sheet.axes[0].texts if text.get_text()]
    assert words == ["a_b$c", "$5 to $6", "1.5", "x^2 100%", "A", "P", "R"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sheet.savefig(io.BytesIO())


def test_preview_takes_one_person_per_class_and_the_asked_levels():
    images = np.arange(48, dtype=np.uint8)[:, None, None] + np.zeros((1, 16, 16), np.uint8)  # 2 classes x 3 people x 8 levels
    labels, subjects, levels = np.repeat([0, 1], 24), np.repeat(list("abcdef"), 8), np.tile(np.arange(8), 6)
    order = np.random.default_rng(0).permutation(48)
    data = images[order], labels[order], ("control", "atrophy"), levels[order]
    shown = plots.preview(*data, columns=4, subjects=subjects[order], scale=1).axes[0].images[0].get_array()[8::18, 8::18, 0]
    assert (levels[shown] == [0, 2, 5, 7]).all() and (labels[shown] == [[0], [1]]).all()
    assert all(len(set(subjects[row])) == 1 for row in shown)


def test_preview_without_levels_and_with_unknown_classes():
    labels = np.array([0, 0, 0, -1, -1, 0, 0, 0, 0, 0])
    figure = plots.preview(SLICES, labels, ("control", "empty"), np.full(10, -1), columns=4, scale=1)
    assert shown(figure, SLICES) == [True] * 6 + [False] * 4 and "control, unknown" in figure.alt_text


def test_slices_are_compared_row_by_row_whatever_their_sizes():
    figure = plots.compare(SLICES[:2], SLICES[2:4, :8, :8], scale=2)
    assert all(shown(figure, plots.enlarge(SLICES[:2], 2)) + shown(figure, plots.enlarge(SLICES[2:4, :8, :8], 4)))
    with pytest.raises(ValueError, match="of one size"):
        plots.compare(SLICES[:3], SLICES[3:5])


def test_the_difference_has_its_sign_and_a_bar():
    first, second = SLICES[:3].copy(), SLICES[:3].copy()
    first[:, 4, 4], second[:, 4, 4] = 100, (100, 140, 60)
    figure = plots.compare(first, second, ("control", "atrophy"), difference=True, notes=["0.1"] * 6)
    assert "at most 40 of 255" in figure.alt_text and "control, atrophy" in figure.alt_text
    assert len(figure.axes) == 2 and figure.axes[1].get_ylim() == (-40, 40)
    sheet = figure.axes[0].images[0].get_array()  # 3 rows x 3 columns of 64 px and a gap of 2
    equal, brighter, darker = (sheet[1 + 66 * 2 + 4 * 4, 1 + 66 * i + 4 * 4].astype(int) for i in range(3))
    assert equal.min() > 240 and brighter[0] > brighter[2] + 50 and darker[2] > darker[0] + 50


def test_matrices_strips_and_deviations():
    images = torch.from_numpy(SLICES).float()[:, None] / 127.5 - 1
    matrix = images[:6].unflatten(0, (2, 3))
    for figure, expected in (
        (plots.grid(matrix, row_titles=("seed 4", "seed 5"), column_titles="abc", scale=1), SLICES[:6]),
        (plots.mixing_matrix(matrix, images[6:8], images[7:10], (0, 1), (2, 3, 4), scale=1), SLICES),
        (plots.strip(images, [str(i) for i in range(10)], scale=1), SLICES),
    ):
        assert figure.alt_text and all(shown(figure, expected))
    figure = plots.deviation(images[0], images[1], torch.full((1, 16, 16), 2 / 127.5))
    assert "at most 2.0" in figure.alt_text and figure.axes[1].get_ylim() == pytest.approx((0, 2))


def test_a_picture_is_saved_as_it_is_and_says_what_it_is(tmp_path):
    for name, picture in (("one.png", SLICES[0]), ("sheet.png", plots.grid(SLICES)), ("walk.gif", SLICES)):
        found = Image.open(plots.save(tmp_path / name, picture, {"synthetic": "true"}))
        assert "true" in str(found.info.get("synthetic", found.info.get("comment")))
    assert plots.set_alt_text(plots.grid(SLICES), "Ten.")._repr_mimebundle_()[1] == {"image/png": {"alt": "Ten."}}
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), SLICES[0])


def test_the_course_of_a_run_moves_ends_with_its_last_grid_and_survives_the_export(tmp_path):
    nbconvert, v4 = pytest.importorskip("nbconvert"), pytest.importorskip("nbformat").v4
    (tmp_path / "samples").mkdir()
    for kimg in range(6):
        last = np.random.default_rng(kimg).integers(0, 256, (48, 128), dtype=np.uint8)
        Image.fromarray(last).save(tmp_path / f"samples/fakes{kimg * 1000:09d}.png")
    moving = plots.progress(tmp_path, count=4)
    webp, still = Image.open(io.BytesIO(moving.webp)), moving.still
    assert webp.n_frames == 4 and webp.info["loop"] == 0 and webp.size == still.size
    assert np.array_equal(np.asarray(still.convert("L"))[:240:5, ::5], last) and "from 0 to 5 kimg" in moving.alt_text
    data, metadata = moving._repr_mimebundle_()
    cell = v4.new_code_cell("x", outputs=[v4.new_output("display_data", data, metadata=metadata)])
    body, _ = nbconvert.HTMLExporter().from_notebook_node(v4.new_notebook(cells=[cell]))
    assert '<source media="(prefers-reduced-motion: reduce), print" srcset="data:image/png;base64,' in body
    assert 'src="data:image/webp;base64,' in body and 'alt="The same seeds in 4 moments' in body
    with pytest.raises(FileNotFoundError, match="train there first"):
        plots.progress(tmp_path / "samples")
