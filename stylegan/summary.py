"""What a preset is made of: all presets as rows of a table, and the parts of one preset's networks."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stylegan.config import NOTES, PRESETS, Config, make_config
from stylegan.networks import build_networks, count_parameters, grow_to

PART = re.compile(r"mapping|(synthesis\.)?(blocks|attention|from_small_rgb)\.\d+|from_rgb|epilogue")


def preset_rows() -> list[dict]:
    """One entry per preset: name, source, resolution, parameters_g, parameters_d, loss, options (what differs from Config), note."""
    return [_preset_row(name) for name in PRESETS]


def _preset_row(name: str) -> dict:
    config = make_config(name)
    if config.conditional == "class":
        config = replace(config, c_dim=2)  # networks with classes are counted with two
    G, D = build_networks(config)
    source, note = NOTES[name]
    return {
        "name": name,
        "source": source,
        "resolution": config.img_resolution,
        "parameters_g": count_parameters(G),
        "parameters_d": count_parameters(D),
        "loss": describe_loss(config),
        "options": PRESETS[name],
        "note": note,
    }


def describe_loss(config: Config) -> str:
    """'logistic + R1 0.1 / 16': the loss, its penalties with their weights, and every how many steps each is taken."""
    d, g = config.d_reg_interval, config.g_reg_interval
    terms = (("R1", config.r1_gamma, d), ("R2", config.r2_gamma, d), ("GP", config.gp_weight, d), ("drift", config.drift, 1),
             ("path length", config.pl_weight, g))  # fmt: skip
    return " + ".join([config.loss, *(f"{name} {x:g}{f' / {every}' if every > 1 else ''}" for name, x, every in terms if x)])


def part_rows(config: Config) -> list[dict]:
    """One row per part of G and D at full resolution: the shape that it gives for one slice, its weights, and its multiplications.

    Observed with torch's own counter while one slice is drawn and judged: products and convolutions, resampling filters among
    them, not work pixel by pixel. A part that only serves while the networks grow has no shape.
    """
    G, D = (net.eval() for net in build_networks(config))
    grow_to(config, 10**12, G, D)
    c = torch.eye(config.c_dim)[:1] if config.c_dim else None
    img = torch.zeros(1, config.img_channels, config.img_resolution, config.img_resolution)
    return _observe("G", G, torch.zeros(1, config.z_dim), c) + _observe("D", D, img, c)


@torch.no_grad()
def _observe(title: str, net: nn.Module, *inputs: Tensor | None) -> list[dict]:
    parts = {name: part for name, part in net.named_modules() if PART.fullmatch(name)}
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [part.register_forward_hook(_note_shape(shapes, name)) for name, part in parts.items()]
    with FlopCounterMode(display=False) as counter:
        net(*inputs)
    for hook in hooks:
        hook.remove()
    flops = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    return [
        {
            "part": f"{title}.{name}",
            "output": " × ".join(map(str, shapes.get(name, ()))),
            "parameters": count_parameters(part),
            "multiplications": flops.get(f"{type(net).__name__}.{name}", 0) // 2,  # the counter counts additions too
        }
        for name, part in parts.items()
    ]


def _note_shape(shapes: dict[str, tuple[int, ...]], name: str):
    def note(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        tensors = [x for x in (output if isinstance(output, tuple) else (output,)) if x is not None]
        shapes[name] = tuple(tensors[0].shape[1:])

    return note
