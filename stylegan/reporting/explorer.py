"""A generator that draws in the reader's page, offline: its weights in half precision, sliders, and `explorer.js`, which draws.

StyleGAN2, StyleGAN1 and DCGAN draw; with attention, while growing, and where drawing takes too long, a sheet is shown that says why.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from jinja2 import Template
from PIL import Image
from torch import Tensor

from stylegan.checkpoint import load_generator
from stylegan.files import read_json, replacing
from stylegan.latent import GAUGES, Gauge, find_directions, held_on_fresh_seeds, style_weights
from stylegan.modules import GAIN
from stylegan.networks import Generator
from stylegan.plots import data_uri
from stylegan.predict import NOTICE, generate, styles, to_uint8
from stylegan.stylegan1 import spread_kernel

SCRIPT = Path(__file__).with_name("explorer.js").read_text(encoding="utf-8")
PAGE = Path(__file__).with_name("templates") / "report" / "explorer.html.j2"
TEMPLATE = Template(PAGE.read_text(encoding="utf-8"), keep_trailing_newline=True)
STYLE = Path(__file__).with_name("explorer.css").read_text(encoding="utf-8")
SEEDS = 100  # whose w is in the page: torch's random numbers are not made anew there
MOST = 500  # million multiplications of a slice: half a second on one core, where the 66 of the shipped 64 px take 55 to 70 ms
PSI = 0.7


def csp(*scripts: str) -> str:
    """The Content-Security-Policy of a page with these scripts: nothing from elsewhere, these texts alone as script and as worker."""
    named = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    allowed = f"; script-src {' '.join(named)}; worker-src blob:" if scripts else ""
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}"


def page(path: str | Path, gauges: Mapping[str, Gauge] = GAUGES) -> str:
    """The explorer of a run folder or .safetensors file as a page of its own."""
    return fragment(path, gauges, policy=csp(SCRIPT), style=STYLE, script=SCRIPT)


def write(path: str | Path, out: str | Path) -> Path:
    """Write the page as ``explorer.html`` into the folder ``out``; returns its path."""
    with replacing(Path(out) / "explorer.html") as temporary:
        temporary.write_text(page(path), encoding="utf-8")
    return Path(out) / "explorer.html"


def show(path: str | Path, gauges: Mapping[str, Gauge] = GAUGES) -> None:
    """Show the page as the output of a notebook's cell, in a frame, so that both keep their own style and script."""
    from IPython.display import display

    look = 'style="width: 100%; height: 620px; border: 0"'
    frame = f'<iframe title="A generator to explore" srcdoc="{escape(page(path, gauges))}" {look}></iframe>'
    display({"text/html": frame, "text/plain": "The generator, to explore in a browser"}, raw=True)


def fragment(path: str | Path, gauges: Mapping[str, Gauge] = GAUGES, **alone: str) -> str:
    """The explorer of a run folder or .safetensors file as HTML inside a page, which adds `csp`, `STYLE` and, at its end,
    `SCRIPT`; with these in ``alone`` it is a page. ``gauges`` name the directions: where the slices are at hand, `make_gauges` of them."""
    G, info = load_generator(path)
    R, why = G.synthesis.full, obstacle(G)
    tiles = to_uint8(generate(G, range(12), truncation_psi=PSI))
    rows = tiles.reshape(2, 6, *tiles.shape[1:]).swapaxes(1, 2)  # [2, R, 6, R, ...]
    sheet = data_uri(Image.fromarray(rows.reshape(2 * R, 6 * R, *tiles.shape[3:])))
    directions = {} if why else named_directions(G, Path(path), info["model_hash"], gauges)
    packed = None if why else pack(G, directions)
    about = f"Model {info['model_hash']}, {info['cur_nimg'] / 1000:g} kimg. {NOTICE}"
    shown = {"G": G, "R": R, "psi": PSI, "seeds": SEEDS, "classes": info.get("classes") or [], "directions": directions}
    return TEMPLATE.render(**shown, sheet=sheet, why=why, packed=packed, data=json.dumps(packed), about=about, **alone)


