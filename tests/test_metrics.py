"""What compares two sets: against torchmetrics, prdc, closed forms and loops; intervals, floors and spoiled sets.

Copies, attacks and duplicates: each measure lights up where something was remembered, and stays dark where nothing was.
"""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from phantoms import phantoms
from test_evaluate import dataset_of

from stylegan.config import make_config
from stylegan.networks import Discriminator, set_stage
from stylegan.scores import memorisation, metrics
from stylegan.scores.evaluate import compare, compare_variety, score_controls
from stylegan.scores.evidence import Evidence, Part
from stylegan.scores.features import DEFAULT, features
from stylegan.scores.intervals import draw_people, leave_out, p_value
from stylegan.scores.metrics import Comparison, Side, Variety, frechet_distance, kernel_distance, told_apart
from stylegan.stylegan1 import stage


def gaussian(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(mean, scale, (n, d))).astype(np.float32)


def side(at: np.ndarray, people: np.ndarray | None = None) -> Side:
    """Features of people; without names everybody is another one."""
    return Side(np.zeros((len(at), 1, 1), np.uint8), at, np.arange(len(at)) if people is None else people)


@pytest.mark.parametrize("d", [6, 120])  # more slices than dimensions, and fewer
def test_distances_against_torchmetrics(d):
    kid, fid = (pytest.importorskip(f"torchmetrics.image.{name}") for name in ("kid", "fid"))
    x, y = gaussian(90, d, 0), gaussian(90, d, 1, mean=0.3, scale=1.5)
    a, b = torch.from_numpy(x).double(), torch.from_numpy(y).double()
    frechet = fid._compute_fid(a.mean(dim=0), a.T.cov(), b.mean(dim=0), b.T.cov())
    found = Comparison(side(x), side(y)).scores()
    assert kernel_distance(x, y) == pytest.approx(float(kid.poly_mmd(a, b)), rel=1e-5) == found["kid"] / 1000
    assert frechet_distance(x, y) == pytest.approx(float(frechet), rel=1e-4) == found["fd"]
    for a, b, distance in ((x, y[:, :5], kernel_distance), (x[:1], y, frechet_distance), (x[0], y, kernel_distance)):
        with pytest.raises(ValueError, match="samples"):
            distance(a, b)


def test_interval_is_as_wide_as_scores_of_new_people_spread():
    """Over 60 samples of 12 people the interval holds the long-run score about 95 % of the time; by slice it would be far too narrow."""

    def half(x: np.ndarray, y: np.ndarray, people: np.ndarray) -> tuple[float, float]:
        entry = leave_out(lambda r, f: {"": kernel_distance(x[r], y[f])}, people, len(y))[""]
        return entry["value"], entry["high"] - entry["value"]

    people = np.repeat(np.arange(12), 8)
    reals = [gaussian(12, 6, s)[people] + gaussian(96, 6, 500 + s, scale=0.3) for s in range(60)]
    pairs = [(real, gaussian(96, 6, 1000 + s, 0.7)) for s, real in enumerate(reals)]
    values, halves = np.array([half(*pair, people) for pair in pairs]).T
    assert np.mean(np.abs(values - values.mean()) < halves) >= 0.85 and 0.6 < np.mean(halves) / (2.2 * values.std()) < 1.7
    assert np.mean([half(*pair, np.arange(96))[1] for pair in pairs[:10]]) < 0.6 * np.mean(halves)
    with pytest.raises(ValueError, match="at least 2 subjects"):
        half(*pairs[0], np.zeros(96))


@pytest.mark.parametrize(("count", "n", "least", "most"), [(5, 20, 5, 5), (10, 20, 6, 10), (1, 20, 5, 5), (4, 120, 30, 30)])
def test_draws_take_whole_people_and_exactly_n(count, n, least, most):
    people = np.repeat(np.arange(30), 4)
    rows = draw_people(people, count, n, np.random.default_rng(0))
    assert len(set(rows)) == len(rows) == n and least <= len(set(people[rows])) <= most


def test_p_values_are_uniform_under_chance_and_small_for_an_effect():
    """The shared permutation test: of 100 shuffled sets a tenth has p <= .1; a set in order has the smallest p there is."""
    test = partial(p_value, lambda x: np.corrcoef(x, np.arange(12))[0, 1], deal=lambda x, rng: rng.permutation(x), draws=99)
    ps = np.array([test(np.random.default_rng(s).normal(size=12)).p_value for s in range(100)])
    assert 0.03 <= np.mean(ps <= 0.1) <= 0.2 and 0.4 < np.mean(ps) < 0.6
    found = test(np.arange(12.0))
    assert found.p_value == 0.01 and found.value == pytest.approx(1) and abs(found.expected) < 0.2
    assert test(np.arange(12.0), small=True).p_value == 1


