"""From seeds to pictures: sampling, tools that look into the latent space, and the files that ``python -m stylegan sample`` writes.

Picture k depends on seed k alone: its z and its noise come from generators of its own, drawn on the CPU whatever the device is,
and the networks always see batches of `CHUNK` rows, because kernels choose their order of summation by the size of the batch.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan import __version__, distributed
from stylegan.checkpoint import load_generator
from stylegan.files import read_json, write_json
from stylegan.modules import NoiseInjection
from stylegan.networks import Generator, pick_device

CHUNK = 8  # rows that the networks see at once; the last chunk is filled up with its first row
Classes, Images = int | Sequence[int] | None, np.ndarray | Tensor


def to_uint8(images: Images) -> np.ndarray:
    """float [n, C, R, R] in [-1, 1] (clamped, rounded), or uint8 as it is -> uint8 [n, R, R], or [n, R, R, 3] for C = 3.
    The one rule from floats to grey levels: sheets, PNG files and scores see the same pixels."""
    images = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if images.dtype != np.uint8:
        images = np.rint((np.clip(images.astype(np.float64), -1, 1) + 1) * 127.5).astype(np.uint8)
    if images.ndim == 3:
        return images
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[-1] not in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"Slices have shape [n, R, R], [n, 1, R, R] or [n, 3, R, R], not {list(images.shape)}.")
    return images[..., 0] if images.shape[-1] == 1 else images


# --- From seeds to pictures ---------------------------------------------------------------------------------------------


def latents(seeds: Sequence[int], z_dim: int) -> Tensor:
    """One standard normal z per seed: [n, z_dim] on the CPU. Row k depends on seed k alone."""
    return torch.stack([torch.randn(z_dim, generator=torch.Generator().manual_seed(seed)) for seed in _checked(seeds)])


def choose_classes(G: Generator, class_index: Classes, seeds: Sequence[int]) -> Tensor | None:
    """The class of each seed, int64 [n]: class_index, one for all or one per seed, else s mod c_dim for seed s; None for a
    generator without classes. ValueError for classes that G does not know."""
    if not G.c_dim:
        if class_index is not None:
            raise ValueError("This generator was trained without classes: leave class_index out.")
        return None
    if class_index is None:
        return torch.tensor([int(seed) % G.c_dim for seed in seeds])
    classes = np.full(len(seeds), class_index) if np.ndim(class_index) == 0 else np.asarray(class_index, np.int64)
    if len(classes) != len(seeds) or classes.min() < 0 or classes.max() >= G.c_dim:
        raise ValueError(f"class_index must be a class from 0 to {G.c_dim - 1}, or one for each of the {len(seeds)} seeds.")
    return torch.tensor(classes)


def styles(
    G: Generator, seeds: Sequence[int], *, truncation_psi=1.0, truncation_cutoff: int | None = None, class_index: Classes = None
) -> Tensor:
    """The truncated style vectors (StyleGAN1, appendix B) of seeds and classes (`choose_classes`): ws [n, num_ws, w_dim] on the CPU."""
    classes = choose_classes(G, class_index, seeds)
    inputs = [latents(seeds, G.z_dim), *([] if classes is None else [F.one_hot(classes, G.c_dim).float()])]
    return _in_chunks(G, lambda z, *c: G.mapping(z, *(c or [None]), truncation_psi, truncation_cutoff), inputs)


def synthesize(G: Generator, ws: Tensor, *, noise_mode: str = "const", noise: list[Tensor] | None = None) -> Tensor:
    """ws [n, num_ws, w_dim] -> pictures [n, C, R, R], float32 on the CPU, about in [-1, 1], not clamped. noise_mode 'const' |
    'none', or ``noise``: one [n, 1, H, W] for each convolution, as `seed_noise` draws."""
    return _in_chunks(G, lambda ws, *maps: G.synthesis(ws, noise_mode, list(maps) or None), [ws, *(noise or [])])


def seed_noise(G: Generator, seeds: Sequence[int], draw: int = 0) -> list[Tensor]:
    """Noise maps for noise_mode 'random', one [n, 1, H, W] for each convolution; row k depends on (seed k, draw) alone."""
    sizes = [block.resolution for block in G.synthesis.blocks for _ in range(block.num_conv)]
    states = [int(np.random.SeedSequence([seed, draw]).generate_state(1)[0]) for seed in _checked(seeds)]
    streams = [torch.Generator().manual_seed(state) for state in states]
    rows = [[torch.randn(1, size, size, generator=stream) for size in sizes] for stream in streams]
    return [torch.stack(maps) for maps in zip(*rows, strict=True)]


def generate(G: Generator, seeds: Sequence[int], *, noise_mode: str = "const", **kwargs) -> Tensor:
    """Pictures of these seeds: [n, C, R, R], float32 on the CPU, about in [-1, 1], not clamped (`to_uint8` clamps).

    noise_mode: 'const', 'random' (drawn from the seed) or 'none'; kwargs as in `styles`. The same seed gives the same picture bit for
    bit in any company. Raises ValueError for a seed outside 0 .. 2**32 - 1, an unknown noise_mode or a class that G does not know.
    """
    ws = styles(G, seeds, **kwargs)
    if noise_mode != "random":
        return synthesize(G, ws, noise_mode=noise_mode)
    starts = range(0, len(ws), CHUNK)  # noise maps are larger than pictures: drawn chunk by chunk
    return torch.cat([synthesize(G, ws[i : i + CHUNK], noise=seed_noise(G, seeds[i : i + CHUNK])) for i in starts])


def parse_seeds(text: str) -> list[int]:
    """'0-63' or '1,5,7-9' -> the seeds, ends included. Raises ValueError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + 1_000_000:
            raise ValueError(f"{text!r} is not a list of seeds (of at most a million); write for example 0-63 or 1,5,7-9.")
        seeds += range(first, last + 1)
    return _checked(seeds)