def obstacle(G: Generator) -> str:
    """Why this generator does not draw in a page; '' where it does."""
    net = G.synthesis
    if len(net.attention):
        return "it has attention layers"
    if net.now.fading or net.now.resolution != net.full:
        return "it was kept while it was growing"
    sizes = [(layer["weight"], layer["R"] // (2 if layer["up"] else 1)) for layer in _layers(G)]
    million = sum(weight.numel() * res**2 for weight, res in sizes if weight is not None) / 1e6
    return f"a slice takes {million:,.0f} million multiplications, and {MOST} are the most" if million > MOST else ""


def named_directions(G: Generator, path: Path, model_hash: str, gauges: Mapping[str, Gauge] = GAUGES) -> dict[str, Tensor]:
    """Steps [w_dim] by what they move: three by PCA, and that of `groundtruth` where it held on fresh seeds: its result lies in
    ``groundtruth`` of a run folder, that of a shipped file in ``figures`` of the checkout."""
    found = find_directions(G, gauges, min(3, G.w_dim)) if style_weights(G) is not None else []
    steps = {f"PCA {one.number} ({one.name})": one.step for one in found}
    places = [path / "groundtruth"] if path.is_dir() else (path.parent.parent / "figures").glob("*/groundtruth")
    for result in filter(None, (read_json(place / "groundtruth.json") for place in places)):
        if result["model_hash"] == model_hash and "step" in result["direction"] and held_on_fresh_seeds(result["direction"]):
            steps["Ventricles"] = torch.tensor(result["direction"]["step"])
    return steps


# --- The generator as a list of layers -----------------------------------------------------------------------------------------


def pack(G: Generator, directions: Mapping[str, Tensor]) -> dict:
    """What `explorer.js` draws with: constant factors folded into the weights. Kernels and matrices of layers are halves, all
    else is exact: AdaIN enlarges the rounding of a start that hardly varies."""
    halves, floats = [], []

    def place(tensor: Tensor) -> dict[str, int]:
        """Add it to the halves, a vector to the floats, and say where it is there."""
        name, parts = ("half", halves) if tensor.ndim > 1 else ("float", floats)
        begin = sum(map(len, parts))
        parts.append(tensor.detach().flatten())
        return {name: begin, "size": tensor.numel()}

    steps = torch.cat([*directions.values()]) if directions else torch.zeros(0)
    centre, layers = G.mapping.w_avg.reshape(-1, G.w_dim), _layers(G)
    ws = torch.stack([styles(G, range(SEEDS), class_index=c)[:, 0] for c in (range(G.c_dim) if G.c_dim else [None])], dim=1)
    if _kind(G) == "dcgan":  # the matrix [C * 16, w_dim + 1] that makes the start of w
        first = G.synthesis.blocks[0]
        start = F.pad((first.conv.weight * _normalised(first.norm)[0][:, None, None]).flatten(1).t(), (0, 1))
    else:
        start = G.synthesis.blocks[0].const  # [C, 4, 4]
    found = {
        "resolution": G.synthesis.full, "channels": generate(G, [0]).shape[1], "num_ws": G.num_ws, "w_dim": G.w_dim,
        "centres": len(centre), "ws": ws.flatten(), "centre": centre.flatten(), "directions": steps,
        "dense": start.ndim == 2, "start": start.flatten(), "width": layers[0]["in"], "skip": _kind(G) == "stylegan2",
        "layers": layers,
    }  # fmt: skip
    found = json.loads(json.dumps(found, default=place))
    for name, parts, kind in (("halves", halves, torch.half), ("floats", floats, torch.float)):
        found[name] = base64.b64encode(torch.cat(parts).to(kind).numpy().tobytes()).decode()
    return found


def _kind(G: Generator) -> str:
    return type(G.synthesis.blocks[0]).__module__.rpartition(".")[2]


def _layers(G: Generator) -> list[dict]:
    found, w = [], 0
    for block in G.synthesis.blocks:
        found += {"stylegan2": _stylegan2, "stylegan1": _stylegan1, "dcgan": _dcgan}[_kind(G)](block, w)
        w += block.num_conv
    if _kind(G) == "stylegan1":  # those of lower resolutions are seen while it grows only
        torgb = G.synthesis.blocks[-1].torgb
        found[-1]["rgb"] = {"weight": torgb.weight * torgb.scale, "bias": torgb.bias, "style": None}
    return found


def _layer(R: int, weight: Tensor | None, bias: Tensor, w: int, **further: object) -> dict:
    """One layer; weight [out, in, k, k], None where there is none."""
    usual = {"up": None, "style": None, "noise": None, "strength": None, "adain": None, "rgb": None, "slope": 1.0, "gain": 1.0}
    sizes = {"in": len(bias) if weight is None else weight.shape[1], "out": len(bias), "R": R, "w": w}
    return {**usual, **sizes, "weight": weight, "bias": bias, **further}


def _linear(layer: torch.nn.Module, plus: float | Tensor = 0.0) -> Tensor:
    """An `EqualLinear` as one matrix [n, w_dim + 1]."""
    bias = layer.bias * layer.lr_multiplier + plus
    return torch.cat([layer.weight * layer.scale, bias[:, None]], dim=1)


def _noise(noise: torch.nn.Module, channels: int, gain: float = 1.0) -> dict:
    return {"noise": noise.fixed, "strength": (noise.strength.flatten() * noise.lr_multiplier * gain).expand(channels)}


def _stylegan2(block: torch.nn.Module, w: int) -> list[dict]:
    found = []
    for i, layer in enumerate([block.conv1] if block.is_first else [block.conv0, block.conv1]):
        conv, up = layer.conv, {"kernel": 3, "crop": 0, "taps": [0.25, 0.75, 0.75, 0.25]}  # of sum 2: the gain for the zeros
        found.append(_layer(
            block.resolution, conv.weight * conv.scale, layer.bias * GAIN, w + i, up=up if conv.up else None, gain=GAIN,
            style=_linear(conv.affine), slope=layer.slope, **_noise(layer.noise, len(layer.bias), GAIN),
        ))  # fmt: skip
    rgb = block.torgb
    style = _linear(rgb.conv.affine)
    found[-1]["rgb"] = {"weight": rgb.conv.weight * rgb.conv.scale, "bias": rgb.bias, "style": style, "w": w + len(found)}
    return found


def _stylegan1(block: torch.nn.Module, w: int) -> list[dict]:
    found = []
    for i, name in enumerate("01"):
        conv, styled = getattr(block, f"conv{name}", None), getattr(block, f"styled{name}")
        weight, up = None if conv is None else conv.weight * conv.scale, None
        if conv is not None and conv.up:
            weight, up = spread_kernel(weight.flip(2, 3)), {"kernel": 4, "crop": 1, "taps": [0.25, 0.5, 0.25]}
        channels = len(styled.bias)
        ones = torch.cat([torch.ones(channels), torch.zeros(channels)])  # AdaIN's factor is 1 + y_s
        found.append(_layer(
            block.resolution, weight, styled.bias, w + i, up=up, slope=styled.slope, adain=_linear(styled.adain.affine, ones),
            **_noise(styled.noise, channels),
        ))  # fmt: skip
    return found


def _dcgan(block: torch.nn.Module, w: int) -> list[dict]:
    up = {"kernel": 4, "crop": 1, "taps": [0.0, 1.0]}  # no filter
    if block.last:
        return [_layer(block.resolution, block.conv.weight.transpose(0, 1), block.conv.bias, w, up=up)]
    factor, shift = _normalised(block.norm)
    if block.is_first:
        return [_layer(block.resolution, None, shift, w, slope=0.0)]
    weight = block.conv.weight.transpose(0, 1) * factor[:, None, None, None]
    return [_layer(block.resolution, weight, shift, w, up=up, slope=0.0)]


def _normalised(norm: torch.nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(factor, addend) of each map after training: [C] each."""
    factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return factor, norm.bias - norm.running_mean * factor
