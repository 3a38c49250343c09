"""The verdict: rules in both directions, a table from the JSON alone, sentences for every state of the numbers."""

import json
import re

import pytest
from conftest import ROOT

from stylegan.files import read_json
from stylegan.scores import memorisation, verdict
from stylegan.scores.verdict import BORDERLINE, FAIL, PASS, SIGNS, UNKNOWN, mark, verdict_rows


def entry(value: float, half: float = 1.0) -> dict:
    return {"value": value, "low": value - half, "high": value + half}


FLOOR = {"value": 10.0, "low": 8.0, "high": 13.0}
SHIPPED = read_json(ROOT / "models" / "metrics.json")["oasis1-stylegan2-64"]["scores"]


# 12 lies inside the floor's range, and still is no pass where lower is better: the floor is lenient.
@pytest.mark.parametrize(("value", "half", "better", "expected"), [
    (10, 1, "lower", PASS), (12, 1, "lower", BORDERLINE), (15, 3, "lower", BORDERLINE), (15, 1, "lower", FAIL), (11, 1, "higher", PASS),
    (9, 0.5, "higher", BORDERLINE), (6, 1, "higher", FAIL), (12, 0.1, "as", PASS), (14, 2, "as", BORDERLINE), (7, 2, "as", BORDERLINE),
    (15, 1, "as", FAIL),
])  # fmt: skip
def test_marks(value, half, better, expected):
    assert mark(entry(value, half), FLOOR, better) == expected
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}  # precision among fewer than four people
    assert mark(nothing, nothing, "higher") == UNKNOWN and mark(nothing, nothing, "lower") == PASS


def scores(**changes) -> dict:
    """What `evaluate` gave for the shipped generator, with everything as good as real but for the changes."""
    found = {**SHIPPED, "memorisation": {"ratio": 1.02, "low": 0.9, "high": 1.1, "p_value": 0.6}}
    real = {**FLOOR, "real": 10.0, "floor": FLOOR, "ratio": entry(1, 0.1)}
    for kind in ("splits", "further", "variety"):
        found[kind] = {split: dict(SHIPPED[kind][split]) for split in ("val", "test")}
        for part in found[kind].values():
            part |= {name: real | changes.get(name, {}) for name, known in part.items() if isinstance(known, dict)}
    return found


def test_all_pass_where_all_is_as_real_and_each_check_fails_by_itself():
    rows = verdict_rows(scores())
    assert len(rows) == len(verdict.CHECKS) + 1 and {row["verdict"] for row in rows} == {SIGNS[PASS]}
    assert verdict.summary(rows).startswith(f"**{len(rows)} of {len(rows)} pass**")
    for _, key, better in verdict.CHECKS:
        bad = entry({"lower": 50, "higher": 1, "as": 50}[better])
        assert sum(row["verdict"] == SIGNS[FAIL] for row in verdict_rows(scores(**{key: bad}))) == 1, key
    official = verdict_rows(scores() | {"feature_space": "inception"})
    assert [found[1]["score"] for found in (rows, official)] == ["FD", "FID"]  # said of the official Inception alone


