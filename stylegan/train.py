"""Training: one function per step, and the loop.

Each step draws all its random numbers from one generator seeded by (seed, cur_nimg, step), and the order of the slices is a
function of the first two. Nothing else is random, so that a resumed run on a CPU continues bit for bit. Processes that train
together draw the numbers of the whole batch and keep their own rows, so that they compute what one process would.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stylegan import distributed
from stylegan.augment import adapt
from stylegan.config import Config
from stylegan.dataset import SliceDataset, draw_batch
from stylegan.losses import (
    LOSSES,
    drift,
    gradient_penalty,
    path_length_penalty,
    path_lengths,
    r1_penalty,
)
from stylegan.networks import grow_to
from stylegan.progressive import fade_reals, lr_factor, stage, ws_reached
from stylegan.rng import Draws, Part
from stylegan.state import TrainingState

# --- The loop ---------------------------------------------------------------------------------------------------------------------


def train(state: TrainingState, data: SliceDataset, on_step: Callable[[TrainingState], bool]) -> None:
    """Train on all slices of ``data`` until total_kimg, or until ``on_step(state)`` asks to stop by returning True."""
    while state.cur_nimg < state.config.total_kimg * 1000:
        training_step(state, data)
        if on_step(state):
            break


def training_step(state: TrainingState, data: SliceDataset) -> None:
    """One batch of real slices: D, then G, then the lazy regularisers, then the averages."""
    config, n = state.config, state.batch_size
    set_rates(state)
    real, c = draw_batch(data, config, state.cur_nimg, state.device, n)
    real = fade_reals(real, state.now, state.D.alpha) if config.grow_from else real
    state.p.fill_(state.augment_p)
    run(state, d_step, real, c)
    run(state, g_step, c, real)
    if penalty_is_due(config, state.step):
        run(state, d_penalty_step, real, c)
    if config.pl_weight and state.step % config.g_reg_interval == 0:
        run(state, path_length_step, c)
    state.step += 1
    state.cur_nimg += n
    update_ema(state, n)
    update_augment(state, n)
    grow(state, n)


def penalty_is_due(config: Config, step: int) -> bool:
    """Whether this step is followed by one for the gradient penalties alone."""
    return config.d_penalty and config.d_reg_interval > 1 and step % config.d_reg_interval == 0


def run(state: TrainingState, step: Callable[..., None], *inputs: Tensor | None) -> None:
    """step(state, *inputs), from a recording where the device offers that."""
    if state.replay.enabled:  # a recording draws from where the generator stands; the step itself sets it
        state.reseed(step.__name__)
    state.replay(functools.partial(step, state), *inputs, variant=(state.augment_p > 0, state.now.resolution, state.now.fading))


def set_rates(state: TrainingState) -> None:
    """Learning rates of this step."""
    config, kimg = state.config, state.cur_nimg / 1000
    factor = lr_factor(config, state.now.resolution)
    if config.lr_decay_kimg:
        factor /= max(kimg / config.lr_decay_kimg, 1) ** 0.5
    for group in state.opt_G.param_groups + state.opt_D.param_groups:
        rate = group["base_lr"] * factor
        group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate


def grow(state: TrainingState, n: int) -> None:
    """After n more slices: bring the networks to the stage of the next step; at a new resolution the optimisers start anew, as in
    the official code."""
    grow_to(state.config, state.cur_nimg, state.G, state.D, state.G_ema)
    if state.now.resolution != stage(state.config, state.cur_nimg - n).resolution:
        slots = [slot for optimizer in (state.opt_G, state.opt_D) for slot in optimizer.state.values()]
        for tensor in (tensor for slot in slots for tensor in slot.values()):
            tensor.zero_()


# --- Steps: real [N, C, H, W] and one-hot c [N, c_dim] are those of the whole batch ---------------------------------------------------


def d_step(state: TrainingState, real: Tensor, c: Tensor | None) -> None:
    """Teach D to tell real from fake; w_avg is updated here and nowhere else."""
    config, w = state.config, []

    def loss(draws: Draws) -> Tensor:
        x, c_part = draws.part.of(real), draws.part.of(c)
        with torch.set_grad_enabled(config.one_fake_batch), state.autocast():
            state.fake, ws = draw_fakes(state, len(x), c_part, draws)
        w.append(ws[:, 0].detach())
        with state.autocast():
            fake, x = state.augmented(state.fake.detach(), draws), state.augmented(x, draws)
            fake_logits, real_logits = logits_of_both(state, fake, x, c_part)
        signs = real_logits.detach().sign()
        state.signs += distributed.total(torch.stack([signs.sum(), torch.ones_like(signs).sum()]))
        value = LOSSES[config.loss].d(real_logits, fake_logits)
        state.log(loss_D=value)
        if config.drift:
            value = value + config.drift * drift(real_logits)
        return value + d_penalty(state, x, fake, c_part, draws) if config.d_reg_interval == 1 else value

    state.log(grad_norm_D=descend(state, "d_step", state.opt_D, state.scaler_D, loss))
    state.G.mapping.update_w_avg(distributed.gather(torch.cat(w)), in_parts(state, c), config.w_avg_beta)


def logits_of_both(state: TrainingState, fake: Tensor, real: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """D's logits [N, 1] of fakes and of real slices, in one pass, which is faster than two.

    They are laid so that no group of the minibatch standard deviation holds both: slice i of 2N sits in group i mod (2N / size).
    """
    size = state.config.mbstd_group_size
    apart = state.config.architecture == "dcgan" or len(fake) < size  # batch normalisation, or one group of all: both would mix
    if apart:
        return state.D(fake, c).float(), state.D(real, c).float()

    def laid(*halves: Tensor) -> Tensor:
        return torch.stack([half.unflatten(0, (size, -1)) for half in halves], dim=1).flatten(0, 2)

    logits = state.D(laid(fake, real), None if c is None else laid(c, c)).float()
    fake_logits, real_logits = logits.unflatten(0, (size, 2, -1)).unbind(dim=1)  # [size, N / size, 1] each
    return fake_logits.flatten(0, 1), real_logits.flatten(0, 1)


def g_step(state: TrainingState, c: Tensor | None, real: Tensor | None = None) -> None:
    """Teach G to be taken for real, on the fakes that D has just seen or on new ones; a paired loss needs the real slices too."""
    n, kept, state.fake = state.batch_size // state.parts[0].count, state.fake, None

    def loss(draws: Draws) -> Tensor:
        c_part = draws.part.of(c)
        with state.autocast(), frozen(state.D):
            if not state.config.one_fake_batch:
                fake, _ = draw_fakes(state, n, c_part, draws)
            elif len(state.parts) == 1:
                fake = kept
            else:  # of the pieces only the last is kept, which is what saves memory: draw the same fakes again
                state.reseed("d_step")
                fake, _ = draw_fakes(state, n, c_part, draws)
                state.reseed("g_step")
            logits = state.D(state.augmented(fake, draws), c_part).float()
            paired = LOSSES[state.config.loss].paired
            real_logits = state.D(state.augmented(draws.part.of(real), draws), c_part).float() if paired else None
        value = LOSSES[state.config.loss].g(real_logits, logits)
        state.log(loss_G=value)
        return value

    state.log(grad_norm_G=descend(state, "g_step", state.opt_G, state.scaler_G, loss))


def between(real: Tensor, fake: Tensor, draws: Draws) -> Tensor:
    """A random point on the line from each real slice to a fake (WGAN-GP, section 4)."""
    return real.lerp(fake, draws.uniform(len(real), 1, 1, 1))


# Config field: (name in the log, where D's gradient is taken, formula, factor).
PENALTIES = {
    "r1_gamma": ("r1", lambda real, fake, draws: real, r1_penalty, 0.5),
    "r2_gamma": ("r2", lambda real, fake, draws: fake, r1_penalty, 0.5),
    "gp_weight": ("gp", between, gradient_penalty, 1.0),
}


def d_penalty(state: TrainingState, real: Tensor, fake: Tensor | None, c: Tensor | None, draws: Draws) -> Tensor:
    """The weighted sum of the config's gradient penalties, at pictures as D sees them."""
    total = torch.zeros((), device=state.device)
    for field_name, (name, where, formula, factor) in PENALTIES.items():
        weight = getattr(state.config, field_name)
        if weight:
            x = where(real, fake, draws).detach().requires_grad_(True)
            with state.autocast(regularising=True):
                penalty = formula(state.D(x, c), x)
            state.log(**{name: penalty})
            total = total + factor * weight * penalty
    return total


