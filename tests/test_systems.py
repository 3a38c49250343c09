"""The systems of the table of presets: each part can be switched by one field, and each preset learns."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from stylegan import dcgan
from stylegan.config import PRESETS, Config, make_config
from stylegan.dataset import draw_batch, mirror_axis
from stylegan.modules import EqualConv2d, SelfAttention, spectral_norm
from stylegan.networks import build_networks
from stylegan.plots import to_uint8
from stylegan.predict import generate
from stylegan.scores.metrics import kernel_distance
from stylegan.train import new_state, train, training_step

SYSTEMS = [name for name in PRESETS if name.startswith(("stylegan", "seed")) or name in ("dcgan", "modern")]
LEARN_FAST = ("seed001-stylegan1-classes", "seed002-stylegan2-umap", "dcgan")  # one of each architecture


def tiny(**changes) -> Config:
    fields = {"img_resolution": 16, "channel_base": 64, "channel_max": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 2,
              "batch_size": 4, "device": "cpu"}  # fmt: skip
    return Config(**{**fields, **changes})


def tiny_dcgan(**changes) -> Config:
    return tiny(architecture="dcgan", mapping_layers=0, style_mixing_prob=0.0, r1_gamma=0.0, **changes)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# --- Each preset learns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "preset", [name if name in LEARN_FAST else pytest.param(name, marks=pytest.mark.long) for name in SYSTEMS]
)
def test_each_preset_halves_the_distance_of_its_start(preset, slices):
    """In 1 or 2 kimg at 16 px the kernel distance in the space of 16 principal components of the pixels falls below half."""
    config = tiny_preset(
        preset, channel_base=128, channel_max=16, batch_size=16, total_kimg=1 if preset in LEARN_FAST else 2, ema_kimg=0.1
    )
    state = new_state(config if config.conditional == "none" else dataclasses.replace(config, c_dim=len(slices.classes)))
    space = PCA(16, random_state=0).fit(flat(slices.images))

    def distance():
        fakes = to_uint8(generate(state.G_ema, range(48)))
        return kernel_distance(space.transform(flat(slices.images)), space.transform(flat(fakes)))

    before = distance()
    train(state, slices, lambda _: False)
    assert distance() < before / 2


def tiny_preset(preset, **fields):
    w = {} if preset == "dcgan" else {"z_dim": 16, "w_dim": 16, "mapping_layers": 2}
    growth = (
        {"grow_from": 4, "grow_kimg": 0.08, "fade_kimg": 0.08, "grow_batch_max": 32} if PRESETS[preset].get("grow_from") else {}
    )
    attention = {"attention": "8"} if "attention" in PRESETS[preset] else {}
    return make_config(preset, img_resolution=16, precision="fp32", device="cpu", **w, **growth, **attention, **fields)


def flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images, dtype=np.float64).reshape(len(images), -1) / 127.5 - 1


# --- Losses and penalties in a step ---------------------------------------------------------------------------------------------


def test_each_penalty_acts_and_is_logged_at_every_step_or_lazily(slices):
    for name, log in {"r1_gamma": "r1", "r2_gamma": "r2", "gp_weight": "gp"}.items():
        for interval in (1, 2):
            config = tiny(**{"r1_gamma": 0.0, name: 1.0, "d_reg_interval": interval, "augment": "none"})
            state = new_state(config)
            training_step(state, slices)
            training_step(state, slices)
            assert state.log.means()[log] > 0 and state.log.sums[log][1] == 2 / interval, (name, interval)
            rate = config.lr * (1 if interval == 1 else 2 / 3)
            assert state.opt_D.param_groups[0]["lr"] == pytest.approx(rate)


def test_drift_pulls_real_logits_to_0(slices):
    for drift, moved in ((0.0, False), (1.0, True)):
        config = tiny(loss="wgan", drift=drift, r1_gamma=0.0, augment="none", lr=1e-3)
        state = new_state(config)
        with torch.no_grad():
            state.D.epilogue.out.bias.fill_(10.0)  # a critic's loss does not feel a constant
        for _ in range(3):
            training_step(state, slices)
        assert (state.D.epilogue.out.bias.item() < 9.999) == moved


@pytest.mark.parametrize("loss", ["wgan", "relativistic"])
def test_losses_train_both_networks(slices, loss):
    state = new_state(tiny(loss=loss))
    before = {name: p.clone() for net in (state.G, state.D) for name, p in net.named_parameters()}
    training_step(state, slices)
    after = {name: p for net in (state.G, state.D) for name, p in net.named_parameters()}
    still = {name for name in after if torch.equal(after[name], before[name])}
    assert still == {"epilogue.out.bias"}  # neither loss feels a constant
    assert {"loss_D", "loss_G"} <= set(state.log.means())


# --- Spectral normalisation -----------------------------------------------------------------------------------------------------


def test_spectral_norm_gives_every_weight_on_a_picture_s_way_the_norm_1():
    _, D = build_networks(tiny(spectral_norm=True))
    img = torch.randn(4, 1, 16, 16)
    for _ in range(60):  # each call is one step of the power iteration
        D(img)
    weights = [m.weight for m in D.modules() if isinstance(getattr(m, "weight", None), torch.Tensor)]
    assert len(weights) == 1 + 3 * 2 + 3
    for weight in weights:
        norm = torch.linalg.matrix_norm(weight.detach().flatten(1), 2).item()
        assert norm == pytest.approx(1, abs=0.02)


def test_spectral_norm_takes_the_place_of_he_s_constant():
    """The layer's Lipschitz constant is its gain, not the gain over the root of the fan-in."""
    conv = EqualConv2d(64, 64, 1, act=False, gain=0.7)
    spectral_norm(conv)
    x = torch.randn(256, 64, 1, 1)
    for _ in range(200):
        conv(x)
    with torch.no_grad():
        matrix = conv(torch.eye(64)[:, :, None, None])[:, :, 0, 0]
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(0.7, rel=0.02)


