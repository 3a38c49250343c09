"""Curves, bars and maps show the numbers they were given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from stylegan import charts

HISTORY = [
    {
        "kimg": kimg, "loss_G": 1.0 + kimg, "loss_D": 2.0, "r1": 0.1, "path_length": 0.3, "logits_real": 0.5, "logits_fake": -0.5,
        "logits_heldout": 0.2, "augment_p": 0.0, "grad_norm_G": 1.0, "grad_norm_D": 2.0, "kid_val": kid, "seconds": kimg,
    }
    for kimg, kid in ((4.0, None), (8.0, 900.0), (12.0, None), (16.0, 400.0), (20.0, 500.0))
]  # fmt: skip


@pytest.fixture
def figure():
    return Figure()


def test_losses_draw_one_panel_for_what_was_logged():
    figure = charts.losses(HISTORY)
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert list(panels) == [
        "Losses", "Mean logits of D", "R1 penalty", "Path length", "Gradient norms", "Probability of augmentation", "KID on validation subjects (×1000)",
    ]  # fmt: skip
    generator = panels["Losses"].lines[0]
    assert generator.get_xdata().tolist() == [4, 8, 12, 16, 20] and generator.get_ydata().tolist() == [5, 9, 13, 17, 21]
    assert panels["KID on validation subjects (×1000)"].lines[0].get_xdata().tolist() == [8, 16, 20]
    assert len({line.get_linestyle() for line in panels["Mean logits of D"].lines}) == 3
    assert "20 kimg" in figure.alt_text


def test_short_or_empty_histories():
    assert len(charts.losses([{"kimg": 1.0, "loss_G": 1.0}]).axes) == 1
    for draw in (charts.losses, charts.scores):
        with pytest.raises(ValueError, match="yet"):
            draw([])


def test_scores_mark_the_best_tick(figure):
    drawn = charts.scores(HISTORY, figure.add_subplot(), floor=22.0)
    assert drawn is figure and drawn.axes[0].texts[0].get_text() == "best 400"
    assert drawn.axes[0].lines[1].get_ydata() == [22.0, 22.0] and "best 400 at 16 kimg" in drawn.alt_text


def test_categories_differ_in_colour_and_form_and_none_is_drawn_last():
    coords = np.random.default_rng(0).normal(size=(300, 2))
    values = np.repeat(["a", "b", "c"], 100)
    figure = charts.scatter(coords, values, title="class", order=("c", "a", "b"))
    ax = figure.axes[0]
    keys = ax.get_legend().legend_handles
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["c", "a", "b"]
    assert len({key.get_marker() for key in keys}) == len({to_hex(key.get_color()) for key in keys}) == 3
    drawn = np.concatenate([c.get_offsets() for c in ax.collections])
    assert np.array_equal(np.sort(drawn, axis=0), np.sort(coords, axis=0))  # every point once
    order = np.concatenate(
        [[to_hex(c.get_facecolor()[0])] * len(c.get_offsets()) for c in ax.collections if len(c.get_offsets())]
    )
    assert len(set(order[-50:])) == 3


def test_numbers_get_a_colour_bar_and_may_be_missing(figure):
    drawn = charts.scatter(np.eye(3)[:, :2], [1.0, np.nan, 3.0], "number", "age", figure.add_subplot())
    assert drawn is figure and len(figure.axes) == 2 and "from 1 to 3" in figure.alt_text


def test_scatter_refuses_what_cannot_be_told_apart():
    with pytest.raises(ValueError, match="9 categories"):
        charts.scatter(np.zeros((9, 2)), list("abcdefghi"))
    with pytest.raises(ValueError, match="category or number"):
        charts.scatter(np.zeros((1, 2)), [1], "colour")


def test_thumbnails_stand_where_their_points_lie():
    images = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 20, 30, 40)])
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], float)
    canvas = charts.thumbnails(corners, images, cells=3).axes[0].images[0].get_array()
    assert canvas.shape == (12, 12) and canvas[[-1, -1, 0, 0], [0, -1, 0, -1]].tolist() == [10, 20, 30, 40]
    assert (canvas[4:8, 4:8] == 255).all()


def test_balance_counts_slices_and_people():
    labels, splits = np.array([0, 0, 0, 1, 1, -1]), np.array(["train", "train", "val", "train", "test", "train"])
    figure = charts.class_balance(labels, ("control", "atrophy"), splits, np.array(list("aabccd")))
    widths = [[[bar.get_width() for bar in bars] for bars in ax.containers] for ax in figure.axes]
    assert widths[0] == [[2, 1, 1], [1, 0, 0], [0, 1, 0]]  # train, val, test x control, atrophy, unknown
    assert widths[1] == [[1, 1, 1], [1, 0, 0], [0, 1, 0]]
    assert len(charts.class_balance(labels, ("control", "atrophy"), splits).axes) == 1


def test_scores_stand_beside_their_floor():
    def interval(value):
        return {"value": value, "low": value - 5, "high": value + 5}

    split = {"kid": interval(700.0), "kid_floor": interval(20.0), "fd": {"value": 190.0}, "fd_floor": interval(30.0)}
    figure = charts.score_bars(
        {"feature_space": "efficientnet-lite0", "n": 9, "seconds": 1, "splits": {"val": split, "test": split}}
    )
    assert len(figure.axes) == 2 and figure.axes[0].containers[0].lines[0].get_xdata().tolist() == [700, 700]
    assert [text.get_text() for text in figure.axes[0].texts] == ["700", "700", "20", "20"]
    assert "val: KID 700 (floor 20), FD 190 (floor 30)" in figure.alt_text


def test_nothing_stays_open_and_nothing_is_changed():
    coords, images = np.random.default_rng(0).normal(size=(5, 2)), np.zeros((5, 8, 8), np.uint8)
    before = coords.copy()
    charts.scatter(coords, list("aabbc"))
    charts.thumbnails(coords, images)
    assert np.array_equal(coords, before) and not plt.get_fignums()