def test_memory_is_judged_by_the_test_and_its_size():
    def of(ratio: float, p: float, **memory) -> list[str]:
        found = scores() | {"memorisation": {"ratio": ratio, "low": ratio - 0.05, "high": ratio + 0.05, "p_value": p}}
        return [row["verdict"] for row in verdict_rows(found, memory)[len(verdict.CHECKS) :]]

    assert of(0.3, 1e-6) == [SIGNS[FAIL]] and of(0.9, 1e-6) == [SIGNS[BORDERLINE]] and of(0.9, 0.4) == [SIGNS[PASS]]
    assert of(0.0, 0.0625) + of(1.0, 0.5, attack=entry(0.9, 0.5)) == [SIGNS[mark] for mark in (BORDERLINE, PASS, BORDERLINE)]
    assert verdict_rows(scores() | {"people": {**entry(1, 0.84), "n": 2}})[-2]["verdict"] == SIGNS[BORDERLINE]  # 2 of 2 right
    bright = {"people": {"share": 1, "expected": 0.7, "p_value": 1e-4}, "attack": entry(0.9, 0.1), "logits": entry(0.55, 0.04)}
    found = {"train": 1.0, "heldout": 9.0, "gap": 8.0, "p_value": 1e-5, "n": 24}
    assert of(1.0, 0.5, **bright, projection=found) == [SIGNS[mark] for mark in (PASS, FAIL, FAIL, BORDERLINE, FAIL)]
    dark = {"people": {"share": 0.7, "expected": 0.7, "p_value": 0.4}, "attack": entry(0.5, 0.05), "logits": None}
    assert of(1.0, 0.5, **dark) == [SIGNS[PASS]] * 3
    unknown = verdict_rows(scores() | {"memorisation": dict.fromkeys(("ratio", "low", "high", "p_value"))})
    assert unknown[-1]["verdict"] == SIGNS[UNKNOWN]


def test_everything_is_written_from_json_alone_and_older_results_are_read():
    found = json.loads(json.dumps(scores()))
    assert verdict_rows(found) == verdict_rows(scores()) and len(verdict.variety_rows(found)) == 4
    assert {"real (floor)", "**generated**", "blurred"} <= set(verdict.floor_table(found)[0])
    lines = "\n".join(verdict.plain_scores(found))
    assert verdict.plain_scores(found | {"warnings": ["who is who"]})[-1] == "Note: who is who"
    assert "\ntest" in lines and "KID" in lines and "blurred" in lines
    del found["variety"]  # as in the cards of generators shipped before variety was measured
    assert sum(row["verdict"] == SIGNS[UNKNOWN] for row in verdict_rows(found)) == 3 and not verdict.variety_rows(found)


GOOD = scores()
SEEN = {**GOOD, "splits": {"train": {**GOOD["splits"]["val"], "fd": entry(1, 0.5)}, **GOOD["splits"]}}
TWICE = {"slices": 10, "exact": 2, "near": 3, "yardstick": 1.0, "pairs": []}
AT = {"kid": entry(10), "fd_floor": FLOOR, "kid_floor": FLOOR}


@pytest.mark.parametrize(("sentence", "states"), [
    (verdict.splits_sentence, [GOOD, SEEN, {**GOOD, "splits": {"test": GOOD["splits"]["test"]}}]),
    (verdict.variety_sentence, [GOOD, *(scores(dimensions={"ratio": entry(x)}) for x in (0.2, 0.5, 2)), {"splits": {}}]),
    (verdict.distance_sentence, [AT | {"fd": entry(fd)} for fd in (10, 30, 70, 900)]),
    (verdict.copies_sentence, [{**entry(x), "ratio": x, "p_value": p} for x, p in ((0.3, 1e-6), (0.9, 0.01), (1, 0.5), (2, 1))]),
    (memorisation.duplicates_sentence, [TWICE, TWICE | {"near": None}]),
])  # fmt: skip
def test_sentences_follow_the_numbers(sentence, states):
    """Each takes another form where its numbers say so; how it is worded is not tested."""
    words = {re.sub(r"[\d.-]+", "", sentence(state)) for state in states}
    assert len(words) == len(states)


def test_tables_name_what_was_found():
    assert "**blurred, noised" in verdict.controls_sentence(GOOD)
    assert f"{SHIPPED['controls']['blurred']['best_ssim']:.3f}" in verdict.ssim_sentence(GOOD)
    people = {"share": 0.7, "expected": 0.7, "p_value": 0.4}
    assert len(verdict.memory_table({"people": people, "attack": entry(0.5, 0.05), "logits": None, "copied": 0.01})) == 3
    assert verdict.memory_table({}) == [] and verdict.control_sentence(None) and verdict.copies_sentence({"ratio": None})
    rows = [verdict.failure_rows([{"seed": 3, "class": name, "realism": 0.5}])[0] for name in (None, "AD")]
    assert "class" not in rows[0] and rows[1]["class"] == "AD"
