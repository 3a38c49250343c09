"""A reference generator is made of a run: the shipped file is scored, its card says what it is, nothing of this machine stands in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stylegan.checkpoint import load_generator, load_tensors
from stylegan.config import make_config
from stylegan.dataset import load_slices
from stylegan.files import write_json
from stylegan.predict import generate
from stylegan.reporting.ship import TERMS, card, changes, ship
from stylegan.run import train_run
from stylegan.scores import audit, encoder
from stylegan.scores.features import features


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, class_folders_of_phantoms):
    base = tmp_path_factory.mktemp("ship")
    config = make_config("smoke", total_kimg=0.08, tick_kimg=0.04, kid_ticks=1, kid_samples=16, lr=0.002)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_DATA", str(base / "cache"))
        patch.setattr(audit, "OTHER_SPACES", ())  # their own tests try the other spaces
        patch.setattr(audit, "trained_encoder", lambda train: (encoder._train(train, 2, 0).eval(), "key"))
        patch.setattr(
            audit.memorisation, "projection_gap", lambda *_: {"train": 9.0, "heldout": 9.5, "gap": 0.5, "p_value": 0.3}
        )
        train_run(config, class_folders_of_phantoms, base / "run")
        path = ship(base / "run", class_folders_of_phantoms, "tiny-16", title="Phantoms", out=base / "models")
        yield base, path, load_slices(class_folders_of_phantoms, 16)


@pytest.fixture(scope="module")
def class_folders_of_phantoms(tmp_path_factory):
    from conftest import _write_slices

    folder = tmp_path_factory.mktemp("phantoms") / "slices"
    _write_slices(folder)
    return folder


def test_the_shipped_file_is_the_best_generator_in_half_precision(shipped):
    base, path, _ = shipped
    G, info = load_generator(path.with_suffix(".safetensors"))
    best, _ = load_generator(base / "run")
    assert all(v.dtype == torch.float16 for k, v in load_tensors(path.with_suffix(".safetensors"))[0].items())
    torch.testing.assert_close(generate(G, [1, 2]), generate(best, [1, 2]), atol=0.02, rtol=0)
    assert info["data"]["title"] == "Phantoms" and "path" not in info["data"]


def test_scores_and_hash_are_those_of_the_shipped_file(shipped):
    base, path, _ = shipped
    entry = json.loads((base / "models" / "metrics.json").read_text())["tiny-16"]
    _, info = load_generator(path.with_suffix(".safetensors"))
    assert entry["model_hash"] == entry["scores"]["model_hash"] == info["model_hash"]
    assert entry["kimg"] == info["cur_nimg"] / 1000 and entry["changes"] == {"kid_samples": 16, "lr": 0.002}
    assert [kimg for kimg, _ in entry["kid_val"]] == [0.04, 0.08]
    assert set(entry["scores"]["splits"]) == {"train", "val", "test"}


def test_the_distances_are_to_the_nearest_training_slice(shipped):
    base, path, slices = shipped
    near = json.loads((base / "models" / "metrics.json").read_text())["tiny-16"]["nearest"]
    G, _ = load_generator(path.with_suffix(".safetensors"))
    ours, train = features(generate(G, range(8))), slices.split("train")
    distances = np.linalg.norm(ours[:, None] - features(train.images)[None], axis=2)
    assert [row["distance"] for row in near["samples"]] == pytest.approx(distances.min(axis=1).tolist(), rel=1e-3)
    row = near["samples"][3]
    assert (row["subject"], row["level"]) == (str(train.subjects[distances[3].argmin()]), train.levels[distances[3].argmin()])
    assert row["ratio"] == pytest.approx(row["distance"] / near["heldout"])


def test_the_card_says_all_that_a_user_needs(shipped):
    base, path, slices = shipped
    text = path.read_text()
    entry = json.loads((base / "models" / "metrics.json").read_text())["tiny-16"]
    train = slices.split("train")
    assert card("tiny-16", entry, train) == text
    for part in (
        "Phantoms",
        f"{len(train)} slices",
        entry["model_hash"],
        "times the floor",
        "Terms",
        "Intended use",
        "Limits",
        "✘ fail",
        "pass**",
    ):
        assert part in text
    assert all(subject in text for subject in set(train.subjects.tolist()))
    assert not any(subject in text for subject in set(slices.split("test").subjects.tolist()))


def test_nothing_tells_where_the_slices_lay(shipped):
    base, path, _ = shipped
    for file in path.parent.iterdir():
        assert str(base.parent).encode() not in file.read_bytes(), file.name


def test_a_shipped_file_is_scored_again_and_the_entry_of_another_is_kept(shipped, class_folders_of_phantoms):
    base, path, _ = shipped
    before = json.loads((base / "models" / "metrics.json").read_text())["tiny-16"]
    entry = {**before, "scores": {}, "audit": {}}
    write_json(base / "models" / "metrics.json", {"tiny-16": entry, "other": {"model_hash": "1"}})
    kept = {"evaluation": before["scores"], **before["audit"]}
    write_json(base / "audit.json", kept)
    text = path.read_text()
    assert ship(path.with_suffix(".safetensors"), class_folders_of_phantoms, "tiny-16", audited=base) == path
    after = json.loads((base / "models" / "metrics.json").read_text())
    assert after == {"tiny-16": before, "other": {"model_hash": "1"}} and path.read_text() == text
    write_json(base / "audit.json", {**kept, "evaluation": {**before["scores"], "model_hash": "another"}})
    with pytest.raises(ValueError, match=r"holds no audit of .* but of another; run: python -m stylegan audit"):
        ship(path.with_suffix(".safetensors"), class_folders_of_phantoms, "tiny-16", audited=base)
    assert TERMS["own"] in text


def test_unknown_terms_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="no terms 'mine'; choose one of oasis1, simulated, own"):
        ship(tmp_path, tmp_path, "x", terms="mine", out=tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_fields_that_an_older_version_did_not_know_count_with_their_defaults():
    """A preset may have moved on since a run: the card must still say how to train it again."""
    config = make_config("oasis64", noise_lr_multiplier=1.0).to_dict()
    del config["noise_lr_multiplier"]
    assert changes(config) == {"noise_lr_multiplier": 1.0}