def d_penalty_step(state: TrainingState, real: Tensor, c: Tensor | None) -> None:
    """The penalties in a step of their own, every ``d_reg_interval`` steps and therefore times the interval."""
    config = state.config

    def loss(draws: Draws) -> Tensor:
        x, c_part, fake = draws.part.of(real), draws.part.of(c), None
        if config.r2_gamma or config.gp_weight:
            with torch.no_grad(), state.autocast():
                fake = state.augmented(draw_fakes(state, len(x), c_part, draws)[0], draws)
        return d_penalty(state, state.augmented(x, draws), fake, c_part, draws) * config.d_reg_interval

    descend(state, "d_penalty_step", state.opt_D, None, loss)


def path_length_step(state: TrainingState, c: Tensor | None) -> None:
    """Even out how far the picture moves per step in w, every ``g_reg_interval`` steps on a smaller batch."""
    config, world = state.config, distributed.world()
    whole = [
        Part(distributed.rank(), world, config.mbstd_group_size)
    ]  # a piece per process: the formula holds their mean length
    n = max(state.batch_size // config.pl_batch_shrink // world, 1)

    def loss(draws: Draws) -> Tensor:
        with state.autocast(regularising=True):
            img, ws = draw_fakes(state, n, None if c is None else draws.part.of(c[: n * world]), draws)
            lengths = path_lengths(img, ws, draws.normal(*img.shape))
        lengths = distributed.gather_around(lengths)
        penalty, pl_mean = path_length_penalty(lengths, state.pl_mean, config.pl_decay)
        state.pl_mean.copy_(pl_mean)
        state.log(path_length=lengths)
        # Each process holds its own lengths' share of the gradient, and shares are averaged: times their number.
        return penalty * (config.pl_weight * config.g_reg_interval * world)

    descend(state, "path_length_step", state.opt_G, None, loss, whole)


@torch.no_grad()
def update_ema(state: TrainingState, n: int) -> None:
    """G_ema's weights follow G's with the half-life ema_kimg per n slices, shortened at the start; buffers (w_avg, noise) are copied."""
    config = state.config
    half_life = config.ema_kimg * 1000
    if config.ema_rampup:
        half_life = min(half_life, state.cur_nimg * config.ema_rampup)
    beta = 0.5 ** (n / max(half_life, 1e-8))
    torch._foreach_lerp_(list(state.G_ema.parameters()), list(state.G.parameters()), 1 - beta)
    torch._foreach_copy_(list(state.G_ema.buffers()), list(state.G.buffers()))


def update_augment(state: TrainingState, n: int) -> None:
    """Adapt the augmentation probability every ``ada_interval`` steps of n slices."""
    config = state.config
    if config.augment == "adaptive" and state.step % config.ada_interval == 0:
        total, count = state.signs.tolist()
        images = n * config.ada_interval
        state.augment_p = adapt(
            state.augment_p, total / count, images, config.ada_target, config.ada_kimg, config.augment_p_max
        )
        state.signs.zero_()


# --- What the steps draw and share ------------------------------------------------------------------------------------------------


def draw_fakes(state: TrainingState, n: int, c: Tensor | None, draws: Draws) -> tuple[Tensor, Tensor]:
    """(pictures [n, C, H, W], their ws [n, num_ws, w_dim]) of random z and noise."""
    ws = fake_ws(state, n, c, draws)
    return state.G.synthesis(ws, noise=state.G.synthesis.draw_noise(n, draws)), ws


def fake_ws(state: TrainingState, n: int, c: Tensor | None, draws: Draws) -> Tensor:
    """ws [n, num_ws, w_dim] of random z. A share style_mixing_prob takes a second z from a random layer on (StyleGAN1, section 3.1)."""
    G, num_ws = state.G, state.G.num_ws
    reached = max(ws_reached(state.config, state.now.resolution), 2)  # a mix must show at this stage of growing
    z = torch.cat([draws.normal(n, G.z_dim), draws.normal(n, G.z_dim)])
    first, second = G.mapping(z, None if c is None else c.repeat(2, 1)).chunk(2)
    mixed = draws.uniform(n, 1) < state.config.style_mixing_prob
    crossover = draws.integers(1, reached, n, 1)
    takes_second = mixed & (torch.arange(num_ws, device=state.device) >= crossover)  # [n, num_ws]
    return torch.where(takes_second[:, :, None], second, first)


def in_parts(state: TrainingState, c: Tensor | None) -> Tensor | None:
    """c of the whole batch in the order in which the parts of all processes are gathered."""
    count, group = state.parts[0].count, state.parts[0].group_size
    return c if c is None or count == 1 else torch.cat([Part(i, count, group).of(c) for i in range(count)])


def descend(
    state: TrainingState,
    step: str,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    loss: Callable[[Draws], Tensor],
    parts: list[Part] | None = None,
) -> Tensor:
    """One optimiser step on the mean loss over the parts of all processes; returns the norm of the gradient."""
    parts, scaler = parts or state.parts, scaler or torch.amp.GradScaler(state.device.type, enabled=False)
    optimizer.zero_grad(set_to_none=True)
    for draws in state.draws(step, parts):
        scaler.scale(loss(draws) / len(parts)).backward()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    distributed.average_(gradients)
    norm = torch.nn.utils.get_total_norm(gradients)
    if scaler.is_enabled():  # an overflow is skipped, and counts as 0
        norm = torch.nan_to_num(norm / scaler.scale(torch.ones_like(norm)), 0.0, 0.0, 0.0)
    scaler.step(optimizer)
    scaler.update()
    return norm


@contextlib.contextmanager
def frozen(net: torch.nn.Module) -> Iterator[None]:
    """Take no gradients with respect to a network's weights for a while: saves their half of the backward pass."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)
