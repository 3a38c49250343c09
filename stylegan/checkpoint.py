"""Saving and loading. Everything is safetensors and JSON: nothing is ever unpickled, so a stranger's file cannot run code."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stylegan import __version__
from stylegan.cache import replacing
from stylegan.config import Config, differences
from stylegan.networks import Generator, grow_to

if TYPE_CHECKING:
    from stylegan.state import TrainingState

FORMAT = 1
SCALERS = ("scaler_G", "scaler_D")
PROGRESS = {"augment_p": float, "cur_nimg": int, "step": int, "best_kid": float | None, "seconds": float}  # of a state
SLOTS = {"step", "exp_avg", "exp_avg_sq"}  # what Adam keeps for each parameter
INFO = {"config": dict, "classes": list, "train_subjects": list, "data": dict, "cur_nimg": int, "model_hash": str}


class NewerFormatError(ValueError):
    """The file is whole; it is this package that is too old for it."""


# --- Tensors with a JSON header ---------------------------------------------------------------------------------------------------


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write named tensors and a JSON header into one safetensors file, whole or not at all."""
    header = {"format": FORMAT, "stylegan": __version__, **header}
    payload = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"stylegan": json.dumps(header)})
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())  # the name must not reach the disk before the content


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, header) of a file written by `save_tensors`; anything else is refused with a ValueError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("stylegan", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is not a whole .safetensors file ({error}); other formats are never opened.") from error
    if not isinstance(header, dict) or not isinstance(header.get("format", 0), int):
        raise ValueError(f"{path} was not written by this package: its header has no 'stylegan' entry with a format.")
    if header.get("format", 0) > FORMAT:
        raise NewerFormatError(
            f"{path} has format {header['format']}, newer than this package reads ({FORMAT}); update the package."
        )
    return tensors, header


# --- Networks ---------------------------------------------------------------------------------------------------------------------


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """First 16 hex digits of a sha256 over names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def save_generator(path: Path, G: Generator, info: dict, *, half: bool = False) -> None:
    """Write G (the averaged one) with a header that says what it is; ``half`` stores fp16.

    ``info``: config, classes, train_subjects, data, cur_nimg; the model hash is added.
    """
    tensors = {k: (v.half() if half and v.is_floating_point() else v).contiguous() for k, v in G.state_dict().items()}
    save_tensors(path, tensors, {**info, "model_hash": tensor_hash(tensors)})


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> tuple[Generator, dict]:
    """(G in eval mode, info) from a run folder or a .safetensors file.

    info: config, classes, train_subjects, data, cur_nimg, model_hash. A run folder gives its best generator.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "generator.safetensors"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path.parent} holds no generator.safetensors yet; train there first or name a .safetensors file."
            )
    tensors, info = load_tensors(path)
    config = _stated_config(info, path)
    _refuse_false_claims(config, tensors, path)
    G = Generator(config).to(memory_format=torch.channels_last)
    load_state(G, {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, path)
    shown = info.get("cur_nimg", 0)
    if not isinstance(shown, int) or shown < 0:
        raise ValueError(f"{path} says that {shown!r} slices were shown; take another generator.")
    grow_to(config, shown, G)
    return G.eval().requires_grad_(False).to(device), info


def _stated_config(info: dict, path: Path) -> Config:
    """The config in a generator's header, whose entries must be of their types: everything after this relies on them."""
    if "config" not in info:
        raise ValueError(f"{path} holds no generator; name the run folder or its generator.safetensors.")
    wrong = [name for name, kind in INFO.items() if name in info and not isinstance(info[name], kind)]
    words = [*info.get("classes", ()), *info.get("train_subjects", ())] if not wrong else []
    if wrong or not all(isinstance(word, str) for word in words):
        raise ValueError(
            f"{path} is damaged: {', '.join(wrong) or 'classes or train_subjects'} in its header is no such thing."
        )
    return Config.from_dict(info["config"])


def _refuse_false_claims(config: Config, tensors: dict[str, Tensor], path: Path) -> None:
    """Compare shapes before memory is taken for them: a header can claim any size. Weights that are no numbers draw nothing."""
    try:
        if config.mapping_layers > len(tensors):
            raise ValueError(f"it claims {config.mapping_layers} mapping layers")
        with torch.device("meta"):
            own = Generator(config).state_dict()
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} does not fit this architecture ({str(error).splitlines()[0]}).") from error
    _refuse_misfit(own, tensors, path)
    if not all(value.isfinite().all() for value in tensors.values()):
        raise ValueError(f"{path} holds weights that are not finite; take another generator.")


