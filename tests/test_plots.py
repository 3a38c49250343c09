"""Sheets of slices: the right pixels at the right place. Curves, bars and maps show the numbers they were given."""

import io
import itertools
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from PIL import Image

from stylegan import charts, plots
from stylegan.config import make_config
from stylegan.networks import part_rows

SLICES = np.random.default_rng(0).integers(0, 256, (10, 16, 16), dtype=np.uint8)


def shown(figure, tiles: np.ndarray) -> list[bool]:
    """Of each tile of [n, h, w] whether it stands somewhere in the rendered figure, pixel for pixel."""
    figure.savefig(png := io.BytesIO(), format="png")
    picture, (_, h, w) = np.asarray(Image.open(png).convert("L")), tiles.shape
    corners = [np.argwhere(picture[:-h, :-w] == tile[0, 0]) for tile in tiles]
    both = zip(tiles, corners, strict=True)
    return [any((picture[y : y + h, x : x + w] == tile).all() for y, x in found) for tile, found in both]


def test_a_sheet_shows_every_slice_in_whole_pixels_and_fits_the_page():
    figure = plots.grid(SLICES, 4, scale=3, caption="caption", row_titles=("a", "b", "c"), column_titles="wxyz")
    assert all(shown(figure, plots.enlarge(SLICES, 3))) and all(shown(plots.grid(SLICES[:1]), plots.enlarge(SLICES[:1], 4)))
    assert "10 slices, 4 in a row" in figure.alt_text and not plt.get_fignums()
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


def test_preview_takes_one_person_per_class_and_the_asked_levels_where_they_are_known():
    images = np.arange(48, dtype=np.uint8)[:, None, None] + np.zeros((1, 16, 16), np.uint8)  # 2 classes x 3 people x 8 levels
    labels, subjects, levels = np.repeat([0, 1], 24), np.repeat(list("abcdef"), 8), np.tile(np.arange(8), 6)
    order = np.random.default_rng(0).permutation(48)
    data = images[order], labels[order], ("control", "atrophy"), levels[order]
    found = plots.preview(*data, columns=4, subjects=subjects[order], scale=1).axes[0].images[0].get_array()[8::18, 8::18, 0]
    assert (levels[found] == [0, 2, 5, 7]).all() and (labels[found] == [[0], [1]]).all()
    assert all(len(set(subjects[row])) == 1 for row in found)
    labels = np.array([0, 0, 0, -1, -1, 0, 0, 0, 0, 0])
    figure = plots.preview(SLICES, labels, ("control", "empty"), np.full(10, -1), columns=4, scale=1)
    assert shown(figure, SLICES) == [True] * 6 + [False] * 4 and "control, unknown" in figure.alt_text


def test_slices_are_compared_row_by_row_whatever_their_sizes_and_the_difference_has_its_sign_and_a_bar():
    figure = plots.compare(SLICES[:2], SLICES[2:4, :8, :8], scale=2)
    assert all(shown(figure, plots.enlarge(SLICES[:2], 2)) + shown(figure, plots.enlarge(SLICES[2:4, :8, :8], 4)))
    with pytest.raises(ValueError, match="of one size"):
        plots.compare(SLICES[:3], SLICES[3:5])
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


KEYS = "loss_D gp path_length logits_real logits_fake logits_heldout augment_p grad_norm_G grad_norm_D seconds".split()
HISTORY = [
    {"kimg": kimg, "loss_G": 1.0 + kimg, "kid_val": kid, **dict.fromkeys(KEYS, 0.5)}
    for kimg, kid in ((4.0, None), (8.0, 900.0), (12.0, None), (16.0, 400.0), (20.0, 500.0))
]


def test_curves_draw_one_panel_for_what_was_logged():
    figure = charts.curves(HISTORY)
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert list(panels) == [
        "Losses", "Mean logits of D", "Gradient penalties of D: GP", "Path length", "Gradient norms",
        "Probability of augmentation", "KID on validation subjects (×1000)",
    ]  # fmt: skip
    generator = panels["Losses"].lines[0]
    assert generator.get_xdata().tolist() == [4, 8, 12, 16, 20] and generator.get_ydata().tolist() == [5, 9, 13, 17, 21]
    assert panels["KID on validation subjects (×1000)"].lines[0].get_xdata().tolist() == [8, 16, 20]
    assert "20 kimg" in figure.alt_text and "KID 400 at best, at 16 kimg" in figure.alt_text


