"""The evaluation of a generator: what it returns, whom it refuses, what it warns of, on sets of every kind and size."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from phantoms import phantoms

from stylegan.checkpoint import load_generator, save_generator
from stylegan.config import make_config
from stylegan.dataset import SliceDataset
from stylegan.modules import NoiseInjection
from stylegan.networks import Generator
from stylegan.predict import generate
from stylegan.run import train_run
from stylegan.scores import evaluate as module
from stylegan.scores import evidence, verdict
from stylegan.scores.evaluate import evaluate, open_evidence, scores_of, validation_scorer
from stylegan.scores.features import as_pixels
from stylegan.scores.metrics import frechet_distance


def dataset_of(people: int = 20, levels: int = 4, size: int = 16, prefix: str = "OAS1_", **changes) -> SliceDataset:
    index = np.repeat(np.arange(people), levels)
    fields = {
        "images": phantoms(people, levels, 0, size),
        "labels": (index % 2).astype(np.int64),
        "classes": ("control", "atrophy"),
        "subjects": np.array([f"{prefix}{i:04d}_MR1" for i in index]),
        "levels": np.tile(np.arange(levels), people),
        "splits": np.where(index < people * 0.6, "train", np.where(index < people * 0.8, "val", "test")),
        "columns": {},
        "layout": "class-folders",
        "title": "phantoms",
        "key": "0" * 64,
    }
    return SliceDataset(**(fields | changes))


def save_untrained(folder, dataset: SliceDataset, conditional: bool = False, strength: float = 0.1, **info):
    """An untrained generator whose noise shows, with this header in a file; returns the file."""
    config = make_config("smoke", **({"conditional": "class", "c_dim": 2} if conditional else {}))
    torch.manual_seed(0)
    G = Generator(config)
    for noise in (layer for layer in G.modules() if isinstance(layer, NoiseInjection)):
        torch.nn.init.constant_(noise.strength, strength)
    trained_on = sorted(set(dataset.subjects[dataset.splits == "train"].tolist()))
    about = {"title": dataset.title, "layout": dataset.layout, "key": dataset.key, "path": ""}
    header = {
        "config": config.to_dict(),
        "classes": list(dataset.classes),
        "train_subjects": trained_on,
        "data": about,
        "cur_nimg": 0,
    }
    save_generator(folder / "generator.safetensors", G, header | info)
    return folder / "generator.safetensors"


@pytest.fixture
def generator_file(tmp_path):
    return functools.partial(save_untrained, tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a run of a conditional preset with dither, trained for a moment, its slices, everything that evaluate finds)."""
    place = tmp_path_factory.mktemp("run")
    data = dataset_of(people=30)
    config = make_config(
        "smoke", conditional="class", dither=True, mbstd_group_size=8, total_kimg=0.016, tick_kimg=0.016, kid_ticks=0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_DATA", str(place / "cache"))
        patch.setattr("stylegan.run.load_slices", lambda *_, **__: data)
        train_run(config, None, place / "run")
        yield (
            place / "run",
            data,
            evaluate(place / "run", data, all=True, projections=2, fakes=60, out=place / "out", device="cpu"),
        )


# --- What it returns ----------------------------------------------------------------------------------------------------------


def test_evaluate_gives_the_promised_json(trained):
    _, _, found = trained
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    promised = {
        "feature_space",
        "n",
        "seconds",
        "memorisation",
        "splits",
        "model_hash",
        "data",
        "warnings",
        "further",
        "controls",
    }
    assert set(found) >= promised | {
        "noise_mode",
        "variety",
        "style_participation",
        "memory",
        "duplicates",
        "spectra",
        "failures",
    }
    assert set(found["memorisation"]) == {"ratio", "low", "high", "p_value"} and not found["warnings"]
    assert (
        found["n"] == 24
        and found["feature_space"] == "efficientnet-lite0"
        and list(found["splits"]) == ["train", "val", "test"]
    )
    for name, entry in found["splits"].items():
        assert entry["n"] == 24 and entry["subjects"] == 6 and set(entry) == set(module.SPLIT_SCORES)
        for scored in (
            *(value for key, value in entry.items() if key not in ("n", "subjects")),
            *found["further"][name].values(),
        ):
            assert set(scored) == {"value", "low", "high"} and scored["low"] <= scored["value"] <= scored["high"]
        assert entry["kid"]["value"] > entry["kid_floor"]["high"]  # hardly trained
        for key in ("dimensions", "dimensions_95", "spread", "dimensions_fixed_noise", "spread_fixed_noise"):
            various = found["variety"][name][key]
            assert set(various) == {"value", "low", "high", "real", "floor", "ratio"} and various["low"] <= various["value"]
            assert various["ratio"]["value"] == pytest.approx(various["value"] / various["real"])
    assert {"recall_symmetric", "recall_symmetric_floor", "best_ssim"} <= set(found["further"]["test"])
    assert list(found["style_participation"]) == ["4.1", "8.0", "8.1", "16.0", "16.1"]


def test_all_adds_memory_and_cases_that_can_be_drawn_again(trained):
    run, data, found = trained
    assert set(found["memory"]) == {"copied", "people", "attack", "logits", "pairs", "projection"}
    assert 0 <= found["memory"]["logits"]["value"] <= 1  # a run keeps its discriminator, here with groups of eight
    opened = open_evidence(run, data, device="cpu")
    distances = module.copies_of(opened, 60)[1]
    for pair, (fake, row, _) in zip(
        found["memory"]["pairs"], module.memorisation.closest_pairs(distances["fake"], distances["row"]), strict=True
    ):
        assert pair["class"] in data.classes and pair["subject"] == data.split("train").subjects[row]
        again = as_pixels(module.drawn_again(opened, [pair]))[0]
        assert np.array_equal(again, distances["drawn"].pictures[fake])
    drawn = opened.fakes(opened.scored[-1].slices)
    worst = as_pixels(module.drawn_again(opened, found["failures"]))
    assert all((drawn.pictures == picture).all(axis=(1, 2)).any() for picture in worst) and len(found["failures"]) == 8
    assert {path.name for path in (run.parent / "out").iterdir()} == {"evaluation.json", "failures.png", "pairs.png"}
    assert len(verdict.verdict_rows(found)) == len(verdict.DOUBTS) + 5


def test_evaluate_takes_as_many_slices_as_asked_and_one_split(generator_file, tmp_path):
    data = dataset_of()
    found = evaluate(generator_file(data), data, split="val", num=10, controls=False, device="cpu", cache_dir=tmp_path)
    assert found["n"] == 10 and list(found["splits"]) == ["val"] and not found["controls"]
    for wrong, words in (({"num": 1}, "num"), ({"fakes": 1}, "fakes"), ({"split": "tset"}, "choose one of train, val, test")):
        with pytest.raises(ValueError, match=words):
            evaluate(generator_file(data), data, device="cpu", cache_dir=tmp_path, **wrong)


# --- Fakes ----------------------------------------------------------------------------------------------------------------------


def test_each_fake_has_noise_of_its_own_from_its_seed_or_all_have_the_fixed_one(generator_file, tmp_path):
    data = dataset_of()
    path = generator_file(data, strength=2.0)
    opened, G = open_evidence(path, data, device="cpu", cache_dir=tmp_path, seed=3), load_generator(path)[0]
    real = opened.scored[-1].slices
    drawn, fixed = opened.fakes(real).pictures, opened.fixed_noise(real)
    for pictures, noise in ((drawn, "random"), (fixed, "const")):
        assert np.array_equal(pictures, as_pixels(generate(G, range(3_000_000, 3_000_016), noise_mode=noise)))
    assert not np.array_equal(drawn, fixed)
    various = module.variety_on(opened.scored[-1], opened)
    assert various["dimensions"]["value"] > various["dimensions_fixed_noise"]["value"]


def test_conditional_generators_draw_the_classes_of_the_split(generator_file, tmp_path):
    data = dataset_of()
    path = generator_file(data, conditional=True, classes=["atrophy", "control"])  # numbered otherwise than in the data
    opened = open_evidence(path, data, split="val", device="cpu", cache_dir=tmp_path)
    drawn, labels = opened.fakes(opened.scored[-1].slices), opened.scored[-1].slices.labels
    assert drawn.classes.tolist() == (1 - labels).tolist()
    assert opened.origin(drawn, 3) == {"seed": 3, "class": data.classes[labels[3]]}
    assert np.mean(opened.fakes(opened.train, 30).classes) == pytest.approx(1 - opened.train.labels.mean(), abs=0.04)
    with pytest.raises(ValueError, match="unlabelled"):
        evaluate(path, dataset_of(labels=np.full(80, -1)), split="val", device="cpu", cache_dir=tmp_path)


def test_truncated_slices_are_other_slices(generator_file, tmp_path):
    data = dataset_of()
    opened = open_evidence(generator_file(data, strength=0.0), data, device="cpu", cache_dir=tmp_path)
    part = opened.scored[-1]
    whole = module.score_truncated(opened, 1.0)
    assert whole["fd"] == pytest.approx(
        frechet_distance(opened.features(part.slices.images), opened.fakes(part.slices).vectors)
    )
    assert module.score_truncated(opened, 0.0)["fd"] != pytest.approx(whole["fd"], rel=0.01)
    assert np.ptp(opened.fakes(part.slices, psi=0.0).pictures, axis=0).max() == 0  # all are the average slice


# --- Who is who -----------------------------------------------------------------------------------------------------------------


def test_evaluate_refuses_training_subjects_with_their_names(generator_file):
    data = dataset_of()
    with pytest.raises(ValueError, match=r"12 of the 12 subjects of split 'train' \(OAS1_0000, .*\.\.\.\)"):
        evaluate(generator_file(data), data, split="train", device="cpu")
    second_scan = generator_file(data, train_subjects=["OAS1_0013_MR2"])  # another scan of a validation subject
    with pytest.raises(ValueError, match=r"1 of the 4 subjects of split 'val' \(OAS1_0013\)"):
        evaluate(second_scan, data, device="cpu")
    unnamed = generator_file(data, train_subjects=[])
    with pytest.raises(ValueError, match="12 of the 12"):
        evaluate(unnamed, data, split="train", train_data=data, device="cpu")
    with pytest.raises(ValueError, match=r"32 px.*16 px"):
        evaluate(generator_file(data), dataset_of(size=32), device="cpu")


def test_evaluate_says_what_cannot_be_known(generator_file, tmp_path):
    hidden = dataset_of(subjects_known=False)
    opened = open_evidence(generator_file(hidden, train_subjects=[]), hidden, split="val", device="cpu", cache_dir=tmp_path)
    assert len(opened.warnings) == 2
    training, elsewhere = dataset_of(), dataset_of(8, prefix="site2_", splits=np.full(32, "test"))
    path = generator_file(training)
    with pytest.raises(ValueError, match="--train-data"):
        evaluate(path, elsewhere, split="test", device="cpu")
    opened = open_evidence(path, elsewhere, split="test", train_data=training, device="cpu", cache_dir=tmp_path)
    assert len(opened.scored[0].slices) == 32 and len(opened.warnings) == 1


def test_a_run_s_table_levels_and_contrast_reach_its_slices(generator_file, monkeypatch):
    asked, data = {}, dataset_of()
    monkeypatch.setattr(evidence, "slices_of", lambda info, source, **options: asked.update(options, source=source) or data)
    open_evidence(generator_file(data), "there", device="cpu", subjects_csv="people.csv", levels="2-9", contrast=None)
    assert asked == {"source": "there", "subjects_csv": "people.csv", "levels": "2-9", "cache_dir": None}


def people_in(*counts: int, levels: int = 4, **changes) -> SliceDataset:
    """So many people in train, val and test."""
    splits = np.repeat(("train", "val", "test"), counts)
    return dataset_of(people=sum(counts), levels=levels, splits=np.repeat(splits, levels), **changes)


TINY = {
    "nobody held out": (people_in(5, 0, 0), []),
    "no validation people": (people_in(6, 0, 3), ["train", "test"]),
    "one person each": (people_in(3, 1, 1), []),
    "two people each": (people_in(6, 2, 2), ["train", "val", "test"]),
    "fewer than eight held-out slices": (people_in(4, 2, 2, levels=2), ["train", "val", "test"]),
    "two held-out slices": (people_in(8, 2, 2, levels=1), []),
    "three held-out slices": (people_in(8, 3, 3, levels=1), ["train", "val", "test"]),
    "one slice a person": (people_in(12, 4, 4, levels=1), ["train", "val", "test"]),
    "one training person": (people_in(1, 3, 3), ["val", "test"]),
    "one class": (people_in(6, 3, 3, classes=("only",), labels=np.zeros(48, np.int64)), ["train", "val", "test"]),
    "no class": (people_in(6, 3, 3, classes=(), labels=np.full(48, -1)), ["train", "val", "test"]),
}


@pytest.mark.parametrize("kind", TINY)
def test_tiny_sets_are_scored_where_possible_and_one_sentence_says_where_not(kind, generator_file, tmp_path):
    data, scored = TINY[kind]
    path = generator_file(data)
    opened = open_evidence(path, data, device="cpu", cache_dir=tmp_path)
    found = scores_of(opened, fakes=20) | (module.everything_of(opened, fakes=20, projections=0) if scored else {})
    assert list(found["splits"]) == scored
    assert sum("cannot be scored" in warning for warning in found["warnings"]) == 2 - len(set(scored) - {"train"})
    json.dumps(found, allow_nan=False)
    assert (
        verdict.verdict_rows(found)
        and verdict.summary(verdict.verdict_rows(found))
        and verdict.copies_sentence(found["memorisation"])
    )
    assert (
        bool(verdict.floor_table(found)) == bool(verdict.score_rows(found)) == bool(verdict.variety_rows(found)) == bool(scored)
    )
    if not scored:
        with pytest.raises(ValueError, match="cannot be scored on split 'val'"):
            evaluate(path, data, device="cpu", cache_dir=tmp_path)


# --- While training -------------------------------------------------------------------------------------------------------------


def test_the_scorer_of_a_tick_is_cheap_and_sees_a_collapse(G):
    val, config = dataset_of(people=24).split("train"), make_config("smoke", kid_samples=64)
    score = validation_scorer(val, config, "cpu")
    few = score(G, False)
    names = {f"{name}{end}" for name in ("dimensions", "spread") for end in ("", "_fixed_noise", "_real")} | {
        "style_participation"
    }
    assert set(few) == names and len(few["style_participation"]) == 5 and few == score(G, False)
    full = score(G, True)
    assert set(full) == names | {"kid", "precision", "recall", "coverage"} and {k: full[k] for k in names} == few
    flat = Generator(config).eval()
    for parameter in flat.mapping.parameters():
        parameter.data.zero_()
    assert score(flat, False)["dimensions"] == 0 < few["dimensions"] and json.dumps(full, allow_nan=False)


def test_the_scorer_draws_the_classes_of_the_validation_people():
    val = dataclasses.replace(dataset_of(), labels=np.ones(80, np.int64))
    config = make_config("smoke", conditional="class", c_dim=2, kid_samples=16)
    torch.manual_seed(0)
    G = Generator(config).eval()
    score = validation_scorer(val, config, "cpu")
    before = score(G, True)
    with torch.no_grad():
        G.mapping.embed.weight[:, 0] += 5  # the other class
    assert score(G, True)["kid"] == before["kid"]
