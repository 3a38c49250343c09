"""The steps of training: what each changes and logs, that each preset learns, and that the seed decides all.

What golden numbers (test_golden) do not fix of losses, penalties and augmentations, in closed forms and plain loops.
"""

import dataclasses
import math
from copy import deepcopy
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from stylegan import train as training
from stylegan.augment import augment, cutout, dither, move
from stylegan.checkpoint import flatten
from stylegan.config import PRESETS, Config, make_config
from stylegan.dataset import draw_batch, mirror_axis, order
from stylegan.losses import LOSSES, gradient_penalty, participation_penalty, sharing
from stylegan.modules import with_deviation
from stylegan.predict import generate
from stylegan.rng import WARM_UP, BatchRNG, Replay
from stylegan.scores.metrics import kernel_distance
from stylegan.train import d_step, g_step, new_state, train, training_step

DCGAN = {"architecture": "dcgan", "mapping_layers": 0, "z_dim": 16, "w_dim": 16, "style_mixing_prob": 0.0}
SYSTEMS = [name for name in PRESETS if name.startswith(("stylegan", "seed")) or name in ("dcgan", "modern")]
LEARN_FAST = ("seed002-stylegan2-umap", "dcgan")  # the others are long


def smoke(**fields) -> Config:
    return make_config("smoke", device="cpu", **fields)


def changed(net, before):
    return {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}


def parameters(net):
    return {k for k, _ in net.named_parameters()}


def test_order_shows_every_slice_once_per_epoch_and_the_mirror_both_ways_by_the_orientation_of_the_data(slices):
    turned = dataclasses.replace(slices, sides=("L", "R", "A", "P"))
    assert mirror_axis(smoke(mirror_axis="vertical"), slices) == 2 and mirror_axis(smoke(mirror_axis="horizontal"), turned) == 3
    for data, axis in ((slices, 3), (turned, 2)):
        assert mirror_axis(smoke(), data) == axis
        seen = torch.cat([draw_batch(data, smoke(), start, torch.device("cpu"))[0] for start in range(0, 2 * len(data), 8)])
        rows, real = {row.numpy().tobytes() for row in seen}, data.tensor()
        assert {row.numpy().tobytes() for row in (*real, *real.flip(axis).contiguous())} <= rows
    whole = order(10, seed=3, start=0, count=20)
    assert sorted(whole[:10]) == sorted(whole[10:]) == list(range(10)) and whole[:10].tolist() != whole[10:].tolist()
    np.testing.assert_array_equal(np.concatenate([order(10, 3, start, 4) for start in range(0, 20, 4)]), whole)
    assert not np.array_equal(whole, order(10, 4, 0, 20))


@pytest.mark.parametrize("fields", [{"pl_weight": 2.0}, {"architecture": "stylegan1", "conditional": "class", "c_dim": 2},
                                    DCGAN, {"loss": "wgan"}, {"loss": "relativistic"}], ids=str)  # fmt: skip
def test_one_step_trains_every_weight_of_both_networks_and_their_average(slices, fields):
    state = new_state(smoke(**fields))
    before = {name: deepcopy(getattr(state, name).state_dict()) for name in ("G", "D", "G_ema")}
    training_step(state, slices)
    constant = {"epilogue.out.bias"} if "loss" in fields else set()  # which neither of these losses feels
    assert changed(state.D, before["D"]) >= parameters(state.D) - constant
    assert changed(state.G, before["G"]) >= parameters(state.G) | {"mapping.w_avg"}
    assert changed(state.G, before["G"]) == changed(state.G_ema, before["G_ema"])
    assert state.cur_nimg == 8 and state.step == 1
    path = {"path_length"} if state.config.pl_weight else set()
    assert {"loss_D", "loss_G", "r1", "grad_norm_D", "grad_norm_G"} | path == set(state.log.means())


