"""Saving and loading. Everything is safetensors and JSON: nothing is ever unpickled, so a stranger's file cannot run code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stylegan import __version__
from stylegan.cache import replacing
from stylegan.config import Config
from stylegan.networks import Generator

if TYPE_CHECKING:
    from stylegan.train import TrainingState

FORMAT = 1
SCALERS = ("scaler_G", "scaler_D")


# --- Tensors with a JSON header ---------------------------------------------------------------------------------------------------


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write named tensors and a JSON header into one safetensors file, whole or not at all."""
    header = {"format": FORMAT, "stylegan": __version__, **header}
    payload = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"stylegan": json.dumps(header)})
    with replacing(path) as temporary:
        temporary.write_bytes(payload)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, header) of a file written by `save_tensors`; anything else is refused with a ValueError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("stylegan", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ValueError(f"{path} is not a whole .safetensors file ({error}); other formats are never opened.") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} was not written by this package: its header has no 'stylegan' entry.")
    if header.get("format", 0) > FORMAT:
        raise ValueError(f"{path} has format {header['format']}, newer than this package reads ({FORMAT}); update the package.")
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
    if "config" not in info:
        raise ValueError(f"{path} holds no generator; name the run folder or its generator.safetensors.")
    G = Generator(Config.from_dict(info["config"])).to(memory_format=torch.channels_last)
    load_state(G, {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, path)
    return G.eval().requires_grad_(False).to(device), info


def load_state(net: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """`load_state_dict` with one sentence when the file was made by another architecture."""
    own = net.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise ValueError(
            f"{path} does not fit this architecture ({len(wrong)} tensors differ, first {wrong[0]}); use its own config."
        )
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
    scalars = {k: getattr(state, k) for k in ("augment_p", "cur_nimg", "step", "best_kid", "seconds")}
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
    """Fill the state from one checkpoint."""
    tensors, header = load_tensors(path)
    for name in ("G", "D", "G_ema"):
        load_state(getattr(state, name), _below(tensors, name), path)
    for name in ("opt_G", "opt_D"):
        _load_optimizer(getattr(state, name), _below(tensors, name))
    state.pl_mean, state.signs = (tensors[k].to(state.device) for k in ("pl_mean", "signs"))
    state.sums = {k: v.to(state.device) for k, v in _below(tensors, "sums").items()}
    for name in ("augment_p", "cur_nimg", "step", "best_kid", "seconds"):
        setattr(state, name, header[name])
    for name in SCALERS:
        if header.get(name):
            getattr(state, name).load_state_dict(header[name])


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give each parameter its slots back in the parameter's own memory format: the fused step walks both in storage order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict] = {}
    for key, value in tensors.items():
        index, slot = key.split(".")
        p = parameters[int(index)]
        slots.setdefault(int(index), {})[slot] = torch.empty_like(p).copy_(value) if value.shape == p.shape else value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}