def test_variety_is_drawn_over_that_of_people_and_layers_may_grow():
    usual, grown = {"dimensions_fixed_noise": 2.0, "dimensions_real": 14.0}, {1.0: [3.0, 2.0], 2.0: [3.5, 2.5, 1.5, 1.0]}
    rows = [{**usual, "kimg": k, "dimensions": 2.0 + k, "style_participation": layers} for k, layers in grown.items()]
    variety, layers = charts.curves(rows).axes
    assert [line.get_label() for line in variety.lines] == ["generated", "noise fixed", "people"]
    assert variety.lines[2].get_ydata().tolist() == [14, 14]
    assert [np.isfinite(line.get_ydata()).sum() for line in layers.lines] == [2, 2, 1, 1]
    wide = charts.curves([{**row, "loss_G": 1.0, "logits_real": 0.0, "logits_heldout": 0.0} for row in rows])
    wide.draw_without_rendering()
    assert wide.axes[2].get_title(loc="left") == "Dimensions of variety"  # three names at the right edge
    assert max(ax.get_legend().get_window_extent().x1 for ax in wide.axes if ax.get_legend()) <= wide.bbox.width
    assert len(charts.curves([{"kimg": 1.0, "loss_G": 1.0}]).axes) == 1
    with pytest.raises(ValueError, match="yet"):
        charts.curves([])


def test_each_colour_of_a_map_is_that_of_its_name_none_is_hidden_numbers_have_a_bar_and_small_maps_no_legend():
    coords, fake = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) >= 30
    figure = charts.maps([coords], [fake], [charts.Panel("class", np.repeat(["a", "b", ""], 20), "they mix", ("b", "a"))])
    ax, drawn = figure.axes[0], {}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["b", "a"] and "class: they mix" in figure.alt_text
    for points in ax.collections:
        places, colours = points.get_offsets(), points.get_facecolor()
        drawn |= zip(map(tuple, places), map(tuple, np.broadcast_to(colours, (len(places), 4))), strict=True)
    assert len(drawn) == 60 and drawn[tuple(coords[0])] == to_rgba(charts.MAP_COLOURS[1])
    assert drawn[tuple(coords[50])] == to_rgba(charts.FAINT)
    with pytest.raises(ValueError, match="9 names"):
        charts.maps([np.zeros((9, 2))], [np.zeros(9, bool)], [charts.Panel("", np.array(list("abcdefghi")))])
    coords, fake = np.eye(4)[:, :2], np.zeros(4, bool)
    assert len(charts.maps([coords], [fake], [charts.Panel("age", np.array([1.0, np.nan, 3.0, 2.0]))]).axes) == 2
    small = charts.maps([coords] * 4, [fake] * 4, [charts.Panel("", np.array(list("aabb")))] * 4, columns=2, size=0.6)
    assert len(small.axes) == 4 and small.axes[0].get_legend() is None


def test_scores_arms_of_a_transfer_and_thumbnails_stand_where_they_belong():
    kid, floor = {"value": 700.0, "low": 695.0, "high": 705.0}, {"value": 20.0, "low": 15.0, "high": 25.0}
    split = {"kid": kid, "kid_floor": floor, "fd": {"value": 190.0}, "fd_floor": floor}
    figure = charts.score_bars({"feature_space": "efficientnet-lite0", "splits": {"val": split, "test": split}})
    first, second = figure.axes
    assert [c.lines[0].get_xdata().tolist() for c in first.containers] == [[20], [700], [20], [700]]
    assert [text.get_text() for text in second.texts] == ["20", "190", "20", "190"]
    assert "val: KID 700 (floor 20), FD 190 (floor 20)" in figure.alt_text
    entry = {"value": 0.7, "low": 0.6, "high": 0.8}
    found = {"arms": {"real": entry, "synthetic": {**entry, "value": 0.6}}, "chance": 0.5, "n": 30}
    assert [c.lines[0].get_xdata().tolist() for c in charts.transfers(found).axes[0].containers] == [[0.7], [0.6]]
    assert not plt.get_fignums()
    images = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 20, 30, 40)])
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], float)
    canvas = charts.thumbnails(corners, images, np.array([0, 0, 0, 1], bool), cells=3).axes[0].images[0].get_array()
    assert canvas.shape == (12, 12, 3) and canvas[[-1, -1, 0, 0], [3, -1, 3, -1], 0].tolist() == [10, 20, 30, 40]
    assert (canvas[4:8, 4:8] == 255).all() and (canvas[0, 0] == canvas[-1, 0]).all() and (canvas[0, 0] != canvas[0, 8]).any()
    for preset, boxes in (("quick", [6, 6]), ("seed003-progressive", [7, 7])):  # one for each part that a picture passes
        rows = part_rows(make_config(preset, c_dim=2 * (preset != "quick")))
        assert [len(ax.patches) for ax in charts.architecture(rows).axes] == boxes