def scores(real: np.ndarray, fake: np.ndarray, people: np.ndarray | None = None, fake_people: np.ndarray | None = None) -> dict:
    return Comparison(side(real, people), side(fake, fake_people)).neighbours()


@pytest.mark.parametrize(("mean", "scale"), [(0, 1), (0, 0.6), (0.3, 1.5)])
def test_against_prdc_where_everybody_has_one_slice(mean, scale):
    prdc = pytest.importorskip("prdc")
    real, fake = gaussian(90, 6, 0), gaussian(110, 6, 1, mean, scale)
    three, five = (prdc.compute_prdc(real, fake, k) for k in (metrics.K_PRECISION, metrics.K_DENSITY))
    expected = {name: (three if name in ("precision", "recall") else five)[name] for name in three}
    assert {name: scores(real, fake)[name] for name in expected} == pytest.approx(expected)


def test_slices_of_one_person_are_no_neighbours():
    real, fake = gaussian(24, 3, 0), gaussian(20, 3, 1, 0.4)
    people, fake_people, reaches = np.repeat(np.arange(6), 4), np.repeat(np.arange(5), 4), []
    for x, names in ((real, people), (fake, fake_people)):  # to the nearest, second nearest, ... of somebody else: [n, n]
        reaches += [np.sort(np.where(names[:, None] == names, np.inf, np.linalg.norm(x[:, None] - x, axis=2)), axis=1)]
    away, ours, theirs = np.linalg.norm(real[:, None] - fake, axis=2), *reaches
    reached = away < ours[:, 4:5]
    assert scores(real, fake, people, fake_people) == pytest.approx({
        "precision": (away < ours[:, 2:3]).any(axis=0).mean(), "recall": (away < theirs[:, 2]).any(axis=1).mean(),
        "density": reached.sum() / (5 * 20), "coverage": reached.any(axis=1).mean(),
        "nn_accuracy_real": (ours[:, 0] < away.min(axis=1)).mean(), "nn_accuracy_fake": (theirs[:, 0] < away.min(axis=0)).mean(),
        "recall_symmetric": min((away < theirs[:, 2]).any(axis=1).mean(), (away.min(axis=1) < ours[:, 2]).mean()),
    })  # fmt: skip


def test_copies_are_seen_fakes_too_near_or_wide_have_no_recall_a_tiny_set_reaches_nothing_and_realism_is_reach_by_distance():
    real = gaussian(300, 4, 0)
    copy = scores(real, real.copy())
    assert copy["nn_accuracy_real"] == 0 == copy["nn_accuracy_fake"]  # each has its copy at no distance: overfitting
    shrunk, wide = (scores(real[:40], factor * gaussian(40, 4, 7)) for factor in (0.65, 3))  # towards the mean, or away
    assert shrunk["recall"] == shrunk["recall_symmetric"] < 0.6 and wide["recall_symmetric"] < 0.6 < 0.9 < wide["recall"]
    tiny = scores(real[:2], gaussian(2, 4, 1))
    assert tiny["precision"] == tiny["recall"] == tiny["density"] == tiny["coverage"] == 0
    # Four corners of a square reach across it, one slice far away is left out; a fake in the middle, one beyond.
    real = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1], [90, 0]], np.float32)
    found = Comparison(side(real), side(np.array([[0, 0], [4, 1]], np.float32))).realism()
    assert found == pytest.approx([2, np.sqrt(8) / 3])


def test_the_classifier_judges_people_it_never_saw():
    """Each head far from all others, real and fake heads alike: a classifier that had seen a head's other slices would know them."""
    people = np.repeat(np.arange(10), 8)
    real, fake = (5 * gaussian(10, 30, seed)[people] + gaussian(80, 30, seed + 1) for seed in (0, 10))

    def share(fake: np.ndarray, people: np.ndarray) -> float:
        return np.mean([right.mean() for right in told_apart(side(real, people), side(fake, people))])

    assert share(fake, np.arange(80)) > 0.9 and share(fake, people) < 0.75 and share(fake + 100, people) > 0.9


