"""Training: the state of a run, one function per step, and the loop.

A step draws all its random numbers from one generator seeded by (seed, cur_nimg), and the order of the slices is a function of the
same two numbers. Nothing else is random, so that a resumed run on a CPU continues bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan.augment import adapt, augment
from stylegan.config import Config
from stylegan.dataset import SliceDataset
from stylegan.losses import adam_for_lazy, logistic_d, logistic_g, path_length_penalty, path_lengths, r1_penalty
from stylegan.networks import Discriminator, Generator, build_networks, pick_device, pick_precision


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
    pl_mean: Tensor
    precision: str  # as the config's, "auto" decided
    augment_p: float
    signs: Tensor  # [2]: sum of sign D(x) since p was last adapted, and their number
    cur_nimg: int = 0
    step: int = 0
    best_kid: float | None = None
    seconds: float = 0.0  # spent in training steps
    sums: dict[str, Tensor] = field(default_factory=dict)  # name -> [2]: sum and number since the last tick

    def log(self, **values: Tensor) -> None:
        """Add to the running means of this tick, without waiting for the device."""
        for name, value in values.items():
            new = torch.stack([value.detach().double().mean(), torch.ones((), device=self.device, dtype=torch.float64)])
            self.sums[name] = self.sums[name] + new if name in self.sums else new

    def means(self) -> dict[str, float]:
        """Means since the last tick."""
        return {name: (total / count).item() for name, (total, count) in self.sums.items()}

    def rng(self) -> torch.Generator:
        """The one source of randomness of the step that starts at cur_nimg."""
        (seed,) = np.random.SeedSequence([self.config.seed, self.cur_nimg]).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(seed >> np.uint64(1)))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def new_state(config: Config) -> TrainingState:
    """Fresh networks and optimisers, the same for the same seed."""
    device = pick_device(config.device)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        G, D = (net.to(device) for net in build_networks(config))
    G_ema = copy.deepcopy(G).eval().requires_grad_(False)
    adam = functools.partial(_adam, config=config, fused=device.type != "mps")
    opt_G = adam(G, interval=config.g_reg_interval if config.pl_weight else None)
    opt_D = adam(D, interval=config.d_reg_interval if config.r1_gamma else None)
    pl_mean = torch.zeros((), device=device)
    signs = torch.zeros(2, device=device)
    precision = pick_precision(config.precision, device)
    return TrainingState(config, device, G, D, G_ema, opt_G, opt_D, pl_mean, precision, config.augment_p, signs)


def _adam(net: torch.nn.Module, config: Config, interval: int | None, fused: bool) -> torch.optim.Adam:
    settings = {"lr": config.lr, "betas": (config.beta1, config.beta2)}
    if interval:
        settings = adam_for_lazy(config.lr, config.beta1, config.beta2, interval)
    return torch.optim.Adam(net.parameters(), eps=config.adam_eps, fused=fused, **settings)


# --- The loop ---------------------------------------------------------------------------------------------------------------------


def train(state: TrainingState, data: SliceDataset, on_step: Callable[[TrainingState], bool]) -> None:
    """Train on all slices of ``data`` until total_kimg, or until ``on_step(state)`` asks to stop by returning True."""
    while state.cur_nimg < state.config.total_kimg * 1000:
        training_step(state, data)
        if on_step(state):
            break


def training_step(state: TrainingState, data: SliceDataset) -> None:
    """One batch of real slices: D, then G, then the lazy regularisers, then the averages."""
    config, rng = state.config, state.rng()
    real, c = draw_batch(data, config, state.cur_nimg, state.device)
    fake = d_step(state, real, c, rng)
    g_step(state, c, rng, fake if config.one_fake_batch else None)
    if config.r1_gamma and state.step % config.d_reg_interval == 0:
        r1_step(state, real, c, rng)
    if config.pl_weight and state.step % config.g_reg_interval == 0:
        path_length_step(state, c, rng)
    state.step += 1
    state.cur_nimg += config.batch_size
    update_ema(state)
    update_augment(state)


# --- Steps ------------------------------------------------------------------------------------------------------------------------


def d_step(state: TrainingState, real: Tensor, c: Tensor | None, rng: torch.Generator) -> Tensor:
    """Teach D to tell real from fake; w_avg is updated here and nowhere else. Returns the fakes, for G to learn from."""
    with torch.set_grad_enabled(state.config.one_fake_batch), state.autocast():
        fake, ws = draw_fakes(state, len(real), c, rng)
        state.G.mapping.update_w_avg(ws[:, 0].detach(), c, state.config.w_avg_beta)
    with state.autocast():
        fake_logits = state.D(augment(fake.detach(), state.augment_p, rng), c)
        real_logits = state.D(augment(real, state.augment_p, rng), c)
        loss = logistic_d(real_logits.float(), fake_logits.float())
    state.log(loss_D=loss, grad_norm_D=descend(state.opt_D, loss))
    signs = real_logits.detach().sign()
    state.signs += torch.stack([signs.sum(), torch.ones_like(signs).sum()])
    return fake


def g_step(state: TrainingState, c: Tensor | None, rng: torch.Generator, fake: Tensor | None = None) -> None:
    """Teach G to be taken for real, on the fakes that D has just seen or, for None, on new ones."""
    with state.autocast(), frozen(state.D):
        if fake is None:
            fake, _ = draw_fakes(state, state.config.batch_size, c, rng)
        logits = state.D(augment(fake, state.augment_p, rng), c)
        loss = logistic_g(logits.float())
        state.log(loss_G=loss, grad_norm_G=descend(state.opt_G, loss))


def r1_step(state: TrainingState, real: Tensor, c: Tensor | None, rng: torch.Generator) -> None:
    """gamma / 2 E||grad D||^2, every ``d_reg_interval`` steps and therefore times the interval."""
    real = augment(real, state.augment_p, rng).requires_grad_(True)
    with state.autocast():
        penalty = r1_penalty(state.D(real, c), real)
    descend(state.opt_D, penalty * (state.config.r1_gamma / 2 * state.config.d_reg_interval))
    state.log(r1=penalty)


def path_length_step(state: TrainingState, c: Tensor | None, rng: torch.Generator) -> None:
    """Even out how far the picture moves per step in w, every ``g_reg_interval`` steps on a smaller batch."""
    config = state.config
    n = max(config.batch_size // config.pl_batch_shrink, 1)
    with state.autocast():
        img, ws = draw_fakes(state, n, None if c is None else c[:n], rng)
        y = torch.randn(img.shape, generator=rng, device=img.device)
        lengths = path_lengths(img, ws, y)
        penalty, state.pl_mean = path_length_penalty(lengths, state.pl_mean, config.pl_decay)
    descend(state.opt_G, penalty * (config.pl_weight * config.g_reg_interval))
    state.log(path_length=lengths)


@torch.no_grad()
def update_ema(state: TrainingState) -> None:
    """G_ema's weights follow G's with the half-life ema_kimg, shortened at the start; buffers (w_avg, noise) are copied."""
    config = state.config
    half_life = config.ema_kimg * 1000
    if config.ema_rampup:
        half_life = min(half_life, state.cur_nimg * config.ema_rampup)
    beta = 0.5 ** (config.batch_size / max(half_life, 1e-8))
    torch._foreach_lerp_(list(state.G_ema.parameters()), list(state.G.parameters()), 1 - beta)
    for average, buffer in zip(state.G_ema.buffers(), state.G.buffers(), strict=True):
        average.copy_(buffer)


def update_augment(state: TrainingState) -> None:
    """Adapt the augmentation probability every ``ada_interval`` steps."""
    config = state.config
    if config.augment == "adaptive" and state.step % config.ada_interval == 0:
        total, count = state.signs.tolist()
        images = config.batch_size * config.ada_interval
        state.augment_p = adapt(
            state.augment_p, total / count, images, config.ada_target, config.ada_kimg, config.augment_p_max
        )
        state.signs = torch.zeros_like(state.signs)


# --- What the steps draw and share ------------------------------------------------------------------------------------------------


def draw_fakes(state: TrainingState, n: int, c: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(pictures [n, C, H, W], their ws [n, num_ws, w_dim]) of random z and noise."""
    ws = fake_ws(state, n, c, rng)
    return state.G.synthesis(ws, noise=state.G.synthesis.draw_noise(n, rng)), ws


