"""The notebooks as they are committed: clean, short, in order, and alike where they should be."""

import ast
import itertools
import json
import re

import pytest
from conftest import ROOT

nbformat = pytest.importorskip("nbformat")

from stylegan.reporting.html import NAMES  # noqa: E402

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_valid_and_kept_without_outputs_and_places(name):
    text, notebook = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"), NOTEBOOKS[name]
    raw = json.loads(text)
    nbformat.validate(raw)
    assert raw["nbformat"] == 4 and raw["nbformat_minor"] >= 5
    assert notebook.metadata.kernelspec.name == "python3" and "widgets" not in notebook.metadata
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert not re.search(r"/(home|root|tmp|Users|content)/", text)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(rf"{name[:2]}-[a-z-]+", id) for id in ids)
    assert ids[-1] == f"{name[:2]}-closing"


@pytest.mark.parametrize("name", NAMES)
def test_code_cells_are_short_and_say_what_they_do(name):
    for cell in code(NOTEBOOKS[name])[1:]:  # the first is the set-up
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert len(lines) <= 10, cell.id
        assert cell.source.startswith("# "), cell.id  # the line that the folded cell shows
        assert "IPython" not in cell.source  # Colab's is old: `Image(alt=...)` once failed on it


@pytest.mark.parametrize("name", NAMES)
def test_one_set_up_cell_for_all_and_one_cell_of_parameters(name):
    set_up, parameters = code(NOTEBOOKS[name])[:2]
    assert set_up.source == code(NOTEBOOKS[NAMES[0]])[0].source and "google.colab" in set_up.source
    assert [cell for cell in code(NOTEBOOKS[name]) if "parameters" in cell.metadata.get("tags", [])] == [parameters]
    names = [target.id for node in ast.parse(parameters.source).body for target in node.targets]
    assert {"data", "preset", "run_dir"} <= set(names)


@pytest.mark.parametrize("name", NAMES)
def test_headings_go_down_step_by_step_and_links_lead_somewhere(name):
    prose = "\n".join(cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown")
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.M)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all((ROOT / "notebooks" / target).is_file() for target in re.findall(r"\]\((\w+\.ipynb)\)", prose))
    assert "### References" in prose and "## Limits" in prose


def test_they_are_those_of_the_report_in_order_with_the_cells_that_its_front_page_shows():
    assert tuple(NOTEBOOKS) == NAMES
    ids = {cell.id for notebook in NOTEBOOKS.values() for cell in notebook.cells}
    assert {"03-beside", "05-fit", "05-summary", "04-verdict"} <= ids
