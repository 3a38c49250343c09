"""Training: the state of a run, one function per step, and the loop.

Each step draws all its random numbers from one generator seeded by (seed, cur_nimg, step), and the order of the slices is a
function of the first two: a resumed run on a CPU continues bit for bit. Processes that train together draw the numbers of the
whole batch and keep their own rows: they compute what one would, but for a DCGAN's batch norms.
"""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylegan import distributed, losses
from stylegan.augment import adapt, augment, dither
from stylegan.config import Config
from stylegan.dataset import SliceDataset, draw_batch
from stylegan.losses import LOSSES, adam_for_lazy, gradient_penalty, path_length_penalty, path_lengths, r1_penalty
from stylegan.modules import frozen
from stylegan.networks import Discriminator, Generator, build_networks, pick_device, pick_precision, set_stage
from stylegan.rng import BatchRNG, Replay, Shard
from stylegan.stylegan1 import Stage, batch_size, fade_reals, lr_factor, stage, ws_reached


@dataclass
class TrainingState:
    """All that a resumed run needs. Progress is counted in real slices shown, ``cur_nimg``."""

    config: Config
    device: torch.device
    precision: str  # as the config's, "auto" decided
    G: Generator
    D: Discriminator
    G_ema: Generator
    opt_G: torch.optim.Adam
    opt_D: torch.optim.Adam
    scaler_G: torch.amp.GradScaler  # of losses in fp16; does nothing in other precisions
    scaler_D: torch.amp.GradScaler
    shard: Shard  # the rows of each batch that this process computes
    generator: torch.Generator
    replay: Replay
    augment_p: float
    p: Tensor  # augment_p on the device, where a recorded step finds its new values
    pl_mean: Tensor
    sharing: Tensor  # moving average of how much real slices share their detail, for the participation penalty
    signs: Tensor  # [2]: sum of sign D(x) since p was last adapted, and their number; of this process
    log: distributed.Tally  # losses and norms since the last tick
    cur_nimg: int = 0
    last_batch: int = 0  # slices of the last step
    step: int = 0
    best_kid: float | None = None
    seconds: float = 0.0  # spent in training steps
    fake: Tensor | None = None  # handed from d_step to g_step with one_fake_batch

    @property
    def now(self) -> Stage:
        """The resolution that is trained and how far it is faded in."""
        return stage(self.config, self.cur_nimg)

    @property
    def batch_size(self) -> int:
        """Slices in this step's batch: the config's, or more while a growing network is small."""
        return batch_size(self.config, self.now.resolution)

    def reseed(self, step: str) -> None:
        """Set the one source of randomness for a step of this name that starts at cur_nimg."""
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return  # it is set before each replay
        (seed,) = np.random.SeedSequence([self.config.seed, self.cur_nimg, *step.encode()]).generate_state(1, np.uint64)
        self.generator.manual_seed(int(seed >> np.uint64(1)))

    def rng(self, step: str, shard: Shard | None = None) -> BatchRNG:
        """The random numbers of a step: of this process's rows."""
        self.reseed(step)
        return BatchRNG(self.device, self.generator, shard or self.shard)

    def augmented(self, img: Tensor, rng: BatchRNG) -> Tensor:
        """Pictures as D sees them in training: dithered and augmented where the run does so."""
        img = dither(img, rng) if self.config.dither else img
        return augment(img, self.p, rng) if self.augment_p > 0 else img

    def autocast(self, *, regularising: bool = False) -> torch.autocast:
        """Half precision where the run uses it. With fp16 penalties stay in fp32: they are too small for its range."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        enabled = self.precision == "bf16" or (self.precision == "fp16" and not regularising)
        return torch.autocast(self.device.type, dtype, enabled=enabled)


def new_state(config: Config) -> TrainingState:
    """Fresh networks and optimisers, the same for the same seed. Raises ValueError where the processes cannot share the batch."""
    device, shard = pick_device(config.device), Shard.own(config.batch_size, config.mbstd_group_size)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        G, D = (net.to(device) for net in build_networks(config))
    precision = pick_precision(config.precision, device)
    scaler_G, scaler_D = (torch.amp.GradScaler(device.type, enabled=precision == "fp16") for _ in "GD")
    generator, alone = torch.Generator(device), distributed.world() == 1
    return TrainingState(
        config, device, precision, G, D, copy.deepcopy(G).eval().requires_grad_(False),
        opt_G=adam(G, config, config.g_reg_interval if config.pl_weight else None),
        opt_D=adam(D, config, config.d_reg_interval if config.lazy_penalty else None),
        scaler_G=scaler_G, scaler_D=scaler_D, shard=shard, generator=generator,
        replay=Replay(generator, config.cuda_graphs and device.type == "cuda" and alone),
        augment_p=config.augment_p if config.augment != "none" else 0.0, p=torch.zeros((), device=device),
        pl_mean=torch.zeros((), device=device), sharing=torch.zeros((), device=device), signs=torch.zeros(2, device=device),
        log=distributed.Tally(device),
    )  # fmt: skip


def adam(net: torch.nn.Module, config: Config, interval: int | None) -> torch.optim.Adam:
    """The optimiser of a network, with all its averages in place, at zero."""
    settings = {"lr": config.lr, "betas": (config.beta1, config.beta2)}
    if interval:  # its penalty takes steps of its own; D's at every step is a part of the loss
        settings = adam_for_lazy(config.lr, config.beta1, config.beta2, interval)
    parameters, base_lr = list(net.parameters()), settings["lr"]
    device = parameters[0].device
    if device.type == "cuda":  # a recorded step finds its rate of the moment in a tensor
        settings["lr"] = torch.tensor(base_lr, device=device)
    groups, fused = [{"params": parameters, "base_lr": base_lr}], device.type != "mps"
    optimizer = torch.optim.Adam(groups, eps=config.adam_eps, fused=fused, capturable=device.type == "cuda", **settings)
    for p in parameters:
        step = torch.zeros((), device=device if fused else "cpu")
        optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return optimizer


def train(state: TrainingState, data: SliceDataset, on_step: Callable[[TrainingState], bool]) -> None:
    """Train on all slices of ``data`` until total_kimg, or until ``on_step(state)`` returns True."""
    while state.cur_nimg < state.config.total_kimg * 1000:
        training_step(state, data)
        if on_step(state):
            break


def training_step(state: TrainingState, data: SliceDataset) -> None:
    """One batch of real slices: D, then G, then the lazy regularisers, then the averages."""
    config, n, before = state.config, state.batch_size, state.now
    set_rates(state)
    real, c = draw_batch(data, config, state.cur_nimg, state.device, n)
    real = fade_reals(real, state.now, state.D.alpha) if config.grow_from else real
    own = state.shard.take(real), state.shard.take(c)
    state.p.fill_(state.augment_p)
    run(state, d_step, *own)
    run(state, g_step, *own)
    if config.lazy_penalty and state.step % config.d_reg_interval == 0:
        run(state, d_penalty_step, *own)
    if config.pl_weight and state.step % config.g_reg_interval == 0:
        run(state, path_length_step, c)
    state.step += 1
    state.cur_nimg, state.last_batch = state.cur_nimg + n, n
    update_ema(state, n)
    update_augment(state, n)
    now = state.now
    set_stage(now, state.G, state.D, state.G_ema)
    if (now.resolution, now.fading) != (before.resolution, before.fading):  # the optimisers start anew, as in the official code
        for slots in (*state.opt_G.state.values(), *state.opt_D.state.values()):
            for tensor in slots.values():
                tensor.zero_()


def run(state: TrainingState, step: Callable[..., None], *inputs: Tensor | None) -> None:
    """step(state, *inputs), from a recording where the device offers that."""
    if state.replay.enabled:  # a recording draws from where the generator stands; the step itself sets it
        state.reseed(step.__name__)
    state.replay(functools.partial(step, state), *inputs, variant=(state.augment_p > 0, state.now.resolution, state.now.fading))


def set_rates(state: TrainingState) -> None:
    for group in state.opt_G.param_groups + state.opt_D.param_groups:
        rate = group["base_lr"] * lr_factor(state.config, state.cur_nimg)
        group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate


# --- Steps: real [N, C, R, R] and one-hot c [N, c_dim] are this process's rows of the batch ----------------------------------------------


def d_step(state: TrainingState, real: Tensor, c: Tensor | None) -> None:
    """Teach D to tell real from fake; w_avg is updated here and nowhere else."""
    config, rng = state.config, state.rng("d_step")
    with torch.set_grad_enabled(config.one_fake_batch), state.autocast():
        state.fake, ws = draw_fakes(state, len(real), c, rng)
    with state.autocast():
        fake, real = state.augmented(state.fake.detach(), rng), state.augmented(real, rng)
        fake_logits, real_logits = logits_of_both(state, fake, real, c)
    loss_of = LOSSES[config.loss]
    signs = (real_logits - (0 if loss_of.level else fake_logits)).detach().sign()
    state.signs += torch.stack([signs.sum(), torch.ones_like(signs).sum()])
    loss = loss_of.d(real_logits, fake_logits)
    state.log(loss_D=loss)
    if config.drift:  # keeps a critic near 0 (ProGAN, appendix A.1, with weight .001)
        loss = loss + config.drift * real_logits.square().mean()
    if config.d_reg_interval == 1:
        loss = loss + d_penalty(state, real, fake, c, rng)
    state.log(grad_norm_D=minimise(loss, state.opt_D, state.scaler_D))
    state.G.mapping.update_w_avg(distributed.gather(ws[:, 0].detach()), distributed.gather(c), config.w_avg_beta)


def g_step(state: TrainingState, real: Tensor, c: Tensor | None) -> None:
    """Teach G to be taken for real, on the fakes that D has just seen or on new ones; a paired loss needs the real slices too."""
    loss_of, rng, real_logits = LOSSES[state.config.loss], state.rng("g_step"), None
    fake, state.fake = state.fake, None
    with state.autocast(), frozen(state.D):
        if not state.config.one_fake_batch:
            fake, _ = draw_fakes(state, len(real), c, rng)
        fake_logits = state.D(state.augmented(fake, rng), c).float()
        if loss_of.paired:
            real_logits = state.D(state.augmented(real, rng), c).float()
    loss = loss_of.g(real_logits, fake_logits)
    state.log(loss_G=loss)
    if state.config.participation_weight:  # of the whole batch
        fake, real = distributed.gather(fake), distributed.gather(real)
        penalty, state.sharing[...] = losses.participation_penalty(fake, real, state.sharing)
        state.log(participation=penalty)
        loss = loss + penalty * (state.config.participation_weight * distributed.world())  # shares of the gradient are averaged
    state.log(grad_norm_G=minimise(loss, state.opt_G, state.scaler_G))


def d_penalty_step(state: TrainingState, real: Tensor, c: Tensor | None) -> None:
    """The penalties in a step of their own, every ``d_reg_interval`` steps and therefore times the interval."""
    config, rng, fake = state.config, state.rng("d_penalty_step"), None
    if config.r2_gamma or config.gp_weight:
        with torch.no_grad(), state.autocast():
            fake = state.augmented(draw_fakes(state, len(real), c, rng)[0], rng)
    minimise(d_penalty(state, state.augmented(real, rng), fake, c, rng) * config.d_reg_interval, state.opt_D)


def path_length_step(state: TrainingState, c: Tensor | None) -> None:
    """Even out how far the picture moves per step in w, every ``g_reg_interval`` steps on a smaller batch; c of all processes."""
    config, world = state.config, distributed.world()
    n = max(state.batch_size // config.pl_batch_shrink // world, 1)
    rng = state.rng("path_length_step", Shard(distributed.rank(), world, group_size=1))  # G knows no groups: any rows will do
    with state.autocast(regularising=True):
        img, ws = draw_fakes(state, n, None if c is None else rng.shard.take(c[: n * world]), rng)
        lengths = path_lengths(img, ws, rng.normal(*img.shape))
    lengths = distributed.gather(lengths)
    penalty, pl_mean = path_length_penalty(lengths, state.pl_mean, config.pl_decay)
    state.pl_mean.copy_(pl_mean)
    state.log(path_length=lengths)
    # Each process holds its own lengths' share of the gradient, and shares are averaged: times their number.
    minimise(penalty * (config.pl_weight * config.g_reg_interval * world), state.opt_G)


# --- What steps are made of ---------------------------------------------------------------------------------------------------------


def draw_fakes(state: TrainingState, n: int, c: Tensor | None, rng: BatchRNG) -> tuple[Tensor, Tensor]:
    """(pictures [n, C, R, R], their ws [n, num_ws, w_dim]) of random z and noise. A share style_mixing_prob takes a second z
    from a random layer on (StyleGAN1, section 3.1)."""
    G, num_ws = state.G, state.G.num_ws
    reached = max(ws_reached(state.config, state.now.resolution), 2)  # a mix must show at this stage of growing
    z = torch.cat([rng.normal(n, G.z_dim), rng.normal(n, G.z_dim)])
    first, second = G.mapping(z, None if c is None else c.repeat(2, 1)).chunk(2)
    mixed = rng.uniform(n, 1) < state.config.style_mixing_prob
    crossover = rng.integers(1, reached, n, 1)
    takes_second = mixed & (torch.arange(num_ws, device=state.device) >= crossover)  # [n, num_ws]
    ws = torch.where(takes_second[:, :, None], second, first)
    return G.synthesis(ws, noise=G.synthesis.draw_noise(n, rng)), ws


def logits_of_both(state: TrainingState, fake: Tensor, real: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """D's logits [N, 1] of fakes and of real slices, in one pass, which is faster than two.

    They are interleaved so that no group of the minibatch standard deviation holds both. A DCGAN has no such groups, and a
    batch smaller than one group cannot be interleaved: there D runs twice.
    """
    size = state.config.mbstd_group_size
    if state.config.architecture == "dcgan" or len(fake) < size:
        return state.D(fake, c).float(), state.D(real, c).float()
    logits = state.D(interleaved(fake, real, size), None if c is None else interleaved(c, c, size)).float()
    fake_logits, real_logits = logits.unflatten(0, (size, 2, -1)).unbind(dim=1)  # [size, N / size, 1] each
    return fake_logits.flatten(0, 1), real_logits.flatten(0, 1)


def interleaved(first: Tensor, second: Tensor, size: int) -> Tensor:
    """[N, ...] twice -> [2N, ...], in which slices of one batch share a group of the minibatch deviation with their own only."""
    return torch.stack([half.unflatten(0, (size, -1)) for half in (first, second)], dim=1).flatten(0, 2)


def d_penalty(state: TrainingState, real: Tensor, fake: Tensor | None, c: Tensor | None, rng: BatchRNG) -> Tensor:
    """The weighted sum of the config's gradient penalties, at pictures as D sees them."""
    config, total = state.config, torch.zeros((), device=state.device)
    if config.r1_gamma:
        total = total + config.r1_gamma / 2 * penalty_at(state, "r1", r1_penalty, real, c)
    if config.r2_gamma:
        total = total + config.r2_gamma / 2 * penalty_at(state, "r2", r1_penalty, fake, c)
    if config.gp_weight:
        between = real.lerp(fake, rng.uniform(len(real), 1, 1, 1))  # somewhere on the line of each pair (WGAN-GP, section 4)
        total = total + config.gp_weight * penalty_at(state, "gp", gradient_penalty, between, c)
    return total


