"""Our networks against numbers from PyTorch implementations of StyleGAN2 and StyleGAN1, with our weights carried into theirs.

golden/README.md says how the numbers were made. Agreement is asked to 1e-4 of the largest number in each array.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stylegan.config import Config
from stylegan.losses import logistic_d, logistic_g, path_length_penalty, path_lengths, r1_penalty
from stylegan.networks import build_networks, set_stage
from stylegan.resampling import blur, upsample
from stylegan.stylegan1 import Stage
from stylegan.stylegan2 import ModulatedConv2d, ModulatedPixels

FOLDER = Path(__file__).parent / "golden"


class Golden:
    """One file of numbers, and our networks with the weights that stand in it."""

    def __init__(self, name: str):
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
            self.numbers = {key: file[key] for key in file.files}
        self.G, self.D = build_networks(Config.from_dict(json.loads(str(self.numbers["config"]))))
        self.G.load_state_dict(self.weights("G/"))
        self.D.load_state_dict(self.weights("D/"))
        self.z, self.real = self["z"], self["real"]
        self.c = self["c"] if "c" in self.numbers else None

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.numbers[key]).float()

    def weights(self, prefix: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(prefix): self[key] for key in self.numbers if key.startswith(prefix)}


@pytest.fixture(scope="module", params=["official", "official_conditional", "rosinality"])
def golden(request) -> Golden:
    return Golden(request.param)


def agrees(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert ours.shape == theirs.shape
    error = (ours.detach() - theirs).abs().max().item() / max(theirs.abs().max().item(), 1e-12)
    assert error < tolerance, f"differs by {error:.2e} of the largest number"


def gradients_agree(net: torch.nn.Module, golden: Golden, tag: str) -> None:
    """The norm of the gradient of each parameter, in their and our network."""
    norms = {name: 0.0 if p.grad is None else p.grad.norm().item() for name, p in net.named_parameters()}
    names = golden.numbers[f"{tag}/names"].tolist()
    assert sorted(names) == sorted(norms)
    agrees(torch.tensor([norms[name] for name in names]), golden[f"{tag}/norms"])
    net.zero_grad()


@torch.no_grad()
def test_both_networks(golden):
    """Styles; pictures with the fixed noise, without noise and truncated, as far as the peer printed them; logits."""
    agrees(golden.G.mapping(golden.z, golden.c)[:, 0], golden["w"])
    kinds = {"img": {"noise_mode": "const"}, "img_none": {"noise_mode": "none"}, "img_truncated": {"truncation_psi": 0.5}}
    for key in kinds.keys() & golden.numbers.keys():
        n = len(golden[key])
        img = golden.G(golden.z[:n], None if golden.c is None else golden.c[:n], **kinds[key])
        assert golden[key].std() > 0.1  # a picture, not a grey field
        agrees(img, golden[key])
    agrees(golden.D(golden.real, golden.c), golden["logits"])
    assert golden["logits"].std() > 1e-3


@torch.no_grad()
def test_truncation_up_to_a_layer_mixed_styles_and_the_moving_average_of_w():
    golden = Golden("official")
    agrees(golden.G.mapping(golden.z[:2], truncation_psi=0.5, truncation_cutoff=3), golden["ws_truncated"])
    ws = golden.G.mapping(golden.z[:2])
    mixed = torch.cat([ws[:1, :3], ws[1:, 3:]], dim=1)
    agrees(golden.G.synthesis(mixed, noise_mode="const"), golden["img_mixed"])
    golden.G.mapping.update_w_avg(golden["w"], None, beta=0.995)
    moved = golden["w_avg_after"] - golden.weights("G/")["mapping.w_avg"]
    agrees(golden.G.mapping.w_avg - golden.weights("G/")["mapping.w_avg"], moved, 1e-3)  # of a small difference


def test_r1(golden):
    real = golden.real.clone().requires_grad_(True)
    penalty = r1_penalty(golden.D(real, golden.c), real)
    agrees(penalty, golden["r1"].mean())
    penalty.backward()  # gamma = 2 in theirs, so that gamma / 2 = 1
    agrees(golden.D.blocks[0].conv1.weight.grad, golden["r1_grad"])
    gradients_agree(golden.D, golden, "r1")


def test_path_length(golden):
    """Value, moving average and gradient; in both codes the gradient runs through the average as well."""
    noise, n = golden["pl_noise"], len(golden["pl_noise"])
    ws = golden.G.mapping(golden.z[:n], None if golden.c is None else golden.c[:n])
    img = golden.G.synthesis(ws, noise_mode="const")
    lengths = path_lengths(img, ws, noise)
    penalty, pl_mean = path_length_penalty(lengths, golden["pl_mean_before"], 0.01)
    agrees(pl_mean, golden["pl_mean_after"], 1e-6)
    agrees(penalty, golden["pl_penalty"].mean())
    assert not pl_mean.requires_grad
    penalty.backward()
    agrees(golden.G.synthesis.blocks[1].conv0.conv.weight.grad, golden["pl_grad"])
    gradients_agree(golden.G, golden, "pl")


@pytest.mark.parametrize("name", ["official", "official_conditional"])
def test_adversarial_losses(name):
    """Value and gradient of both players' losses; fakes come from all eight z with the fixed noise."""
    golden = Golden(name)
    fake = golden.G(golden.z, golden.c)
    loss = logistic_d(golden.D(golden.real, golden.c), golden.D(fake.detach(), golden.c))
    agrees(loss, golden["loss_d"])
    loss.backward()
    gradients_agree(golden.D, golden, "d")
    loss = logistic_g(golden.D(fake, golden.c))
    agrees(loss, golden["loss_g"])
    loss.backward()
    gradients_agree(golden.G, golden, "g")