# --- Attention, slope -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_attention_starts_as_nothing_and_then_sees_everything():
    layer, x = SelfAttention(16), torch.randn(2, 16, 4, 4)
    assert layer.gamma == 0 and torch.equal(layer(x), x)
    layer.gamma.fill_(1.0)
    moved = x.clone()
    moved[0, :, 3, 3] += 5
    change = (layer(moved) - layer(x))[0].abs().amax(dim=0)
    assert (change > 1e-5).all()  # one pixel is seen at every place
    assert torch.equal(layer(moved)[1], layer(x)[1])


def test_attention_stands_where_the_field_says_and_can_be_differentiated_twice():
    G, D = build_networks(tiny(attention="8", img_resolution=32))
    assert list(G.synthesis.attention) == list(D.attention) == ["8"]
    with torch.no_grad():
        D.attention["8"].gamma.fill_(1.0)
    img = torch.randn(4, 1, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(D(img).sum(), img, create_graph=True)
    gradient.square().sum().backward()
    assert D.attention["8"].key.weight.grad.abs().max() > 0
    for wrong in ("32", "4", "7", "8,8", ""):
        with pytest.raises(ValueError, match=r"attention is .*8, 16"):
            tiny(attention=wrong, img_resolution=32)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan1", "dcgan"])
def test_the_slope_reaches_every_leaky_relu(architecture, monkeypatch):
    config = tiny_dcgan(leaky_slope=0.01) if architecture == "dcgan" else tiny(architecture=architecture, leaky_slope=0.01)
    slopes, plain = set(), F.leaky_relu
    monkeypatch.setattr(F, "leaky_relu", lambda x, slope, **kwargs: (slopes.add(slope), plain(x, slope, **kwargs))[1])
    G, D = build_networks(config)
    D(G(torch.randn(4, 8)))
    assert slopes == {0.01}


# --- Classes, mirror ----------------------------------------------------------------------------------------------------------------


def test_the_mirror_follows_the_orientation_of_the_data(slices):
    turned = dataclasses.replace(slices, sides=("L", "R", "A", "P"))
    assert mirror_axis(tiny(), slices) == 3 and mirror_axis(tiny(), turned) == 2
    assert mirror_axis(tiny(mirror_axis="vertical"), slices) == 2 and mirror_axis(tiny(mirror_axis="horizontal"), turned) == 3
    seen = torch.cat([draw_batch(turned, tiny(), start, torch.device("cpu"))[0] for start in range(0, 2 * len(turned), 4)])
    rows = {row.numpy().tobytes() for row in seen}
    assert {row.numpy().tobytes() for row in turned.tensor().flip(2).contiguous()} <= rows


# --- DCGAN --------------------------------------------------------------------------------------------------------------------------


def test_dcgan_is_the_published_one():
    """Figure 1 at 64 px: five transposed convolutions, ReLU and batch normalisation but at the picture; tanh; weights from N(0, .02)."""
    G, D = build_networks(make_config("dcgan"))
    convs = [block.conv for block in G.synthesis.blocks]
    assert [tuple(conv.weight.shape[:2]) for conv in convs] == [(128, 512), (512, 256), (256, 128), (128, 64), (64, 1)]
    assert all(conv.kernel_size == (4, 4) for conv in convs) and [conv.stride[0] for conv in convs] == [1, 2, 2, 2, 2]
    assert [block.norm is not None for block in G.synthesis.blocks] == [True] * 4 + [False]
    assert [block.norm is not None for block in D.blocks] == [False, True, True, True]
    assert convs[1].weight.std().item() == pytest.approx(dcgan.DEVIATION, rel=0.02)
    assert G.num_ws == 1
    with torch.no_grad():
        img = G(torch.randn(4, 128))
    assert img.shape == (4, 1, 64, 64) and img.abs().max() <= 1


def test_a_dcgan_has_no_styles_classes_or_growth():
    tiny_dcgan()
    for wrong in ({"conditional": "class"}, {"pl_weight": 1.0}, {"z_dim": 4}, {"grow_from": 4}, {"attention": "8"}):
        with pytest.raises(ValueError, match=r"dcgan"):
            tiny_dcgan(**wrong)
    with pytest.raises(ValueError, match="only the architecture stylegan1 grows"):
        tiny(grow_from=4)
    with pytest.raises(ValueError, match=r"grow_from is 5; take one of 0, 4, 8, 16"):
        tiny(architecture="stylegan1", grow_from=5)
