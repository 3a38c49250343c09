"""Readers, the direction of growth and transfer: closed forms, and controls that must fail."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import save_untrained
from PIL import Image

from stylegan.__main__ import main
from stylegan.config import make_config
from stylegan.truth import groundtruth, readers


def test_a_measure_is_a_share_of_the_head_whatever_its_brightness_and_fluid_near_the_surface_no_ventricle():
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    head, hole = np.hypot(x, y) < 0.8, np.hypot(x, y) < 0.2
    picture = np.where(head & ~hole, 200, 0).astype(np.uint8)
    both = np.stack([picture, picture // 2])
    assert readers.ventricle_share(both) == pytest.approx([100 * 0.2**2 / 0.8**2] * 2, rel=0.05)
    assert readers.brain_share(both) == pytest.approx([100 * (1 - 0.2**2 / 0.8**2)] * 2, rel=0.01)
    assert readers.ventricle_share(np.zeros((2, 16, 16), np.uint8)).tolist() == [0, 0]
    sulcus = np.where(head & ~(np.hypot(x - 0.6, y) < 0.1), 200, 0).astype(np.uint8)[None]
    assert readers.ventricle_share(sulcus)[0] == 0 < 100 - readers.brain_share(sulcus)[0]


def test_targets_are_what_the_slices_know(simulated):
    assert groundtruth.measures(simulated)["ventricles, simulated"] > 0.8  # with the true area
    found = readers.targets(simulated.split("train"), simulated.select(simulated.splits != "train"))
    assert {target.name: target.origin for target in found} == {"ventricles": "known", "brain": "measured"}  # not level
    assert np.array_equal(found[0].of(simulated), simulated.columns["ventricle_area"])
    aged = replace(simulated, columns={"Age": np.unique(simulated.subjects, return_inverse=True)[1].astype(float)})
    assert "age" in [target.name for target in readers.targets(aged, aged)]  # however the column is spelt


def crowd(people: int) -> tuple[np.ndarray, ...]:
    """Features [n, 12] that tell class and level, then people, labels, levels [n], six of each person."""
    rng = np.random.default_rng(0)
    index, level = np.repeat(np.arange(people), 6), np.tile(np.arange(6), people)
    x = rng.normal(0, 0.3, (people, 12))[index] + rng.normal(0, 0.3, (people * 6, 12))
    x[:, 0] += 3 * (index % 2)
    x[:, 1] += level
    return x.astype(np.float32), np.array([f"P{i:03d}" for i in index]), index % 2, level


def test_a_reader_finds_a_linear_truth_and_leaves_the_unknown_out():
    x, people, _, _ = crowd(40)
    truth = np.where(people == "P003", np.nan, 2 * x[:, 1] - x[:, 2])
    model = readers.fit_reader(x[:180], truth[:180], people[:180])
    assert readers.correlation(model.predict(x[180:]), truth[180:]) > 0.99
    for some in (people < "P003", people < "P002", people < "P001"):  # so few leave nothing to choose
        assert np.isfinite(readers.fit_reader(x[some], truth[some], people[some]).predict(x)).all()
    # The strength of a classifier is chosen between people, however many slices they have.
    people, labels = np.repeat(["a", "b", "c", "d"], [1, 1, 4, 30]), np.repeat([0, 0, 1, 1], [1, 1, 4, 30])
    x = np.random.default_rng(0).standard_normal((36, 8)) + 3 * labels[:, None]
    assert np.isfinite(readers.fit_classifier(x, labels, people).cv_results_["mean_test_score"]).all()


def test_the_direction_is_the_part_of_w_that_goes_with_the_reading_alone():
    rng = np.random.default_rng(0)
    level, own = rng.normal(size=(2, 4000))
    reading, nothing = own + 2 * level, np.zeros((4000, 0))
    a, b = np.eye(8)[:2]
    ws = torch.from_numpy(np.outer(own, 3 * a) + np.outer(level, 5 * b) + 0.1 * rng.normal(size=(4000, 8)))
    step = readers.direction(ws, reading, level[:, None], nothing).numpy()
    assert step[0] == pytest.approx(3, rel=0.05) and np.abs(step[1:]).max() < 0.1  # one deviation of w along it
    assert readers.direction(ws, -reading, level[:, None], nothing).numpy() == pytest.approx(-step)
    label = rng.integers(0, 2, 4000)  # at the same class the reading varies less, along the axis that tells classes apart
    reading = 2 * label + rng.normal(size=4000)
    ws = torch.from_numpy(np.outer(reading, a) + 0.1 * rng.normal(size=(4000, 8)))
    step = readers.direction(ws, reading, nothing, label[:, None].astype(float)).numpy()
    assert step[0] == pytest.approx(reading.std(), rel=0.05) and np.abs(step[1:]).max() < 0.1


def sides(*, shift: float = 0.0, asked: bool = True) -> dict[str, readers.Side]:
    """Features that tell class and level of 30 training and 30 held-out people and of fakes; ``shift`` moves all fakes."""
    rng, (x, people, labels, level) = np.random.default_rng(0), crowd(60)
    images = np.repeat(level.astype(np.uint8)[:, None, None], 4, axis=1)  # [n, 4, 1]: a gauge of levels needs no more
    order, seeds = rng.permutation(len(x)), np.array([f"seed {i}" for i in range(len(x))])
    fakes = (x[order] + rng.normal(0, 0.05, x.shape) + shift * np.eye(12)[2]).astype(np.float32)
    both = readers.Side(images, x, people, labels)
    fake = readers.Side(images[order], fakes, seeds, labels[order] if asked else np.full(len(x), -1))
    return {"train": both.rows(people < "P030"), "held": both.rows(people >= "P030"), "fake": fake}


def test_classes_asked_for_are_recognised_and_shuffled_ones_are_not():
    given, recognise = sides(), partial(groundtruth.recognise, classes=("control", "atrophy"))
    found = recognise(**given)
    assert found["classes"] == ["control", "atrophy"] and found["chance"] == 0.5 and found["people"] == 30
    assert found["real"]["slices"]["value"] > 0.95 and found["fake"]["slices"]["value"] > 0.95
    assert found["real"]["by_person"]["value"] > 0.95 and found["fake"]["p_value"] <= 0.002
    assert abs(found["shuffled"]["value"] - 0.5) < 0.25 and np.sum(found["fake"]["confusion"], axis=1) == pytest.approx([1, 1])
    given["fake"].labels[:] = np.random.default_rng(1).permutation(given["fake"].labels)  # a generator that ignores its class
    ignored = recognise(**given)["fake"]
    assert abs(ignored["slices"]["value"] - 0.5) < 0.1 and ignored["p_value"] > 0.01
    assert "fake" not in recognise(**sides(asked=False))
    lone = given["train"].rows(given["train"].people < "P002")  # one person of each class teaches none
    assert recognise(lone, given["held"], given["fake"]) == {}
    visits = sides()
    for side in visits.values():  # the upper half of every other person: nobody is of the second class alone
        side.labels[:] = side.labels * (side.images[:, 0, 0] >= 3)
    changed = recognise(**visits)["real"]
    assert changed["by_person"]["value"] > 0.9 and changed["p_value"] < 0.05


def test_readings_of_fakes_stand_next_to_the_floor():
    def level_of(shift):
        train, held, fake = sides(shift=shift).values()
        taught, truth = (side.images[:, 0, 0].astype(float) for side in (train, held))
        reader = readers.fit_reader(train.at, taught, train.people).predict
        target = readers.Target("level", "levels", "known", lambda slices: slices.levels)
        return groundtruth.reading(target, reader, taught, truth, held, fake, lambda images: images.mean(axis=(1, 2)))

    alike, moved = level_of(0.0), level_of(40.0)
    held = alike["held_out"]
    assert held["r"]["value"] > 0.9 and held["error"]["value"] < held["guess_the_mean"] / 3 and held["people"] == 30
    assert held["error"]["low"] < held["error"]["value"] < held["error"]["high"]
    assert alike["distance"]["value"] <= alike["floor"]["high"] and alike["second"]["fake"] > 0.9
    assert moved["distance"]["value"] > moved["floor"]["high"]


def test_synthetic_slices_teach_groups_and_shuffled_ones_do_not():
    found = groundtruth.learn_groups(**sides())
    arms = {name: entry["value"] for name, entry in found["arms"].items()}
    assert list(arms) == ["real", "synthetic", "both", "synthetic, shuffled"]
    assert min(arms["real"], arms["synthetic"], arms["both"]) > 0.95 and abs(arms["synthetic, shuffled"] - 0.5) < 0.25
    assert found["synthetic_minus_real"]["low"] <= 0 <= found["synthetic_minus_real"]["high"]
    assert groundtruth.learn_groups(**sides(asked=False)) == {}


@pytest.fixture
def model(slices, tmp_path, monkeypatch):
    """Saves an untrained conditional generator with this header and names the file; few seeds try its direction."""
    monkeypatch.setattr(readers, "TRIED", 4)
    monkeypatch.setattr(readers, "RANDOM", 3)
    config = make_config("smoke", conditional="class", c_dim=2)
    return partial(save_untrained, tmp_path / "model.safetensors", config, slices)


def test_all_four_answers_for_a_generator_that_draws_nothing_and_without_classes_no_matrix(model, slices, tmp_path):
    result, strip = groundtruth.ground_truth(model(classes=["atrophy", "control"]), slices, num=60, device="cpu")
    assert json.loads(json.dumps(result)) == result
    assert strip[0].shape == (3, 7, 16, 16) and strip[1].shape == (3, 7)
    assert result["people"] == {"train": 8, "held_out": 4} and set(result["classes"]["predicted"]) == {"real", "fake"}
    written = groundtruth.write_ground_truth(result, strip, tmp_path / "out")
    assert [path.stem for path in written] == ["groundtruth", "ventricles", "confusion", "transfer"]
    assert all(Image.open(path).info["synthetic"] == "true" for path in written[1:])
    told = json.loads(written[0].read_text())["conclusions"]
    assert len(told) == 3 + len(result["readings"]) and "no direction was found" in told[-2]
    nameless = replace(slices, labels=np.full(len(slices), -1), classes=())
    path = save_untrained(tmp_path / "G.safetensors", make_config("smoke"), nameless)
    result, strip = groundtruth.ground_truth(path, nameless, num=60, device="cpu")
    assert result["classes"] == result["transfer"]["group"] == {} and result["people"] == {"train": 8, "held_out": 4}
    assert [path.stem for path in groundtruth.write_ground_truth(result, strip, tmp_path)] == ["groundtruth", "ventricles"]


def test_what_it_refuses(model, slices, tmp_path, capsys):
    wrong = {"classes AD, NC": (["AD", "NC"], slices), "8 training and 0 held-out": (slices.classes, slices.split("train"))}
    for words, (classes, given) in wrong.items():
        with pytest.raises(ValueError, match=words):
            groundtruth.ground_truth(model(classes=list(classes)), given, num=60, device="cpu")
    with pytest.raises(ValueError, match="at least 50"):
        groundtruth.ground_truth(model(), slices, num=3)
    assert main(["groundtruth", str(tmp_path / "none.safetensors")]) == 2 and "There is no file" in capsys.readouterr().err
