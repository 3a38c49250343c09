"""The audit: everything in one JSON, pictures beside it, and a positive control that lights up."""

import json

import numpy as np
import pytest
import torch
from phantoms import phantoms
from test_evaluate import dataset_of, save_untrained

from stylegan.config import make_config
from stylegan.networks import build_networks
from stylegan.scores import audit as module
from stylegan.scores import encoder, memoriser
from stylegan.scores.audit import audit
from stylegan.scores.findings import whole_split
from stylegan.scores.verdict import FAIL, SIGNS, failure_rows, verdict_rows


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One audit of an untrained generator, in a folder that holds an earlier one."""
    place = tmp_path_factory.mktemp("audit")
    (place / "audit.json").write_text('{"control": {"copied": 0.9}}')
    slices = dataset_of(people=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_DATA", str(place / "cache"))
        patch.setattr(module, "trained_encoder", lambda train: (encoder._train(train, 2, 0).eval(), "key"))
        patch.setattr(module, "OTHER_SPACES", ("pixel-pca",))
        yield audit(save_untrained(place, slices), slices, place, projections=2, device="cpu"), place


def test_everything_is_in_one_json_with_pictures_beside_it(found):
    result, out = found
    assert json.loads((out / "audit.json").read_text()) == json.loads(json.dumps(result))
    assert {"failures.png", "pairs.png"} <= {path.name for path in out.iterdir()}
    assert set(result["memory"]) == {"copied", "people", "attack", "logits", "pairs", "projection"}
    assert result["memory"]["logits"] is None and 1 <= len(result["memory"]["pairs"]) <= 16  # a file keeps no discriminator
    assert result["evaluation"]["splits"]["test"]["n"] == 24 and set(result["spaces"]) == {"pixel-pca"}
    assert set(result["encoder"]) == {"level", "blur", "noise"} and result["duplicates"]["slices"] == 120
    assert len(result["spectra"]["real"]) == len(result["spectra"]["generated"]) == 11
    assert result["control"] == {"copied": 0.9}  # of the earlier audit
    assert 0 < result["evaluation"]["seconds"] < result["seconds"]


def test_an_untrained_generator_fails_and_its_cases_have_seeds(found):
    result, _ = found
    rows = verdict_rows(result["evaluation"], result["memory"])
    assert sum(row["verdict"] == SIGNS[FAIL] for row in rows) >= 5 and len(rows) == 16
    cases = failure_rows(result["failures"])
    assert len(cases) == 5 and all(0 <= case["seed"] < 2000 and case["guess"] for case in cases)
    assert whole_split(result["evaluation"], "test")["kid"]["low"] > 0


# --- The positive control ---------------------------------------------------------------------------------------------------


def test_positive_control_trains_on_one_slice_of_each_of_64_people_at_most(slices):
    found = memoriser.positive_control(slices, kimg=0.05, fakes=20, img_resolution=16, channel_base=128, channel_max=16)
    assert set(found) >= {"memorisation", "copied", "people", "attack", "logits"} and found["slices"] == 8
    few = memoriser.chosen_few(dataset_of(people=200, levels=2))
    assert len(few) == 64 == len(set(few.subjects.tolist())) and set(few.splits) == {"train"}


@pytest.mark.parametrize("copies", [True, False])
def test_every_measure_lights_up_for_copies_and_none_for_new_people(copies, monkeypatch):
    slices = dataset_of(people=60, levels=4)
    few, heldout = slices.split("train").select(np.arange(0, 144, 4)), slices.select(slices.splits != "train")
    new_people = phantoms(90, 4, 99, 16)
    source = few.images if copies else new_people
    drawn = source[np.random.default_rng(0).integers(0, len(source), 200)].astype(float)
    drawn = torch.from_numpy(drawn + np.random.default_rng(1).normal(0, 1, drawn.shape))[:, None].float() / 127.5 - 1
    monkeypatch.setattr(memoriser, "generate", lambda *_: drawn)
    G, D = build_networks(make_config("smoke"))
    found = memoriser.measure(G, D, few, heldout, 200)
    if copies:
        assert found["memorisation"]["high"] < 0.6 and found["memorisation"]["p_value"] < 1e-3
        assert found["copied"] > 0.5 and found["people"]["p_value"] < 1e-3 and found["attack"]["low"] > 0.8
    else:
        assert found["memorisation"]["low"] > 0.7 and found["copied"] < 0.3
        assert found["people"]["p_value"] > 0.01 and found["attack"]["low"] < 0.6


@pytest.mark.long
def test_a_generator_trained_until_it_memorises_is_found_out():
    from stylegan.dataset import load_slices

    found = memoriser.positive_control(load_slices(None, 32), kimg=60)
    assert found["memorisation"]["ratio"] < 0.8 and found["memorisation"]["p_value"] < 0.01
    assert found["people"]["p_value"] < 0.01 and found["attack"]["value"] > 0.7
