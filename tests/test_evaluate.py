"""The evaluation of a generator: what it returns, whom it refuses, what it warns of, on sets of every kind and size."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from conftest import save_untrained
from phantoms import phantoms

from stylegan.checkpoint import load_generator
from stylegan.config import make_config
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset
from stylegan.networks import Generator
from stylegan.predict import generate
from stylegan.run import train_run
from stylegan.scores import evaluate as module
from stylegan.scores import evidence, memorisation, metrics, verdict
from stylegan.scores.evaluate import evaluate, open_evidence, scores_of, validation_scorer
from stylegan.scores.features import as_pixels


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


def test_evaluate_takes_as_many_slices_as_asked_and_one_split(generator_file):
    found = evaluate(generator_file(), DATA, split="val", num=10, controls=False, device="cpu")
    assert found["n"] == 10 and list(found["splits"]) == ["val"] and not found["controls"]
    for wrong, words in (({"num": 1}, "num"), ({"fakes": 1}, "fakes"), ({"split": "tset"}, "choose one of train, val, test")):
        with pytest.raises(ValueError, match=words):
            evaluate(generator_file(), DATA, device="cpu", **wrong)


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


def test_evaluate_refuses_training_subjects_with_their_names(generator_file):
    for info, options, words in (  # in the second case another scan of hers
        ({}, {"split": "train"}, r"12 of the 12 subjects of split 'train' \(OAS1_0000, .*\.\.\.\)"),
        ({"train_subjects": ["OAS1_0013_MR2"]}, {}, r"1 of the 4 subjects of split 'val' \(OAS1_0013\)"),
        ({"train_subjects": []}, {"split": "train", "train_data": DATA}, "12 of the 12"),
    ):
        with pytest.raises(ValueError, match=words):
            open_evidence(generator_file(**info), DATA, device="cpu", **options)
    with pytest.raises(ValueError, match=r"32 px.*16 px"):
        open_evidence(generator_file(), dataset_of(size=32), device="cpu")


def test_evaluate_says_what_cannot_be_known(generator_file):
    hidden, elsewhere = dataset_of(subjects_known=False), dataset_of(8, prefix="site2_", splits=np.full(32, "test"))
    assert len(open_evidence(generator_file(slices=hidden, train_subjects=[]), hidden, split="val", device="cpu").warnings) == 2
    path = generator_file()
    with pytest.raises(ValueError, match="--train-data"):
        evaluate(path, elsewhere, split="test", device="cpu")
    opened = open_evidence(path, elsewhere, split="test", train_data=DATA, device="cpu")
    assert len(opened.scored[0].slices) == 32 and len(opened.warnings) == 1


def test_a_run_s_table_levels_and_contrast_reach_its_slices(generator_file, monkeypatch):
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
