"""The steps of training: what each changes, and that the state is all there is to know."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stylegan.config import make_config
from stylegan.dataset import draw_batch, order
from stylegan.losses import adam_for_lazy
from stylegan.train import (
    adam,
    d_penalty_step,
    d_step,
    draw_fakes,
    frozen,
    g_step,
    logits_of_both,
    new_state,
    path_length_step,
    train,
    training_step,
    update_augment,
    update_ema,
)


def smoke(**fields):
    return make_config("smoke", device="cpu", **fields)


DCGAN = {"architecture": "dcgan", "mapping_layers": 0, "z_dim": 16, "w_dim": 16, "style_mixing_prob": 0.0}


def weights(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def changed(net, before):
    return [k for k, v in net.state_dict().items() if not torch.equal(v, before[k])]


def test_order_shows_every_slice_once_per_epoch_and_does_not_depend_on_the_batch():
    first = order(10, seed=3, start=0, count=10)
    assert sorted(first) == list(range(10))
    pieces = np.concatenate([order(10, 3, start, 4) for start in range(0, 20, 4)])
    np.testing.assert_array_equal(pieces, order(10, 3, 0, 20))
    assert not np.array_equal(first, order(10, 3, 10, 10))
    assert not np.array_equal(first, order(10, 4, 0, 10))


def test_mirror_shows_each_slice_both_ways(slices):
    config = smoke(batch_size=8)
    seen = torch.cat([draw_batch(slices, config, start, torch.device("cpu"))[0] for start in range(0, 2 * len(slices), 8)])
    real = slices.tensor()
    rows = {row.numpy().tobytes() for row in seen}
    assert {row.numpy().tobytes() for row in real} <= rows
    assert {row.numpy().tobytes() for row in real.flip(3).contiguous()} <= rows


def test_one_step_trains_both_networks_and_their_average(slices):
    state = new_state(smoke(pl_weight=2.0))
    before = {name: weights(getattr(state, name)) for name in ("G", "D", "G_ema")}
    training_step(state, slices)
    assert {k for k, _ in state.D.named_parameters()} == set(changed(state.D, before["D"]))
    trained = {k for k, _ in state.G.named_parameters()} | {"mapping.w_avg"}
    assert trained == set(changed(state.G, before["G"])) == set(changed(state.G_ema, before["G_ema"]))
    assert state.cur_nimg == 8 and state.step == 1 and state.pl_mean > 0
    assert {"loss_D", "loss_G", "r1", "path_length", "grad_norm_D", "grad_norm_G"} == set(state.log.means())


@pytest.mark.parametrize(("one", "calls"), [(True, 1), (False, 2)])
def test_one_fake_batch_serves_both_networks(slices, one, calls):
    state, seen = new_state(smoke(one_fake_batch=one)), []
    state.G.synthesis.register_forward_hook(lambda *_: seen.append(1))
    before = weights(state.G)
    training_step(state, slices)
    assert len(seen) == calls
    assert {k for k, _ in state.G.named_parameters()} | {"mapping.w_avg"} == set(changed(state.G, before))


def test_the_gradient_of_one_fake_batch_is_that_of_the_same_fakes_drawn_again(slices, monkeypatch):
    """Drawing the same z and noise again for G, by rewinding the random numbers, gives the same step."""
    states = [new_state(smoke(one_fake_batch=one, augment="none", batch_size=8)) for one in (True, False)]
    for state in states:
        monkeypatch.setattr(
            state, "reseed", lambda step, state=state: state.generator.manual_seed(1)
        )  # the same numbers in both steps
        real, c = draw_batch(slices, state.config, 0, state.device)
        d_step(state, real, c)
        g_step(state, real, c)
    for a, b in zip(states[0].G.parameters(), states[1].G.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("n", [2, 4, 12])
@pytest.mark.parametrize("fields", [{}, {"c_dim": 3}, {"architecture": "stylegan1"}, DCGAN, {"mbstd_group_size": 2}], ids=str)
def test_fakes_and_real_slices_are_judged_in_one_pass_as_in_two(fields, n):
    state = new_state(smoke(batch_size=n, **fields))
    fake, real = torch.randn(n, 1, 16, 16), 2 + torch.randn(n, 1, 16, 16)
    c = torch.eye(3)[torch.arange(n) % 3] if state.config.c_dim else None
    found = logits_of_both(state, fake, real, c)
    for logits, img in zip(found, (fake, real), strict=True):
        torch.testing.assert_close(logits, state.D(img, c), rtol=1e-4, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.01  # they differ: mixing them would show


def test_d_penalty_step_alone_changes_the_discriminator_and_nothing_else(slices):
    state = new_state(smoke(r1_gamma=1.0))
    real, c = draw_batch(slices, state.config, 0, state.device)
    before = weights(state.D), weights(state.G)
    d_penalty_step(state, real, c)
    assert changed(state.D, before[0]) and not changed(state.G, before[1])


def test_path_length_step_uses_the_smaller_batch_and_moves_only_the_generator(slices):
    state = new_state(smoke(pl_weight=2.0, pl_batch_shrink=4))
    before = weights(state.D), weights(state.G)
    path_length_step(state, None)
    assert changed(state.G, before[1]) and not changed(state.D, before[0])
    assert state.log.means()["path_length"] > 0


def test_frozen_takes_no_gradients_and_gives_them_back():
    state = new_state(smoke())
    with pytest.raises(RuntimeError), frozen(state.D):
        assert not any(p.requires_grad for p in state.D.parameters())
        raise RuntimeError
    assert all(p.requires_grad for p in state.D.parameters())


def test_same_seed_same_run_other_seed_other_run(slices):
    def run(seed):
        state = new_state(smoke(seed=seed, total_kimg=0.024))
        train(state, slices, lambda _: False)
        return state.G_ema.state_dict()

    one, two, other = run(1), run(1), run(2)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not any(torch.equal(one[k], other[k]) for k in one if k.endswith("weight"))


def test_a_conditional_run_tells_both_networks_the_class(slices):
    config = replace(smoke(conditional="class"), c_dim=len(slices.classes))
    state = new_state(config)
    training_step(state, slices)
    assert state.G.mapping.w_avg.shape == (len(slices.classes), config.w_dim)
    assert any(k.startswith("mapping.embed") for k, p in state.D.named_parameters() if p.grad is not None)


@pytest.mark.parametrize("pl_weight", [0.0, 2.0])
def test_fp16_trains_as_fp32_does_at_first_and_scales_its_losses(slices, pl_weight):
    states = [new_state(smoke(precision=precision, pl_weight=pl_weight)) for precision in ("fp16", "fp32")]
    for state in states:
        for _ in range(4):
            training_step(state, slices)
    half, full = (state.log.means() for state in states)
    for name, value in full.items():
        assert half[name] == pytest.approx(value, rel=0.1), name
    assert states[0].scaler_G.get_scale() > 1 and not states[1].scaler_G.is_enabled()


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_scale(slices):
    state = new_state(smoke(precision="fp16"))
    training_step(state, slices)
    before, scale = weights(state.D), state.scaler_D.get_scale()
    real, c = draw_batch(slices, state.config, 0, state.device)
    d_step(state, real * float("inf"), c)
    assert not {k for k, _ in state.D.named_parameters()} & set(changed(state.D, before))
    assert state.scaler_D.get_scale() < scale


def test_ema_forgets_half_in_its_half_life_follows_closely_at_the_start_and_copies_buffers():
    for fields, steps in (({"ema_kimg": 0.8, "ema_rampup": 0.0}, 100), ({"ema_kimg": 10.0, "ema_rampup": 0.05}, 1)):
        state = new_state(smoke(**fields))
        state.cur_nimg = 160  # with the ramp a half-life of 8 slices, one batch
        with torch.no_grad():
            for p, target in zip(state.G_ema.parameters(), state.G.parameters(), strict=True):
                p.zero_()
                target.fill_(1.0)
        state.G.mapping.w_avg.fill_(7.0)
        for _ in range(steps):  # 100 batches of 8 slices are the half-life of 0.8 kimg
            update_ema(state, 8)
        assert all(torch.allclose(p, torch.full_like(p, 0.5), atol=1e-4) for p in state.G_ema.parameters())
        assert (state.G_ema.mapping.w_avg == 7).all()


def test_augment_p_rises_when_the_discriminator_is_too_sure_and_falls_when_it_is_not():
    state = new_state(smoke(ada_interval=4, ada_kimg=1.0))
    for step, signs, p in ((4, 30.0, 8 * 4 / 1000), (8, 0.0, 0.0)):
        state.step, state.signs = step, torch.tensor([signs, 32.0])
        update_augment(state, 8)
        assert state.augment_p == pytest.approx(p) and state.signs.tolist() == [0, 0]


def test_style_mixing_gives_a_share_of_fakes_two_styles():
    found = {}
    for share in (0.5, 0.0):
        state = new_state(smoke(style_mixing_prob=share))
        found[share] = draw_fakes(state, 400, None, state.rng("d_step"))[1]
    mixed = (found[0.5] != found[0.5][:, :1]).any(dim=2).any(dim=1)
    assert mixed.float().mean().item() == pytest.approx(0.5, abs=0.08)
    switches = (found[0.5][:, 1:] != found[0.5][:, :-1]).any(dim=2).sum(dim=1)
    assert switches.max() == 1  # one crossover: coarse layers from one z, fine layers from the other
    assert torch.equal(found[0.0], found[0.0][:, :1].expand_as(found[0.0]))


def test_adam_starts_with_averages_of_zero_and_steps_as_torch_s_own_does():
    config = smoke(adam_eps=0.0)
    net, twin = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    twin.load_state_dict(net.state_dict())
    ours = adam(net, config, 16)
    plain = torch.optim.Adam(twin.parameters(), **adam_for_lazy(config.lr, config.beta1, config.beta2, 16), eps=0.0, fused=True)
    assert all(not slot.any() for slots in ours.state.values() for slot in slots.values())
    for scale in (1.0, -3.0):
        for one, optimizer in ((net, ours), (twin, plain)):
            optimizer.zero_grad()
            (one(torch.ones(4, 3)).sum() * scale).backward()
            optimizer.step()
    assert torch.equal(net.weight, twin.weight)
