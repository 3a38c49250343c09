"""Training speed of our networks beside a peer's, in turn, with the same losses, batch, optimiser and steps.

    python benchmarks/peer.py --peer PATH --resolution 64 --channel-base 1024 --channel-max 128 --batch 16

PATH is a checkout of stylegan2-ada-pytorch or stylegan3 (its copy of the same networks). Both sides run this package's own
steps; only G and D differ. A round is one cycle of the lazy regulariser: 16 steps, R1 in one of them.

same schedule fp32: float32 on both sides, every kernel launched by itself. best: ours as it trains by default (half precision where
the hardware has it, one fake batch for both steps and, on a GPU, recorded steps), against the better of the peer's two: float32,
and on a GPU its own default, float16 at the four largest resolutions. Its own CUDA operators are used where they load; which did is
printed, for they fall back without a word.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import inspect
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from stylegan.config import Config
from stylegan.dataset import SliceDataset, load_slices
from stylegan.files import prepare_machine
from stylegan.networks import count_parameters
from stylegan.train import TrainingState, adam, new_state

sys.path.insert(0, str(Path(__file__).parent))
from speed import whole_cycle


class PeerMapping(nn.Module):
    """The peer's mapping network as our steps call it; it keeps its own w_avg while it maps."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, z: torch.Tensor, c: None) -> torch.Tensor:
        return self.net(z, c)

    def update_w_avg(self, *_: object) -> None:
        """Done by the peer itself in `forward`."""


class PeerSynthesis(nn.Module):
    """The peer's synthesis network, which draws its own noise."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, ws: torch.Tensor, noise: None) -> torch.Tensor:
        return self.net(ws)

    def draw_noise(self, *_: object) -> None:
        return None


class PeerGenerator(nn.Module):
    def __init__(self, G: nn.Module):
        super().__init__()
        self.z_dim, self.num_ws = G.z_dim, G.num_ws
        self.mapping, self.synthesis = PeerMapping(G.mapping), PeerSynthesis(G.synthesis)


def peer_networks(module: ModuleType, config: Config, **precision: object) -> tuple[nn.Module, nn.Module]:
    """The peer's G and D with our widths, depth and groups."""
    widths = {"channel_base": config.channel_base, "channel_max": config.channel_max, **precision}
    size = (config.img_resolution, config.img_channels)
    mapping = {"num_layers": config.mapping_layers}
    inner = {"synthesis_kwargs": widths} if _nests(module.Generator) else widths
    G = module.Generator(config.z_dim, 0, config.w_dim, *size, mapping_kwargs=mapping, **inner)
    D = module.Discriminator(0, *size, **widths, epilogue_kwargs={"mbstd_group_size": config.mbstd_group_size})
    return PeerGenerator(G), D


def _nests(generator: type) -> bool:
    """stylegan2-ada-pytorch takes the widths in a dict of their own, stylegan3 among the others; decorators hide which."""
    named = [inspect.signature(cls.__init__).parameters.get("synthesis_kwargs") for cls in generator.__mro__]
    return any(parameter is not None and parameter.kind is not parameter.VAR_KEYWORD for parameter in named)


def peer_state(module: ModuleType, config: Config, **precision: object) -> TrainingState:
    """Our training state around the peer's networks."""
    state = new_state(replace(config, precision="fp32", cuda_graphs=False))
    state.G, state.D = (net.to(state.device) for net in peer_networks(module, config, **precision))
    state.G_ema = copy.deepcopy(state.G).eval().requires_grad_(False)
    state.opt_G = adam(state.G, config, None)
    state.opt_D = adam(state.D, config, config.d_reg_interval)
    return state


def loaded_operators() -> dict[str, bool]:
    """Which of the peer's custom operators are in use."""
    modules = {name: sys.modules.get(f"torch_utils.ops.{name}") for name in ("bias_act", "upfirdn2d")}
    loaded = {name: getattr(module, "_plugin", None) is not None for name, module in modules.items()}
    gradfix = sys.modules.get("torch_utils.ops.conv2d_gradfix")
    usable = getattr(gradfix, "_should_use_custom_op", None)
    return loaded | {"conv2d_gradfix": bool(usable and torch.cuda.is_available() and usable(torch.zeros(1, device="cuda")))}


def register_built_operators() -> None:
    """Let the peer find the operators it has built: it looks for them by name, where torch no longer puts them by itself."""
    from torch.utils import cpp_extension

    load = cpp_extension.load

    def load_and_register(name: str, *args: object, **kwargs: object) -> ModuleType:
        sys.modules[name] = load(name, *args, **kwargs)
        return sys.modules[name]

    cpp_extension.load = load_and_register


