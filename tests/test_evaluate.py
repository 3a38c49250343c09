"""The evaluation of a generator: what it returns, whom it refuses, what it warns of."""

import functools
import json

import numpy as np
import pytest
import torch
from phantoms import phantoms

from stylegan.checkpoint import save_generator
from stylegan.config import make_config
from stylegan.dataset import SliceDataset
from stylegan.networks import Generator
from stylegan.scores import case as people
from stylegan.scores import metrics
from stylegan.scores.metrics import evaluate


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


def save_untrained(folder, dataset: SliceDataset, conditional: bool = False, **info):
    """An untrained generator with this header in a file; returns the file."""
    config = make_config("smoke", **({"conditional": "class", "c_dim": 2} if conditional else {}))
    torch.manual_seed(0)
    trained_on = sorted(set(dataset.split("train").subjects.tolist()))
    about = {"title": dataset.title, "layout": dataset.layout, "key": dataset.key, "path": ""}
    header = {
        "config": config.to_dict(),
        "classes": list(dataset.classes),
        "train_subjects": trained_on,
        "data": about,
        "cur_nimg": 0,
    }
    path = folder / "generator.safetensors"
    save_generator(path, Generator(config), header | info)
    return path


@pytest.fixture
def generator_file(tmp_path):
    return functools.partial(save_untrained, tmp_path)


def test_evaluate_gives_the_promised_json(generator_file, tmp_path):
    dataset = dataset_of()
    found = evaluate(generator_file(dataset), dataset, device="cpu", cache_dir=tmp_path)
    assert json.loads(json.dumps(found)) == found
    promised = {"feature_space", "n", "seconds", "memorisation", "splits"}
    assert set(found) == promised | {"model_hash", "data", "warnings", "further", "controls"}
    assert set(found["memorisation"]) == {"ratio", "low", "high", "p_value"}
    assert found["n"] == 16 and found["feature_space"] == "efficientnet-lite0" and len(found["model_hash"]) == 16
    assert list(found["splits"]) == ["train", "val", "test"] and not found["warnings"]
    for entry in found["splits"].values():
        assert entry["n"] == 16 and entry["subjects"] == 4
        assert set(entry) == set(metrics.SPLIT_SCORES)
        for name in set(entry) - {"n", "subjects"}:
            assert set(entry[name]) == {"value", "low", "high"}
            assert entry[name]["low"] <= entry[name]["value"] <= entry[name]["high"]
        assert entry["kid"]["value"] > entry["kid_floor"]["high"]  # an untrained generator
    again = evaluate(generator_file(dataset), dataset, split="test", device="cpu", cache_dir=tmp_path)
    assert again["splits"]["test"] == found["splits"]["test"]


def test_evaluate_takes_as_many_slices_as_asked(generator_file, tmp_path):
    dataset = dataset_of()
    found = evaluate(generator_file(dataset), dataset, split="val", num=10, device="cpu", cache_dir=tmp_path)
    assert found["n"] == 10 and list(found["splits"]) == ["val"]
    with pytest.raises(ValueError, match="num"):
        evaluate(generator_file(dataset), dataset, num=1)


def test_evaluate_refuses_training_subjects_with_their_names(generator_file):
    dataset = dataset_of()
    with pytest.raises(ValueError, match=r"12 of the 12 subjects of split 'train' \(OAS1_0000, .*\.\.\.\)"):
        evaluate(generator_file(dataset), dataset, split="train", device="cpu")
    second_scan = generator_file(dataset, train_subjects=["OAS1_0013_MR2"])  # another scan of a validation subject
    with pytest.raises(ValueError, match=r"1 of the 4 subjects of split 'val' \(OAS1_0013\)"):
        evaluate(second_scan, dataset, device="cpu")
    unnamed = generator_file(dataset, train_subjects=[])
    with pytest.raises(ValueError, match="12 of the 12"):
        evaluate(unnamed, dataset, split="train", train_data=dataset, device="cpu")


def test_evaluate_says_what_cannot_be_known(generator_file, tmp_path):
    dataset = dataset_of(subjects_known=False)
    found = evaluate(generator_file(dataset, train_subjects=[]), dataset, split="val", device="cpu", cache_dir=tmp_path)
    assert len(found["warnings"]) == 2
    assert "does not name" in found["warnings"][0] and "hides who is who" in found["warnings"][1]


def test_train_data_gives_the_floor_to_another_folder(generator_file, tmp_path):
    training, elsewhere = dataset_of(), dataset_of(8, prefix="site2_", splits=np.full(32, "test"))
    path = generator_file(training)
    with pytest.raises(ValueError, match="--train-data"):
        evaluate(path, elsewhere, split="test", device="cpu")
    found = evaluate(path, elsewhere, split="test", train_data=training, device="cpu", cache_dir=tmp_path)
    assert found["n"] == 32 and "other names" in found["warnings"][0]


def test_conditional_generators_draw_the_classes_of_the_split(generator_file, tmp_path, monkeypatch):
    dataset = dataset_of()
    asked, generate = [], people.generate

    def spy(G, seeds, class_index):
        asked.extend(class_index)
        return generate(G, seeds, class_index=class_index)

    monkeypatch.setattr(people, "generate", spy)
    path = generator_file(dataset, conditional=True, classes=["atrophy", "control"])  # numbered otherwise than in the data
    evaluate(path, dataset, split="val", device="cpu", cache_dir=tmp_path)
    assert asked[-16:] == [1 - label for label in dataset.split("val").labels]
    assert np.mean(asked[:-16]) == pytest.approx(
        1 - dataset.split("train").labels.mean(), abs=0.02
    )  # beside the training slices
    unlabelled = dataset_of(labels=np.full(80, -1))
    with pytest.raises(ValueError, match="unlabelled"):
        evaluate(path, unlabelled, split="val", device="cpu", cache_dir=tmp_path)


def test_truncated_slices_are_other_slices(generator_file, tmp_path):
    dataset = dataset_of()
    case = metrics.open_case(generator_file(dataset), dataset, device="cpu", cache_dir=tmp_path)
    part = case.scored[-1]
    whole, same = metrics.score_truncated(case, 1.0), metrics.score_truncated(case, 0.999999)
    real, made = case.setting.features(part.slices.images), case.setting.features(case.fakes.like(part.slices)[0])
    assert whole["fd"] == pytest.approx(metrics.frechet_distance(real, made)) == pytest.approx(same["fd"], rel=0.01)
    assert metrics.score_truncated(case, 0.0)["fd"] != pytest.approx(whole["fd"], rel=0.01)
    assert np.ptp(case.fakes.like(part.slices, psi=0.0)[0], axis=0).max() == 0  # all are the average slice


def test_slices_of_another_size_are_refused(generator_file):
    with pytest.raises(ValueError, match=r"32 px.*16 px"):
        evaluate(generator_file(dataset_of()), dataset_of(size=32), device="cpu")
