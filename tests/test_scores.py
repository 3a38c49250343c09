"""Controls: what was spoiled fails where it must, what is only copied passes every score of quality and fails the search for copies."""

import numpy as np
import pytest
from phantoms import phantoms

from stylegan.scores.features import features
from stylegan.scores.memorisation import nearest
from stylegan.scores.scores import best_similarity, control_sets, floor_draws, score, score_control, score_pictures


@pytest.fixture(scope="module")
def sides():
    """(slices, features, people) of 12 held-out people and of 36 others."""
    people, pictures = np.repeat(np.arange(48), 5), phantoms(48, 5, 0)
    at = features(pictures)
    return tuple((pictures[rows], at[rows], people[rows]) for rows in (people < 12, people >= 12))


@pytest.fixture(scope="module")
def judged(sides):
    """(scores and floors of fresh people in place of fakes, scores of each control)."""
    held, (others, at_others, other_people) = sides
    draws = floor_draws(held[2], other_people)
    fresh = phantoms(60, 5, 7)[np.arange(60) * 5 + np.arange(60) % 5]  # a perfect generator: nobody twice
    good = score(held[1], held[2], features(fresh), at_others, other_people)
    good |= score_pictures(held[0], held[2], fresh, others, draws)
    found = {}
    for name, control in control_sets(others, draws[0]).items():
        whose = None if name == "collapsed" else other_people[draws[0]]
        found[name] = score_control(held, (control, features(control), whose))
        found[name]["memory"] = np.median(nearest(features(control), at_others)[0])
    return good, found


@pytest.mark.parametrize("how", ["blurred", "noised"])
def test_spoiled_slices_fail_where_they_must(judged, how):
    good, controls = judged
    for key in ("kid", "fd", "nn_accuracy_fake", "classifier", *["spectrum"] * (how == "blurred")):
        assert controls[how][key] > good[f"{key}_floor"]["high"], key  # phantoms have noise of their own
    for key in ("precision", "coverage"):
        assert controls[how][key] < good[f"{key}_floor"]["low"], key


def test_few_slices_again_and_again_lack_recall_and_coverage(judged):
    good, controls = judged
    few = controls["collapsed"]
    assert few["precision"] > 0.5 and few["nn_accuracy_fake"] == 1
    assert few["recall"] < good["recall_floor"]["low"] and few["coverage"] < good["coverage_floor"]["low"]
    assert few["ms_ssim"] > good["ms_ssim_real"]["value"]


def test_memorised_slices_have_no_fault_but_their_nearness(judged):
    good, controls = judged
    copies = controls["memorised"]
    for key in ("kid", "fd", "spectrum"):
        assert copies[key] <= good[f"{key}_floor"]["high"], key
    assert copies["recall"] >= good["recall_floor"]["low"] and copies["classifier"] < 0.65
    assert copies["memory"] == pytest.approx(0, abs=1e-3) and controls["blurred"]["memory"] > 1


def test_strangers_of_the_same_kind_pass_below_the_floor(judged):
    """Why reaching the floor is lenient: unrelated slices of the very population lie below it."""
    good, _ = judged
    assert good["fd"]["value"] < good["fd_floor"]["high"] and good["kid"]["low"] < good["kid_floor"]["high"]
    assert good["spectrum"]["low"] < good["spectrum_floor"]["high"]


def test_the_largest_ssim_is_one_for_copies_and_lower_for_strangers(sides):
    (held, _, _), (others, _, _) = sides
    copied, strange = best_similarity(held, held[::3]), best_similarity(held, others[:60])
    assert copied["value"] == pytest.approx(1, abs=1e-4) and strange["high"] < 0.99
    assert best_similarity(held, others, most=10)["value"] == pytest.approx(best_similarity(held, others[:10])["value"])


def test_floor_draws_take_as_many_slices_and_people(sides):
    (_, _, people), (_, _, others) = sides
    draws = floor_draws(people, others)
    assert all(len(set(rows)) == len(people) and len(set(others[rows])) == 12 for rows in draws) and len(draws) == 20
