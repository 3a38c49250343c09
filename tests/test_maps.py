"""What a map may claim: tests in feature space, their controls, and the coordinates that are saved with the picture."""

import csv

import numpy as np
import pytest
from conftest import save_untrained

from stylegan.__main__ import main
from stylegan.config import make_config
from stylegan.scores.evidence import open_evidence
from stylegan.scores.intervals import Chance
from stylegan.truth import embedding, maps


@pytest.fixture(scope="module")
def path(tmp_path_factory, slices):
    """An untrained generator that names the people of the training split."""
    return save_untrained(tmp_path_factory.mktemp("model") / "G.safetensors", make_config("smoke"), slices)


@pytest.fixture(scope="module")
def sample(path, slices):
    return maps.take_sample(open_evidence(path, slices, device="cpu"), 40)


def test_a_sample_holds_equally_many_held_out_and_generated_slices(sample, slices):
    assert len(sample.real) == len(sample.made) == 16 and set(sample.real.splits) <= {"val", "test"} and not sample.note
    assert sample.kinds.tolist() == ["real"] * 16 + ["generated"] * 16 and len(sample.both) == 32
    truths = {truth.name: truth for truth in sample.truths}
    assert set(truths) >= {"class", "person", "ventricles", "brain"} and len(truths["ventricles"].fakes) == 16
    rows = maps.reading_rows(sample)
    assert [row["read"].split(" (")[0] for row in rows] == ["ventricles", "brain"]
    assert all("r = " in row["error on held-out people"] for row in rows)
    assert truths["class"].fakes is None  # nobody asked an unconditional generator for a class


def test_every_panel_has_a_tested_claim(sample):
    told = maps.claims(sample, permutations=19)
    assert list(told) == ["real and generated", *(truth.name for truth in sample.truths)]
    assert all("p = 0." in test["claim"] or "p = 1." in test["claim"] for test in told.values())
    figure = maps.truth_maps(sample, told, np.random.default_rng(0).normal(size=(32, 2)))
    assert all(test["claim"] in figure.alt_text for test in told.values())
    assert told == maps.claims(sample, permutations=19)


def test_controls_know_what_must_be_found(sample):
    found = {control.name: control for control in embedding.controls(sample, permutations=99)}
    assert len(found) == 4
    apart = found["real and an untrained generator"]
    assert apart.differ and apart.passed and apart.claim.endswith("must be told apart, and is.")
    assert not any(control.differ for control in found.values() if control is not apart)
    failing = embedding.Control("x", Chance(0.1, 0.5, 0.01), differ=False)
    assert not failing.passed and failing.claim.endswith("must not be told apart, and is.")


# What is left of the slices -> what a map of them still tests, and whether there is a note.
FEW = {
    "nobody held out": (
        lambda s: s.splits == "train",
        {"class", "person", "level", "ventricles", "brain", "enlargement"},
        True,
    ),
    "one person held out": (lambda s: (s.splits == "train") | (s.subjects == s.subjects[s.splits == "test"][0]), set(), True),
    "one slice a person": (lambda s: s.levels == s.levels[0], {"class", "ventricles", "brain"}, False),
    "a handful": (lambda s: (s.splits != "train") & (s.levels == s.levels[0]), {"class", "ventricles", "brain"}, False),
}


@pytest.mark.parametrize("left", FEW)
def test_few_people_give_the_map_that_they_can(left, path, slices, tmp_path):
    where, truths, noted = FEW[left]
    found = maps.study(path, slices.select(where(slices)), num=40, seeds=(0,), neighbours=(5,), device="cpu", permutations=9)
    assert {truth.name for truth in found.sample.truths} == truths and bool(found.sample.note) == noted
    assert len(maps.write_study(found, tmp_path)) == 7
    rows = maps.reading_rows(found.sample)
    assert bool(rows) == (left == "one slice a person")


def test_two_slices_are_no_map(path, slices):
    with pytest.raises(ValueError, match="takes 3 slices or more"):
        maps.take_sample(open_evidence(path, slices.select([0, 1]), device="cpu"))


def test_a_study_is_written_and_its_coordinates_read_back(path, slices, tmp_path):
    found = maps.study(path, slices, num=40, seeds=(0, 1), neighbours=(8, 15), device="cpu", permutations=19)
    assert [(m["method"], m["mode"], m["seed"]) for m in found.result["maps"]] == [
        ("umap", "joint", 0), ("umap", "joint", 1), ("umap", "fit-real", 0), ("umap", "fit-real", 1), ("pca", "joint", 0), ("pca", "fit-real", 0),
    ]  # fmt: skip
    written = maps.write_study(found, tmp_path / "out")
    assert all(path.stat().st_size for path in written) and len(written) == 7
    with open(tmp_path / "out" / "embedding.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["method"], row["mode"]) == ("umap", "joint")]
    coords = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    assert coords == pytest.approx(found.maps[0][1], abs=1e-4)
    assert [row["kind"] for row in rows] == ["real"] * 16 + ["generated"] * 16 and rows[16]["subject"] == "seed 0"
    assert [row["subject"] for row in rows[:16]] == found.sample.people.tolist() and "age" not in rows[0]
    assert [row["seeds"] for row in maps.stability(found.result["maps"])] == [2, 2, 1, 1]
    assert main(["embed", str(tmp_path / "none.safetensors"), "--out", str(tmp_path)]) == 2


def test_the_summary_says_what_passed_and_what_did_not():
    def test(value, shown):
        return {"value": value, "expected": 1.0, "p_value": 0.005 if shown else 0.5, "shown": shown}

    told = {"real and generated": test(0.1, True), "class": test(0.9, False), "level": test(0.2, True), "age": test(0.9, True)}
    text = maps.summary(told)
    assert "know of level, age, of **level** the most" in text and "do not show class" in text
    assert "in a place of their own" in text and "they have 10% of the real neighbours" in text
    assert "among real ones in part" in maps.summary(told | {"real and generated": test(0.5, True)})
    text = maps.summary({"real and generated": test(1.0, False), "class": test(1.0, False)})
    assert "nothing that was asked" in text and "not told apart" in text
