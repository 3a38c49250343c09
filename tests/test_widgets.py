"""Sliders: each of them redraws the slice, and pages hold none of them."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from stylegan import directions, predict
from stylegan.reporting import widgets


@pytest.fixture(scope="module")
def found(G):
    return directions.find_directions(G, directions.GAUGES, 2)


def shown(moving) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(moving.image.value)))


def test_every_slider_redraws_another_slice_and_says_which(G, found):
    pytest.importorskip("ipywidgets")
    moving = widgets.sliders(G, found)
    assert shown(moving).shape == (320, 320)
    pictures, captions = [shown(moving)], [moving.caption.value]
    moves = {"seed": 9, "psi": 1.2, "partner": 12, "layer": 1, "strength": 3, "direction": found[1]}
    assert set(moves) == set(moving.controls)
    for name, value in moves.items():
        moving.controls[name].value = value
        pictures.append(shown(moving))
        captions.append(moving.caption.value)
    assert all(not np.array_equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    assert captions[-1] == f"generated, seed 9, after layer 1 seed 12, ψ = 1.2, moved by +3: {found[1].name}"


def test_without_directions_there_are_still_sliders(G):
    pytest.importorskip("ipywidgets")
    moving = widgets.sliders(G)
    before = shown(moving)
    moving.controls["seed"].value = 2
    assert moving.controls["direction"].value is None and not np.array_equal(shown(moving), before)


def test_what_is_drawn_is_what_the_tools_of_the_latent_space_draw(G, found):
    def draw(**changes):
        start = {"seed": 3, "psi": 0.7, "partner": 4, "layer": G.num_ws, "direction": None, "strength": 0}
        return widgets.draw(G, widgets.Setting(**start | changes))

    assert np.array_equal(draw(), predict.to_uint8(predict.generate(G, [3], truncation_psi=0.7))[0])
    mixed = predict.style_mixing(G, [3], [4], 2, truncation_psi=0.7)[0]
    assert np.array_equal(draw(layer=2), predict.to_uint8(mixed)[0])
    moved = directions.walk(G, found[:1], (2,), predict.styles(G, [3], truncation_psi=0.7))[0]
    assert np.array_equal(draw(direction=found[0], strength=2), predict.to_uint8(moved)[0])


def test_a_cell_stores_a_sentence_in_place_of_the_widgets_innards(G):
    pytest.importorskip("ipywidgets")
    data = widgets.sliders(G)._repr_mimebundle_()
    assert data["text/plain"].startswith("Sliders: run this cell") and set(data) == {"text/plain", widgets.VIEW}


def test_on_a_page_and_without_ipywidgets_there_is_one_plain_sentence(G, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ipywidgets", None)
        assert widgets.sliders(G) is None and "pip install ipywidgets" in capsys.readouterr().out
    monkeypatch.setenv(widgets.STILL, "1")
    assert widgets.sliders(G) is None and "move in JupyterLab and Colab" in capsys.readouterr().out


def test_a_page_and_its_notebook_hold_no_trace_of_a_widget(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipywidgets")
    from stylegan.reporting import export
    from stylegan.reporting.execute import execute

    cell = (
        "# Sliders\nfrom stylegan.config import make_config\nfrom stylegan.networks import Generator\n"
        "from stylegan.reporting.widgets import sliders\nsliders(Generator(make_config('smoke')))"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    execute(notebook, tmp_path / "03_generate.ipynb")
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "stream" and "widgets" not in notebook.metadata
    page = export.render(notebook, "03_generate").html
    assert not re.search(r"widget-view|jupyter-widgets|interactive\(|HBox\(|Traceback", nbformat.writes(notebook) + page)
