"""The verdict: rules in both directions, a card from the JSON alone, failure cases that are the worst by their rule."""

import json

import numpy as np
import pytest
from phantoms import phantoms

from stylegan.scores import verdict
from stylegan.scores.failures import failure_cases
from stylegan.scores.features import features
from stylegan.scores.findings import floor_table, plain_scores, plain_table
from stylegan.scores.picture_scores import area, blurred, symmetry
from stylegan.scores.verdict import BORDERLINE, FAIL, PASS, SIGNS, mark, summary, verdict_rows


def entry(value: float, half: float = 1.0) -> dict:
    return {"value": value, "low": value - half, "high": value + half}


FLOOR = {"value": 10.0, "low": 8.0, "high": 13.0}


@pytest.mark.parametrize(
    ("value", "half", "better", "expected"),
    [
        (9, 1, "lower", PASS),
        (10, 1, "lower", PASS),
        (12, 1, "lower", BORDERLINE),  # inside the floor's range, and still no pass: the floor is lenient
        (15, 3, "lower", BORDERLINE),
        (15, 1, "lower", FAIL),
        (11, 1, "higher", PASS),
        (9, 0.5, "higher", BORDERLINE),
        (6, 1, "higher", FAIL),
        (12, 0.1, "as", PASS),
        (14, 2, "as", BORDERLINE),
        (7, 2, "as", BORDERLINE),
        (15, 1, "as", FAIL),
        (5, 1, "as", FAIL),
    ],
)
def test_marks(value, half, better, expected):
    assert mark(entry(value, half), FLOOR, better) == expected


def scores(**changes) -> dict:
    """A result of `evaluate` in which everything is as good as real, but for the changes."""
    split = {"n": 20, "subjects": 5}
    further = {}
    for _, key, _ in verdict.DOUBTS:
        (split if key not in ("classifier", "spectrum", "intensity", "area", "symmetry") else further)[key] = dict(FLOOR)
        further["ms_ssim_real" if key == "ms_ssim" else f"{key}_floor"] = dict(FLOOR)
    for key, value in changes.items():
        (split if key in split else further)[key] = value
    ratio = {"ratio": 1.02, "low": 0.9, "high": 1.1, "p_value": 0.6}
    control = {"kid": 99.0, "fd": 9.0, "recall": 0.0, "coverage": 0.0, "nn_accuracy_fake": 1.0, "memory": 0.5}
    return {
        "feature_space": "efficientnet-lite0", "n": 20, "seconds": 1.0, "warnings": [], "memorisation": ratio,
        "splits": {"val": split, "test": split}, "further": {"val": further, "test": further}, "controls": {"blurred": control},
    }  # fmt: skip


def marks(rows: list[dict]) -> dict[str, str]:
    return {row["score"]: row["verdict"] for row in rows}


def test_about_twelve_lines_all_pass_where_all_is_as_real():
    rows = verdict_rows(scores())
    assert 12 <= len(rows) <= 14 and set(marks(rows).values()) == {SIGNS[PASS]}
    assert summary(rows) == f"**{len(rows)} of {len(rows)} pass**, 0 are borderline, 0 fail."


def test_each_doubt_fails_by_itself():
    for _, key, better in verdict.DOUBTS:
        bad = entry({"lower": 50, "higher": 1, "as": 50}[better])
        rows = verdict_rows(scores(**{key: bad}))
        assert sum(row["verdict"] == SIGNS[FAIL] for row in rows) == 1, key
        assert "1 fail" in summary(rows)


def test_fid_is_only_said_of_the_official_inception():
    assert "FD" in marks(verdict_rows(scores()))
    assert "FID" in marks(verdict_rows(scores() | {"feature_space": "inception"}))


def test_memory_is_judged_by_the_test_and_its_size():
    def of(ratio: float, p: float, **memory) -> list[str]:
        found = scores() | {"memorisation": {"ratio": ratio, "low": ratio - 0.05, "high": ratio + 0.05, "p_value": p}}
        return [row["verdict"] for row in verdict_rows(found, memory)[len(verdict.DOUBTS) :]]

    assert of(0.3, 1e-6) == [SIGNS[FAIL]] and of(0.9, 1e-6) == [SIGNS[BORDERLINE]] and of(0.9, 0.4) == [SIGNS[PASS]]
    bright = {
        "people": {"share": 1.0, "expected": 0.7, "p_value": 1e-4},
        "attack": {"value": 0.9, "low": 0.8, "high": 1.0},
        "logits": {"value": 0.55, "low": 0.51, "high": 0.6},
        "projection": {"train": 1.0, "heldout": 9.0, "gap": 8.0, "p_value": 1e-5, "n": 24},
    }
    assert of(1.0, 0.5, **bright) == [SIGNS[mark] for mark in (PASS, FAIL, FAIL, BORDERLINE, FAIL)]
    dark = {
        "people": {"share": 0.7, "expected": 0.7, "p_value": 0.4},
        "attack": {"value": 0.5, "low": 0.45, "high": 0.55},
        "logits": None,
    }
    assert of(1.0, 0.5, **dark) == [SIGNS[PASS]] * 3
    unknown = verdict_rows(scores() | {"memorisation": dict.fromkeys(("ratio", "low", "high", "p_value"))})
    assert unknown[-1]["verdict"] == SIGNS[verdict.UNKNOWN]


