"""Sliders for notebook 3, in JupyterLab and Colab. Pages cannot move, so each slider has a still picture in the notebook as well."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from stylegan.latent import Direction
from stylegan.networks import Generator
from stylegan.plots import enlarge
from stylegan.predict import styles, synthesize, to_uint8

STILL = "STYLEGAN_STILL"  # set where a notebook is run for a page, on which no slider could move
VIEW = "application/vnd.jupyter.widget-view+json"
SIDE = 320  # about so many screen pixels of the picture


@dataclass(frozen=True)
class Setting:
    """Where the sliders stand."""

    seed: int
    psi: float
    partner: int  # the seed that gives the styles after the first ``layer``
    layer: int  # num_ws: the partner gives none
    direction: Direction | None
    strength: float  # in standard deviations of w along the direction


class Sliders:
    """A generated slice and a control for each field of `Setting`; a cell shows it as its last value.

    ``controls``: field -> control of ipywidgets; ``image`` and ``caption``: what moving them redraws. Raises ImportError
    without ipywidgets (`sliders` says it in words instead).
    """

    def __init__(self, G: Generator, directions: Sequence[Direction]):
        import ipywidgets as w

        self.G = G
        names = [("none", None), *((f"{d.method} {d.number}: {d.name}", d) for d in directions)]
        look = {"style": {"description_width": "10em"}, "layout": w.Layout(width="36em")}
        self.controls = {
            "seed": w.IntSlider(1, 0, 999, description="seed", **look),
            "psi": w.FloatSlider(0.7, min=0, max=1.2, step=0.05, description="ψ", **look),
            "partner": w.IntSlider(5, 0, 999, description="second seed", **look),
            "layer": w.IntSlider(G.num_ws // 2, 0, G.num_ws, description="mixed after layer", **look),
            "direction": w.Dropdown(options=names, value=names[min(1, len(directions))][1], description="direction", **look),
            "strength": w.FloatSlider(0, min=-3, max=3, step=0.25, description="strength", **look),
        }
        self.image, self.caption = w.Image(format="png", layout=w.Layout(width=f"{SIDE}px", height=f"{SIDE}px")), w.HTML()
        self.box = w.HBox([w.VBox([*self.controls.values(), self.caption]), self.image])
        for control in self.controls.values():
            control.observe(self.redraw, names="value")
        self.redraw()

    def redraw(self, change: object = None) -> None:
        setting, png = Setting(**{field: control.value for field, control in self.controls.items()}), io.BytesIO()
        pixels = draw(self.G, setting)
        Image.fromarray(enlarge(pixels[None], max(1, SIDE // len(pixels)))[0]).save(png, format="png")
        self.image.value, self.caption.value = png.getvalue(), caption(self.G, setting)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The controls where something can show them, else a sentence; ipywidgets itself would leave its innards as text."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {VIEW: view, "text/plain": "Sliders: run this cell in JupyterLab or Colab to move them."}


def sliders(G: Generator, directions: Sequence[Direction] = ()) -> Sliders | None:
    """The sliders, or None and one printed sentence where nothing could move them: on a page, or without ipywidgets."""
    if os.environ.get(STILL):
        print("The sliders move in JupyterLab and Colab; on a page the pictures of this notebook stand for them.")
        return None
    try:
        return Sliders(G, directions)
    except ImportError:
        print("The sliders need ipywidgets: pip install ipywidgets, then run this cell again.")
        return None


def draw(G: Generator, setting: Setting) -> np.ndarray:
    """The slice of this setting: uint8 [R, R]."""
    ws, partner = styles(G, [setting.seed, setting.partner], truncation_psi=setting.psi).split(1)
    ws = torch.cat([ws[:, : setting.layer], partner[:, setting.layer :]], dim=1)
    if setting.direction is not None:
        ws = ws + setting.strength * setting.direction.step
    return to_uint8(synthesize(G, ws))[0]


def caption(G: Generator, setting: Setting) -> str:
    mixed = f", after layer {setting.layer} seed {setting.partner}" if setting.layer < G.num_ws else ""
    moved = f", moved by {setting.strength:+g}: {setting.direction.name}" if setting.direction and setting.strength else ""
    return f"generated, seed {setting.seed}{mixed}, ψ = {setting.psi:g}{moved}"
