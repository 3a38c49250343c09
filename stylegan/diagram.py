"""The architecture as a drawing, made from the shapes of real layers."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from stylegan.networks import Discriminator, Generator
from stylegan.plots import INK, Figure, set_alt_text

HALF = 9  # half the width of a box
FILL = {"style": "#D6E6F4", "block": "#F7E3CC", "picture": "#DCEFE3", "end": "#EEEEEE"}  # pale Okabe-Ito colours

# What happens in a step down each column.
NOTES = (
    "fully connected,\nleaky ReLU; z scaled first",
    "enlarged × 2, two 3 × 3 convolutions\nmodulated by w, noise added",
    "1 × 1 convolution of the maps,\nadded to the enlarged picture above",
    "two 3 × 3 convolutions beside\na shortcut, reduced to half",
)


def architecture(G: Generator, D: Discriminator) -> Figure:
    """Mapping network, synthesis blocks with the pictures they add up, and discriminator, from left to right.

    The sizes are observed: one slice is sent through both networks.
    """
    maps, pictures = _observe(G)
    downward = _observe_discriminator(D, maps[-1][-1])
    rows = len(maps) + 1
    figure = Figure(9.4, 0.62 * rows + 1.1, layout="constrained")
    ax = figure.add_subplot(xlim=(0, 100), ylim=(rows + 0.5, -0.75))
    ax.set_axis_off()
    layers, last = len(G.mapping.layers), sum(hasattr(part, "weight") for part in D.epilogue.children())
    _column(ax, 10, "Mapping network", [f"z  {G.z_dim}", f"{layers} layers", f"w  {G.w_dim}"], "style")
    _column(ax, 36, "Synthesis network", ["learned constant", *(_shape(size) for size in maps)], "block")
    _column(ax, 60, "Pictures", ["", *(_shape(size) for size in pictures)], "picture")
    _column(ax, 86, "Discriminator", [*(_shape(size) for size in downward), f"std-dev, {last} layers: logit"], "block")
    _box(ax, 60, 0, "a real slice", "end")
    for x, words in zip((10, 36, 60, 86), NOTES, strict=True):
        ax.text(x, rows - 0.35, words, ha="center", va="top", fontsize=8, color=INK, linespacing=1.35)
    for row in range(1, rows):
        _arrow(ax, (10 + HALF, 2), (36 - HALF, row))
        _arrow(ax, (36 + HALF, row), (60 - HALF, row))
    _arrow(ax, (60 + HALF, 0), (86 - HALF, 0))
    _arrow(ax, (60 + HALF, rows - 1), (86 - HALF, 0.15))
    text = (
        f"The mapping network turns z ({G.z_dim} numbers) into w ({G.w_dim}), which steers every synthesis block. The blocks hold maps of "
        f"{', '.join(map(_shape, maps))} and add up a picture. The discriminator sees it or a real slice, and goes from "
        f"{_shape(downward[0])} down to one logit."
    )
    return set_alt_text(figure, text)


def _observe(G: Generator) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Shapes [C, H, W] of the maps and the pictures of each synthesis block."""
    seen: list[tuple] = []
    hooks = [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in G.synthesis.blocks]
    with torch.no_grad():
        device = next(G.parameters()).device
        G.synthesis(torch.zeros(1, G.num_ws, G.w_dim, device=device), "const")
    for hook in hooks:
        hook.remove()
    return [tuple(x.shape[1:]) for x, _ in seen], [tuple(img.shape[1:]) for _, img in seen]


def _observe_discriminator(D: Discriminator, resolution: int) -> list[tuple[int, ...]]:
    """Shapes [C, H, W] of its maps, from the picture's size down to 4 x 4."""
    weight = D.from_rgb.weight
    with torch.no_grad():
        x = D.from_rgb(torch.zeros(1, weight.shape[1], resolution, resolution, device=weight.device))
        shapes = [tuple(x.shape[1:])]
        for block in D.blocks:
            x = block(x)
            shapes.append(tuple(x.shape[1:]))
    return shapes


def _shape(size: tuple[int, ...]) -> str:
    channels, height, width = size
    return f"{height} × {width} × {channels}"


def _column(ax: Axes, x: float, title: str, texts: list[str], kind: str) -> None:
    """Boxes from top to bottom; an empty text leaves its place free."""
    ax.text(x, -0.6, title, ha="center", va="center", fontsize=9.5, color=INK, fontweight="bold")
    rows = [row for row, text in enumerate(texts) if text]
    for row in rows:
        _box(ax, x, row, texts[row], kind)
    for row in rows[1:]:
        if row - 1 in rows:
            _arrow(ax, (x, row - 0.7), (x, row - 0.3))


def _box(ax: Axes, x: float, row: float, text: str, kind: str) -> None:
    style = {"boxstyle": "round,pad=0,rounding_size=.12", "facecolor": FILL[kind], "edgecolor": "#888888", "linewidth": 0.8}
    ax.add_patch(FancyBboxPatch((x - HALF, row - 0.3), 2 * HALF, 0.6, mutation_aspect=0.05, **style))
    ax.text(x, row, text, ha="center", va="center", fontsize=8.5, color=INK)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 8, "color": "#666666", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **style))