@pytest.mark.parametrize(("size", "scales"), [(16, 1), (64, 3), (128, 4)])
def test_ms_ssim_is_made_of_the_parts_that_torchmetrics_finds(size, scales):
    """Their MS-SSIM adds a border of reflected pixels to the last scale, so the oracle takes their maps without it."""
    ssim = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    pictures = phantoms(6, 2, 1, size)
    x, y = (torch.from_numpy(p)[:, None].float() for p in (pictures[:1], pictures[6:7]))
    weights, expected = np.array(metrics.WEIGHTS[:scales]) / sum(metrics.WEIGHTS[:scales]), 1.0
    for scale, weight in enumerate(weights):
        _, whole = ssim(x, y, data_range=255.0, return_full_image=True)
        _, structure = ssim(x, y, data_range=255.0, return_contrast_sensitivity=True)
        part = whole[..., 5:-5, 5:-5].mean() if scale == scales - 1 else structure
        expected *= float(part) ** weight
        x, y = torch.nn.functional.avg_pool2d(x, 2), torch.nn.functional.avg_pool2d(y, 2)
    assert metrics.ms_ssim(pictures[:1], pictures[6:7])[0] == pytest.approx(expected, rel=1e-3)
    assert metrics.ms_ssim(pictures, pictures) == pytest.approx(np.ones(12), abs=1e-4)


def test_similar_pairs_and_the_largest_ssim():
    heads, people = phantoms(16, 4, 0, 16), np.repeat(np.arange(16), 4)
    noise = np.random.default_rng(1).integers(-20, 21, heads[::5].shape)
    noisy = (heads[::5].astype(int) + noise).clip(0, 255).astype(np.uint8)
    exact = [metrics.ms_ssim(np.broadcast_to(x, heads.shape), heads).max() for x in noisy]  # at 16 px it is plain SSIM
    found = metrics.best_similarity(heads, noisy)
    assert found["value"] == pytest.approx(np.mean(exact), rel=1e-5) and found["low"] < found["value"] < found["high"]
    assert metrics.best_similarity(heads, heads[:5])["value"] == pytest.approx(1, abs=1e-4)
    same, real = metrics.similarity_of_pairs(np.repeat(heads[:1], 40, axis=0)), metrics.similarity_of_pairs(heads, people)
    assert same["value"] == pytest.approx(1, abs=1e-4) and real["low"] < real["value"] < real["high"] < 0.99


