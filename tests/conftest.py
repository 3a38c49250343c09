"""What several test files need."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny networks: a second thread costs more than it brings, far more on a busy machine

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # the fixtures' builders are plain modules beside the tests


@pytest.fixture(scope="session")
def simulated():
    """A tiny simulated SliceDataset: 12 subjects x 4 levels of 32 px, both groups in each split."""
    return _tiny(32)


@pytest.fixture(scope="session")
def slices():
    """The same people at 16 px, the size of the preset `smoke`."""
    return _tiny(16)


def _tiny(resolution):
    from stylegan.data import simulate as atlas
    from stylegan.dataset import SliceDataset, split_by_subject

    found = atlas.simulate(num_subjects=12, num_levels=4, resolution=resolution)
    splits, _ = split_by_subject(found.subjects, found.labels)
    return SliceDataset(
        images=found.images, labels=found.labels, classes=found.classes, subjects=found.subjects, levels=np.asarray(found.levels),
        splits=splits, columns=found.columns, layout="simulated", title=found.title, key="simulated-for-tests", sides=found.sides,
    )  # fmt: skip


@pytest.fixture(name="G", scope="module")
def untrained_generator():
    """A generator of the preset `smoke`, always the same."""
    import torch

    from stylegan.config import make_config
    from stylegan.networks import Generator

    torch.manual_seed(0)
    return Generator(make_config("smoke")).to(memory_format=torch.channels_last).eval()


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """Class folders of 5 NonDemented and 3 MildDemented subjects."""
    import layouts_fixtures as fixtures

    root = tmp_path_factory.mktemp("classes") / "slices"
    fixtures.class_folders(root, {"NonDemented": 5, "MildDemented": 3})
    return root


@dataclass(frozen=True)
class Report:
    pages: Path  # the folder of index.html, of a page for each notebook and of the executed copies
    run: Path
    slices: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory, worker_id):
    """The report at the preset `smoke` of a few simulated slices in class folders, made once for all processes of pytest."""
    pytest.importorskip("nbclient")
    base = tmp_path_factory.getbasetemp()
    place = (base if worker_id == "master" else base.parent) / "report"
    place.mkdir(exist_ok=True)
    with FileLock(place / "lock"):
        if not (place / "done").exists():
            _make_report(place)
            (place / "done").touch()
    return Report(place / "out", place / "run", place / "slices")


def _make_report(place):
    from stylegan.reporting import report

    _write_slices(place / "slices")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[1])
        patch.setenv("STYLEGAN_DATA", str(place / "cache"))
        patch.setenv("MPLBACKEND", "module://a_backend_of_another_program")
        report.report(place / "slices", place / "run", "smoke", place / "out", total_kimg=0.2, num=40)


def _write_slices(folder):
    from stylegan.data import simulate as atlas

    found = atlas.simulate(num_subjects=24, num_levels=6, resolution=16)
    for image, label, subject, level in zip(found.images, found.labels, found.subjects, found.levels, strict=True):
        path = folder / found.classes[label] / f"{subject}_slice_{level}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the caches of the checkout."""
    monkeypatch.setenv("STYLEGAN_DATA", str(tmp_path_factory.getbasetemp() / "data"))
