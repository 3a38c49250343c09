"""The state of a training run: all that a resumed run needs, and where its random numbers come from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from stylegan import distributed
from stylegan.augment import augment, dither
from stylegan.config import Config
from stylegan.graphs import Replay
from stylegan.losses import adam_for_lazy
from stylegan.networks import Discriminator, Generator, build_networks, pick_device, pick_precision
from stylegan.progressive import Stage, batch_size, stage
from stylegan.rng import Draws, Part


@dataclass
class TrainingState:
    """All that a resumed run needs. Progress is counted in real slices shown, ``cur_nimg``."""

    config: Config
    device: torch.device
    G: Generator
    D: Discriminator
    G_ema: Generator
    opt_G: torch.optim.Adam
    opt_D: torch.optim.Adam
    scaler_G: torch.amp.GradScaler  # of losses in fp16; does nothing in other precisions
    scaler_D: torch.amp.GradScaler
    pl_mean: Tensor
    precision: str  # as the config's, "auto" decided
    augment_p: float
    p: Tensor  # augment_p on the device, where a recorded step finds its new values
    signs: Tensor  # [2]: sum of sign D(x) since p was last adapted, and their number
    parts: list[Part]  # what this process computes of each batch
    generator: torch.Generator
    replay: Replay
    cur_nimg: int = 0
    step: int = 0
    best_kid: float | None = None
    seconds: float = 0.0  # spent in training steps
    sums: dict[str, Tensor] = field(default_factory=dict)  # name -> [2]: sum and number since the last tick
    fake: Tensor | None = None  # handed from d_step to g_step with one_fake_batch

    @property
    def now(self) -> Stage:
        """The resolution that is trained and how far it is faded in."""
        return stage(self.config, self.cur_nimg)

    @property
    def batch_size(self) -> int:
        """Slices in this step's batch: the config's, or more while a growing network is small."""
        return batch_size(self.config, self.now.resolution)

    def log(self, **values: Tensor) -> None:
        """Add to the running means of this tick, without waiting for the device."""
        for name, value in values.items():
            new = torch.stack([value.detach().double().mean(), torch.ones((), device=self.device, dtype=torch.float64)])
            self.sums.setdefault(name, torch.zeros_like(new)).add_(distributed.total(new))

    def means(self) -> dict[str, float]:
        """Means since the last tick, over all processes."""
        found = {name: pair.tolist() for name, pair in self.sums.items()}
        return {name: total / count for name, (total, count) in found.items() if count}

    def forget(self) -> None:
        """Begin a new tick."""
        for pair in self.sums.values():
            pair.zero_()

    def reseed(self, step: str) -> None:
        """Set the one source of randomness for a step of this name that starts at cur_nimg."""
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return  # it is set before each replay
        (seed,) = np.random.SeedSequence([self.config.seed, self.cur_nimg, *step.encode()]).generate_state(1, np.uint64)
        self.generator.manual_seed(int(seed >> np.uint64(1)))

    def draws(self, step: str, parts: list[Part] | None = None) -> Iterator[Draws]:
        """The random numbers of a step, for each part of the batch that this process computes."""
        for part in parts or self.parts:
            self.reseed(step)
            yield Draws(self.device, self.generator, part)

    def augmented(self, img: Tensor, draws: Draws) -> Tensor:
        """Pictures as D sees them in training: dithered and augmented where the run does so."""
        img = dither(img, draws) if self.config.dither else img
        return augment(img, self.p, draws) if self.augment_p > 0 else img

    def autocast(self, *, regularising: bool = False) -> torch.autocast:
        """Half precision where the run uses it. Penalties are too small for the range of fp16 and stay in fp32 there."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        enabled = self.precision == "bf16" or (self.precision == "fp16" and not regularising)
        return torch.autocast(self.device.type, dtype, enabled=enabled)


def new_state(config: Config) -> TrainingState:
    """Fresh networks and optimisers, the same for the same seed. Raises ValueError where the batch cannot be shared out."""
    device = pick_device(config.device)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        G, D = (net.to(device) for net in build_networks(config))
    precision = pick_precision(config.precision, device)
    scaler_G, scaler_D = (torch.amp.GradScaler(device.type, enabled=precision == "fp16") for _ in "GD")
    generator, alone = torch.Generator(device), distributed.world() == 1 and config.accumulate == 1
    return TrainingState(
        config, device, G, D, copy.deepcopy(G).eval().requires_grad_(False),
        opt_G=adam(G, config, config.g_reg_interval if config.pl_weight else None),
        opt_D=adam(D, config, config.d_reg_interval if config.d_penalty else None),
        scaler_G=scaler_G, scaler_D=scaler_D,
        pl_mean=torch.zeros((), device=device), precision=precision,
        augment_p=config.augment_p, p=torch.zeros((), device=device), signs=torch.zeros(2, device=device),
        parts=share(config), generator=generator,
        replay=Replay(generator, config.cuda_graphs and device.type == "cuda" and alone),
    )  # fmt: skip


def share(config: Config) -> list[Part]:
    """What this process computes of each batch: ``accumulate`` pieces, one after the other."""
    pieces = distributed.world() * config.accumulate
    group = min(config.mbstd_group_size, config.batch_size)
    if config.batch_size % (group * pieces):
        raise ValueError(
            f"A batch of {config.batch_size} does not fall into {pieces} pieces ({distributed.world()} processes, accumulate "
            f"{config.accumulate}) of whole groups of {group}; take a --batch-size that is a multiple of {group * pieces}."
        )
    first = distributed.rank() * config.accumulate
    return [Part(first + i, pieces, group) for i in range(config.accumulate)]


def adam(net: torch.nn.Module, config: Config, interval: int | None) -> torch.optim.Adam:
    settings = {"lr": config.lr, "betas": (config.beta1, config.beta2)}
    if interval and interval > 1:  # at every step the penalty is a part of the loss
        settings = adam_for_lazy(config.lr, config.beta1, config.beta2, interval)
    device = next(net.parameters()).device
    groups = [{"params": list(net.parameters()), "base_lr": settings["lr"]}]
    if device.type == "cuda":  # a recorded step finds its rate of the moment in a tensor
        settings["lr"] = torch.tensor(settings["lr"], device=device)
    return torch.optim.Adam(
        groups, eps=config.adam_eps, fused=device.type != "mps", capturable=device.type == "cuda", **settings
    )
