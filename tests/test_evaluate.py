"""The evaluation of a generator: what it returns, whom it refuses, what it warns of, on sets of every kind and size.

The verdict: rules in both directions, a table from the JSON alone, sentences for every state of the numbers.
"""

import dataclasses
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT, save_untrained
from phantoms import phantoms

from stylegan.checkpoint import load_generator
from stylegan.config import make_config
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset
from stylegan.files import read_json
from stylegan.networks import Generator
from stylegan.predict import generate
from stylegan.run import train_run
from stylegan.scores import evaluate as module
from stylegan.scores import evidence, memorisation, metrics, verdict
from stylegan.scores.evaluate import evaluate, open_evidence, scores_of, validation_scorer
from stylegan.scores.features import as_pixels
from stylegan.scores.verdict import BORDERLINE, FAIL, PASS, SIGNS, UNKNOWN, mark, verdict_rows


def dataset_of(people: int = 20, levels: int = 4, size: int = 16, prefix: str = "OAS1_", **changes) -> SliceDataset:
    index = np.repeat(np.arange(people), levels)
    fields = {
        "images": phantoms(people, levels, 0, size), "labels": index % 2, "classes": ("control", "atrophy"),
        "subjects": np.array([f"{prefix}{i:04d}_MR1" for i in index]), "levels": np.tile(np.arange(levels), people),
        "splits": np.where(index < people * 0.6, "train", np.where(index < people * 0.8, "val", "test")),
        "columns": {}, "layout": "class-folders", "title": "phantoms", "key": "0" * 64,
    }  # fmt: skip
    return SliceDataset(**{**fields, **changes})


DATA, ALL = dataset_of(), ["train", "val", "test"]