def test_one_fake_batch_serves_both_networks_as_the_same_fakes_drawn_again_would(slices, monkeypatch):
    """Drawing the same z and noise again for G, by rewinding the random numbers, gives the same step."""
    states, seen = [new_state(smoke(one_fake_batch=one, augment="none")) for one in (True, False)], []
    for state, calls in zip(states, (1, 3), strict=True):
        state.G.synthesis.register_forward_hook(lambda *_: seen.append(1))
        monkeypatch.setattr(state, "reseed", lambda step, state=state: state.generator.manual_seed(1))
        real, c = draw_batch(slices, state.config, 0, state.device)
        d_step(state, real, c)
        g_step(state, real, c)
        assert len(seen) == calls
    for a, b in zip(states[0].G.parameters(), states[1].G.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("n", [2, 12])
@pytest.mark.parametrize("fields", [{}, {"c_dim": 3}, {"architecture": "stylegan1"}, {"mbstd_group_size": 2},
                                    {"pixel_deviation": True}, {**DCGAN, "pixel_deviation": True}], ids=str)  # fmt: skip
def test_fakes_and_real_slices_are_judged_in_one_pass_as_in_two(fields, n):
    state = new_state(smoke(batch_size=n, **fields))
    if "pixel_deviation" in fields:
        state.D.eval()
    fake, real = torch.randn(n, 1, 16, 16), 2 + torch.randn(n, 1, 16, 16)
    c = torch.eye(3)[torch.arange(n) % 3] if state.config.c_dim else None
    found = training.logits_of_both(state, fake, real, c)
    for logits, img in zip(found, (fake, real), strict=True):
        torch.testing.assert_close(logits, state.D(img, c), rtol=1e-4, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3  # they differ: mixing them would show


def test_the_lazy_steps_change_their_network_and_nothing_else(slices):
    state = new_state(smoke(r1_gamma=1.0, pl_weight=2.0, pl_batch_shrink=4))
    real, c = draw_batch(slices, state.config, 0, state.device)
    before = deepcopy(state.D.state_dict()), deepcopy(state.G.state_dict())
    training.d_penalty_step(state, real, c)
    assert changed(state.D, before[0]) and not changed(state.G, before[1])
    before = deepcopy(state.D.state_dict()), deepcopy(state.G.state_dict())
    training.path_length_step(state, None)
    assert changed(state.G, before[1]) and not changed(state.D, before[0])
    assert state.log.means()["path_length"] > 0 and state.pl_mean > 0


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize(("name", "log"), [("r1_gamma", "r1"), ("r2_gamma", "r2"), ("gp_weight", "gp")])
def test_each_penalty_acts_and_is_logged_at_every_step_or_lazily(slices, name, log, interval):
    state = new_state(smoke(**{"r1_gamma": 0.0, name: 1.0, "d_reg_interval": interval, "augment": "none"}))
    training_step(state, slices)
    training_step(state, slices)
    assert state.log.means()[log] > 0 and state.log.sums[log][1] == 2 / interval


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_drift_pulls_real_logits_to_0(slices, drift):
    state = new_state(smoke(loss="wgan", drift=drift, r1_gamma=0.0, augment="none", lr=1e-3))
    state.D.epilogue.out.bias.data.fill_(10.0)  # a critic's loss does not feel a constant
    for _ in range(3):
        training_step(state, slices)
    assert (state.D.epilogue.out.bias.item() < 9.999) == (drift > 0)


def test_the_generator_learns_from_the_penalty_on_sharing_and_a_checkpoint_keeps_its_mean():
    states = [new_state(smoke(participation_weight=weight)) for weight in (0.0, 100.0)]
    for state in states:
        g_step(state, torch.rand(8, 1, 16, 16), None)
    assert "sharing" not in flatten(states[0]) and flatten(states[1])["sharing"] > 0
    assert not all(torch.equal(a, b) for a, b in zip(states[0].G.parameters(), states[1].G.parameters(), strict=True))


@pytest.mark.parametrize(("ema_kimg", "ema_rampup", "steps"), [(0.8, 0.0, 100), (10.0, 0.05, 1)])
def test_ema_forgets_half_in_its_half_life_follows_closely_at_the_start_and_copies_buffers(ema_kimg, ema_rampup, steps):
    state = new_state(smoke(ema_kimg=ema_kimg, ema_rampup=ema_rampup))
    state.cur_nimg = 160  # with the ramp a half-life of 8 slices, one batch
    for p, target in zip(state.G_ema.parameters(), state.G.parameters(), strict=True):
        p.data.zero_()
        target.data.fill_(1.0)
    state.G.mapping.w_avg.fill_(7.0)
    for _ in range(steps):  # 100 batches of 8 slices are the half-life of 0.8 kimg
        training.update_ema(state, 8)
    assert all(torch.allclose(p, torch.full_like(p, 0.5), atol=1e-4) for p in state.G_ema.parameters())
    assert (state.G_ema.mapping.w_avg == 7).all()


def test_augment_p_rises_when_the_discriminator_is_too_sure_and_falls_when_it_is_not_within_its_limits():
    """By the share of ``ada_kimg`` that four steps of 8 slices are."""
    state, step = new_state(smoke(ada_interval=4, ada_kimg=1.0, augment_p_max=0.05)), 8 * 4 / 1000
    for signs, p in ((30.0, step), (30.0, 0.05), (0.0, 0.05 - step), (0.0, 0.0)):
        state.step, state.signs = 4, torch.tensor([signs, 32.0])
        training.update_augment(state, 8)
        assert state.augment_p == pytest.approx(p) and state.signs.tolist() == [0, 0]


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_style_mixing_gives_a_share_of_fakes_two_styles(share):
    state = new_state(smoke(style_mixing_prob=share))
    ws = training.draw_fakes(state, 400, None, state.rng("d_step"))[1]
    switches = (ws[:, 1:] != ws[:, :-1]).any(dim=2).sum(dim=1)  # coarse layers from one z, fine layers from the other
    assert switches.max() == (share > 0) and switches.float().mean().item() == pytest.approx(share, abs=0.08)


def test_the_rate_falls_with_the_root_of_the_slices_shown_and_at_last_to_nothing():
    state = new_state(smoke(lr_decay_kimg=10.0, lr_end_kimg=2000.0))
    full = state.opt_G.param_groups[0]["base_lr"]
    for kimg, share in ((0, 1), (10, 1), (40, 0.5), (1000, 0.1), (1750, 0.5 * (10 / 1750) ** 0.5), (2000, 0)):
        state.cur_nimg = kimg * 1000
        training.set_rates(state)
        assert state.opt_G.param_groups[0]["lr"] == pytest.approx(full * share)


@pytest.mark.parametrize("loss", ["relativistic", "wgan"])
def test_p_stays_0_without_augmentation_and_follows_no_level_that_a_loss_leaves_open(slices, loss):
    assert new_state(smoke(augment="none", augment_p=0.5)).augment_p == 0
    counted = []
    for level in (-3.0, 3.0):
        state = new_state(smoke(loss=loss, dither=False))
        state.D.epilogue.out.bias.data += level
        d_step(state, *draw_batch(slices.split("train"), state.config, 0, state.device, 8))
        counted.append(state.signs.tolist())
    assert counted[0] == counted[1]
    # Lowered for steps of a regulariser alone, while Adam keeps the memory of as many main steps.
    states = [new_state(smoke(pl_weight=1.0, g_reg_interval=n, d_reg_interval=n, lr=0.01)) for n in (1, 4)]
    groups = [(state.opt_G.param_groups[0], state.opt_D.param_groups[0]) for state in states]
    # With 1, D's is a part of its loss.
    assert [(G["base_lr"], D["base_lr"]) for G, D in groups] == [(0.005, 0.01), (0.008, 0.008)]
    assert groups[1][0]["betas"] == (0.0, pytest.approx(0.99 ** (4 / 5)))


def test_half_precision_trains_as_fp32_does_at_first_and_fp16_skips_an_overflow(slices):
    states = [new_state(smoke(precision=precision, pl_weight=2.0, total_kimg=0.032)) for precision in ("fp32", "bf16", "fp16")]
    for state in states:
        train(state, slices, lambda _: False)
        assert state.log.means() == pytest.approx(states[0].log.means(), rel=0.1)
    before, scale = deepcopy(state.D.state_dict()), state.scaler_D.get_scale()
    assert scale > 1 and not states[0].scaler_G.is_enabled()
    real, c = draw_batch(slices, state.config, 0, state.device)
    d_step(state, real * float("inf"), c)
    assert not parameters(state.D) & changed(state.D, before) and state.scaler_D.get_scale() < scale


def test_same_seed_same_run_other_seed_other_run(slices):
    one, two, other = (new_state(smoke(seed=seed, total_kimg=0.024)) for seed in (1, 1, 2))
    for state in (one, two, other):
        train(state, slices, lambda _: False)
    assert not changed(one.G_ema, two.G_ema.state_dict())
    assert changed(one.G_ema, other.G_ema.state_dict()) >= {k for k in parameters(one.G) if k.endswith("weight")}


@pytest.mark.parametrize("preset", [n if n in LEARN_FAST else pytest.param(n, marks=pytest.mark.long) for n in SYSTEMS])
def test_each_preset_halves_the_distance_of_its_start(preset, slices):
    """In 1 or 2 kimg at 16 px the kernel distance in the space of 16 principal components of the pixels falls below half."""
    more = {} if preset == "dcgan" else {"z_dim": 16, "w_dim": 16, "mapping_layers": 2}
    if "grow_from" in PRESETS[preset]:
        more |= {"grow_from": 4, "grow_kimg": 0.08, "fade_kimg": 0.08, "grow_batch_max": 32}
    more |= {"attention": "8"} if "attention" in PRESETS[preset] else {}
    more |= {"c_dim": len(slices.classes)} if "conditional" in PRESETS[preset] else {}
    config = make_config(preset, img_resolution=16, channel_base=128, channel_max=16, batch_size=16, ema_kimg=0.1, device="cpu",
                         precision="fp32", total_kimg=1 if preset in LEARN_FAST else 2, **more)  # fmt: skip
    state, real = new_state(config), slices.tensor().flatten(1).numpy()
    space = PCA(16, random_state=0).fit(real)

    def distance():
        fakes = generate(state.G_ema, range(48)).clamp(-1, 1).flatten(1).numpy()
        return kernel_distance(space.transform(real), space.transform(fakes))

    before = distance()
    train(state, slices, lambda _: False)
    assert distance() < before / 2


def test_after_the_warm_up_each_variant_is_recorded_once_and_sees_new_inputs(monkeypatch):
    """Without a card: replaying runs what was recorded on its own memory. That it computes the same: see test_gpu."""
    for name in ("Stream", "current_stream", "stream", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())

    def record(self, function, inputs):
        own = [None if tensor is None else tensor.clone() for tensor in inputs]
        return MagicMock(replay=lambda: function(*own)), own

    monkeypatch.setattr(Replay, "_record", record)
    total = torch.zeros(3)

    def add(x, none):
        assert none is None
        total.add_(x)

    replay = Replay(torch.Generator(), enabled=True)
    for i in range(2 * WARM_UP):
        replay(add, torch.full([3], float(i)), None, variant=("a",))
    assert total.tolist() == [sum(range(2 * WARM_UP))] * 3
    assert list(replay.recorded) == [("add", "a")]
    replay(add, torch.ones(3), None, variant=("b",))
    assert list(replay.recorded) == [("add", "a")]  # another variant warms up by itself


def draws(seed):
    return BatchRNG(torch.device("cpu"), torch.Generator().manual_seed(seed))


def test_losses_beside_the_logistic_one_and_the_gradient_penalty_of_a_linear_critic_and_a_flat_one():
    real, fake = torch.randn(6, 1), torch.randn(6, 1)
    torch.testing.assert_close(LOSSES["wgan"].d(real, fake), fake.mean() - real.mean())
    torch.testing.assert_close(LOSSES["wgan"].g(real, fake), -fake.mean())
    relativistic = LOSSES["relativistic"]
    torch.testing.assert_close(relativistic.d(real, fake), -torch.sigmoid(real - fake).log().mean())
    torch.testing.assert_close(relativistic.g(real + 5, fake + 5), relativistic.d(fake, real))  # no matter where both lie
    assert [name for name, loss in LOSSES.items() if loss.paired] == ["relativistic"]
    weight = (3 * torch.randn(2 * 4 * 4)).requires_grad_(True)
    x, norm = torch.randn(8, 2, 4, 4, requires_grad=True), weight.detach().norm()
    penalty = gradient_penalty(x.flatten(1) @ weight[:, None], x)
    torch.testing.assert_close(penalty, (norm - 1) ** 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * (norm - 1) * weight.detach() / norm)  # the penalty teaches D's weights
    flat = torch.zeros(32, requires_grad=True)
    penalty = gradient_penalty(x.flatten(1) @ flat[:, None], x)
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-5) and torch.isfinite(flat.grad).all()


def test_deviation_is_that_of_each_pixel_over_its_group():
    img = torch.rand(8, 1, 4, 4) * 2 - 1
    seen = with_deviation(img, 4)
    assert seen.shape == (8, 2, 4, 4) and torch.equal(seen[:, :1], img)
    for i in range(8):
        group = img[[j for j in range(8) if j % 2 == i % 2]]  # two groups of four, every other slice
        torch.testing.assert_close(seen[i, 1:], 2 * (group.var(dim=0, unbiased=False) + 1e-4).sqrt() - 1)
    alike = torch.zeros(4, 1, 4, 4, requires_grad=True)
    with_deviation(alike, 4).sum().backward()
    assert with_deviation(alike, 4)[:, 1].max() < -0.97 and alike.grad.isfinite().all()


def test_sharing_finds_the_number_of_directions_and_its_penalty_is_nothing_for_various_fakes_and_drives_alike_ones_apart():
    img = torch.randn(6, 1, 8, 8)
    detail = img - F.interpolate(F.avg_pool2d(img, 4), scale_factor=4, mode="bilinear")
    h = [(x - detail.mean(dim=0)).flatten() for x in detail]
    pairs = [(h[i] @ h[j]).item() ** 2 for i in range(6) for j in range(6) if i != j]
    assert sharing(img).item() == pytest.approx(sum(pairs) / 30 / (sum((x @ x).item() for x in h) / 6) ** 2, rel=1e-4)
    assert sharing(img[:2]).item() == pytest.approx(1)  # two centred slices are opposite
    few, many = (torch.randn(256, k) @ torch.randn(k, 1024) for k in (2, 16))
    assert sharing(few.reshape(256, 1, 32, 32)) > 3 * sharing(many.reshape(256, 1, 32, 32))
    real, alike = torch.randn(8, 1, 16, 16), torch.randn(8, 1) @ torch.randn(1, 256)
    alike = alike.reshape(8, 1, 16, 16).requires_grad_(True)
    penalty, mean = participation_penalty(alike, real, torch.zeros(()))
    assert mean == sharing(real) and penalty > 1 and participation_penalty(real, real, mean)[0] == 0
    (gradient,) = torch.autograd.grad(penalty, alike)
    assert participation_penalty(alike - gradient, real, mean)[0] < penalty
    black = torch.zeros_like(real).requires_grad_(True)
    assert torch.autograd.grad(participation_penalty(black, real, mean)[0], black)[0].isfinite().all()


def noise(n=4):
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_movements_grey_and_cutout():
    img, still = noise(), (torch.zeros(4, 2), torch.ones(4), torch.zeros(4))
    torch.testing.assert_close(move(img, *still), img)
    moved = move(img, torch.tensor([[2 / 16, 1 / 16]] * 4), *still[1:])
    torch.testing.assert_close(moved[:, :, 1:, 2:], img[:, :, :-1, :-2])
    assert (moved[:, :, 0] == -1).all() and (moved[..., :2] == -1).all()  # black comes in
    turned = move(img, *still[:2], torch.full([4], math.pi / 2))
    assert min((turned - torch.rot90(img, k, dims=[2, 3])).abs().max().item() for k in (1, 3)) < 1e-4
    square = torch.full([1, 1, 16, 16], -1.0)
    square[:, :, 6:10, 6:10] = 1
    assert (move(square, torch.zeros(1, 2), torch.full([1], 2.0), torch.zeros(1)) > 0).sum() == pytest.approx(4 * 16, abs=4)
    img = noise()
    struck = torch.tensor([True, False, True, False])
    cut = cutout(img, struck, torch.full([4, 2], 0.5))
    torch.testing.assert_close(cut[~struck], img[~struck])
    assert (cut[struck] != img[struck]).sum(dim=[1, 2, 3]).tolist() == [9] * 2  # pixels / 16 within 1/8 of the middle
    assert (cut[struck][:, :, 7:10, 7:10] == -1).all()


def test_the_share_of_changed_slices_follows_p_and_gradients_of_gradients_pass():
    torch.testing.assert_close(augment(noise(), 0.0), noise())
    changed = (augment(noise(400), 0.1, draws(1)) != noise(400)).flatten(1).any(dim=1).float().mean()
    assert changed == pytest.approx(1 - 0.9**6, abs=0.08)  # six operations
    img = noise().requires_grad_(True)
    (gradient,) = torch.autograd.grad((augment(img, 0.8, draws(0)) ** 3).sum(), img, create_graph=True)
    gradient.square().sum().backward()
    assert torch.isfinite(img.grad).all() and img.grad.abs().sum() > 0


def test_dither_clamps_adds_up_to_one_grey_level_and_lets_gradients_only_back_in():
    img = torch.linspace(-2, 2, 4000).reshape(1, 1, 40, 100)
    moved = dither(img, draws(0)) - img.clamp(-1, 1)
    assert moved.abs().max() <= 2 / 255 + 1e-6 and moved.abs().max() > 1.9 / 255 and abs(moved.mean()) < 0.1 / 255
    x = torch.tensor([-1.5, -1.5, -1.05, 0.0, 1.05, 1.5, 1.5]).reshape(1, 1, 1, 7).requires_grad_(True)
    push = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 1, 7)  # descent moves against it
    (dither(x, draws(0)) * push).sum().backward()
    assert x.grad.flatten().tolist() == [0.0, -1.0, 1.0, 1.0, -1.0, 1.0, 0.0]  # within the margin black may become blacker
