"""What only a CUDA card can show: recorded steps, half precision, slices kept on the card. Skipped where there is none."""

import numpy as np
import pytest
import torch
from test_evaluate import dataset_of

from stylegan.config import make_config
from stylegan.networks import build_networks
from stylegan.predict import generate
from stylegan.rng import WARM_UP
from stylegan.train import new_state, training_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")


@pytest.fixture(scope="module")
def heads():
    """96 slices of 16 px that need no template."""
    return dataset_of(24, splits=np.full(96, "train"))


def smoke(**fields):
    return make_config("smoke", device="cuda", **{"augment": "fixed", "augment_p": 0.3, "pl_weight": 2.0, **fields})


def after(config, data, steps):
    state = new_state(config)
    for _ in range(steps):
        training_step(state, data)
    torch.cuda.synchronize()
    return state


@pytest.mark.parametrize("one_fake_batch", [False, True])
def test_recorded_steps_train_as_steps_launched_one_by_one(heads, one_fake_batch):
    steps = 40 + 16 * WARM_UP  # so that the rarest step is replayed too
    states = [after(smoke(cuda_graphs=on, one_fake_batch=one_fake_batch), heads, steps) for on in (True, False)]
    names = {key[0] for key in states[0].replay.recorded}
    assert names == {"d_step", "g_step", "d_penalty_step", "path_length_step"} and not states[1].replay.recorded
    for a, b in zip(states[0].G.parameters(), states[1].G.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02)  # kernels may add in another order
    for name, value in states[1].log.means().items():
        assert states[0].log.means()[name] == pytest.approx(value, rel=0.1), name


def test_recorded_steps_draw_new_numbers_each_time(heads):
    state = after(smoke(augment="none"), heads, 3 * WARM_UP)
    losses = []
    for _ in range(4):
        state.log.clear()
        training_step(state, heads)
        losses.append(state.log.means()["loss_D"])
    assert len(set(losses)) == 4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_as_full_precision_does_at_first(heads, precision):
    half, full = (after(smoke(precision=p, augment="none"), heads, 20).log.means() for p in (precision, "fp32"))
    for name in ("loss_D", "loss_G", "r1", "path_length"):
        assert half[name] == pytest.approx(full[name], rel=0.15), name


def test_pictures_of_the_card_are_those_of_the_processor_and_slices_are_copied_to_it_once(heads):
    G, _ = build_networks(make_config("smoke"))
    on_card = generate(G.cuda().eval(), range(4))
    torch.testing.assert_close(on_card, generate(G.cpu(), range(4)), rtol=0, atol=0.02)
    rows = np.array([3, 1, 90])
    on_card = heads.tensor(rows, "cuda")
    assert on_card.is_cuda and list(heads.shelf) == ["cuda"]
    torch.testing.assert_close(on_card.cpu(), heads.tensor(rows))


GROWTH = {"grow_kimg": 0.04, "fade_kimg": 0.08, "grow_batch_max": 16}
SYSTEMS = {"stylegan1": GROWTH, "seed003-progressive": {**GROWTH, "conditional": "none", "attention": "8"},
           "seed000-stylegan2": {}, "modern": {"augment": "none"}, "dcgan": {"z_dim": 16, "w_dim": 16}}  # fmt: skip


@pytest.mark.parametrize("preset", SYSTEMS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_of_each_system_train_as_launched_ones(heads, preset, precision):
    """Growing changes the shapes of a run: each resolution, and each fade, is recorded by itself."""
    small = {"img_resolution": 16, "channel_base": 128, "channel_max": 16, "batch_size": 8, "device": "cuda", **SYSTEMS[preset]}
    configs = [make_config(preset, **small, precision=precision, cuda_graphs=on) for on in (True, False)]
    recorded, launched = (after(config, heads, 40) for config in configs)
    assert recorded.cur_nimg == launched.cur_nimg and len(recorded.replay.recorded) >= 2
    assert recorded.D.now == launched.D.now == (16, 1)
    for name, value in launched.log.means().items():
        assert recorded.log.means()[name] == pytest.approx(value, rel=0.2, abs=0.1), name
