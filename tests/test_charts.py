"""Curves, bars and maps show the numbers they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from stylegan import charts
from stylegan.config import make_config
from stylegan.networks import part_rows

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


def test_each_colour_of_a_map_is_that_of_its_name_and_none_is_hidden():
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


def test_numbers_on_a_map_have_a_bar_and_small_maps_no_legend():
    coords, fake = np.eye(4)[:, :2], np.zeros(4, bool)
    assert len(charts.maps([coords], [fake], [charts.Panel("age", np.array([1.0, np.nan, 3.0, 2.0]))]).axes) == 2
    small = charts.maps([coords] * 4, [fake] * 4, [charts.Panel("", np.array(list("aabb")))] * 4, columns=2, size=0.6)
    assert len(small.axes) == 4 and small.axes[0].get_legend() is None


def test_the_architecture_has_a_box_for_each_part_that_a_picture_passes():
    for preset, boxes in (("quick", (6, 6)), ("seed003-progressive", (7, 7)), ("dcgan", (5, 5))):
        rows = part_rows(make_config(preset, c_dim=2 * (preset == "seed003-progressive")))
        assert tuple(len(ax.patches) for ax in charts.architecture(rows).axes) == boxes


def test_thumbnails_stand_where_their_points_lie():
    images = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 20, 30, 40)])
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], float)
    canvas = charts.thumbnails(corners, images, np.array([0, 0, 0, 1], bool), cells=3).axes[0].images[0].get_array()
    assert canvas.shape == (12, 12, 3) and canvas[[-1, -1, 0, 0], [3, -1, 3, -1], 0].tolist() == [10, 20, 30, 40]
    assert (canvas[4:8, 4:8] == 255).all() and (canvas[0, 0] == canvas[-1, 0]).all() and (canvas[0, 0] != canvas[0, 8]).any()


def test_scores_and_arms_of_a_transfer_stand_at_their_numbers():
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
