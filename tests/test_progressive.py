"""Growing: a pure schedule, pictures that do not jump, batches and rates by resolution, and resumes that go on with the fade."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylegan import progressive
from stylegan.checkpoint import load_checkpoint, load_generator, save_generator, save_state
from stylegan.config import Config, make_config
from stylegan.networks import build_networks, grow_to, set_stage
from stylegan.progressive import Stage, stage
from stylegan.train import new_state, train, training_step


def growing(**changes) -> Config:
    fields = {"architecture": "stylegan1", "img_resolution": 16, "channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8,
              "mapping_layers": 2, "batch_size": 4, "grow_from": 4, "grow_kimg": 0.016, "fade_kimg": 0.032, "device": "cpu",
              "grow_batch_max": 8, "total_kimg": 0.2}  # fmt: skip
    return Config(**{**fields, **changes})


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# --- The schedule -------------------------------------------------------------------------------------------------------------


def test_the_schedule_holds_and_fades_in_turn():
    config = growing()
    found = [stage(config, n) for n in (0, 15, 16, 32, 47, 48, 63, 64, 80, 96, 10**6)]
    assert found == [(4, 1), (4, 1), (8, 0), (8, 0.5), (8, 31 / 32), (8, 1), (8, 1), (16, 0), (16, 0.5), (16, 1), (16, 1)]
    assert stage(growing(grow_from=0), 0) == stage(growing(grow_from=16), 0) == (16, 1)


def test_alpha_rises_evenly_and_the_resolution_never_falls():
    config = make_config("stylegan1")
    stages = [stage(config, n) for n in range(0, 6_000_000, 4_000)]
    for before, after in pairwise(stages):
        assert after.resolution in (before.resolution, 2 * before.resolution)
        if after.resolution == before.resolution:
            assert 0 <= after.alpha - before.alpha <= 4 / 600 + 1e-9
        else:
            assert before.alpha == 1 and after.alpha < 4 / 600
    assert stages[0] == (8, 1) and stages[-1] == (128, 1)


def test_batches_and_rates_follow_the_official_schedule():
    """One GPU: 128 slices up to 16 px, 64 at 32, 32 at 64, 16 at 128; the rate is 1.5 times as high at 128 px."""
    config = make_config("stylegan1")
    assert [progressive.batch_size(config, r) for r in (8, 16, 32, 64, 128)] == [128, 128, 64, 32, 16]
    shown = {stage(config, n).resolution: n for n in range(0, 6_000_000, 100_000)}
    assert [config.lr * progressive.lr_factor(config, shown[r]) for r in (8, 64, 128)] == [1e-3, 1e-3, 1.5e-3]
    fixed = replace(config, grow_from=0)
    assert progressive.batch_size(fixed, 128) == 16 and progressive.lr_factor(fixed, 10**7) == 1


# --- Networks -----------------------------------------------------------------------------------------------------------------


def unlike_at_the_start(G):
    """With pictures of all sizes that differ."""
    with torch.no_grad():
        for block in G.synthesis.blocks:
            block.torgb.bias.normal_()
    return G


@torch.no_grad()
@pytest.mark.parametrize("resolution", [8, 16])
def test_pictures_and_logits_are_continuous_at_a_switch(resolution):
    G, D = build_networks(growing())
    ws = unlike_at_the_start(G).mapping(torch.randn(2, 8))
    real = torch.randn(4, 1, 16, 16)

    def seen(now):
        set_stage(now, G, D)
        return G.synthesis(ws, "const"), D(real)

    img, logits = seen(Stage(resolution // 2, 1.0))
    start, end = seen(Stage(resolution, 0.0)), seen(Stage(resolution, 1.0))
    torch.testing.assert_close(start[0], img)
    torch.testing.assert_close(start[1], logits)
    half = seen(Stage(resolution, 0.5))
    torch.testing.assert_close(half[0], (start[0] + end[0]) / 2, rtol=1e-4, atol=1e-5)
    almost = seen(Stage(resolution, 0.999))
    assert (almost[0] - end[0]).abs().max() < 0.01 * (start[0] - end[0]).abs().max()
    assert (start[0] - end[0]).abs().max() > 0.1 and (almost[1] - end[1]).abs().max() < 0.05


@torch.no_grad()
def test_the_discriminator_sees_no_more_than_its_stage():
    _, D = build_networks(growing())
    set_stage(Stage(8, 1.0), D)
    real = torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(D(F.interpolate(F.avg_pool2d(real, 2), scale_factor=2.0)), D(real))
    set_stage(Stage(16, 1.0), D)
    assert not torch.allclose(D(F.interpolate(F.avg_pool2d(real, 2), scale_factor=2.0)), D(real))


def test_real_slices_fade_in_with_the_generator():
    real = torch.randn(2, 1, 16, 16)
    halves = F.interpolate(F.avg_pool2d(real, 2), scale_factor=2.0)
    quarters = F.interpolate(F.avg_pool2d(real, 4), scale_factor=4.0)
    alpha = torch.tensor(0.25)
    torch.testing.assert_close(progressive.fade_reals(real, Stage(8, 0.25), alpha), 0.75 * quarters + 0.25 * halves)
    assert progressive.fade_reals(real, Stage(8, 1.0), torch.tensor(1.0)) is real


def test_a_growing_network_has_a_picture_at_each_size_and_a_fixed_one_only_at_the_last():
    for grow_from, own in ((4, [True] * 3), (0, [False, False, True])):
        G, D = build_networks(growing(grow_from=grow_from))
        assert [block.torgb is not None for block in G.synthesis.blocks] == own
        assert sorted(D.from_small_rgb) == (["4", "8"] if grow_from else [])


def test_mixing_takes_a_layer_that_shows():
    G, _ = build_networks(growing())
    reached = []
    for now in (Stage(4, 1.0), Stage(8, 0.5), Stage(16, 1.0)):
        set_stage(now, G)
        reached.append(progressive.ws_reached(growing(), now.resolution))
        assert [len(noise) for noise in G.synthesis.draw_noise(3)] == [3] * reached[-1]
    assert reached == [2, 4, 6] and G.num_ws == 6


# --- Training -----------------------------------------------------------------------------------------------------------------


def test_a_step_counts_the_batch_of_its_resolution_and_moments_start_anew(slices):
    state = new_state(growing())
    training_step(state, slices)
    assert state.cur_nimg == 8 and state.D.now == (4, 1)  # batches double to 8 below 16 px
    training_step(state, slices)
    assert state.cur_nimg == 16 and state.D.now == state.G.synthesis.now == state.G_ema.synthesis.now == (8, 0)
    slots = list(state.opt_D.state.values())
    assert slots and all(tensor.eq(0).all() for slot in slots for tensor in slot.values())
    train(state, slices, lambda s: s.cur_nimg >= 100)
    assert state.D.now == (16, 1) and state.batch_size == 4
    assert state.opt_G.param_groups[0]["lr"] == state.config.lr


def test_a_resumed_fade_goes_on_where_it_was(slices, tmp_path):
    whole, first = new_state(growing()), new_state(growing())
    train(whole, slices, lambda s: s.cur_nimg >= 88)
    train(first, slices, lambda s: s.cur_nimg >= 40)
    assert first.D.now.fading
    second = new_state(growing())
    load_checkpoint(second, save_state(first, tmp_path))
    assert second.D.now == first.D.now and second.D.alpha == first.D.alpha
    train(second, slices, lambda s: s.cur_nimg >= 88)
    for name in ("G", "D", "G_ema"):
        one, other = getattr(whole, name).state_dict(), getattr(second, name).state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_a_loaded_generator_draws_at_the_stage_where_it_was_saved(tmp_path):
    config = growing()
    G, _ = build_networks(config)
    unlike_at_the_start(G)
    z, path = torch.randn(2, 8), tmp_path / "generator.safetensors"
    for cur_nimg in (0, 40, 1000):
        grow_to(config, cur_nimg, G)
        save_generator(path, G, {"config": config.to_dict(), "cur_nimg": cur_nimg})
        again, _ = load_generator(path)
        assert again.synthesis.now == stage(config, cur_nimg)
        assert torch.equal(again(z), G(z)), np.asarray(cur_nimg)