def _refuse_misfit(own: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    wrong = sorted(set(own) ^ set(tensors)) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise ValueError(
            f"{path} does not fit this architecture ({len(wrong)} tensors differ, first {wrong[0]}); use its own config."
        )


def load_state(net: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """`load_state_dict` with one sentence when the file was made by another architecture."""
    _refuse_misfit(net.state_dict(), tensors, path)
    net.load_state_dict(tensors)


# --- The state of a run ------------------------------------------------------------------------------------------------------------------


def save_state(state: TrainingState, run_dir: Path) -> Path:
    """Write one checkpoint with everything a resumed run needs, and remove all but the newest ``keep_checkpoints``."""
    tensors = {f"{name}.{k}": v for name in ("G", "D", "G_ema") for k, v in getattr(state, name).state_dict().items()}
    for name in ("opt_G", "opt_D"):
        slots = getattr(state, name).state_dict()["state"]
        tensors |= {f"{name}.{index}.{k}": v for index, slot in slots.items() for k, v in slot.items()}
    tensors |= {"pl_mean": state.pl_mean, "signs": state.signs, **{f"sums.{k}": v for k, v in state.sums.items()}}
    scalers = {name: getattr(state, name).state_dict() for name in SCALERS}
    scalars = {k: getattr(state, k) for k in PROGRESS}
    path = run_dir / "checkpoints" / f"{state.cur_nimg:09d}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_tensors(path, tensors, {**scalars, **scalers, "config": asdict(state.config)})
    for old in checkpoints(run_dir)[: -state.config.keep_checkpoints]:
        old.unlink()
    return path


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint files, oldest first."""
    return sorted((Path(run_dir) / "checkpoints").glob("[0-9]*.safetensors"))


def load_checkpoint(state: TrainingState, path: Path) -> None:
    """Fill the state from one checkpoint. Raises ValueError, perhaps with the state half filled, for one that is not of this run."""
    tensors, header = load_tensors(path)
    _refuse_other_run(state, tensors, header, path)
    for name in ("G", "D", "G_ema"):
        load_state(getattr(state, name), _below(tensors, name), path)
    for name in ("opt_G", "opt_D"):
        _load_optimizer(getattr(state, name), _below(tensors, name), path)
    state.pl_mean, state.signs = (tensors[k].to(state.device) for k in ("pl_mean", "signs"))
    state.sums = {k: v.to(state.device) for k, v in _below(tensors, "sums").items()}
    for name in PROGRESS:
        setattr(state, name, header[name])
    grow_to(state.config, state.cur_nimg, state.G, state.D, state.G_ema)
    for name in SCALERS:
        if header.get(name):
            getattr(state, name).load_state_dict(header[name])


def _refuse_other_run(state: TrainingState, tensors: dict[str, Tensor], header: dict, path: Path) -> None:
    """Refuse a checkpoint whose progress is no progress, that lacks an optimiser, or that another config has made."""
    known = header.get("config")
    changed = differences(known, state.config) if isinstance(known, dict) else ["config (none there)"]
    if changed:
        raise ValueError(f"{path} was made with another config: {', '.join(changed)}.")
    wrong = [name for name, kind in PROGRESS.items() if name not in header or not isinstance(header[name], kind)]
    wrong += [name for name in PROGRESS if name not in (*wrong, "best_kid") and not 0 <= header[name] < math.inf]
    for name in ("pl_mean", "signs"):
        wrong += [name] if name not in tensors or tensors[name].shape != getattr(state, name).shape else []
    wrong += [name for name, value in _below(tensors, "sums").items() if value.shape != (2,)]
    wrong += [name for name in SCALERS if not _is_scaler(header.get(name), getattr(state, name).state_dict())]
    if not wrong and header["step"]:
        wrong += [name for name in ("opt_G", "opt_D") if not _below(tensors, name)]
    if wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} missing or not what a checkpoint holds.")


def _is_scaler(stated: object, own: dict) -> bool:
    """Whether a header's entry is what a gradient scaler keeps; checkpoints of fp32 and older ones keep nothing."""
    if not stated:
        return True
    return isinstance(stated, dict) and own.keys() <= stated.keys() and all(isinstance(v, int | float) for v in stated.values())


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], path: Path) -> None:
    """Give each parameter its slots back in the parameter's own memory format: the fused step walks both in storage order."""
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    slots: dict[int, dict] = {}
    for key, value in tensors.items():
        index, _, slot = key.partition(".")
        p = parameters.get(int(index)) if index.isdecimal() else None
        if p is None or slot not in SLOTS or value.shape != (() if slot == "step" else p.shape):
            raise ValueError(f"{path} does not fit this architecture (its optimiser keeps {key}, {tuple(value.shape)}).")
        slots.setdefault(int(index), {})[slot] = value if slot == "step" else torch.empty_like(p).copy_(value)
    if not all(set(slot) == SLOTS for slot in slots.values()):
        raise ValueError(f"{path} is damaged: its optimiser lacks averages.")
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}
