"""Saving and loading. Everything is safetensors and JSON: nothing is ever unpickled, so a stranger's file cannot run code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from stylegan import __version__, distributed
from stylegan.config import Config, differences
from stylegan.files import read_json, replacing
from stylegan.networks import Discriminator, Generator, set_stage
from stylegan.stylegan1 import stage

if TYPE_CHECKING:
    from stylegan.train import TrainingState

FORMAT = 1
BEST_OF_TICKS = "checkpoints/best.safetensors"  # the best generator when the clock stopped the run
SCALERS = ("scaler_G", "scaler_D")
PROGRESS = {"augment_p": float, "cur_nimg": int, "step": int, "best_kid": float | None, "seconds": float}  # of a state
INFO = {"config": dict, "classes": list, "train_subjects": list, "data": dict, "cur_nimg": int, "model_hash": str}


class NewerFormatError(ValueError):
    """This package is too old for the file."""


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write named tensors and a JSON header into one safetensors file, whole or not at all."""
    header = json.dumps({"format": FORMAT, "stylegan": __version__, **header})
    payload = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"stylegan": header})
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())  # the name must not reach the disk before the content


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, header) of a file written by `save_tensors`; anything else is refused with a ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("stylegan", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        kind = f"not a whole .safetensors file ({error})"
        if path.suffix in (".pkl", ".pt", ".pth"):
            kind = f"a pickle ({path.suffix}), as NVIDIA and others save StyleGANs, which can run any code"
        raise ValueError(f"{path} is {kind}; other formats are never opened.") from error
    if not isinstance(header, dict) or not isinstance(header.get("format", 0), int):
        raise ValueError(f"{path} was not written by this package: its header has no 'stylegan' entry with a format.")
    if header.get("format", 0) > FORMAT:
        raise NewerFormatError(f"{path} has format {header['format']}, newer than this package reads ({FORMAT}); update it.")
    return tensors, header


def _refuse_misfit(own: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    """ValueError unless the tensors of a file have the names and shapes of our own."""
    wrong = sorted(set(own) ^ set(tensors)) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise ValueError(f"{path} does not fit this network ({len(wrong)} tensors differ, first {wrong[0]}); use its config.")


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """First 16 hex digits of a sha256 over names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


# --- Networks ---------------------------------------------------------------------------------------------------------------------


def save_generator(path: Path, G: Generator, info: dict, *, half: bool = False) -> None:
    """Write G (the averaged one); ``half`` stores fp16. ``info``: config, classes, train_subjects, data, cur_nimg."""
    tensors = {k: v.half() if half and v.is_floating_point() else v for k, v in G.state_dict().items()}
    save_tensors(path, tensors, {**info, "model_hash": tensor_hash(tensors)})


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> tuple[Generator, dict]:
    """(G in eval mode, info) from a run folder, which gives its best generator, or a .safetensors file. info: as in `INFO`; where
    the slices of a run lie is as its config.json says, as they may have been moved since."""
    path, known = Path(path), {}
    if path.is_dir():
        path, known = path / "generator.safetensors", read_settings(path) or {}
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} holds no generator.safetensors yet; train there or name a file.")
    tensors, info = load_tensors(path)
    info |= {"data": known["data"]} if known else {}
    if any(name.startswith("G_ema.") for name in tensors):
        raise ValueError(f"{path} is a checkpoint to resume from; name its run folder.")
    if "config" not in info:
        raise ValueError(f"{path} holds no generator; name the run folder or its generator.safetensors.")
    return _load_network(Generator, tensors, info, path, device), info


def load_discriminator(run: str | Path, device: str | torch.device = "cpu") -> tuple[Discriminator, Config]:
    """(D in eval mode, config) of the newest checkpoint of a run. FileNotFoundError where there is none."""
    files = checkpoints(Path(run))
    if not files:
        raise FileNotFoundError(f"{run} holds no checkpoint, and only those keep the discriminator; name a run folder.")
    tensors, header = load_tensors(files[-1])
    tensors = {name.removeprefix("D."): value for name, value in tensors.items() if name.startswith("D.")}
    return _load_network(Discriminator, tensors, header, files[-1], device), Config.from_dict(header["config"])


def _load_network(kind: type[nn.Module], tensors: dict[str, Tensor], info: dict, path: Path, device: str | torch.device):
    """A network of the config in a file's header with these weights, at its stage of growing, in eval mode."""
    wrong = [name for name, form in INFO.items() if name in info and not isinstance(info[name], form)]
    words = [*info.get("classes", ()), *info.get("train_subjects", ())] if not wrong else []
    if wrong or not all(isinstance(word, str) for word in words) or not 0 <= info.get("cur_nimg", 0):
        named = ", ".join(wrong) or "classes, train_subjects or cur_nimg"
        raise ValueError(f"{path} is damaged: {named} in its header is no such thing.")
    config = Config.from_dict(info.get("config", {}))
    widest = max(config.channels(4), config.z_dim, config.w_dim, config.c_dim, config.img_resolution)
    fits = widest**2 * max(config.mapping_layers, 9) <= sum(value.numel() for value in tensors.values())
    try:  # a header can claim any size: compare shapes before memory is taken (torch's way to do so takes two seconds to import)
        if config.mapping_layers > len(tensors):
            raise ValueError(f"it claims {config.mapping_layers} mapping layers")
        with contextlib.nullcontext() if fits else torch.device("meta"):
            net = kind(config)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} does not fit this network ({str(error).splitlines()[0]}).") from error
    _refuse_misfit(net.state_dict(), tensors, path)
    if not all(value.isfinite().all() for value in tensors.values()):
        raise ValueError(f"{path} holds weights that are not finite; take another one.")
    net = (net if fits else kind(config)).to(memory_format=torch.channels_last)
    net.load_state_dict(tensors)
    set_stage(stage(config, info.get("cur_nimg", 0)), net)
    return net.eval().requires_grad_(False).to(device)


# --- The text files of a run folder -------------------------------------------------------------------------------------------------


def read_settings(run_dir: str | Path) -> dict | None:
    """What config.json says (config, data, classes), None where it is missing or no JSON. ValueError where it says it wrongly."""
    path = Path(run_dir) / "config.json"
    known = read_json(path)
    needed = () if known is None else ("config", "data", "classes")
    wrong = [name for name in needed if not isinstance(known.get(name), INFO[name])]
    if wrong:
        raise ValueError(f"{path} is damaged ({', '.join(wrong)}); copy the run folder again or take a new one.")
    return known


def read_metrics(run_dir: str | Path) -> list[dict]:
    """The whole lines of metrics.jsonl, one dictionary per tick. FileNotFoundError where nothing was trained yet."""
    path = Path(run_dir) / "metrics.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{run_dir} holds no metrics.jsonl; train there: python -m stylegan train --run-dir {run_dir}")
    found, damaged = [{"cur_nimg": 0}], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            entry = json.loads(line)
            right = line.endswith("\n") and isinstance(entry["kimg"], float) and entry["cur_nimg"] > found[-1]["cur_nimg"]
        except (ValueError, RecursionError, KeyError, TypeError):
            right = False
        found += [entry] if right else []
        damaged += not right and line.endswith("\n")  # one cut short at the end is what a kill leaves
    if damaged:
        print(f"{path}: {damaged} damaged line{'s'[: damaged != 1]} dropped.")
    return found[1:]