def test_the_card_is_written_from_json_alone():
    found = json.loads(json.dumps(scores()))
    assert verdict_rows(found) == verdict_rows(scores())
    table = floor_table(found)
    assert {"real (floor)", "**generated**", "blurred"} <= set(table[0]) and table[0]["blurred"] == "99"
    lines = plain_scores(found)
    assert any(line.startswith("test") and "KID" in line for line in lines) and any("blurred" in line for line in lines)
    assert plain_table([{"a": 1, "b": 2}, {"a": 333, "b": 4}]) == "a    b\n1    2\n333  4"


def test_failure_cases_are_the_worst_by_their_rules():
    people = np.repeat(np.arange(20), 4)
    real, fake = phantoms(20, 4, 0), phantoms(15, 4, 1)
    fake[7, :, :16] //= 4  # a lopsided one
    fake[11] = 0
    fake[11, 10:22, 10:22] = 150  # a small one
    fake[23] = np.random.default_rng(0).integers(0, 256, fake[23].shape)  # noise
    fake[31] = blurred(blurred(blurred(fake[31:32])))[0]
    cases = failure_cases(fake, features(fake), real, features(real), people)
    by_rule = {case["rule"]: case for case in cases}
    assert len(cases) == 5 == len({case["row"] for case in cases}) == len({case["rule"] for case in cases})
    assert by_rule["smallest head"]["row"] == 11 and by_rule["smallest head"]["value"] == pytest.approx(area(fake)[11])
    assert 23 in (by_rule["least realistic"]["row"], by_rule["oddest spectrum"]["row"], by_rule["most asymmetric"]["row"])
    lopsided = by_rule["most asymmetric"]
    assert lopsided["row"] in (7, 23) and lopsided["value"] == pytest.approx(symmetry(fake)[lopsided["row"]])
    assert all(case["guess"] for case in cases)


def test_a_worst_case_that_real_slices_reach_too_is_called_no_failure():
    people, pictures = np.repeat(np.arange(30), 4), phantoms(30, 4, 0)
    at = features(pictures)
    cases = failure_cases(pictures[40:48], at[40:48], pictures, at, people)
    assert len(cases) == 5 and sum("no failure" in case["guess"] for case in cases) >= 3
    assert len(failure_cases(pictures[:3], at[:3], pictures, at, people)) == 3  # no slice twice


# --- Sentences --------------------------------------------------------------------------------------------------------------


def test_sentences_follow_the_numbers():
    good = scores()
    good["controls"] = {"blurred": {"kid": 99.0, "best_ssim": 0.7}, "memorised": {"kid": 9.0, "memory": 0.0, "best_ssim": 0.6}}
    for split in good["further"].values():
        split |= {"best_ssim": entry(0.5, 0.1), "best_ssim_real": entry(0.6, 0.1)}
    good["splits"] = {"train": {**good["splits"]["val"]}, **good["splits"]}
    assert "no better on people it saw" in verdict.splits_sentence(good)
    good["splits"]["train"]["fd"] = entry(1, 0.5)
    assert "do **not** all overlap" in verdict.splits_sentence(good)
    told = verdict.controls_sentence(good)
    assert "fault with **blurred**" in told and "0.00 where new people have 1" in told
    assert "rewards blur" in verdict.ssim_sentence(good) and "**0.500**" in verdict.ssim_sentence(good)
    good["controls"]["blurred"]["best_ssim"] = 0.4
    assert "rewards blur" not in verdict.ssim_sentence(good)


def test_copies_are_told_in_words():
    def told(ratio, p):
        return verdict.copies_sentence({"ratio": ratio, "low": ratio - 0.1, "high": ratio + 0.1, "p_value": p})

    assert "suspiciously near" in told(0.3, 1e-6) and "no sign" in told(1.0, 0.5) and "not like real" in told(2.0, 1.0)
    assert "no sign" in told(0.3, 0.2)  # too few people to tell
    assert "No training slices" in verdict.copies_sentence(dict.fromkeys(("ratio", "low", "high", "p_value")))
    assert "not tried" in verdict.control_sentence(None)
    assert "level 0.99, blur 0.98" in verdict.encoder_sentence({"encoder": {"level": 0.99, "blur": 0.98}})
    assert "No encoder" in verdict.encoder_sentence({"encoder": None})
    twice = {"slices": 10, "exact": 2, "near": 3, "yardstick": 1.0, "pairs": []}
    assert "2 are equal" in verdict.duplicates_sentence(twice) and "3 are nearer" in verdict.duplicates_sentence(twice)
    assert "unknown" in verdict.duplicates_sentence(twice | {"near": None})
