"""The way back from a slice to its w: it finds what the generator drew, and measures what it cannot draw."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan import predict, projection
from stylegan.__main__ import main
from stylegan.checkpoint import save_generator
from stylegan.config import make_config
from stylegan.networks import Generator


@pytest.fixture(scope="module")
def drawn(G):
    return predict.generate(G, [3, 4, 5])


@pytest.fixture(scope="module")
def found(G, drawn):
    return projection.project(G, drawn)


def test_it_finds_the_way_back_to_slices_that_the_generator_drew(G, drawn, found):
    start = projection.residual(drawn, predict.generate(G, [0, 0, 0], truncation_psi=0))
    assert (found.residual < 0.6 * start).all()
    assert found.ws.shape == (3, G.num_ws, G.w_dim) and torch.equal(found.ws[:, 0], found.ws[:, -1])
    assert torch.equal(found.images, predict.synthesize(G, found.ws)) and not found.ws.requires_grad
    assert (found.away > 0.1).all() and (found.away < 1).all()


def test_a_style_for_each_layer_fits_better_what_no_seed_gives(G):
    strange = predict.style_mixing(G, [1], [2, 3])[0]
    one, each = (projection.project(G, strange, space=space, steps=400).residual for space in projection.SPACES)
    assert (each < one).all()


def test_a_slice_does_not_depend_on_its_company(G, drawn, found):
    alone = projection.project(G, drawn[1:2])
    assert torch.allclose(alone.images, found.images[1:2], atol=2e-2)


def test_generator_and_random_state_are_left_alone(G, drawn):
    G.train()
    before, state = {key: value.clone() for key, value in G.state_dict().items()}, torch.get_rng_state()
    projection.project(G, drawn[:1], steps=3)
    assert G.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in G.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in G.parameters())
    G.eval()


def test_the_schedule_is_that_of_the_paper():
    assert [round(projection._warmth(t), 3) for t in (0, 0.025, 0.05, 0.75, 0.875, 1)] == [0, 0.5, 1, 1, 0.5, 0]
    assert [projection._restlessness(t) for t in (0, 0.375, 0.75, 1)] == [0.05, 0.0125, 0, 0]


def test_what_does_not_fit_is_refused(G, drawn):
    for wrong in ({"target": drawn[..., :8]}, {"target": drawn[0]}, {"space": "z"}, {"steps": 0}):
        with pytest.raises(ValueError, match=r"takes slices \[n, C, 16, 16\]"):
            projection.project(G, **{"target": drawn, **wrong})


def test_residuals_are_root_mean_squares_of_grey_levels():
    a, b = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    b[1, :2, :2] = 8
    assert projection.residual(a, b).tolist() == [0, 4]


def test_a_projection_is_measured_by_simpler_answers(G, slices):
    train, chosen = slices.split("train").images, slices.split("val").select([0, 1, 2])
    found, residuals = projection.reach(G, chosen, train, num=4)
    assert list(residuals) == [
        "projection", "generated slice, found again", "nearest training slice", "mean training slice", "nearest of 4 generated"
    ]  # fmt: skip
    assert found.images.shape == (3, 1, 16, 16) and all(values.shape == (3,) for values in residuals.values())
    assert residuals["projection"] == pytest.approx(projection.residual(chosen.images, found.images))
    mean = train.mean(axis=0).round().astype(np.uint8)[None].repeat(3, axis=0)
    assert residuals["mean training slice"] == pytest.approx(projection.residual(chosen.images, mean))
    by_hand = [min(projection.residual(x[None], t[None])[0] for t in train) for x in chosen.images]
    assert residuals["nearest training slice"] == pytest.approx(by_hand, abs=1e-3)


def test_held_out_slices_are_of_people_not_trained_on_and_of_many(slices):
    people = set(slices.split("val").subjects.tolist())
    chosen = projection.held_out(slices, {"train_subjects": slices.split("train").subjects.tolist()}, len(people))
    assert set(chosen.subjects.tolist()) == people and set(chosen.splits.tolist()) == {"val"}
    more = projection.held_out(slices, {}, len(people) + 1)
    assert len(more) == len(people) + 1 and set(more.subjects.tolist()) == people


def test_people_who_were_trained_on_are_never_held_out(slices):
    val = slices.split("val").subjects.tolist()
    assert set(projection.held_out(slices, {"train_subjects": val}, 2).splits.tolist()) == {"test"}
    with pytest.raises(ValueError, match="no slice that the generator was not trained on"):
        projection.held_out(slices, {"train_subjects": slices.subjects.tolist()}, 2)
    with pytest.raises(ValueError, match="ask for one or more"):
        projection.held_out(slices, {}, 0)


def test_the_command_writes_a_picture_and_the_numbers(class_folders, tmp_path, capsys):
    torch.manual_seed(0)
    config = make_config("smoke")
    info = {"config": config.to_dict(), "classes": [], "train_subjects": [], "data": {}, "cur_nimg": 0}
    save_generator(tmp_path / "G.safetensors", Generator(config), info)
    out = tmp_path / "out"
    assert (
        main(["project", str(tmp_path / "G.safetensors"), "--data", str(class_folders), "--slices", "2", "--out", str(out)])
        == 0
    )
    told = json.loads((out / "projection.json").read_text())
    assert told["split"] == "val" and len(told["slices"]) == 2
    assert set(told["slices"][0]) == {"subject", "level", "away", *told["mean"]}
    assert told["mean"]["projection"] == pytest.approx(np.mean([row["projection"] for row in told["slices"]]), abs=0.02)
    picture = Image.open(out / "projection.png")
    assert "real slices" in picture.text["Description"]
    assert "projection " in capsys.readouterr().out