def import_peer(path: Path) -> ModuleType:
    names = ("networks_stylegan2", "networks")
    name = next((name for name in names if (path / "training" / f"{name}.py").is_file()), None)
    if name is None:
        raise SystemExit(
            f"peer.py: {path} holds no training/networks.py; give a checkout of stylegan2-ada-pytorch or stylegan3."
        )
    sys.path.insert(0, str(path.resolve()))
    return importlib.import_module(f"training.{name}")


def sides(config: Config, module: ModuleType) -> dict[str, Callable[[], TrainingState]]:
    """What is compared, by name; each call makes a fresh state."""
    ours_best = replace(config, precision="auto", one_fake_batch=True)
    found = {
        "ours": lambda: new_state(replace(config, cuda_graphs=False)),
        "peer": lambda: peer_state(module, config),
        "ours_best": lambda: new_state(ours_best),
    }
    if config.device == "cuda":
        found["peer_half"] = lambda: peer_state(module, config, num_fp16_res=4, conv_clamp=256)
    return found


def compare(config: Config, module: ModuleType, data: SliceDataset, rounds: int) -> dict:
    """Medians over interleaved rounds; ratios are taken round by round."""
    prepare_machine()
    makers = sides(config, module)
    states = {name: make() for name, make in makers.items()}
    counts = {name: [count_parameters(net) for net in (state.G, state.D)] for name, state in states.items()}
    assert all(count == counts["peer"] for count in counts.values()), f"not the same architecture: {counts}"
    for state in states.values():
        whole_cycle(state, data, 4 if state.replay.enabled else 1)  # warms up
    pace = {name: [] for name in states}
    for _ in range(rounds):
        for name, state in states.items():
            pace[name].append(config.batch_size / whole_cycle(state, data))
    ours, peer, best = (np.array(pace[name]) for name in ("ours", "peer", "ours_best"))
    peer_best = np.maximum(peer, np.array(pace.get("peer_half", pace["peer"])))
    best_state = states["ours_best"]
    sizes = ("img_resolution", "channel_base", "channel_max", "batch_size", "mapping_layers")
    found = {
        "ours_img_s": float(np.median(ours)), "peer_img_s": float(np.median(peer)),
        "ratio_same_schedule_fp32": float(np.median(ours / peer)),
        "best_img_s": float(np.median(best)), "peer_best_img_s": float(np.median(peer_best)),
        "ratio_best": float(np.median(best / peer_best)),
        "best_uses": [best_state.precision, "one fake batch for both steps", *["CUDA graphs"] * best_state.replay.enabled],
        "rounds": pace, "parameters": counts["ours"], "config": {name: getattr(config, name) for name in sizes},
        "peer_operators": loaded_operators(),
        "device": torch.cuda.get_device_name() if config.device == "cuda" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    del states, state, best_state
    if config.device == "cuda":
        found["reserved_memory_mib"] = {name: reserved_memory(make, data) for name, make in makers.items()}
    return found


def reserved_memory(make: Callable[[], TrainingState], data: SliceDataset) -> float:
    """MiB of the card that one side takes by itself."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    state = make()
    whole_cycle(state, data, 4 if state.replay.enabled else 1)
    return torch.cuda.max_memory_reserved() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--channel-base", type=int, default=1024)
    parser.add_argument("--channel-max", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--data", type=Path, help="slices to train on (default: the simulated ones)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    config = Config(
        img_resolution=args.resolution, channel_base=args.channel_base, channel_max=args.channel_max,
        batch_size=args.batch, augment="none", device=args.device,
    )  # fmt: skip
    if args.device == "cuda":
        register_built_operators()
    networks = import_peer(args.peer)
    found = compare(config, networks, load_slices(args.data, config.img_resolution).split("train"), args.rounds)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    machine = f"{found['device']}, {found['threads']} threads, torch {found['torch']}"
    print(f"{machine}; peer's own operators: {found['peer_operators']}")
    pace = f"ours {found['ours_img_s']:.1f} img/s, peer {found['peer_img_s']:.1f} img/s"
    print(f"{pace}, ratio {found['ratio_same_schedule_fp32']:.2f}")
    print(f"ours, best ({', '.join(found['best_uses'])}) {found['best_img_s']:.1f} img/s")
    print(f"peer's best {found['peer_best_img_s']:.1f} img/s, ratio {found['ratio_best']:.2f}")


if __name__ == "__main__":
    main()