# --- The state of a run -----------------------------------------------------------------------------------------------------------


def flatten(state: TrainingState) -> dict[str, Tensor]:
    """All tensors that a run depends on, by name: the networks, the averages of the optimisers, and what is counted."""
    found = {f"{name}.{k}": v for name in ("G", "D", "G_ema") for k, v in getattr(state, name).state_dict().items()}
    for name in ("opt_G", "opt_D"):
        slots = getattr(state, name).state_dict()["state"]
        found |= {f"{name}.{index}.{k}": v for index, slot in slots.items() for k, v in slot.items()}
    if state.config.participation_weight:  # checkpoints from before it hold no such tensor
        found["sharing"] = state.sharing
    return found | {"pl_mean": state.pl_mean, "signs": state.signs} | {f"sums.{k}": v for k, v in state.log.sums.items()}


def save_state(state: TrainingState, run_dir: Path) -> None:
    """Write a checkpoint, and remove all but the newest ``keep_checkpoints``."""
    header = {**{k: getattr(state, k) for k in PROGRESS}, **{k: getattr(state, k).state_dict() for k in SCALERS}}
    path = run_dir / "checkpoints" / f"{state.cur_nimg:09d}.safetensors"
    save_tensors(path, flatten(state), {**header, "config": state.config.to_dict()})
    for old in checkpoints(run_dir)[: -state.config.keep_checkpoints]:
        old.unlink()


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint files, oldest first."""
    return sorted((Path(run_dir) / "checkpoints").glob("[0-9]*.safetensors"))


def load_checkpoint(state: TrainingState, path: Path) -> None:
    """Fill the state from one checkpoint. ValueError, and the state as it was, for one that is not of this run."""
    tensors, header = load_tensors(path)
    _refuse_other_run(state, header, path)
    own = {name: tensor for name, tensor in flatten(state).items() if not name.startswith("sums.")}
    own |= {name: torch.zeros(2, dtype=torch.float64, device=state.device) for name in tensors if name.startswith("sums.")}
    if state.config.grow_from:  # older files lack the averages of layers that no step had reached yet
        tensors = {k: torch.zeros_like(v) for k, v in own.items() if k.startswith("opt_")} | tensors
    _refuse_misfit(own, tensors, path)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    state.log.sums = {name.removeprefix("sums."): pair for name, pair in own.items() if name.startswith("sums.")}
    for name in PROGRESS:
        setattr(state, name, header[name])
    for name in SCALERS:
        if header.get(name):
            getattr(state, name).load_state_dict(header[name])
    if not distributed.is_main():  # what was counted so far is the main process's
        state.log.clear()
        state.signs.zero_()
    set_stage(state.now, state.G, state.D, state.G_ema)


def resume(state: TrainingState, run_dir: Path) -> None:
    """Load the newest readable checkpoint, if there is any, and cut metrics.jsonl and the best generator back to it."""
    metrics, unreadable = run_dir / "metrics.jsonl", []
    for path in reversed(checkpoints(run_dir)):
        try:
            load_checkpoint(state, path)
            print(f"Resuming {run_dir} at {state.cur_nimg / 1000:g} kimg.")
            break
        except NewerFormatError:  # the run is further than this package can follow; going back would lose what was trained
            raise
        except (ValueError, FileNotFoundError) as error:
            print(f"{error} Going back to the checkpoint before it.")
            unreadable.append(path)
    else:
        if unreadable:
            raise ValueError(f"No checkpoint in {run_dir} can be read; take a new --run-dir, or remove them to start again.")
        if (run_dir / "generator_last.safetensors").is_file():  # saved with a checkpoint, so there was one
            raise ValueError(f"{run_dir} was trained, its checkpoints are gone; take a new --run-dir or remove this one.")
    if not distributed.is_main():
        return
    for path in unreadable:  # they must not count as the newest once the run has gone on
        path.rename(path.with_suffix(".unreadable"))
    _take_back_best(state, run_dir)
    if metrics.exists() or metrics.is_symlink():  # drop the ticks that will be run and written again, and the line of a stop
        lines = read_metrics(run_dir) if metrics.is_file() else []
        kept = [json.dumps(line) + "\n" for line in lines if line["cur_nimg"] <= state.cur_nimg and not line.get("stopped")]
        with replacing(metrics) as temporary:  # a new file, also where a link led elsewhere
            temporary.write_text("".join(kept), encoding="utf-8")


def _take_back_best(state: TrainingState, run_dir: Path) -> None:
    """The best generator is that of the ticks, and where somebody removed it the last one, as if none had been scored."""
    best, last = run_dir / "generator.safetensors", run_dir / "generator_last.safetensors"
    if (run_dir / BEST_OF_TICKS).is_file():
        os.replace(run_dir / BEST_OF_TICKS, best)
    if not best.exists() and last.is_file():
        state.best_kid = None
        with replacing(best) as temporary:
            shutil.copyfile(last, temporary)


def _refuse_other_run(state: TrainingState, header: dict, path: Path) -> None:
    """Refuse a checkpoint that another config has made, or whose progress is no progress."""
    known = header.get("config")
    if changed := differences(known, state.config) if isinstance(known, dict) else ["config (none there)"]:
        raise ValueError(f"{path} was made with another config: {', '.join(changed)}.")
    wrong = [name for name, kind in PROGRESS.items() if name not in header or not isinstance(header[name], kind)]
    wrong += [name for name in PROGRESS if name not in (*wrong, "best_kid") and not 0 <= header[name] < math.inf]
    for name in SCALERS:  # checkpoints of fp32 and older ones keep nothing of them
        stated, own = header.get(name) or {}, getattr(state, name).state_dict()
        wrong += [name] if not isinstance(stated, dict) or (stated and own.keys() - stated.keys()) else []
    if wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} missing or not what a checkpoint holds.")
