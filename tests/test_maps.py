"""What a map may claim: tests in feature space, their controls, and the coordinates that are saved beside the picture."""

import csv

import matplotlib.colors
import numpy as np
import pytest
import torch
from stylegan.truth.map_charts import Panel

from stylegan.__main__ import main
from stylegan.checkpoint import save_generator
from stylegan.config import make_config
from stylegan.networks import Generator
from stylegan.truth import map_charts, map_sheets, map_study, maps
from stylegan.truth.embedding import deal_people, deal_within, knn_overlap, neighbour_agreement, same_levels


def heads(people: int = 20, levels: int = 6, seed: int = 0, step: float = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n, 6] of people whose slices move along one axis with the level; who and level [n]."""
    rng = np.random.default_rng(seed)
    who, level = np.repeat(np.arange(people), levels), np.tile(np.arange(levels), people)
    x = rng.normal(0, 1, (people, 6))[who] + rng.normal(0, 0.1, (people * levels, 6))
    x[:, 0] += step * level
    return x, who, level


# --- Tests among neighbours -----------------------------------------------------------------------------------------------


def test_what_decides_on_features_is_found_and_what_does_not_is_not():
    x, who, level = heads()
    found = neighbour_agreement(x, level.astype(float), deal_within(who), 5, groups=who, permutations=99)
    assert found.value < 0.5 * found.expected and found.p_value == 1 / 100
    noise = [np.random.default_rng(s).normal(size=20)[who] for s in range(30)]
    p = [neighbour_agreement(x, one, deal_people(who), 5, groups=who, permutations=99).p_value for one in noise]
    assert np.mean(np.array(p) <= 0.05) < 0.2  # a number of each person, though slices are not independent


def test_by_slice_a_number_of_a_person_looks_like_knowledge():
    x, who, _ = heads(step=0.1)
    noise = [np.random.default_rng(s).normal(size=20)[who] for s in range(10)]
    alone = [neighbour_agreement(x, one, deal_within(np.zeros(len(who))), 5, permutations=99).p_value for one in noise]
    assert np.mean(np.array(alone) <= 0.05) > 0.9


def test_names_and_numbers_differ_in_their_way():
    x, values = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([1.0, 3.0, 10.0, 20.0])
    whole = deal_within(np.zeros(4))
    assert neighbour_agreement(x, values, whole, 1, permutations=9).value == (2 + 2 + 10 + 10) / 4
    assert neighbour_agreement(x, np.array(["a", "b", "c", "c"]), whole, 1, permutations=9).value == 0.5


def test_people_are_dealt_whole_and_in_order():
    who, values = np.repeat(np.arange(5), 3), np.arange(15.0)
    dealt = deal_people(who)(values, np.random.default_rng(3))
    assert sorted(dealt) == values.tolist() and not np.array_equal(dealt, values)
    assert all((np.diff(dealt[who == one]) == 1).all() for one in range(5))
    within = deal_within(who)(values, np.random.default_rng(0))
    assert all(sorted(within[who == one]) == values[who == one].tolist() for one in range(5))
    uneven = deal_people(np.array([0, 0, 1]))(np.array([1.0, 1, 2]), np.random.default_rng(1))
    assert set(uneven) <= {1.0, 2.0} and len(set(uneven[:2])) == 1


def test_overlap_counts_true_neighbours():
    x, _, _ = heads()
    assert knn_overlap(x, x, 5) == 1
    random = [knn_overlap(x, np.random.default_rng(s).normal(size=(len(x), 2)), 10) for s in range(5)]
    assert np.mean(random) == pytest.approx(10 / (len(x) - 1), rel=0.3)


def test_everybody_gives_the_same_levels():
    people, levels = np.repeat(["a", "b", "c"], 10), np.tile(np.arange(10), 3)
    rows = same_levels(people, levels, 12)
    assert [sorted(levels[rows][people[rows] == one]) for one in "abc"] == [[0, 3, 6, 9]] * 3
    assert same_levels(people, levels, 2).size == 2 and len(same_levels(people, np.full(30, -1), 12)) == 12
    twice = same_levels(np.array(["a", "a", "b"]), np.array([0, 0, 0]), 9)  # two scans of one person
    assert twice.tolist() == [0, 2]


# --- The study ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(slices):
    torch.manual_seed(0)
    config = make_config("smoke")
    G = Generator(config).eval()
    return maps.take_sample(G, {"config": config.to_dict(), "classes": list(slices.classes)}, slices, 40)


def test_a_sample_holds_equally_many_held_out_and_generated_slices(sample, slices):
    assert len(sample.real) == len(sample.fakes) == 16 and set(sample.real.splits) <= {"val", "test"}
    assert np.array_equal(sample.is_fake, np.arange(32) >= 16) and len(sample.both) == 32
    truths = {truth.name: truth for truth in sample.truths}
    assert set(truths) >= {"class", "person", "ventricles", "brain"} and len(truths["ventricles"].fakes) == 16
    assert truths["class"].fakes is None  # nobody asked an unconditional generator for a class
    with pytest.raises(ValueError, match="held-out slices"):
        maps.take_sample(None, {}, slices.split("train"), 40)


def test_every_panel_has_a_tested_claim(sample):
    told = maps.claims(sample, permutations=19)
    drawn = maps.panels(sample, told)
    assert [panel.title.split(" (")[0] for panel in drawn] == list(told)
    assert all("p = 0." in panel.claim or "p = 1." in panel.claim for panel in drawn)
    assert all(len(panel.values) == 32 for panel in drawn)
    assert told == maps.claims(sample, permutations=19)


def test_controls_know_what_must_be_found(sample, slices):
    weak = map_study.untrained({"config": make_config("smoke").to_dict()})
    found = {control.name: control for control in map_study.controls(sample, slices, weak, permutations=99)}
    assert len(found) == 4
    apart = found["real and an untrained generator"]
    assert apart.differ and apart.passed and apart.claim.endswith("must be told apart, and is.")
    assert not any(control.differ for control in found.values() if control is not apart)
    failing = map_study.Control("x", {"value": 0.1, "expected": 0.5, "p_value": 0.01}, differ=False)
    assert not failing.passed and failing.claim.endswith("must not be told apart, and is.")


def test_an_untrained_generator_is_always_the_same_and_touches_nobody_elses_chance():
    info = {"config": make_config("smoke").to_dict()}
    torch.manual_seed(5)
    a, drawn = map_study.untrained(info), torch.randn(3)
    torch.manual_seed(5)
    b, again = map_study.untrained(info), None
    again = torch.randn(3)
    assert torch.equal(drawn, again)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_study_is_written_and_its_coordinates_read_back(slices, tmp_path, capsys):
    torch.manual_seed(0)
    config = make_config("smoke")
    header = {"config": config.to_dict(), "classes": list(slices.classes), "cur_nimg": 0, "data": {}}
    save_generator(tmp_path / "G.safetensors", Generator(config), header)
    found = map_study.study(
        tmp_path / "G.safetensors", slices, num=40, seeds=(0, 1), neighbours=(8, 15), device="cpu", permutations=19
    )
    assert [(m["method"], m["mode"], m["seed"]) for m in found.result["maps"]] == [
        ("umap", "joint", 0), ("umap", "joint", 1), ("umap", "fit-real", 0), ("umap", "fit-real", 1), ("pca", "joint", 0), ("pca", "fit-real", 0),
    ]  # fmt: skip
    written = map_sheets.write_study(found, tmp_path / "out")
    assert all(path.stat().st_size for path in written) and len(written) == 7
    with open(tmp_path / "out" / "embedding.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["method"], row["mode"]) == ("umap", "joint")]
    coords = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    assert coords == pytest.approx(found.coords["umap", "joint", 8, 0], abs=1e-4)
    assert [row["kind"] for row in rows] == ["real"] * 16 + ["generated"] * 16 and rows[16]["subject"] == "seed 0"
    assert [row["subject"] for row in rows[:16]] == found.sample.people.tolist() and "age" not in rows[0]
    ranges = map_study.stability(found.result["maps"])
    assert [row["seeds"] for row in ranges] == [2, 2, 1, 1]
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


def test_readers_are_judged_on_held_out_people(sample):
    rows = maps.reading_rows(sample)
    assert [row["read"].split(" (")[0] for row in rows] == ["ventricles", "brain"]
    assert all("r = " in row["error on held-out people"] for row in rows)


# --- Panels ---------------------------------------------------------------------------------------------------------------


def test_colours_differ_in_lightness_too():
    """In a grey print: the first five of the colours, by the luminance of their linear light."""
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in map_charts.MAP_COLOURS[:5]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = np.sort(116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]).clip(0.2) - 16)
    assert np.diff(lightness).min() > 8


def test_a_panel_draws_every_slice_in_its_form_and_says_its_claim():
    coords, fake = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) >= 30
    names = np.where(np.arange(60) < 50, np.where(fake, "b", "a"), "")
    figure = map_charts.sheet(
        [coords] * 2, [fake] * 2, [Panel("names", names, "so it is"), Panel("numbers", np.arange(60.0), "or not")]
    )
    first, second = figure.axes[:2]
    assert first.get_xlabel() == "so it is" and [t.get_text() for t in first.get_legend().get_texts()] == ["a", "b"]
    assert sum(len(dots.get_offsets()) for dots in first.collections) == 60
    assert sum(len(dots.get_offsets()) for dots in second.collections) == 60
    assert "names: so it is" in figure.alt_text
    drawn = [len(dots.get_offsets()) for dots in second.collections if len(dots.get_offsets())]
    assert len(drawn) > 20  # kinds take turns, so that none lies on top
    with pytest.raises(ValueError, match="too many"):
        map_charts.sheet([coords], [fake], [Panel("many", np.arange(60).astype(str))])