def _checked(seeds: Sequence[int]) -> list[int]:
    seeds = [int(seed) for seed in seeds]
    wrong = [seed for seed in seeds if not 0 <= seed < 2**32]  # torch's CPU generator would take them modulo 2**32
    if wrong or not seeds:
        raise ValueError(f"Seeds are whole numbers from 0 to 4294967295, at least one; got {wrong[:3] or 'none'}.")
    return seeds


def _in_chunks(G: Generator, step: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """step(rows of each input [n, ...]) chunk by chunk in G's evaluation mode, joined on the CPU [n, ...] as float32."""
    found = []
    with sampling(G) as device:
        for chunk in zip(*(x.split(CHUNK) for x in inputs), strict=True):
            rows = len(chunk[0])
            full = [torch.cat([x, x[:1].expand(CHUNK - rows, *x.shape[1:])]).to(device) for x in chunk]
            found.append(step(*full)[:rows].float().cpu())
    return torch.cat(found)


def has_noise(G: Generator) -> bool:
    """Whether noise changes the pictures at all."""
    return any(bool(m.strength.any() and m.lr_multiplier) for m in G.modules() if isinstance(m, NoiseInjection))


@contextmanager
def sampling(G: torch.nn.Module) -> Iterator[torch.device]:
    """Evaluation mode without gradients, on the device where the network is; leaves it as it was found."""
    modes = [(module, module.training) for module in G.modules()]
    try:
        G.eval()
        with torch.no_grad():
            yield next(G.parameters()).device
    finally:
        for module, training in modes:
            module.training = training


# --- Tools of the latent space ------------------------------------------------------------------------------------------


def truncation_sweep(G: Generator, seeds: Sequence[int], psis: Sequence[float], **kwargs) -> Tensor:
    """Each seed at each psi: [n, len(psis), C, R, R]. At psi = 0 all show the average w, at psi = 1 nothing is truncated."""
    return torch.stack([generate(G, seeds, **{**kwargs, "truncation_psi": psi}) for psi in psis], dim=1)


def class_sweep(G: Generator, seeds: Sequence[int], classes: Sequence[int] | None = None, **kwargs) -> Tensor:
    """Each seed's z and noise under every class, or under these: [n, classes, C, R, R]. ValueError for a generator without classes."""
    if not G.c_dim:
        raise ValueError("This generator was trained without classes: there is none to sweep; train with --conditional class.")
    sweep = [generate(G, seeds, **{**kwargs, "class_index": index}) for index in classes or range(G.c_dim)]
    return torch.stack(sweep, dim=1)


def style_mixing(G: Generator, rows: Sequence[int], cols: Sequence[int], crossover: int | None = None, **kwargs) -> Tensor:
    """[rows, cols, C, R, R] (StyleGAN1, section 3.1): picture [i, j] takes its first ``crossover`` ws (coarse; None: half) from
    seed rows[i], the rest (fine) from cols[j]. kwargs as in `styles`. ValueError for a crossover outside 0 .. num_ws."""
    crossover = G.num_ws // 2 if crossover is None else crossover
    if not 0 <= crossover <= G.num_ws:
        raise ValueError(f"crossover is {crossover}; this generator has {G.num_ws} style vectors, take 0 to {G.num_ws}.")
    coarse, fine = (styles(G, seeds, **kwargs) for seeds in (rows, cols))
    shape = len(coarse), len(fine), -1, G.w_dim
    ws = torch.cat([coarse[:, None, :crossover].expand(shape), fine[None, :, crossover:].expand(shape)], dim=2)
    return synthesize(G, ws.flatten(0, 1)).unflatten(0, shape[:2])


def interpolate(G: Generator, seeds: Sequence[int], frames: int = 16, **kwargs) -> Tensor:
    """A walk in straight lines of W from seed to seed, the noise fixed: [(len(seeds) - 1) * frames + 1, C, R, R], of which
    every ``frames``-th is a seed's own. kwargs as in `styles`. ValueError for fewer than two seeds."""
    if len(seeds) < 2 or frames < 1:
        raise ValueError(f"An interpolation needs at least two seeds and one frame, not {len(seeds)} and {frames}.")
    ws = styles(G, seeds, **kwargs)
    steps = [torch.lerp(a, b, i / frames) for a, b in itertools.pairwise(ws) for i in range(frames)]
    return synthesize(G, torch.stack([*steps, ws[-1]]))


def noise_deviation(G: Generator, seed: int, draws: int = 32, **kwargs) -> tuple[Tensor, Tensor, Tensor]:
    """(picture without noise, mean and pixel-wise standard deviation over ``draws`` fresh noise maps) of one w, each [C, R, R],
    clamped to [-1, 1]: below black nothing is seen to vary (StyleGAN1, section 3.2 and figure 4). kwargs as in `styles`."""
    ws = styles(G, [seed], **kwargs)
    noise = [torch.cat(maps) for maps in zip(*(seed_noise(G, [seed], draw) for draw in range(draws)), strict=True)]
    pictures = synthesize(G, ws.expand(draws, -1, -1), noise=noise).clamp(-1, 1).double()  # equal ones deviate by exactly 0
    return synthesize(G, ws, noise_mode="none")[0], pictures.mean(dim=0).float(), pictures.std(dim=0, correction=0).float()


# --- The files of `sample` ----------------------------------------------------------------------------------------------
NOTICE = "This is a synthetic image made by a generative network. It shows no real person and is not for diagnosis."
BLOCK = 64  # seeds that a process draws at once


def sample(
    path: str | Path,
    out: str | Path,
    *,
    seeds: Sequence[int],
    truncation_psi: float = 0.7,
    truncation_cutoff: int | None = None,
    noise_mode: str = "const",
    class_name: str | None = None,
    device: str = "auto",
    extras: Iterable[str] = (),
) -> list[Path]:
    """Write seed0000.png ... and grid.png into ``out``, and for each of ``extras`` (`latent.EXTRAS`, explorer) its file; returns the paths.

    path: run folder or .safetensors file. Without class_name a conditional G gives seed s the class s mod (number of classes).
    Raises ValueError for an unknown class or an extra that the generator has not, FileNotFoundError without a generator.
    """
    from stylegan import latent, plots  # only where pictures are laid out: sampling needs no matplotlib
    from stylegan.reporting import explorer

    extras, out, seeds, known = list(extras), Path(out), _checked(seeds), (*latent.EXTRAS, "explorer")
    if unknown := [name for name in extras if name not in known]:
        raise ValueError(f"There is no extra picture {', '.join(unknown)}; choose of {', '.join(known)}.")
    if not np.isfinite(truncation_psi) or (truncation_cutoff or 0) < 0:
        raise ValueError(f"psi {truncation_psi}, cutoff {truncation_cutoff}: take a finite psi, a cutoff of 0 layers or more.")
    G, info, kind = _load(path, device, extras, class_name)
    settings = dict(truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff, noise_mode=noise_mode, class_index=kind)
    if (there := read_json(out / "manifest.json") or {}).get("model_hash", info["model_hash"]) != info["model_hash"]:
        print(f"Note: {out} also holds pictures of another generator, {there['model_hash']}; what is not drawn anew stays.")
    texts = {f"seed{seed:04d}.png": png_text(info, settings, seed=seed) for seed in seeds}
    for start in range(0, len(seeds), BLOCK)[distributed.rank() :: distributed.world()]:
        block = seeds[start : start + BLOCK]
        drawn = to_uint8(generate(G, block, **settings))
        out.mkdir(parents=True, exist_ok=True)  # only once there is something to write
        for seed, pixels in zip(block, drawn, strict=True):
            plots.save(out / f"seed{seed:04d}.png", pixels, texts[f"seed{seed:04d}.png"])
    distributed.wait()
    if not distributed.is_main():  # the first process makes the sheets and the list of all
        return [out / file for file in texts]
    for name in ("grid", *(name for name in extras if name != "explorer")):
        for file, (picture, shown, fields) in latent.sheets(name, G, info, seeds, settings).items():
            texts[file] = png_text(info, settings, seeds=",".join(map(str, shown)), **fields)
            plots.save(out / file, picture, texts[file])
    told = ("seed", "seeds", "truncation_psi", "class", "noise_mode")  # for those who cannot see the entries inside the files
    pictures = {file: {key: text[key] for key in told if key in text} for file, text in texts.items()}
    model = {"model_hash": info["model_hash"], "kimg": info["cur_nimg"] / 1000, "data": info["data"].get("title", "")}
    write_json(out / "manifest.json", {"synthetic": True, "notice": NOTICE, **model, "pictures": pictures})
    written = [out / file for file in (*texts, "manifest.json")]
    return [*written, explorer.write(path, out)] if "explorer" in extras else written


def _load(path: str | Path, device: str, extras: list[str], class_name: str | None) -> tuple[Generator, dict, int | None]:
    """(G, info, number of the class asked for). ValueError where G lacks what an extra needs, or does not know the class."""
    G, info = load_generator(path, pick_device(device))
    classes = info["classes"] = list(info.get("classes") or [])[: G.c_dim]  # none for a generator that is not told them
    needs = {"classes": (G.c_dim, "classes"), "mixing": (G.num_ws > 1, "a style for each layer"),
             "noise": (has_noise(G), "noise that changes pictures")}  # fmt: skip
    for name in extras:
        there, what = needs.get(name, (True, ""))
        if not there:
            raise ValueError(f"{path} was trained without {what}, so there is nothing to draw; leave {name!r} out.")
    if class_name is not None and class_name not in classes:
        knows = f"knows {', '.join(classes)}" if classes else "was trained without classes"
        raise ValueError(f"There is no class {class_name!r} to draw: this generator {knows}.")
    return G, info, None if class_name is None else classes.index(class_name)


def png_text(info: dict, settings: dict, **fields: object) -> dict[str, str]:
    """The PNG text entries of a picture of one ``seed`` or several ``seeds``: that it is synthetic, and what it takes to make it again."""
    made = {"Software": f"stylegan {__version__}", "model_hash": info["model_hash"], **settings}
    made = {**made, "class": _class_name(info, settings, fields.get("seed")), **fields}
    told = {key: "" if value is None else str(value) for key, value in made.items() if key != "class_index"}
    return {"Description": NOTICE, "synthetic": "true", **told}


def _class_name(info: dict, settings: dict, seed: int | None = None) -> str:
    """The class that was asked for, else that of one seed (see `choose_classes`); '' where there is not one."""
    classes, index = info["classes"], settings["class_index"]
    if index is None and (seed is None or not classes):
        return ""
    return classes[seed % len(classes) if index is None else index]


def caption(info: dict, settings: dict, seeds: Sequence[int], *rest: str) -> str:
    """The line under a sheet: which seeds, truncation and class, and of which model."""
    cutoff, label = settings["truncation_cutoff"], _class_name(info, settings)
    truncation = f"ψ = {settings['truncation_psi']:g}" + ("" if cutoff is None else f" in the first {cutoff} layers")
    runs = [[seed for _, seed in run] for _, run in itertools.groupby(enumerate(seeds), lambda pair: pair[1] - pair[0])]
    shown = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)  # [0, 1, 2, 5]: 0-2, 5
    return " · ".join(filter(None, ["synthetic", f"seeds {shown}", truncation, label, *rest, f"model {info['model_hash']}"]))