def penalty_at(state: TrainingState, name: str, formula: Callable, img: Tensor, c: Tensor | None) -> Tensor:
    """One penalty on D's gradient at these pictures, logged under its name."""
    img = img.detach().requires_grad_(True)
    with state.autocast(regularising=True):
        penalty = formula(state.D(img, c), img)
    state.log(**{name: penalty})
    return penalty


def minimise(loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> Tensor:
    """One step of the optimiser on the mean loss of all processes; returns the norm of the gradient."""
    scaler = scaler or torch.amp.GradScaler(loss.device.type, enabled=False)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    distributed.sum_(gradients, divide=distributed.world())
    norm = torch.nn.utils.get_total_norm(gradients)
    if scaler.is_enabled():  # an overflow is skipped, and counts as 0
        norm = torch.nan_to_num(norm / scaler.scale(torch.ones_like(norm)), 0.0, 0.0, 0.0)
    scaler.step(optimizer)
    scaler.update()
    return norm


@torch.no_grad()
def update_ema(state: TrainingState, n: int) -> None:
    """G_ema's weights follow G's with the half-life ema_kimg per n slices, shortened at the start; buffers (w_avg, noise) are copied."""
    ramp = state.cur_nimg * state.config.ema_rampup or math.inf
    beta = 0.5 ** (n / max(min(state.config.ema_kimg * 1000, ramp), 1e-8))
    torch._foreach_lerp_(list(state.G_ema.parameters()), list(state.G.parameters()), 1 - beta)
    torch._foreach_copy_(list(state.G_ema.buffers()), list(state.G.buffers()))


def update_augment(state: TrainingState, n: int) -> None:
    """Adapt the augmentation probability every ``ada_interval`` steps of n slices."""
    config = state.config
    if config.augment == "adaptive" and state.step % config.ada_interval == 0:
        distributed.sum_([state.signs])
        total, count = state.signs.tolist()
        state.augment_p = adapt(state.augment_p, total / count, n * config.ada_interval, config)
        state.signs.zero_()