STAGES = {"4": (4, 1.0), "8fading": (8, 0.3), "8": (8, 1.0), "16fading": (16, 0.75), "16": (16, 1.0)}


@torch.no_grad()
@pytest.mark.parametrize("stage", STAGES)
def test_stylegan1_at_each_stage_of_growing(stage):
    """AdaIN, noise, filters and fade of the generator; blocks, minibatch deviation and fade of the discriminator."""
    golden = Golden("rosinality_stylegan1")
    G, D = golden.G, golden.D
    set_stage(Stage(*STAGES[stage]), G, D)
    noise = [golden[f"noise{i}"] for i in range(len(G.synthesis.active)) for _ in range(2)]
    img = G.synthesis(G.mapping(golden.z), noise=noise)
    theirs = golden[f"img{stage}"]
    agrees(img, torch.nn.functional.interpolate(theirs, size=(16, 16)))
    agrees(D(golden.real), golden[f"logits{stage}"])
    assert theirs.std() > 0.1 and golden[f"logits{stage}"].std() > 0.01


@torch.no_grad()
def test_stylegan1_mapping_and_resampling():
    golden = Golden("rosinality_stylegan1")
    agrees(golden.G.mapping(golden.z)[:, 0], golden["w"])
    agrees(golden.G.synthesis.blocks[1].conv0(golden["x"]), golden["up"], 1e-6)
    agrees(golden.D.blocks[0].conv1(golden["x"]), golden["down"], 1e-6)


@pytest.mark.parametrize("peer", ["official", "rosinality"])
def test_resampling(peer):
    with np.load(FOLDER / f"{peer}_operators.npz") as file:
        x, *theirs = (torch.from_numpy(file[key]) for key in ("x", "up", "down", "blur", "blur4"))
    ours = upsample(x), blur(x, padding=1, stride=2), blur(x, padding=2), blur(x, padding=1, gain=4)
    for pair in zip(ours, theirs, strict=True):
        agrees(*pair, 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("peer", ["official", "rosinality"])
@pytest.mark.parametrize("kind", ["plain", "upsampling", "torgb"])
def test_modulated_convolution(peer, kind):
    with np.load(FOLDER / f"{peer}_operators.npz") as file:
        numbers = {key.removeprefix(f"{kind}/"): torch.from_numpy(file[key]) for key in file.files}
    (out, inner, kernel, _), w_dim, pixels = numbers["weight"].shape, numbers["w"].shape[1], kind == "torgb"
    conv = ModulatedPixels(inner, out, w_dim) if pixels else ModulatedConv2d(inner, out, kernel, w_dim, up=kind == "upsampling")
    conv.load_state_dict({name: numbers[name] for name in conv.state_dict()})
    y = conv(numbers["x"], numbers["w"])
    agrees(y if pixels else y[0] * y[1], numbers["y"])
