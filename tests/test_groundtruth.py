"""Readers, the direction of growth and transfer: closed forms, and controls that must fail."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from phantoms import phantoms
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from stylegan.truth.evidence import Evidence

from stylegan.__main__ import main
from stylegan.checkpoint import save_generator
from stylegan.config import make_config
from stylegan.data import simulate as atlas
from stylegan.networks import Generator
from stylegan.truth import conclusions, groundtruth, growth, readers, transfer

# --- Measured in the pixels -----------------------------------------------------------------------------------------------


def test_ventricles_are_measured_as_they_are_known_to_be():
    known = atlas.simulate(16, 4, 32)
    assert readers.correlation(readers.ventricle_share(known.images), known.columns["ventricle_area"]) > 0.8


def test_a_measure_is_a_share_of_the_head_whatever_its_brightness():
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    head, hole = np.hypot(x, y) < 0.8, np.hypot(x, y) < 0.2
    picture = np.where(head & ~hole, 200, 0).astype(np.uint8)
    dim = picture // 2
    assert readers.ventricle_share(np.stack([picture, dim])) == pytest.approx([100 * 0.2**2 / 0.8**2] * 2, rel=0.05)
    assert readers.brain_share(np.stack([picture, dim])) == pytest.approx([100 * (1 - 0.2**2 / 0.8**2)] * 2, rel=0.01)
    assert readers.ventricle_share(np.zeros((2, 16, 16), np.uint8)).tolist() == [0, 0]


def test_fluid_near_the_surface_is_no_ventricle():
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    sulcus = np.hypot(x - 0.6, y) < 0.1
    picture = np.where((np.hypot(x, y) < 0.8) & ~sulcus, 200, 0).astype(np.uint8)[None]
    assert readers.ventricle_share(picture)[0] == 0 < 100 - readers.brain_share(picture)[0]


def test_targets_are_what_the_slices_know(simulated):
    found = {target.name: target for target in readers.targets(simulated)}
    assert list(found) == ["ventricles", "brain"]  # of twelve people too few are held out to try a reader of levels
    assert found["ventricles"].known and not found["brain"].known
    assert np.array_equal(found["ventricles"].values, simulated.columns["ventricle_area"])


# --- Learnt from people ---------------------------------------------------------------------------------------------------


def crowd(people: int = 40, levels: int = 6, d: int = 12, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Features [n, D] that tell class and level, then people, labels, levels [n]."""
    rng = np.random.default_rng(seed)
    index, level = np.repeat(np.arange(people), levels), np.tile(np.arange(levels), people)
    x = rng.normal(0, 0.3, (people, d))[index] + rng.normal(0, 0.3, (people * levels, d))
    x[:, 0] += index % 2
    x[:, 1] += level
    return x.astype(np.float32), np.array([f"P{i:03d}" for i in index]), index % 2, level


def test_a_reader_finds_a_linear_truth_and_leaves_the_unknown_out():
    x, people, _, _ = crowd()
    truth = np.where(people == "P003", np.nan, 2 * x[:, 1] - x[:, 2])
    model = readers.fit_reader(x[:180], truth[:180], people[:180])
    assert readers.correlation(model.predict(x[180:]), truth[180:]) > 0.99


def test_shuffled_people_teach_nothing():
    x, people, labels, _ = crowd()
    rng = np.random.default_rng(0)
    learnt = readers.fit_classifier(x[:120], labels[:120], people[:120])
    assert readers.balanced_accuracy(labels[120:], learnt.predict(x[120:])) > 0.85
    dealt = [readers.shuffled_people(labels[:120], people[:120], rng) for _ in range(6)]
    found = [readers.fit_classifier(x[:120], one, people[:120], (0.1,)).predict(x[120:]) for one in dealt]
    assert abs(np.mean([readers.balanced_accuracy(labels[120:], one) for one in found]) - 0.5) < 0.15


