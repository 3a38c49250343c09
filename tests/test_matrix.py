"""Every preset on every kind of labels: all notebooks run to their end, at tiny size in this process."""

import itertools
import os
import shutil
from pathlib import Path

import matplotlib
import pytest
from conftest import write_slices
from test_runs import tiny

nbformat = pytest.importorskip("nbformat")
display = pytest.importorskip("IPython.display")

from stylegan import notebook  # noqa: E402
from stylegan.config import PRESETS  # noqa: E402
from stylegan.reporting.execute import set_parameters  # noqa: E402
from stylegan.reporting.html import NAMES  # noqa: E402

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
OF_RUN = tuple(name for name in NAMES if name != "06_styles_compared")  # which knows no run
# The report of the fast suite (test_report) runs the same notebooks with two classes; minutes of maps are compiled here.
pytestmark = pytest.mark.long

# Labels as people have them: class folders, the people in each, the slices of each person.
SITUATIONS = {
    "no class": {"classes": ("",), "people": 16},
    "one class": {"classes": ("AD",), "people": 16},
    "two classes": {"classes": ("AD", "NC"), "people": 8},
    "four classes": {"classes": ("NonDemented", "VeryMildDemented", "MildDemented", "ModerateDemented"), "people": 6},
    "people unknown": {"classes": ("",), "people": 16, "named": False},
    "one slice a person": {"classes": ("AD", "NC"), "people": 24, "levels": 1},
    "fewer than 8 held-out slices": {"classes": ("AD", "NC"), "people": 6, "levels": 1},
    "no validation people": {"classes": ("AD", "NC"), "people": 2, "levels": 8},
}


def run_cells(name, times=1, **parameters):
    """All code cells of a notebook after the set-up, in this process, each so many times."""
    read = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    set_parameters(read, {key: str(value) if isinstance(value, Path) else value for key, value in parameters.items()})
    names = {"display": display.display, "os": os}  # as the set-up cell leaves them
    for cell in read.cells:
        if cell.cell_type == "code" and not cell.id.endswith("-set-up"):
            for _ in range(1 if "parameters" in cell.metadata.get("tags", []) else times):
                exec(compile(cell.source, cell.id, "exec"), names)


@pytest.mark.parametrize(("preset", "situation"), list(itertools.product(PRESETS, SITUATIONS)))
def test_the_notebooks_run_to_their_end(preset, situation, tmp_path, monkeypatch):
    monkeypatch.chdir(NOTEBOOKS)
    matplotlib.use("agg")
    data, run = tmp_path / "slices", tmp_path / "run"
    write_slices(data, **{"levels": 4, **SITUATIONS[situation]})
    fields = tiny(preset, z_dim=16, w_dim=16, channel_max=16, kid_samples=16, precision="fp32").departures()
    notebook.train_or_load(notebook.plan(run, preset, data, **fields), data, run)  # planned as notebook 02 does
    for name in OF_RUN:
        run_cells(name, data=data, run_dir=run, preset=preset, num=40, fakes=80)


@pytest.mark.parametrize("name", OF_RUN)
def test_every_cell_can_be_run_twice(name, trained, tmp_path, monkeypatch):
    shutil.copytree(trained.run, tmp_path / "run")
    monkeypatch.chdir(NOTEBOOKS)
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    run_cells(name, times=2, data=trained.slices, run_dir=tmp_path / "run", preset="smoke", num=40)
    changed = {path.name for path, was in before.items() if (tmp_path / path).read_bytes() != was}
    assert changed <= {"evaluation.json", "embedding.csv"} and not list(tmp_path.rglob("*.tmp"))
