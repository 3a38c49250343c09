"""The files that ``python -m stylegan sample`` writes: pictures that say themselves what made them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stylegan import __version__, distributed, plots, predict
from stylegan.checkpoint import load_generator
from stylegan.files import write_json
from stylegan.networks import Generator, pick_device

NOTICE = "This is a synthetic image made by a generative network. It shows no real person and is not for diagnosis."
ON_GRID = 64  # seeds that grid.png shows at most
PSIS = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0)


@dataclass(frozen=True)
class Writer:
    """A loaded generator, the settings of one call, and the folder to write to."""

    G: Generator
    info: dict
    out: Path
    seeds: list[int]
    settings: dict  # keyword arguments of `predict.generate`, the class apart
    class_index: int | None

    @property
    def truncate(self) -> dict:
        """The settings without the noise, for pictures that choose their own."""
        return {key: value for key, value in self.settings.items() if key != "noise_mode"}

    def text(self, **fields: object) -> dict[str, str]:
        """The PNG text entries of one picture: that it is synthetic, and all that is needed to make it again."""
        label = "" if self.class_index is None else self.info["classes"][self.class_index]
        made = {"Software": f"stylegan {__version__}", "model_hash": self.info["model_hash"], "class": label}
        made |= self.settings | fields
        shown = {key: "" if value is None else str(value) for key, value in made.items()}
        return {"Description": NOTICE, "synthetic": "true"} | shown

    def picture(self, name: str, pixels: np.ndarray, **fields: object) -> Path:
        """Save uint8 [R, R] or [R, R, 3] as it is, one pixel for one pixel."""
        png = PngInfo()
        for key, value in self.text(**fields).items():
            png.add_text(key, value)
        Image.fromarray(pixels).save(self.out / name, pnginfo=png)
        return self.out / name

    def figure(self, name: str, figure: plots.Figure, seeds: Sequence[int], **fields: object) -> Path:
        png = self.text(seeds=",".join(map(str, seeds)), **fields)
        figure.savefig(self.out / name, metadata=png)
        return self.out / name

    def caption(self, seeds: Sequence[int], *rest: str) -> str:
        psi, cutoff = self.settings["truncation_psi"], self.settings["truncation_cutoff"]
        truncation = f"ψ = {psi:g}" + ("" if cutoff is None else f" in the first {cutoff} layers")
        label = [] if self.class_index is None else [self.info["classes"][self.class_index]]
        return " · ".join(
            ["synthetic", f"seeds {_ranges(seeds)}", truncation, *label, *rest, f"model {self.info['model_hash']}"]
        )


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
    """Write seed0000.png ... and grid.png into ``out``, and for each of ``extras`` its picture; returns what was written.

    path: a run folder or a .safetensors file. extras: names in `EXTRAS`. Without class_name a conditional G gives seed s
    the class s mod (number of classes). Raises ValueError for an unknown class or extra, FileNotFoundError without a generator.
    """
    extras, out = list(extras), Path(out)
    unknown = [name for name in extras if name not in EXTRAS]
    if unknown:
        raise ValueError(f"There is no extra picture {', '.join(unknown)}; choose of {', '.join(EXTRAS)}.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the pictures.")
    G, info = load_generator(path, pick_device(device))
    class_index = find_class(class_name, info.get("classes") or [], G.c_dim)
    if "classes" in extras and not G.c_dim:
        raise ValueError(f"{path} was trained without classes, so there is no class sweep to draw; leave 'classes' out.")
    settings = {"truncation_psi": truncation_psi, "truncation_cutoff": truncation_cutoff, "noise_mode": noise_mode}
    writer = Writer(G, info, out, [int(seed) for seed in seeds], settings, class_index)
    written = _write_seeds(writer)
    distributed.wait()
    if not distributed.is_main():  # which makes the sheets and the list of all
        return written
    written += [path for name in extras for path in EXTRAS[name](writer)]
    return [*written, _write_manifest(writer, written)]


def find_class(name: str | None, classes: Sequence[str], c_dim: int) -> int | None:
    """The index of a class by its name. Raises ValueError that names the classes, or says that there are none."""
    if name is None:
        return None
    if not c_dim:
        raise ValueError(f"This generator was trained without classes, so it cannot draw {name!r}; leave the class out.")
    if name not in classes:
        raise ValueError(f"There is no class {name!r}; this generator knows {', '.join(classes)}.")
    return list(classes).index(name)


# --- One function per picture ---------------------------------------------------------------------------------------------


def _write_seeds(w: Writer) -> list[Path]:
    """One file per seed, by all processes in turn, and the sheet, by the first: all names, whoever wrote them."""
    written, shown = [], w.seeds[:ON_GRID]
    for number, start in enumerate(range(0, len(w.seeds), ON_GRID)):
        block = w.seeds[start : start + ON_GRID]
        if number % distributed.world() != distributed.rank():
            written += [w.out / f"seed{seed:04d}.png" for seed in block]
            continue
        pixels = predict.to_uint8(predict.generate(w.G, block, class_index=w.class_index, **w.settings))
        labels = _labels(w, block)
        w.out.mkdir(parents=True, exist_ok=True)  # only once there is something to write
        for seed, slice_, label in zip(block, pixels, labels, strict=True):
            written.append(w.picture(f"seed{seed:04d}.png", slice_, seed=seed, **{"class": label}))
        if start == 0:
            sheet = plots.grid(pixels, caption=w.caption(shown), alt=f"Sheet of {len(shown)} synthetic slices.")
    return [*written, w.figure("grid.png", sheet, shown)] if distributed.is_main() else written


def _write_manifest(w: Writer, written: Sequence[Path]) -> Path:
    """What made each picture, for those who cannot see the entries inside the files."""
    model = {"model_hash": w.info["model_hash"], "kimg": w.info["cur_nimg"] / 1000, "data": w.info["data"].get("title", "")}
    pictures = {}
    for path in written:
        with Image.open(path) as picture:
            pictures[path.name] = {
                k: v for k, v in picture.info.items() if k in ("seed", "seeds", "truncation_psi", "class", "noise_mode")
            }
    write_json(w.out / "manifest.json", {"synthetic": True, "notice": NOTICE, **model, "pictures": pictures})
    return w.out / "manifest.json"


def _write_truncation(w: Writer) -> list[Path]:
    seeds, settings = w.seeds[:4], {k: v for k, v in w.settings.items() if k != "truncation_psi"}
    images = predict.truncation_sweep(w.G, seeds, PSIS, class_index=w.class_index, **settings)
    figure = plots.truncation(images, PSIS, seeds, caption=f"synthetic · model {w.info['model_hash']}")
    return [w.figure("truncation.png", figure, seeds, truncation_psi=PSIS)]


def _write_mixing(w: Writer) -> list[Path]:
    rows, cols = _first(w, 4), _first(w, 10)[4:]
    borders = [predict.generate(w.G, seeds, class_index=w.class_index, **w.truncate) for seeds in (rows, cols)]
    images = predict.style_mixing(w.G, rows, cols, class_index=w.class_index, **w.truncate)
    caption = w.caption([*rows, *cols], f"coarse: first {w.G.num_ws // 2} of {w.G.num_ws} layers")
    figure = plots.mixing_matrix(images, *borders, row_seeds=rows, col_seeds=cols, caption=caption)
    return [w.figure("mixing.png", figure, [*rows, *cols], noise_mode="const")]


def _write_interpolation(w: Writer) -> list[Path]:
    seeds, truncate = _first(w, 4), w.truncate
    walk = predict.interpolate(w.G, [*seeds, seeds[0]], 16, **truncate, class_index=w.class_index)
    pixels = plots.to_uint8(walk)
    frames = [Image.fromarray(x) for x in plots.enlarge(pixels[:-1], max(1, 256 // pixels.shape[1]))]
    gif = w.out / "interpolation.gif"
    comment = (
        f"{NOTICE} model_hash {w.info['model_hash']}, seeds {_ranges(seeds)}, truncation_psi {w.settings['truncation_psi']:g}"
    )
    frames[0].save(gif, save_all=True, append_images=frames[1:], duration=60, loop=0, comment=comment.encode())
    figure = plots.strip(pixels[:17:2], caption=w.caption(seeds[:2], "a straight line in w"))
    return [gif, w.figure("interpolation.png", figure, seeds[:2], noise_mode="const")]


def _write_noise(w: Writer) -> list[Path]:
    seed, psi = w.seeds[0], w.settings["truncation_psi"]
    result = predict.noise_deviation(w.G, seed, **w.truncate, class_index=w.class_index)
    title = f"Synthetic slice, seed {seed}, ψ = {psi:g}, 32 noise draws"
    figure = plots.deviation(result.mean, result.std, result.off, title=title)
    return [w.figure("noise.png", figure, [seed], noise_mode="none; random, 32 draws")]


def _write_classes(w: Writer) -> list[Path]:
    seeds, classes = w.seeds[:6], w.info["classes"]
    images = predict.class_sweep(w.G, seeds, **w.settings)
    figure = plots.classes_at_seed(images, classes, seeds, caption=w.caption(seeds, "the same z under each class"))
    return [w.figure("classes.png", figure, seeds, **{"class": ", ".join(classes)})]


EXTRAS = {
    "truncation": _write_truncation,  # truncation.png
    "mixing": _write_mixing,  # mixing.png
    "interpolation": _write_interpolation,  # interpolation.gif, interpolation.png
    "noise": _write_noise,  # noise.png
    "classes": _write_classes,  # classes.png
}


# --- Parts ------------------------------------------------------------------------------------------------------------------


def _first(w: Writer, n: int) -> list[int]:
    """The first n seeds; where fewer were asked for, the numbers after the last one."""
    return [*w.seeds, *range(max(w.seeds) + 1, max(w.seeds) + 1 + n)][:n]


def _labels(w: Writer, seeds: Sequence[int]) -> list[str]:
    """The class of each seed's picture, '' without classes."""
    classes = predict.choose_classes(w.G, w.class_index, seeds)
    return [""] * len(seeds) if classes is None else [w.info["classes"][i] for i in classes.tolist()]


def _ranges(seeds: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> '0-2, 5'."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1][1:] = [seed]
        else:
            runs.append([seed])
    return ", ".join("-".join(map(str, run)) for run in runs)
