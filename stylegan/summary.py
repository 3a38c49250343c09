"""What a preset is made of: all presets as rows, and one preset's layers with shapes, parameters and multiplications."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stylegan.config import NOTES, PRESETS, Config, make_config
from stylegan.networks import build_networks, count_parameters, grow_to

CLASSES = 2  # networks that are told the class are counted with so many


def preset_rows() -> list[dict]:
    """One entry per preset: name, source, resolution, parameters_g, parameters_d, loss, options (what differs from Config), note."""
    return [_preset_row(name) for name in PRESETS]


def _preset_row(name: str) -> dict:
    config = full_grown(make_config(name))
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


def full_grown(config: Config) -> Config:
    """The config with a number of classes, where it wants them and does not know them yet."""
    return replace(config, c_dim=CLASSES) if config.conditional == "class" and not config.c_dim else config


def describe_loss(config: Config) -> str:
    """'logistic + R1 0.1 / 16': the loss, its penalties with their weights, and every how many steps those are taken."""
    names = {"r1_gamma": "R1", "r2_gamma": "R2", "gp_weight": "GP", "drift": "drift", "pl_weight": "path length"}
    every = {"r1_gamma": config.d_reg_interval, "r2_gamma": config.d_reg_interval, "gp_weight": config.d_reg_interval}
    every |= {"drift": 1, "pl_weight": config.g_reg_interval}
    terms = [
        f"{text} {getattr(config, name):g}{f' / {every[name]}' if every[name] > 1 else ''}"
        for name, text in names.items()
        if getattr(config, name)
    ]
    return " + ".join([config.loss, *terms])


class Layer(NamedTuple):
    """One layer that has weights: its name, the shape it gives for one slice, its own weights, and multiplications for one slice."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


def layers(config: Config) -> tuple[list[Layer], list[Layer]]:
    """The layers of G and of D at full resolution, observed while one picture is drawn and looked at.

    Multiplications count products and convolutions, the resampling filters among them, and leave out work pixel by pixel.
    """
    config = full_grown(config)
    G, D = (net.eval() for net in build_networks(config))
    grow_to(config, 10**12, G, D)
    c = torch.eye(config.c_dim)[:1] if config.c_dim else None
    img = torch.zeros(1, config.img_channels, config.img_resolution, config.img_resolution)
    return _observe(G, torch.zeros(1, config.z_dim), c), _observe(D, img, c)


@torch.no_grad()
def _observe(net: nn.Module, *inputs: Tensor | None) -> list[Layer]:
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [module.register_forward_hook(_noting(shapes, name)) for name, module in net.named_modules()]
    with FlopCounterMode(display=False) as counter:
        net(*inputs)
    for hook in hooks:
        hook.remove()
    root = type(net).__name__
    flops = {name.removeprefix(f"{root}."): sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
    parameters: dict[str, int] = defaultdict(int)
    for name, parameter in net.named_parameters():
        owner = name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
        parameters[owner] += parameter.numel()
    return [
        Layer(name, shapes.get(name, ()), count, _own(flops, name, list(parameters)) // 2) for name, count in parameters.items()
    ]


def _noting(shapes: dict[str, tuple[int, ...]], name: str):
    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        shapes[name] = tuple(tensor.shape[1:])

    return note


def _own(flops: dict[str, int], name: str, layers: list[str]) -> int:
    """The work of a layer less that of the layers inside it."""
    inside = [other for other in layers if other.startswith(f"{name}.")]
    outermost = [other for other in inside if not any(other.startswith(f"{between}.") for between in inside)]
    return flops.get(name, 0) - sum(flops.get(other, 0) for other in outermost)


def render_layers(title: str, rows: list[Layer]) -> str:
    """The table as plain text, with its sums."""
    cells = [[row.name, " x ".join(map(str, row.shape)), f"{row.parameters:,}", f"{row.macs:,}"] for row in rows]
    total = ["total", "", f"{sum(row.parameters for row in rows):,}", f"{sum(row.macs for row in rows):,}"]
    table = [[title, "shape", "parameters", "MACs"], *cells, total]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {parameters:>{widths[2]}}  {macs:>{widths[3]}}"
        for name, shape, parameters, macs in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def render_presets(rows: list[dict]) -> str:
    """One preset per two lines: numbers, then the note."""
    lines = []
    for row in rows:
        size = f"{row['resolution']:4} px  G {row['parameters_g'] / 1e6:6.2f} M  D {row['parameters_d'] / 1e6:6.2f} M"
        lines += [f"{row['name']:26}{size}  {row['loss']}", f"{'':26}{row['note']} [{row['source']}]"]
    return "\n".join(lines)
