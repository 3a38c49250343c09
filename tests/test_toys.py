"""The droplet on toy tensors, and the pictures of the comparison of styles."""

import numpy as np
import pytest
import torch

from stylegan.comparing import claims, style_charts, toys


def test_a_spot_starves_the_rest_of_its_map_under_adain_and_not_under_modulation():
    found = toys.droplet([0, 30, 1000])
    assert found["AdaIN"][0] == pytest.approx(1, abs=0.01) and found["AdaIN"][2] < 0.05 < found["AdaIN"][1] < 0.8
    np.testing.assert_allclose(found["modulation"], 1, atol=0.01)


def test_the_neutral_modulated_convolution_hands_maps_on():
    x = toys.maps(20.0)
    torch.testing.assert_close(toys.through_modulation(x), x, rtol=1e-4, atol=1e-4)
    y = toys.through_adain(x)
    torch.testing.assert_close(y.mean(dim=[2, 3]), torch.zeros(1, toys.CHANNELS), rtol=0, atol=1e-4)


def test_pictures_are_rows_of_map_adain_and_modulation():
    pictures = toys.pictures([0, 100])
    assert pictures.shape == (6, 1, toys.SIZE, toys.SIZE)
    pale, clear = (pictures[i, 0, 10:].std() for i in (3, 2))  # below the spot
    assert pale < 0.5 * clear and torch.allclose(pictures[4], pictures[0], atol=1e-4)


LADDER = {
    "floors": {"kid": {"value": 8.0}},
    "rows": [
        {"row": "a", "kid": {"value": 50.0, "low": 40.0, "high": 60.0}},
        {"row": "b", "kid": {"value": 90.0, "low": 70.0, "high": 99.0}},
        {"row": "broken", "kid": None},
    ],
    "runs": [{"row": row, "seed": 0, "curve": [{"kimg": 1, "seconds": 2, "kid": 90.0}, {"kimg": 2, "seconds": 3, "kid": 50.0}]}
             for row in claims.CURVES],
}  # fmt: skip


def test_charts_show_what_they_are_given():
    bars = style_charts.ladder_bars(LADDER)
    (axes,) = bars.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "a",
        "b",
    ] and "floor of real people being 8" in bars.alt_text
    curves = style_charts.growing_curves(LADDER, dict.fromkeys(claims.CURVES, "x"))
    assert [line.get_xdata().tolist() for line in curves.axes[0].lines] == [[1, 2]] * 2
    assert [line.get_xdata().tolist() for line in curves.axes[1].lines] == [[2, 3]] * 2
    stages = style_charts.stages([0, 1, 2], [8, 16, 16], [1, 0, 1])
    assert "from 8 to 16 px" in stages.alt_text and stages.axes[1].lines[0].get_ydata().tolist() == [1, 0, 1]
    droplet = style_charts.droplet([0, 10], {"AdaIN": [1.0, 0.5]})
    assert "AdaIN: from 1.00 to 0.50" in droplet.alt_text
