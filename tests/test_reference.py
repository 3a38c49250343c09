"""The shipped generator is found in a checkout, and its card belongs to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from stylegan.checkpoint import load_generator, save_generator
from stylegan.config import make_config
from stylegan.networks import Generator
from stylegan.reporting import reference


def entry(value):
    return {"value": value, "low": value - 1, "high": value + 1}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A checkout with a stand-in for the shipped generator: its folder of models."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "stylegan"\n')
    folder = tmp_path / "models"
    folder.mkdir()
    config = make_config("smoke")
    torch.manual_seed(0)
    info = {"config": config.to_dict(), "classes": [], "train_subjects": ["a"], "data": {}, "cur_nimg": 5000}
    save_generator(folder / f"{reference.NAME}.safetensors", Generator(config), info, half=True)
    split = {"n": 40, "subjects": 4, "kid": entry(50), "kid_floor": entry(8), "fd": entry(60), "fd_floor": entry(30)}
    card = {
        "model_hash": load_generator(folder / f"{reference.NAME}.safetensors")[1]["model_hash"],
        "kimg": 5000, "hours": 3.25, "train_subjects": 114, "data": "OASIS-1", "scores": {"feature_space": "efficientnet-lite0", "splits": {"test": split}},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps({reference.NAME: card}))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return folder


def test_it_is_found_from_the_notebooks_with_its_scores(clone):
    found = reference.reference()
    assert "5,000 kimg of 114 subjects in 3.2 hours. Data: OASIS-1; scored on efficientnet-lite0 features." in found.about
    assert found.info["model_hash"] in found.about
    rows = found.scores()
    assert [row["score"] for row in rows] == ["KID × 1000", "FD"] and all("shipped" in row["computed"] for row in rows)
    assert found.G.synthesis.blocks[-1].resolution == 16


def test_scores_of_another_generator_are_refused(clone):
    path = clone / "metrics.json"
    path.write_text(path.read_text().replace('"model_hash": "', '"model_hash": "0'))
    with pytest.raises(ValueError, match="is of model 0"):
        reference.reference()
    path.unlink()
    with pytest.raises(ValueError, match="tells nothing of it"):
        reference.reference()


def test_where_it_is_not_there_a_sentence_says_why(clone, tmp_path, monkeypatch):
    (clone / f"{reference.NAME}.safetensors").unlink()
    assert reference.reference() is None and "holds no `models/" in reference.absence()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "pyproject.toml").unlink()
    monkeypatch.chdir(elsewhere)
    assert reference.reference() is None and "no checkout" in reference.absence()


@pytest.mark.parametrize("what", ["embedding", "groundtruth"])
def test_what_was_written_beforehand_is_of_the_shipped_generator(what, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parents[1])
    numbers, folder = reference.written(what)
    assert numbers["model_hash"] == reference.reference().info["model_hash"]
    assert len(list(folder.glob("*.png"))) >= 4
    monkeypatch.chdir(tmp_path)
    assert reference.written(what) is None


# --- Its audit --------------------------------------------------------------------------------------------------------------


@dataclass
class ARun:
    """What `audit_of` reads of a run."""

    folder: Path
    info: dict


def test_the_audit_beside_a_run_is_its_own_where_there_is_one(clone, tmp_path):
    path = clone / "metrics.json"
    card = json.loads(path.read_text())
    run = ARun(tmp_path, {"model_hash": "mine"})
    assert reference.audit_of(run) == (None, "The shipped generator's card holds no audit.")
    card[reference.NAME]["audit"] = {"memory": {}, "control": None}
    path.write_text(json.dumps(card))
    found, whose = reference.audit_of(run)
    assert found["shipped"] and found["evaluation"] == card[reference.NAME]["scores"] and "Not of this run" in whose
    (tmp_path / "audit.json").write_text('{"evaluation": {"model_hash": "another"}}')
    assert reference.audit_of(run)[0]["shipped"]  # an audit of an earlier generator of the folder tells nothing of this one
    (tmp_path / "audit.json").write_text('{"evaluation": {"model_hash": "mine"}}')
    found, whose = reference.audit_of(run)
    assert "shipped" not in found and "for this run" in whose
    (tmp_path / "audit.json").write_text('{"control": {}}')  # of `memoriser` alone
    assert reference.audit_of(run)[0]["shipped"]