@pytest.fixture
def generator_file(tmp_path):
    """Saves an untrained generator whose noise shows, with this header; the file."""
    path, config = tmp_path / "generator.safetensors", make_config("smoke")
    return partial(save_untrained, path, config=config, slices=DATA, strength=0.1)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(a run of a conditional preset with dither, trained for a moment, its slices, everything that evaluate finds)."""
    place, data = tmp_path_factory.mktemp("run"), dataset_of(people=30, levels=2)
    fields = {"conditional": "class", "dither": True, "mbstd_group_size": 8, "total_kimg": 0.016, "kid_ticks": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_DATA", str(place / "cache"))
        patch.setattr("stylegan.run.load_slices", lambda *_, **__: data)
        train_run(make_config("smoke", **fields), None, place / "run")
        found = evaluate(place / "run", data, all=True, projections=2, fakes=60, out=place / "out", device="cpu")
        yield place / "run", data, found


def test_evaluate_gives_the_promised_json(judged):
    found = judged[2]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) >= set("feature_space noise_mode n seconds model_hash data warnings memorisation splits further variety "
                             "style_participation controls memory duplicates spectra failures".split())  # fmt: skip
    assert set(found["memorisation"]) == {"ratio", "low", "high", "p_value"} and not found["warnings"]
    assert (found["n"], found["feature_space"], list(found["splits"])) == (12, "efficientnet-lite0", ALL)
    for name, entry in found["splits"].items():
        assert entry["n"] == 12 and entry["subjects"] == 6 and set(entry) == set(module.SPLIT_SCORES)
        for key, scored in (*list(entry.items())[2:], *found["further"][name].items()):
            assert set(scored) == {"value", "low", "high"} and scored["low"] <= scored["value"] <= scored["high"]
            assert scored["low"] >= 0 or key.startswith("kid"), key
        assert entry["kid"]["value"] > entry["kid_floor"]["high"]  # hardly trained
        for key in ("dimensions", "dimensions_95", "spread", "dimensions_fixed_noise", "spread_fixed_noise"):
            various = found["variety"][name][key]
            assert set(various) == {"value", "low", "high", "real", "floor", "ratio"} and various["low"] <= various["value"]
    assert {"recall_symmetric", "recall_symmetric_floor", "best_ssim"} <= set(found["further"]["test"])
    assert list(found["style_participation"]) == ["4.1", "8.0", "8.1", "16.0", "16.1"]
    assert set(found["controls"]) == {"blurred", "noised", "collapsed", "memorised"}


def test_all_adds_memory_and_cases_that_can_be_drawn_again(judged, monkeypatch):
    run, data, found = judged
    assert set(found["memory"]) == {"copied", "people", "attack", "logits", "pairs", "projection"}
    assert 0 <= found["memory"]["logits"]["value"] <= 1  # a run keeps its discriminator, here with groups of eight
    opened = open_evidence(run, data, device="cpu")
    distances = memorisation.copies_of(opened, 60)[1]
    monkeypatch.setattr(memorisation, "nearest_people", lambda drawn, at, people, member: member)
    half = dataclasses.replace(opened, train=opened.train.select(np.arange(0, len(opened.train), 2)))  # as of a large set
    member = memorisation.memory_of(half, memorisation.copies_of(half, 60)[1])["people"]
    each = [len(side) / len(set(people_of(side))) for side in (half.train, opened.held)]
    assert each[1] > each[0] == np.sum(~member) / len(set(people_of(opened.held)))
    closest = memorisation.closest_pairs(distances["fake"], distances["row"])
    for pair, (fake, row, _) in zip(found["memory"]["pairs"], closest, strict=True):
        assert pair["class"] in data.classes and pair["subject"] == data.split("train").subjects[row]
        assert np.array_equal(as_pixels(opened.drawn_again([pair]))[0], distances["drawn"].images[fake])
    drawn, worst = opened.fakes(opened.scored[-1].slices), as_pixels(opened.drawn_again(found["failures"]))
    assert all((drawn.images == picture).all(axis=(1, 2)).any() for picture in worst) and len(found["failures"]) == 8
    assert {path.name for path in (run.parent / "out").iterdir()} == {"evaluation.json", "failures.png", "pairs.png"}
    assert len(verdict.verdict_rows(found)) == len(verdict.CHECKS) + 5
    assert verdict.plain_scores(found)[-1] == verdict.summary(verdict.verdict_rows(found))  # as --all promises


def test_each_fake_has_noise_of_its_own_from_its_seed_or_all_have_the_fixed_one(generator_file):
    path = generator_file(strength=2.0)
    opened, G = open_evidence(path, DATA, device="cpu"), load_generator(path)[0]
    real = opened.scored[-1].slices
    drawn, fixed = opened.fakes(real).images, opened.fixed_noise(real)
    for pictures, noise in ((drawn, "random"), (fixed, "const")):
        assert np.array_equal(pictures, as_pixels(generate(G, range(16), noise_mode=noise)))
    assert metrics.Variety(drawn).numbers()["dimensions"] > metrics.Variety(fixed).numbers()["dimensions"]


def test_conditional_generators_draw_the_classes_of_the_split(generator_file):
    config = make_config("smoke", conditional="class", c_dim=2)
    path = generator_file(config=config, classes=["atrophy", "control"])  # numbered otherwise than in the data
    opened = open_evidence(path, DATA, split="val", device="cpu")
    drawn, labels = opened.fakes(opened.scored[-1].slices), opened.scored[-1].slices.labels
    assert drawn.labels.tolist() == (1 - labels).tolist()
    assert opened.origin(drawn, 3) == {"seed": 3, "class": DATA.classes[labels[3]]}
    assert np.mean(opened.fakes(opened.train, 30).labels) == pytest.approx(1 - opened.train.labels.mean(), abs=0.04)
    with pytest.raises(ValueError, match="unlabelled"):
        evaluate(path, dataset_of(labels=np.full(80, -1)), split="val", device="cpu")


def test_truncated_slices_are_other_slices_and_real_ones_are_looked_at_once(generator_file, monkeypatch):
    opened = open_evidence(generator_file(strength=0.0), DATA, device="cpu")
    part = opened.scored[-1].slices
    found = [module.Comparison(opened.side(part), opened.fakes(part, psi=psi)).scores()["fd"] for psi in (1.0, 0.0)]
    assert found[0] != pytest.approx(found[1], rel=0.01)
    assert np.ptp(opened.fakes(part, psi=0.0).images, axis=0).max() == 0  # all are the average slice
    first = opened.features(twice := DATA.images[[0, 7, 0]])
    monkeypatch.setattr(evidence, "features", lambda *_, **__: pytest.fail("took the features again"))
    assert np.array_equal(opened.features(twice[::-1]), first[::-1]) and np.array_equal(first[0], first[2])


def test_mirrored_copies_are_copies_where_a_run_mirrors(generator_file, monkeypatch):
    opened = open_evidence(generator_file(), DATA, device="cpu")
    drawn = opened.side(dataclasses.replace(opened.train, images=np.flip(opened.train.images, 2).copy()))
    monkeypatch.setattr(evidence.Evidence, "fakes", lambda *_, **__: drawn)
    memory, found = memorisation.copies_of(opened, 60)
    assert memory["ratio"] < 1e-3 and np.array_equal(found["row"], np.arange(len(drawn)))
    sheet, columns = memorisation.pairs_sheet(opened, found)
    assert np.array_equal(sheet[:columns], sheet[columns : 2 * columns])  # shown as they were copied


def test_evaluate_refuses_training_subjects_with_their_names_and_takes_as_many_slices_as_asked_and_one_split(generator_file):
    for info, options, words in (  # in the second case another scan of hers
        ({}, {"split": "train"}, r"12 of the 12 subjects of split 'train' \(OAS1_0000, .*\.\.\.\)"),
        ({"train_subjects": ["OAS1_0013_MR2"]}, {}, r"1 of the 4 subjects of split 'val' \(OAS1_0013\)"),
        ({"train_subjects": []}, {"split": "train", "train_data": DATA}, "12 of the 12"),
    ):
        with pytest.raises(ValueError, match=words):
            open_evidence(generator_file(**info), DATA, device="cpu", **options)
    with pytest.raises(ValueError, match=r"32 px.*16 px"):
        open_evidence(generator_file(), dataset_of(size=32), device="cpu")
    found = evaluate(generator_file(), DATA, split="val", num=10, controls=False, device="cpu")
    assert found["n"] == 10 and list(found["splits"]) == ["val"] and not found["controls"]
    for wrong, words in (({"num": 1}, "num"), ({"fakes": 1}, "fakes"), ({"split": "tset"}, "choose one of train, val, test")):
        with pytest.raises(ValueError, match=words):
            evaluate(generator_file(), DATA, device="cpu", **wrong)


def test_evaluate_says_what_cannot_be_known_and_reads_slices_as_the_run_was_told_to(generator_file, monkeypatch):
    hidden, elsewhere = dataset_of(subjects_known=False), dataset_of(8, prefix="site2_", splits=np.full(32, "test"))
    assert len(open_evidence(generator_file(slices=hidden, train_subjects=[]), hidden, split="val", device="cpu").warnings) == 2
    path = generator_file()
    with pytest.raises(ValueError, match="--train-data"):
        evaluate(path, elsewhere, split="test", device="cpu")
    opened = open_evidence(path, elsewhere, split="test", train_data=DATA, device="cpu")
    assert len(opened.scored[0].slices) == 32 and len(opened.warnings) == 1
    asked = {}
    monkeypatch.setattr(evidence, "slices_of", lambda info, source, **options: asked.update(options, source=source) or DATA)
    open_evidence(generator_file(), "there", device="cpu", subjects_csv="people.csv", levels="2-9", contrast=None)
    assert asked == {"source": "there", "subjects_csv": "people.csv", "levels": "2-9", "contrast": None}


# People in train, val and test; slices of each; what else is changed -> what is scored.
@pytest.mark.parametrize(("counts", "levels", "changes", "scored"), [
    pytest.param((5, 0, 0), 4, {}, [], marks=pytest.mark.long),
    pytest.param((6, 0, 3), 2, {}, ["train", "test"], marks=pytest.mark.long),
    ((3, 1, 1), 4, {}, []),
    pytest.param((8, 2, 2), 1, {}, [], marks=pytest.mark.long),
    pytest.param((8, 3, 3), 1, {}, ALL, marks=pytest.mark.long),
    ((1, 3, 3), 2, {}, ["val", "test"]),
    ((6, 3, 3), 2, {"classes": (), "labels": np.full(24, -1)}, ALL),
])  # fmt: skip
def test_tiny_sets_are_scored_where_possible_and_one_sentence_says_where_not(counts, levels, changes, scored, generator_file):
    splits = np.repeat(np.repeat(("train", "val", "test"), counts), levels)
    data = dataset_of(people=sum(counts), levels=levels, splits=splits, **changes)
    path = generator_file(slices=data)
    opened = open_evidence(path, data, device="cpu")
    found = scores_of(opened, fakes=20) | (module.everything_of(opened, fakes=20, projections=0) if scored else {})
    assert list(found["splits"]) == scored
    assert sum("cannot be scored" in warning for warning in found["warnings"]) == 2 - len(set(scored) - {"train"})
    json.dumps(found, allow_nan=False)
    rows = verdict.verdict_rows(found)
    assert rows and verdict.summary(rows) and verdict.copies_sentence(found["memorisation"])
    assert all(bool(table(found)) == bool(scored) for table in (verdict.floor_table, verdict.score_rows, verdict.variety_rows))
    if not scored:
        with pytest.raises(ValueError, match="cannot be scored on split 'val'"):
            evaluate(path, data, device="cpu")


def test_the_scorer_of_a_tick_is_cheap_sees_a_collapse_and_draws_the_classes_of_the_people():
    val, config = dataset_of(labels=np.ones(80, np.int64)), make_config("smoke", conditional="class", c_dim=2, kid_samples=32)
    G, score = Generator(config).eval(), validation_scorer(val, config, "cpu")
    few, full = score(G, False), score(G, True)
    names = {f"{name}{end}" for name in ("dimensions", "spread") for end in ("", "_fixed_noise", "_real")}
    assert set(few) == names | {"style_participation"} and len(few["style_participation"]) == 5
    assert set(full) == set(few) | {"kid", "precision", "recall", "coverage"} and {k: full[k] for k in few} == few
    with torch.no_grad():
        G.mapping.embed.weight[:, 0] += 5  # the other class
        assert {k: v for k, v in score(G, False).items() if k in names} == {k: few[k] for k in names}
        for parameter in G.mapping.parameters():
            parameter.zero_()
    assert score(G, False)["dimensions"] == 0 < few["dimensions"] and json.dumps(full, allow_nan=False)


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


def as_real(**changes) -> dict:
    """What `evaluate` gave for the shipped generator, with everything as good as real but for the changes."""
    found = {**SHIPPED, "memorisation": {"ratio": 1.02, "low": 0.9, "high": 1.1, "p_value": 0.6}}
    real = {**FLOOR, "real": 10.0, "floor": FLOOR, "ratio": entry(1, 0.1)}
    for kind in ("splits", "further", "variety"):
        found[kind] = {split: dict(SHIPPED[kind][split]) for split in ("val", "test")}
        for part in found[kind].values():
            part |= {name: real | changes.get(name, {}) for name, known in part.items() if isinstance(known, dict)}
    return found


def test_all_pass_where_all_is_as_real_and_each_check_fails_by_itself():
    rows = verdict_rows(as_real())
    assert len(rows) == len(verdict.CHECKS) + 1 and {row["verdict"] for row in rows} == {SIGNS[PASS]}
    assert verdict.summary(rows).startswith(f"**{len(rows)} of {len(rows)} pass**")
    for _, key, better in verdict.CHECKS:
        bad = entry(1 if better == "higher" else 50)
        assert sum(row["verdict"] == SIGNS[FAIL] for row in verdict_rows(as_real(**{key: bad}))) == 1, key
    official = verdict_rows(as_real() | {"feature_space": "inception"})
    assert [found[1]["score"] for found in (rows, official)] == ["FD", "FID"]  # said of the official Inception alone


def test_memory_is_judged_by_the_test_and_its_size():
    def of(ratio: float, p: float, **memory) -> list[str]:
        found = as_real() | {"memorisation": {"ratio": ratio, "low": ratio - 0.05, "high": ratio + 0.05, "p_value": p}}
        return [row["verdict"] for row in verdict_rows(found, memory)[len(verdict.CHECKS) :]]

    assert of(0.3, 1e-6) == [SIGNS[FAIL]] and of(0.9, 1e-6) == [SIGNS[BORDERLINE]] and of(0.9, 0.4) == [SIGNS[PASS]]
    assert (
        verdict_rows(as_real() | {"memorisation": {**entry(2, 2), "ratio": 2, "p_value": 1}})[-1]["verdict"]
        == SIGNS[BORDERLINE]
    )
    assert of(0.0, 0.0625) + of(1.0, 0.5, attack=entry(0.9, 0.5)) == [SIGNS[mark] for mark in (BORDERLINE, PASS, BORDERLINE)]
    assert verdict_rows(as_real() | {"people": {**entry(1, 0.84), "n": 2}})[-2]["verdict"] == SIGNS[BORDERLINE]  # 2 of 2 right
    bright = {"people": {"share": 1, "expected": 0.7, "p_value": 1e-4}, "attack": entry(0.9, 0.1), "logits": entry(0.55, 0.04)}
    found = {"train": 1.0, "heldout": 9.0, "gap": 8.0, "p_value": 1e-5, "n": 24}
    assert of(1.0, 0.5, **bright, projection=found) == [SIGNS[mark] for mark in (PASS, FAIL, FAIL, BORDERLINE, FAIL)]
    dark = {"people": {"share": 0.7, "expected": 0.7, "p_value": 0.4}, "attack": entry(0.5, 0.05), "logits": None}
    assert of(1.0, 0.5, **dark) == [SIGNS[PASS]] * 3
    unknown = verdict_rows(as_real() | {"memorisation": dict.fromkeys(("ratio", "low", "high", "p_value"))})
    assert unknown[-1]["verdict"] == SIGNS[UNKNOWN] and verdict.summary(unknown) != verdict.summary(unknown[:-1])


def test_everything_is_written_from_json_alone_names_what_was_found_and_older_results_are_read():
    found = json.loads(json.dumps(as_real()))
    assert verdict_rows(found) == verdict_rows(as_real()) and len(verdict.variety_rows(found)) == 4
    assert {"real (floor)", "**generated**", "blurred"} <= set(verdict.floor_table(found)[0])
    lines = "\n".join(verdict.plain_scores(found))
    assert verdict.plain_scores(found | {"warnings": ["who is who"]})[-1] == "Note: who is who"
    assert "\ntest" in lines and "KID" in lines and "blurred" in lines
    del found["variety"]  # as in the cards of generators shipped before variety was measured
    assert sum(row["verdict"] == SIGNS[UNKNOWN] for row in verdict_rows(found)) == 3 and not verdict.variety_rows(found)
    assert "**blurred, noised" in verdict.controls_sentence(GOOD)
    assert f"{SHIPPED['controls']['blurred']['best_ssim']:.3f}" in verdict.ssim_sentence(GOOD)
    people = {"share": 0.7, "expected": 0.7, "p_value": 0.4}
    assert len(verdict.memory_table({"people": people, "attack": entry(0.5, 0.05), "logits": None, "copied": 0.01})) == 3
    assert verdict.memory_table({}) == [] and verdict.control_sentence(None) and verdict.copies_sentence({"ratio": None})
    rows = [verdict.failure_rows([{"seed": 3, "class": name, "realism": 0.5}])[0] for name in (None, "AD")]
    assert "class" not in rows[0] and rows[1]["class"] == "AD"


GOOD = as_real()
SEEN = {**GOOD, "splits": {"train": {**GOOD["splits"]["val"], "fd": entry(1, 0.5)}, **GOOD["splits"]}}
TWICE = {"slices": 10, "exact": 2, "near": 3, "yardstick": 1.0, "pairs": []}
AT = {"kid": entry(10), "fd_floor": FLOOR, "kid_floor": FLOOR}


@pytest.mark.parametrize(("sentence", "states"), [
    (verdict.splits_sentence, [GOOD, SEEN, {**GOOD, "splits": {"test": GOOD["splits"]["test"]}}]),
    (verdict.variety_sentence, [GOOD, *(as_real(dimensions={**entry(10 * x), "ratio": entry(x)}) for x in (0.2, 0.5, 2)), {"splits": {}}]),
    (verdict.distance_sentence, [AT | {"fd": entry(fd)} for fd in (10, 30, 70, 900)]),
    (verdict.copies_sentence, [{**entry(x, h), "ratio": x, "p_value": p} for x, h, p in ((0.3, 1, 0), (0.9, 0, 0.01), (1, 0, 0.5), (2, 0, 1), (2, 2, 1))]),
    (memorisation.duplicates_sentence, [TWICE, TWICE | {"near": None}]),
])  # fmt: skip
def test_sentences_follow_the_numbers(sentence, states):
    """Each takes another form where its numbers say so; how it is worded is not tested."""
    words = {re.sub(r"[\d.-]+", "", sentence(state)) for state in states}
    assert len(words) == len(states)