def fake_ws(state: TrainingState, n: int, c: Tensor | None, rng: torch.Generator) -> Tensor:
    """ws [n, num_ws, w_dim] of random z. A share style_mixing_prob takes a second z from a random layer on (StyleGAN1, section 3.1)."""
    G, num_ws = state.G, state.G.num_ws
    z = torch.randn(2 * n, G.z_dim, generator=rng, device=state.device)
    first, second = G.mapping(z, None if c is None else c.repeat(2, 1)).chunk(2)
    mixed = torch.rand(n, 1, generator=rng, device=state.device) < state.config.style_mixing_prob
    crossover = torch.randint(1, num_ws, (n, 1), generator=rng, device=state.device)
    takes_second = mixed & (torch.arange(num_ws, device=state.device) >= crossover)  # [n, num_ws]
    return torch.where(takes_second[:, :, None], second, first)


def draw_batch(data: SliceDataset, config: Config, cur_nimg: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """(real [N, C, H, W] in [-1, 1], one-hot c [N, c_dim] or None): batch_size slices from position cur_nimg of the endless order."""
    which = order(len(data) * (2 if config.mirror else 1), config.seed, cur_nimg, config.batch_size)
    rows, flip = which % len(data), torch.from_numpy(which >= len(data))
    real = data.tensor(rows)
    real = torch.where(flip[:, None, None, None], real.flip(3), real).expand(-1, config.img_channels, -1, -1)
    return real.to(device), one_hot(data.labels[rows], config.c_dim, device)


def one_hot(labels: np.ndarray, c_dim: int, device: torch.device) -> Tensor | None:
    """[N] class indices -> float [N, c_dim]; None without classes."""
    return F.one_hot(torch.from_numpy(np.asarray(labels)), c_dim).float().to(device) if c_dim else None


def order(length: int, seed: int, start: int, count: int) -> np.ndarray:
    """``count`` indices from position ``start`` of an endless sequence that shuffles 0..length-1 anew in each epoch."""
    positions = np.arange(start, start + count)
    return np.array([_epoch(length, seed, int(p // length))[p % length] for p in positions])


@functools.lru_cache(maxsize=4)
def _epoch(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """One optimiser step on the loss; returns the norm of the gradient."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.get_total_norm(
        [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    )
    optimizer.step()
    return norm


@contextlib.contextmanager
def frozen(net: torch.nn.Module) -> Iterator[None]:
    """Take no gradients with respect to a network's weights for a while: saves their half of the backward pass."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)
