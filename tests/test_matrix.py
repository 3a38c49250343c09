"""Every preset on every kind of labels: all notebooks run to their end, at tiny size in this process."""

import itertools

import pytest

pytest.importorskip("nbformat")
pytest.importorskip("IPython")

import matrix

from stylegan.config import PRESETS
from stylegan.reporting.html import NAMES

OF_RUN = tuple(name for name in NAMES if name != "06_styles_compared")  # which knows no run
# The report of the fast suite (test_report) runs the same notebooks with two classes; minutes of maps are compiled here.
pytestmark = pytest.mark.long


def check(preset, situation, place, patch):
    import matplotlib

    matplotlib.use("agg")
    patch.chdir(matrix.ROOT / "notebooks")
    data = matrix.write_slices(place / "slices", **matrix.SITUATIONS[situation])
    matrix.train_tiny(preset, data, place / "run")
    for name in OF_RUN:
        matrix.run_cells(name, data=data, run_dir=place / "run", preset=preset, num=40, fakes=80)


@pytest.mark.parametrize(("preset", "situation"), [*itertools.product(PRESETS, matrix.SITUATIONS)])
def test_the_notebooks_run_to_their_end(preset, situation, tmp_path, monkeypatch):
    check(preset, situation, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", OF_RUN)
def test_every_cell_can_be_run_twice(name, trained, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(trained.run, tmp_path / "run")
    monkeypatch.chdir(matrix.ROOT / "notebooks")
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    matrix.run_cells(name, times=2, data=trained.slices, run_dir=tmp_path / "run", preset="smoke", num=40)
    changed = {path.name for path, was in before.items() if (tmp_path / path).read_bytes() != was}
    assert changed <= {"evaluation.json", "embedding.csv"} and not list(tmp_path.rglob("*.tmp"))