def test_dimensions_hold_so_much_variance_and_spread_is_to_the_third_nearest_of_somebody_else():
    from sklearn.decomposition import PCA

    pictures = phantoms(40, 2, 0)
    held = PCA().fit(pictures.reshape(80, -1).astype(float)).explained_variance_ratio_.cumsum()
    found = Variety(pictures).numbers()
    assert all(found[name] == np.argmax(held >= share) + 1 for name, share in metrics.SHARES.items())
    brighter = (pictures[:1] * np.linspace(0.5, 1, 40)[:, None, None]).astype(np.uint8)
    assert Variety(brighter).numbers()["dimensions"] == 1
    assert set(Variety(np.repeat(pictures[:1], 20, axis=0)).numbers().values()) == {0.0}
    pictures, people = phantoms(5, 3, 1), np.repeat(np.arange(5), 3)
    x = pictures.reshape(15, -1) / 127.5 - 1
    away = [sorted(np.linalg.norm(x[i] - x[j]) for j in range(15) if people[j] != people[i])[2] for i in range(15)]
    assert Variety(pictures, people).numbers()["spread"] == pytest.approx(np.median(away))
    rows = np.array([0, 1, 3, 4, 6, 9])
    assert Variety(pictures, people).numbers(rows) == pytest.approx(Variety(pictures[rows], people[rows]).numbers())
    assert Variety(pictures[:3], people[:3]).numbers()["spread"] == 0 < Variety(pictures[:6], people[:6]).numbers()["spread"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """((held-out, fresh and other people, draws), scores and floors of the fresh in place of fakes, scores of each control)."""
    data = dataset_of(30, size=32)
    held, others = data.select(np.arange(120) < 40), data.select(np.arange(120) >= 40)
    info, part = {"config": make_config("smoke", mirror=False).to_dict()}, Part("test", held, others)
    found = Evidence(None, info, None, data, others, held, [part], [], DEFAULT, "cpu")
    fresh = phantoms(40, 4, 7)[np.arange(40) * 4 + np.arange(40) % 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_DATA", str(tmp_path_factory.mktemp("cache")))
        sides = found.side(held), Side(fresh, features(fresh), np.arange(40)), found.side(others), part.draws
        return sides, compare(*sides), score_controls(found)


@pytest.mark.parametrize("how", ["blurred", "noised"])
def test_spoiled_slices_fail_where_they_must(judged, how):
    _, good, controls = judged
    for key in ("kid", "fd", "nn_accuracy_fake", "classifier", *["spectrum"] * (how == "blurred")):
        assert controls[how][key] > good[f"{key}_floor"]["high"], key  # phantoms have noise of their own
    for key in ("precision", "coverage"):
        assert controls[how][key] < good[f"{key}_floor"]["low"], key


def test_few_slices_again_and_again_lack_recall_and_memorised_ones_have_no_fault_but_their_nearness(judged):
    _, good, controls = judged
    few, copies = controls["collapsed"], controls["memorised"]
    assert few["precision"] > 0.5 and few["nn_accuracy_fake"] == 1
    assert few["recall"] < good["recall_floor"]["low"] and few["coverage"] < good["coverage_floor"]["low"]
    assert few["ms_ssim"] > good["ms_ssim_real"]["value"] and few["dimensions"] < 0.5 * copies["dimensions"]
    assert all(copies[key] <= good[f"{key}_floor"]["high"] for key in ("kid", "fd", "spectrum"))
    assert copies["recall"] >= good["recall_floor"]["low"] and copies["classifier"] < 0.65
    assert copies["memory"] == pytest.approx(0, abs=1e-3) and controls["blurred"]["memory"] > 0.5


def test_variety_of_new_people_reaches_the_floor_and_a_collapse_does_not(judged):
    real, fresh, others, _ = judged[0]
    few = np.resize(fresh.images[:3], fresh.images.shape)
    few += np.random.default_rng(0).integers(0, 2, few.shape).astype(np.uint8)
    found = compare_variety(real, fresh, others, few)
    assert found["n"] == 30  # people, each with one slice: 40 slices of 10 of them would vary less than 40 strangers
    for name in ("dimensions", "dimensions_90", "spread"):
        good, bad = found[name], found[f"{name}_fixed_noise"]
        assert good["low"] <= good["floor"]["high"] and good["floor"]["low"] <= good["high"], name
        assert bad["high"] < bad["floor"]["low"], name
        assert good["ratio"]["value"] == pytest.approx(good["value"] / good["real"]) and bad["real"] == good["real"]
        assert bad["ratio"]["low"] <= bad["ratio"]["value"] <= bad["ratio"]["high"] < 0.9


def near(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    return memorisation.nearest(x, train)[0]


def test_new_people_have_the_ratio_one_and_uniform_p_values_copies_none_and_each_training_slice_is_in_one_pair():
    train, people, new = gaussian(400, 6, 0), np.repeat(np.arange(20), 10), gaussian(500, 6, 2)
    usual = near(gaussian(200, 6, 1), train)
    fresh = memorisation.memory(near(new, train), usual, people)
    assert fresh["low"] < 1 < fresh["high"] and fresh["p_value"] > 0.05
    copies = memorisation.memory(near(train + gaussian(400, 6, 3, scale=0.05), train), usual, people)
    assert copies["high"] < 0.5 and copies["p_value"] < 1e-3
    some = near(np.concatenate([new[50:], train[:50] + 0.01]), train)  # one in ten copied is seen at the near end
    assert memorisation.copied(near(new, train), usual) < 0.04 and memorisation.copied(some, usual) >= 0.1
    assert memorisation.memory(some, usual, people)["ratio"] > 0.85  # which the median does not see
    bad = memorisation.memory(near(gaussian(500, 6, 4, scale=3), train), usual, people)
    assert bad["low"] > 1 and bad["p_value"] > 0.5  # far from everybody is no copying
    few = memorisation.memory(np.full(100, 1.0), np.full(240, 2.0), np.repeat(np.arange(4), 60))
    assert few["p_value"] == pytest.approx(1 / 2**4)  # sixty slices of one near person are no more evidence than one
    assert memorisation.memory(np.ones(50), np.ones(8), np.arange(8))["p_value"] == 1
    train, people = gaussian(200, 4, 0), np.repeat(np.arange(12), 6)
    sides = [(near(gaussian(300, 4, 100 + s), train), near(gaussian(72, 4, 500 + s), train)) for s in range(60)]
    found = np.array([memorisation.memory(*both, people)["p_value"] for both in sides])
    assert np.mean(found < 0.1) < 0.22 and 0.35 < np.mean(found) < 0.65
    pairs = memorisation.closest_pairs(np.array([3.0, 1.0, 2.0, 0.5]), np.array([7, 7, 8, 9]))
    assert pairs == [(3, 9, 0.5), (1, 7, 1.0), (2, 8, 2.0)]
    assert len(memorisation.closest_pairs(np.arange(20.0), np.arange(20))) == 16


def test_membership_of_people_who_were_seen_and_of_nobody():
    people, member = np.repeat(np.arange(30), 5), np.repeat([True, False], 75)
    luck = memorisation.membership(gaussian(150, 1, 0)[:, 0], member, people)
    assert luck["low"] < 0.5 < luck["high"]
    seen = memorisation.membership(gaussian(150, 1, 0)[:, 0] + 4 * member, member, people)
    assert 0.9 < seen["low"] < seen["high"] <= 1
    assert memorisation.membership(-member.astype(float), member, people)["value"] == 0
    lopsided = memorisation.membership(np.arange(60.0), np.arange(60) < 56, np.arange(60) // 2)  # groups of one side alone
    assert np.isfinite(list(lopsided.values())).all()
    assert memorisation.membership(np.arange(6.0), np.arange(6) < 3, np.array([0, 0, 0, 1, 2, 3])) is None  # too few people
    assert memorisation.memory(np.ones(5), np.ones(3), np.zeros(3)) == memorisation.UNKNOWN


@pytest.mark.parametrize("preset", ["smoke", "stylegan1", "seed003-progressive", "dcgan"])
def test_logits_are_those_of_a_grown_discriminator_in_its_own_groups(preset, monkeypatch):
    """Every slice once, in whole groups, dithered where the run does so; D works at the stage of its checkpoint, attention included."""
    fields = {"img_resolution": 16, "channel_base": 128, "channel_max": 16, "w_dim": 16, "z_dim": 16, "mbstd_group_size": 8}
    fields |= {"attention": "8", "grow_from": 4} if preset == "seed003-progressive" else {}
    config = make_config(preset, dither=True, conditional="none", grow_kimg=0.1, fade_kimg=0.1, **fields)
    D, slices = Discriminator(config).eval(), dataset_of(people=11, levels=3)
    set_stage(stage(config, 10_000_000), D)
    seen, forward = [], D.forward
    monkeypatch.setattr(D, "forward", lambda img, c: seen.append(img) or forward(img, c))
    found = memorisation.logits(D, config, slices)
    assert found.shape == (33,) and np.isfinite(found).all() and len(set(found.tolist())) > 25
    assert np.array_equal(found, memorisation.logits(D, config, slices))
    assert all(len(img) % 8 == 0 for img in seen) and max(img.max() for img in seen) <= 1 + 2 / 255
    levels = (seen[0] + 1) * 127.5
    assert (levels - levels.round()).abs().max() > 0.2 and D.now.resolution == 16


def test_projection_compares_as_many_people_at_the_same_places(G, monkeypatch):
    slices = dataset_of()
    monkeypatch.setattr("stylegan.latent.SEARCH", 2)
    chosen = memorisation.one_each(slices.split("train"), 4)
    assert len(set(chosen.subjects.tolist())) == 4 and chosen.levels.tolist() == [0, 1, 2, 3]
    found = memorisation.projection_gap(G, slices.split("train"), slices.split("val"), 3)
    assert found["n"] == 3 and found["gap"] == pytest.approx(found["heldout"] - found["train"]) and 0 < found["p_value"] <= 1


def test_duplicates_are_found_under_another_name():
    rng = np.random.default_rng(0)
    heads, steps = rng.integers(0, 200, (10, 1, 32, 32)), rng.integers(0, 40, (10, 6, 32, 32))
    images = (heads + steps).reshape(60, 32, 32).astype(np.uint8)
    slices = dataset_of(people=10, levels=6, size=32, images=images.copy())
    clean = memorisation.duplicates(slices)
    assert clean["exact"] == clean["near"] == 0 and clean["yardstick"] > 0
    images[6:12] = images[:6]  # the second person is the first again
    images[18] = (images[12].astype(int) + 1).clip(0, 255)  # and one slice of the fourth is nearly one of the third
    found = memorisation.duplicates(dataclasses.replace(slices, images=images))
    assert found["exact"] == 6 and found["near"] >= 14
    names = {(pair[0], pair[2]) for pair in found["pairs"]}
    assert names == {("OAS1_0000_MR1", "OAS1_0001_MR1"), ("OAS1_0002_MR1", "OAS1_0003_MR1")}
    unknown = dataclasses.replace(slices, levels=np.full(60, -1))
    wide = dataset_of(people=10, levels=6, size=32)  # phantoms whose levels differ more than their people do
    assert memorisation.duplicates(unknown)["near"] is None is memorisation.duplicates(wide)["near"]
