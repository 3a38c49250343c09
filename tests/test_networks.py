"""Networks: sizes of every preset, what golden numbers (test_golden) do not fix, in closed forms, and how StyleGAN1 grows."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from stylegan import dcgan
from stylegan import stylegan1 as progressive
from stylegan.checkpoint import load_generator, save_generator
from stylegan.config import PRESETS, Config, make_config
from stylegan.modules import MappingNetwork, NoiseInjection, SelfAttention
from stylegan.networks import Generator, build_networks, count_parameters, pick_precision, set_stage
from stylegan.resampling import blur, blur_by_products, upsample
from stylegan.rng import BatchRNG
from stylegan.stylegan1 import Stage, stage
from stylegan.train import new_state, train, training_step

SIZES = {  # preset: trainable numbers in G, in D, pixels; with two classes where it wants classes; a new preset needs a row
    "smoke": (11_456, 13_385, 16), "quick": (458_006, 569_281, 64), "dcgan": (3_804_033, 2_763_584, 64),
    "oasis64": (796_958, 878_977, 64), "modern": (796_958, 878_977, 64), "colab": (802_841, 880_833, 128),
    "oasis128": (802_841, 880_833, 128), "oasis256": (5_934_132, 6_002_945, 256), "stylegan1": (25_838_982, 22_935_425, 128),
    "seed000-stylegan2": (4_819_505, 4_757_217, 128), "seed001-stylegan1-classes": (5_150_241, 5_175_776, 128),
    "seed002-stylegan2-umap": (4_819_505, 4_757_217, 128), "seed003-progressive": (5_233_575, 5_260_065, 128),
    "seed004-course": (913_297, 984_176, 64),
}  # fmt: skip


def tiny(**changes: object) -> Config:
    fields = {"img_resolution": 16, "channel_base": 64, "channel_max": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 2,
              "batch_size": 4}  # fmt: skip
    plain = {"mapping_layers": 0, "style_mixing_prob": 0.0} if changes.get("architecture") == "dcgan" else {}
    return Config.from_dict({**fields, **plain, **changes})


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_sizes_of_the_table(preset):
    classes = {"c_dim": 2} if make_config(preset).conditional == "class" else {}
    G, D = (net.eval() for net in build_networks(make_config(preset, **classes)))
    c = torch.eye(2)[:1] if classes else None
    img = G(torch.randn(1, G.z_dim), c)
    assert img.shape == (1, 1, SIZES[preset][2], SIZES[preset][2]) and D(img, c).shape == (1, 1)
    assert (count_parameters(G), count_parameters(D)) == SIZES[preset][:2]


@torch.no_grad()
def test_noise_is_fixed_fresh_none_or_given():
    G = Generator(tiny())
    for name, parameter in G.named_parameters():
        if name.endswith("noise.strength"):
            parameter.fill_(0.3)  # away from its start at 0
    ws = G.mapping(torch.randn(2, 8))
    const, none, fresh = (G.synthesis(ws, noise_mode=mode) for mode in ("const", "none", "random"))
    assert torch.equal(G.synthesis(ws, noise_mode="const"), const) and torch.equal(G.synthesis(ws, noise_mode="none"), none)
    assert min((a - b).abs().max() for a, b in ((const, none), (fresh, const), (fresh, G.synthesis(ws)))) > 1e-3
    with pytest.raises(ValueError, match=r"'fixed'.*random, const, none"):
        G.synthesis(ws, noise_mode="fixed")
    given = [G.synthesis.draw_noise(2, BatchRNG(ws.device, torch.Generator().manual_seed(1))) for _ in range(2)]
    assert [tuple(noise.shape) for noise in given[0]] == [(2, 1, s, s) for s in (4, 8, 8, 16, 16)]
    first, again = (G.synthesis(ws, noise=noise) for noise in given)
    assert torch.equal(first, again)
    alone = G.synthesis(ws[1:], noise=[noise[1:] for noise in given[0]])
    torch.testing.assert_close(alone, first[1:], rtol=1e-4, atol=1e-5)  # a picture does not depend on its neighbours


@pytest.mark.parametrize(("stride", "taps"), [(1, (1.0, 3.0, 3.0, 1.0)), (2, (1.0, 3.0, 3.0, 1.0)), (1, (1.0, 2.0, 1.0))])
def test_both_forms_of_the_filter_and_their_two_derivatives(stride, taps):
    """A convolution (of golden numbers), and the products that stand for it on a GPU. R1 needs the second derivative too."""
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    forms = [lambda x, form=form: form(x, 1, 4.0, stride, taps) for form in (blur, blur_by_products)]
    torch.testing.assert_close(forms[0](x), forms[1](x))
    for form in forms:
        assert torch.autograd.gradcheck(form, x) and torch.autograd.gradgradcheck(lambda x, form=form: form(x).square(), x)


@pytest.mark.parametrize("stride", [1, 2])
def test_blur_keeps_half_precision_in_both_directions_and_autocast_leaves_it_alone(stride):
    x = torch.randn(1, 2, 8, 8)
    half, full = (x.to(dtype).requires_grad_() for dtype in (torch.bfloat16, torch.float32))
    for y in (half, full):
        blur(y, 1, stride=stride).square().sum().backward()
    assert half.grad.dtype == blur(half, 1, stride=stride).dtype == torch.bfloat16
    torch.testing.assert_close(half.grad.float(), full.grad, rtol=0.05, atol=0.02)
    up, blurred = upsample(x), blur(x, padding=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(upsample(x), up) and torch.equal(blur(x, padding=2), blurred)


@pytest.mark.parametrize("multiplier", [1.0, 0.1, 0.0])
def test_noise_starts_at_0_and_learns_slower_by_its_multiplier(multiplier):
    noise, layer = torch.randn(2, 1, 4, 4), NoiseInjection(4, channels=5, lr_multiplier=multiplier)
    assert layer(noise).abs().max() == 0 and layer(noise).shape == (2, 5, 4, 4)
    layer(noise).sum().backward()
    torch.testing.assert_close(layer.strength.grad.flatten(), (multiplier * noise.sum()).expand(5))


def test_truncation_pulls_towards_the_average_of_the_class_and_only_averages_of_classes_present_move():
    net, z, c = MappingNetwork(6, 3, 4, num_ws=8, num_layers=2, lr_multiplier=0.01), torch.randn(3, 6), torch.eye(3)[[2, 0, 2]]
    net.w_avg.normal_()
    start, centre, ws = net.w_avg.clone(), net.w_avg[[2, 0, 2], None], net(z, c)
    torch.testing.assert_close(net(z, c, truncation_psi=0.7), centre + 0.7 * (ws - centre))
    assert torch.equal(net.w_avg, start) and (net(z, torch.eye(3)[[0, 0, 0]]) - ws)[0].abs().max() > 1e-3
    with pytest.raises(AssertionError, match=r"\[N, 3\]"):
        net(z, None)
    w = ws[:, 0]
    for _ in range(5):  # to beta^n a + (1 - beta^n) m
        net.update_w_avg(w, c, beta=0.9)
    means = torch.stack([w[1], start[1], w[[0, 2]].mean(dim=0)])
    torch.testing.assert_close(net.w_avg, means.lerp(start, 0.9**5).detach())
    assert not net.w_avg.requires_grad


def test_spectral_norm_gives_every_weight_on_a_picture_s_way_the_norm_1_in_place_of_he_s_constant():
    _, D = build_networks(tiny(spectral_norm=True))
    img = torch.randn(4, 1, 16, 16)
    for _ in range(60):  # each call is one step of the power iteration
        D(img)
    weights = [m.weight for m in D.modules() if isinstance(getattr(m, "weight", None), torch.Tensor)]
    assert len(weights) == 1 + 3 * 2 + 3
    assert all(torch.linalg.matrix_norm(w.detach().flatten(1), 2).item() == pytest.approx(1, abs=0.02) for w in weights)
    assert D.blocks[0].conv0.scale == pytest.approx(2**0.5)  # the gain of a leaky ReLU, whatever the fan-in


def test_attention_starts_as_nothing_then_sees_everything_and_can_be_differentiated_twice():
    layer, x = SelfAttention(16), torch.randn(2, 16, 4, 4)
    assert layer.gamma == 0 and torch.equal(layer(x), x)
    layer.gamma.data.fill_(1.0)
    moved = x.clone()
    moved[0, :, 3, 3] += 5
    change = (layer(moved) - layer(x)).abs().amax(dim=1)
    assert (change[0] > 1e-5).all() and (change[1] == 0).all()  # one pixel is seen at every place of its own slice
    G, D = build_networks(tiny(attention="8", img_resolution=32))
    assert list(G.synthesis.attention) == list(D.attention) == ["8"]
    D.attention["8"].gamma.data.fill_(1.0)
    img = torch.randn(4, 1, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(D(img).sum(), img, create_graph=True)
    gradient.square().sum().backward()
    assert D.attention["8"].key.weight.grad.abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan1", "dcgan"])
def test_the_slope_reaches_every_leaky_relu(architecture, monkeypatch):
    slopes, plain = set(), F.leaky_relu
    monkeypatch.setattr(F, "leaky_relu", lambda x, slope, **kwargs: (slopes.add(slope), plain(x, slope, **kwargs))[1])
    G, D = build_networks(tiny(architecture=architecture, leaky_slope=0.01))
    D(G(torch.randn(4, 8)))
    assert slopes == {0.01}


@torch.no_grad()
def test_dcgan_is_the_published_one():
    """Figure 1 at 64 px: five transposed convolutions, ReLU and batch normalisation but at the picture; tanh; weights from N(0, .02)."""
    G, D = build_networks(make_config("dcgan"))
    convs = [block.conv for block in G.synthesis.blocks]
    assert [tuple(conv.weight.shape[:2]) for conv in convs] == [(128, 512), (512, 256), (256, 128), (128, 64), (64, 1)]
    assert all(conv.kernel_size == (4, 4) for conv in convs) and [conv.stride[0] for conv in convs] == [1, 2, 2, 2, 2]
    assert [block.norm is not None for block in G.synthesis.blocks] == [True] * 4 + [False]
    assert [block.norm is not None for block in D.blocks] == [False, True, True, True]
    assert convs[1].weight.std().item() == pytest.approx(dcgan.DEVIATION, rel=0.02) and G.num_ws == 1
    assert G(torch.randn(4, 128)).abs().max() <= 1


@pytest.mark.parametrize(("avx", "amx"), [(False, False), (True, False), (False, True)])
def test_automatic_precision_asks_the_hardware(monkeypatch, avx, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    found = [pick_precision(name, torch.device("cpu")) for name in ("auto", "fp32", "bf16")]
    assert found == ["bf16" if avx or amx else "fp32", "fp32", "bf16"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)  # as a T4 says
    assert (pick_precision("auto", torch.device("cuda")), pick_precision("auto", torch.device("mps"))) == ("fp16", "fp32")


def growing(**changes) -> Config:
    grows = {"architecture": "stylegan1", "grow_from": 4, "grow_kimg": 0.016, "fade_kimg": 0.032, "grow_batch_max": 8}
    return tiny(**{**grows, "device": "cpu", "total_kimg": 0.2, **changes})


def test_the_schedule_holds_and_fades_in_turn_with_the_official_batches_and_rates():
    config = growing()
    found = [stage(config, n) for n in (0, 15, 16, 32, 47, 48, 63, 64, 80, 96, 10**6)]
    assert found == [(4, 1), (4, 1), (8, 0), (8, 0.5), (8, 31 / 32), (8, 1), (8, 1), (16, 0), (16, 0.5), (16, 1), (16, 1)]
    assert stage(growing(grow_from=0), 0) == stage(growing(grow_from=16), 0) == stage(growing(), 10**18) == (16, 1)
    official = make_config("stylegan1")  # 600 kimg each, on one GPU
    shown = [stage(official, n * 1000) for n in (0, 599, 900, 1200, 1799, 4799, 6000)]
    assert shown == [(8, 1), (8, 1), (16, 0.5), (16, 1), (16, 1), (128, 599 / 600), (128, 1)]
    assert [progressive.batch_size(official, r) for r in (8, 16, 32, 64, 128)] == [128, 128, 64, 32, 16]
    shown = {stage(official, n).resolution: n for n in range(0, 6_000_000, 100_000)}
    assert [official.lr * progressive.lr_factor(official, shown[r]) for r in (8, 64, 128)] == [1e-3, 1e-3, 1.5e-3]
    fixed = replace(official, grow_from=0)
    assert progressive.batch_size(fixed, 128) == 16 and progressive.lr_factor(fixed, 10**7) == 1


def test_networks_hold_a_picture_for_each_size_and_noise_and_mixing_for_those_that_show_and_real_slices_fade_in_too():
    for grow_from, own in ((4, [True] * 3), (0, [False, False, True])):
        G, D = build_networks(growing(grow_from=grow_from))
        assert [block.torgb is not None for block in G.synthesis.blocks] == own
        assert sorted(D.from_small_rgb) == (["4", "8"] if grow_from else [])
    G, _ = build_networks(growing())
    for now, reached in ((Stage(4, 1.0), 2), (Stage(8, 0.5), 4), (Stage(16, 1.0), 6)):
        set_stage(now, G)
        assert progressive.ws_reached(growing(), now.resolution) == len(G.synthesis.draw_noise(3)) == reached
    real = torch.randn(2, 1, 16, 16)
    halves, quarters = (F.interpolate(F.avg_pool2d(real, n), scale_factor=float(n)) for n in (2, 4))
    faded = progressive.fade_reals(real, Stage(8, 0.25), torch.tensor(0.25))
    torch.testing.assert_close(faded, 0.75 * quarters + 0.25 * halves)
    assert progressive.fade_reals(real, Stage(8, 1.0), torch.tensor(1.0)) is real


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
    known = {"classes": ["a"], "train_subjects": ["S1"], "data": {"title": "t"}}
    info = {**known, "config": config.to_dict(), "cur_nimg": cur_nimg}
    save_generator(tmp_path / "generator.safetensors", G, info)
    again, known = load_generator(tmp_path)
    z = torch.randn(2, 8)
    assert again.synthesis.now == stage(config, cur_nimg) and torch.equal(again(z), G(z))
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert info.items() <= known.items() and len(known["model_hash"]) == 16
    assert load_generator(tmp_path / "generator.safetensors")[1] == known  # a run folder gives its generator