def test_labels_are_dealt_to_whole_people():
    _, people, labels, _ = crowd()
    dealt = readers.shuffled_people(labels, people, np.random.default_rng(1))
    assert all(len(set(dealt[people == one])) == 1 for one in set(people)) and dealt.sum() == labels.sum()
    assert not np.array_equal(dealt, labels)


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, guess = rng.choice(3, 200, p=[0.7, 0.2, 0.1]), rng.choice(3, 200)
    assert readers.balanced_accuracy(truth, guess) == pytest.approx(balanced_accuracy_score(truth, guess))


def test_chance_is_told_from_knowledge_by_person():
    _, people, labels, _ = crowd()
    assert readers.chance_p_value(labels, labels, people, 199) == 1 / 200
    nothing = [
        readers.chance_p_value(labels, readers.shuffled_people(labels, people, np.random.default_rng(s)), people, 99)
        for s in range(30)
    ]
    assert np.mean(np.array(nothing) <= 0.05) < 0.2  # by slice nearly all of these would look like knowledge


def test_an_interval_draws_people_not_slices():
    values, people = np.repeat(np.random.default_rng(0).normal(size=25), 40), np.repeat(np.arange(25), 40)
    by_person, by_slice = readers.interval(np.mean, people, values), readers.interval(np.mean, np.arange(1000), values)
    expected = 2 * 1.96 * values.std() / 5
    assert by_person["high"] - by_person["low"] == pytest.approx(expected, rel=0.2)
    assert by_slice["high"] - by_slice["low"] < expected / 4
    assert by_person == readers.interval(np.mean, people, values) and by_person["value"] == pytest.approx(values.mean())
    alone = readers.interval(np.mean, people, values, strata=people)  # each person a class of its own: nothing to draw
    assert alone["low"] == pytest.approx(alone["high"])


def test_means_by_person_are_means():
    people = np.array(["b", "a", "b"])
    assert readers.means_by_person(np.array([[1.0, 2], [5, 6], [3, 4]]), people).tolist() == [[5, 6], [2, 3]]


# --- The direction in W ---------------------------------------------------------------------------------------------------


def test_the_direction_is_the_part_of_w_that_goes_with_the_reading_alone():
    rng = np.random.default_rng(0)
    level, own = rng.normal(size=(2, 4000))
    reading = own + 2 * level
    a, b = np.eye(8)[:2]
    ws = torch.from_numpy(np.outer(own, 3 * a) + np.outer(level, 5 * b) + 0.1 * rng.normal(size=(4000, 8)))
    step = growth.direction(ws, reading, level[:, None]).numpy()
    assert step[0] == pytest.approx(3, rel=0.05) and np.abs(step[1:]).max() < 0.1  # one deviation of w along it
    confounded = growth.direction(ws, reading, np.zeros((4000, 0))).numpy()
    assert confounded[1] > confounded[0] > 0
    assert growth.direction(ws, -reading, level[:, None]).numpy() == pytest.approx(-step)


