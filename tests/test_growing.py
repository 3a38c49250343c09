"""Growing: a pure schedule, batches and rates by resolution; pictures at each stage are golden numbers (test_golden)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from stylegan import stylegan1 as progressive
from stylegan.checkpoint import load_generator, save_generator
from stylegan.config import Config, make_config
from stylegan.networks import build_networks, set_stage
from stylegan.stylegan1 import Stage, stage
from stylegan.train import new_state, train, training_step


def growing(**changes) -> Config:
    fields = {"architecture": "stylegan1", "img_resolution": 16, "channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8,
              "mapping_layers": 2, "batch_size": 4, "grow_from": 4, "grow_kimg": 0.016, "fade_kimg": 0.032, "device": "cpu",
              "grow_batch_max": 8, "total_kimg": 0.2}  # fmt: skip
    return Config(**{**fields, **changes})


def test_the_schedule_holds_and_fades_in_turn():
    config = growing()
    found = [stage(config, n) for n in (0, 15, 16, 32, 47, 48, 63, 64, 80, 96, 10**6)]
    assert found == [(4, 1), (4, 1), (8, 0), (8, 0.5), (8, 31 / 32), (8, 1), (8, 1), (16, 0), (16, 0.5), (16, 1), (16, 1)]
    assert stage(growing(grow_from=0), 0) == stage(growing(grow_from=16), 0) == stage(growing(), 10**18) == (16, 1)
    official = make_config("stylegan1")  # 600 kimg each
    shown = [stage(official, n * 1000) for n in (0, 599, 900, 1200, 1799, 4799, 6000)]
    assert shown == [(8, 1), (8, 1), (16, 0.5), (16, 1), (16, 1), (128, 599 / 600), (128, 1)]


def test_batches_and_rates_follow_the_official_schedule():
    """One GPU: 128 slices up to 16 px, 64 at 32, 32 at 64, 16 at 128; the rate is 1.5 times as high at 128 px."""
    config = make_config("stylegan1")
    assert [progressive.batch_size(config, r) for r in (8, 16, 32, 64, 128)] == [128, 128, 64, 32, 16]
    shown = {stage(config, n).resolution: n for n in range(0, 6_000_000, 100_000)}
    assert [config.lr * progressive.lr_factor(config, shown[r]) for r in (8, 64, 128)] == [1e-3, 1e-3, 1.5e-3]
    fixed = replace(config, grow_from=0)
    assert progressive.batch_size(fixed, 128) == 16 and progressive.lr_factor(fixed, 10**7) == 1


def test_real_slices_fade_in_with_the_generator():
    real = torch.randn(2, 1, 16, 16)
    halves, quarters = (F.interpolate(F.avg_pool2d(real, n), scale_factor=float(n)) for n in (2, 4))
    faded = progressive.fade_reals(real, Stage(8, 0.25), torch.tensor(0.25))
    torch.testing.assert_close(faded, 0.75 * quarters + 0.25 * halves)
    assert progressive.fade_reals(real, Stage(8, 1.0), torch.tensor(1.0)) is real


def test_networks_hold_a_picture_for_each_size_and_noise_and_mixing_for_those_that_show():
    for grow_from, own in ((4, [True] * 3), (0, [False, False, True])):
        G, D = build_networks(growing(grow_from=grow_from))
        assert [block.torgb is not None for block in G.synthesis.blocks] == own
        assert sorted(D.from_small_rgb) == (["4", "8"] if grow_from else [])
    G, _ = build_networks(growing())
    for now, reached in ((Stage(4, 1.0), 2), (Stage(8, 0.5), 4), (Stage(16, 1.0), 6)):
        set_stage(now, G)
        assert progressive.ws_reached(growing(), now.resolution) == len(G.synthesis.draw_noise(3)) == reached


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
    assert max(float(slot["step"]) for slot in state.opt_G.state.values()) == 1  # anew also at 96, where the fade ends


@pytest.mark.parametrize("cur_nimg", [0, 40, 1000])
def test_a_loaded_generator_draws_what_was_saved_at_its_stage_and_all_that_is_known_comes_back(cur_nimg, tmp_path):
    config = growing()
    G, _ = build_networks(config)
    set_stage(stage(config, cur_nimg), G)
    info = {"config": config.to_dict(), "classes": ["a"], "train_subjects": ["S1"], "data": {"title": "t"}}
    info["cur_nimg"] = cur_nimg
    save_generator(tmp_path / "generator.safetensors", G, info)
    again, known = load_generator(tmp_path)
    z = torch.randn(2, 8)
    assert again.synthesis.now == stage(config, cur_nimg) and torch.equal(again(z), G(z))
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert info.items() <= known.items() and len(known["model_hash"]) == 16
    assert load_generator(tmp_path / "generator.safetensors")[1] == known  # a run folder gives its generator