def test_a_class_that_goes_with_the_reading_leaves_a_direction():
    """At the same class the reading varies less, along the very axis that tells the classes apart."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 4000)
    reading = 2 * label + rng.normal(size=4000)
    ws = torch.from_numpy(np.outer(reading, np.eye(6)[0]) + 0.1 * rng.normal(size=(4000, 6)))
    step = growth.direction(ws, reading, np.zeros((4000, 0)), label[:, None].astype(float)).numpy()
    assert step[0] == pytest.approx(reading.std(), rel=0.05) and np.abs(step[1:]).max() < 0.1


def test_what_others_tell_is_taken_out():
    rng = np.random.default_rng(0)
    held = rng.normal(size=(50, 2))
    assert np.abs(growth.left_of(held @ [2, -1] + 3, held)).max() < 1e-9


# --- Gathered evidence ----------------------------------------------------------------------------------------------------


def evidence(simulated, *, shift: float = 0.0, telling: float = 3.0, asked: bool = True, seed: int = 0) -> Evidence:
    """Features that tell class and level of 60 people in both kinds of slices; ``shift`` moves all fakes."""
    rng = np.random.default_rng(seed)
    x, people, labels, level = crowd(60)
    x[:, 0] += (telling - 1) * labels
    more = {"images": phantoms(60, 6, 0, 16), "labels": labels, "subjects": people, "levels": level, "columns": {}}
    more |= {"splits": np.where(people < "P030", "train", "test")}
    slices = replace(simulated, **more)
    order = rng.permutation(len(x))
    fakes = x[order] + rng.normal(0, 0.05, x.shape) + shift * np.eye(12)[2]
    ws = torch.from_numpy(fakes).float()[:, None]
    return Evidence(None, slices, x, people, people < "P030", ws, slices.images[order], fakes.astype(np.float32),
                    labels[order] if asked else None, np.arange(2), "efficientnet-lite0", "cpu")  # fmt: skip


def test_classes_asked_for_are_recognised_and_shuffled_ones_are_not(simulated):
    e = evidence(simulated)
    found = groundtruth.recognise(e)
    assert found["classes"] == ["control", "atrophy"] and found["chance"] == 0.5 and found["people"] == 30
    assert found["real"]["slices"]["value"] > 0.95 and found["fake"]["slices"]["value"] > 0.95
    assert abs(found["shuffled"]["value"] - 0.5) < 0.25 and found["fake"]["p_value"] <= 0.002
    assert np.sum(found["fake"]["confusion"], axis=1) == pytest.approx([1, 1])
    e.asked[:] = np.random.default_rng(1).permutation(e.asked)  # a generator that ignores its class
    ignored = groundtruth.recognise(e)["fake"]
    assert abs(ignored["slices"]["value"] - 0.5) < 0.1 and ignored["p_value"] > 0.01
    assert "fake" not in groundtruth.recognise(evidence(simulated, asked=False))


def test_readings_of_fakes_stand_beside_the_floor(simulated):
    alike, moved = (groundtruth.read_all(evidence(simulated, shift=s))[1]["level"] for s in (0.0, 40.0))
    assert (
        alike["held_out"]["r"]["value"] > 0.9 and alike["held_out"]["error"]["value"] < alike["held_out"]["guess_the_mean"] / 3
    )
    assert alike["distance"]["value"] <= alike["floor"]["high"]
    assert abs(sum(alike["histogram"]["fake"]) - 1) < 1e-9
    assert moved["distance"]["value"] > moved["floor"]["high"]


def test_spread_apart_is_in_deviations_of_the_real():
    rng = np.random.default_rng(0)
    real, people = rng.normal(0, 2, 2000), np.repeat(np.arange(100), 20)
    far, floor = readers.spread_apart(real, people, rng.normal(2, 2, 2000))
    assert far["value"] == pytest.approx(1, abs=0.1) and floor["value"] < 0.1


def test_synthetic_slices_teach_groups_and_shuffled_ones_do_not(simulated):
    found = transfer.learn_groups(evidence(simulated), [0, 1])
    arms = {name: entry["value"] for name, entry in found["arms"].items()}
    assert arms["real"] > 0.95 and arms["synthetic"] > 0.95 and abs(arms["synthetic, shuffled"] - 0.5) < 0.25
    assert found["synthetic_minus_real"]["low"] <= 0 <= found["synthetic_minus_real"]["high"]
    assert transfer.learn_groups(evidence(simulated, asked=False), [0, 1]) == {}


def test_synthetic_slices_teach_levels_as_far_as_they_hold_them(simulated):
    e = evidence(simulated)
    real = dict(zip([x.tobytes() for x in e.slices.images], e.slices.levels, strict=True))
    found = transfer.learn_levels(e, lambda pixels: np.array([real[x.tobytes()] for x in pixels], float))
    arms = {name: entry["value"] for name, entry in found["arms"].items()}
    assert arms["synthetic"] < 1.5 * arms["real"] < found["guess_the_mean"] / 2
    assert arms["synthetic, shuffled"] > 0.8 * found["guess_the_mean"]
    assert transfer.learn_levels(e, None) == {}


# --- In words -------------------------------------------------------------------------------------------------------------


def test_null_results_are_told_as_such(simulated):
    blind = groundtruth.recognise(evidence(simulated, telling=0.0))
    blind["real"]["p_value"] = 0.4
    assert "it has learnt nothing (p = 0.400)" in conclusions._told_classes(blind)
    found = groundtruth.recognise(evidence(simulated))
    found["fake"] |= {"p_value": 0.6, "slices": {"value": 0.51, "low": 0.45, "high": 0.56}}
    assert "the class asked for does not show" in conclusions._told_classes(found)
    still = {"per_step": 0.1, "agreed": 0.6, "level_per_step": None, "random": {"value": 0.2, "high": 0.4}}
    assert "no direction was found" in conclusions._told_direction(still, "%")
    entry = {"value": 0.5, "low": 0.4, "high": 0.6}
    arms = {"n": 9, "arms": dict.fromkeys(("real", "synthetic", "both"), entry), "chance": 0.5, "guess_the_mean": 8.0}
    null, less = ({"synthetic_minus_real": {"value": v, "low": v - 0.1, "high": v + 0.1}} for v in (0.0, -0.2))
    assert "no difference is shown (-10% to 10%)" in conclusions._told_groups(arms | null)
    assert "teach worse (-30% to -10%)" in conclusions._told_groups(arms | less)
    assert "teach better (-0.30 to -0.10)" in conclusions._told_levels(arms | less)
    assert conclusions._told_groups({}) == conclusions._told_levels({}) == ""


# --- All of it ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(slices, tmp_path):
    """Saves an untrained conditional generator and names the file."""

    def save(**info):
        torch.manual_seed(0)
        G = Generator(make_config("smoke", conditional="class", c_dim=2))
        known = {"classes": list(slices.classes), "train_subjects": sorted(set(slices.split("train").subjects.tolist()))}
        about = {"config": make_config("smoke", conditional="class", c_dim=2).to_dict(), "cur_nimg": 0, "data": {}}
        save_generator(tmp_path / "model.safetensors", G, about | known | info)
        return tmp_path / "model.safetensors"

    return save


def test_all_four_answers_for_a_generator_that_draws_nothing(model, slices, tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "TRIED", 4)
    monkeypatch.setattr(growth, "RANDOM", 3)
    result, strip = groundtruth.ground_truth(model(classes=["atrophy", "control"]), slices, num=60, device="cpu")
    assert json.loads(json.dumps(result)) == result
    assert strip.pictures.shape == (3, 7, 16, 16) and strip.readings.shape == (3, 7)
    assert result["people"] == {"train": 8, "held_out": 4} and set(result["classes"]["predicted"]) == {"real", "fake"}
    written = groundtruth.write_ground_truth(result, strip, tmp_path / "out")
    assert [path.name for path in written] == [
        "groundtruth.json",
        "ventricles.png",
        "readings.png",
        "confusion.png",
        "transfer.png",
    ]
    assert all(Image.open(path).info["synthetic"] == "true" for path in written[1:])
    again = groundtruth.ground_truth(tmp_path / "model.safetensors", slices, num=60, device="cpu")[0]
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


def test_whom_it_refuses(model, slices, tmp_path, capsys):
    held = str(slices.subjects[slices.splits == "test"][0])
    for info, words in (
        ({"train_subjects": [held]}, "trained on 1 of the 4 held-out"),
        ({"classes": ["AD", "NC"]}, "on one side only"),
    ):
        with pytest.raises(ValueError, match=words):
            groundtruth.ground_truth(model(**info), slices, num=60, device="cpu")
    with pytest.raises(ValueError, match="at least 50"):
        groundtruth.ground_truth(model(), slices, num=3)
    with pytest.raises(ValueError, match="slices of other people"):
        groundtruth.ground_truth(model(), slices.split("train"), num=60, device="cpu")
    assert main(["groundtruth", str(tmp_path / "none.safetensors")]) == 2 and "There is no file" in capsys.readouterr().err
