"""The notebooks as they are committed: clean, short, in order, alike where they should; their badges, and what Colab does."""

import ast
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("IPython")

from stylegan.files import checkout  # noqa: E402
from stylegan.reporting.html import NAMES  # noqa: E402
from tools import badges  # noqa: E402

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = {requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])}

# What Colab has. Of these nothing may need an upgrade: after one that is already imported there, a notebook must be restarted.
LISTED = (ROOT / "tests" / "colab.txt").read_text(encoding="utf-8").splitlines()
COLAB, COLAB_PYTHON = dict(line.split("==") for line in LISTED if not line.startswith("#")), "3.13"


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_valid_without_outputs_and_places_its_headings_go_down_step_by_step_and_links_lead_somewhere(name):
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
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.M)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all((ROOT / "notebooks" / target).is_file() for target in re.findall(r"\]\((\w+\.ipynb)\)", prose))
    assert "### References" in prose and "## Limits" in prose


@pytest.mark.parametrize("name", NAMES)
def test_code_cells_are_short_and_say_what_they_do_after_one_set_up_for_all_and_one_cell_of_parameters(name):
    for cell in code(NOTEBOOKS[name])[1:]:  # the first is the set-up
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert len(lines) <= 10, cell.id
        assert cell.source.startswith("# "), cell.id  # the line that the folded cell shows
        assert "IPython" not in cell.source  # Colab's is old: `Image(alt=...)` once failed on it
    set_up, parameters = code(NOTEBOOKS[name])[:2]
    assert set_up.source == code(NOTEBOOKS[NAMES[0]])[0].source and "google.colab" in set_up.source
    assert [cell for cell in code(NOTEBOOKS[name]) if "parameters" in cell.metadata.get("tags", [])] == [parameters]
    names = [target.id for node in ast.parse(parameters.source).body for target in node.targets]
    assert {"data", "preset", "run_dir"} <= set(names)


def test_committed_notebooks_are_those_of_the_report_as_make_badges_writes_them_and_a_new_address_replaces_the_old(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\n[project.urls]\nRepository = "https://github.com/a-b/c.d.git"\n')
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert badges.text_of(badges.stamped(json.loads(text), path.name, badges.address(ROOT / "pyproject.toml"))) == text
        (tmp_path / "notebooks" / path.name).write_text(text, encoding="utf-8")
    badges.main(tmp_path)
    for text in (path.read_text(encoding="utf-8") for path in (tmp_path / "notebooks").iterdir()):
        assert "your-name" not in text and text.count("colab-badge.svg") == 1 and text.count("a-b/c.d") == 2
    (tmp_path / "pyproject.toml").write_text('[project]\n[project.urls]\nRepository = "https://gitlab.com/a/b"\n')
    with pytest.raises(ValueError, match="OWNER/NAME"):
        badges.main(tmp_path)
    assert tuple(NOTEBOOKS) == NAMES
    ids = {cell.id for notebook in NOTEBOOKS.values() for cell in notebook.cells}
    assert {"03-beside", "05-fit", "05-summary", "04-verdict"} <= ids


def test_colab_has_what_the_package_needs_and_is_asked_for_no_other_version():
    assert {"torch", "torchvision", "numpy", "umap-learn", "nibabel"} <= set(NEEDED) & set(COLAB)
    assert all(requirement.specifier.contains(COLAB[name]) for name, requirement in NEEDED.items() if name in COLAB)
    assert COLAB_PYTHON in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert not set(NEEDED) & {"ipython", "ipykernel", "jupyterlab", "notebook"}
    for name in set(NEEDED) - set(COLAB):  # what is installed there in addition, nilearn and the features
        for needed in map(Requirement, importlib.metadata.requires(name) or []):
            here = needed.marker is None or needed.marker.evaluate({"extra": "", "python_version": COLAB_PYTHON})
            fits = not here or needed.name not in COLAB or needed.specifier.contains(COLAB[needed.name])
            assert fits, f"{name} wants {needed}"


def test_on_colab_the_clone_is_installed_and_found_again_and_elsewhere_the_set_up_does_nothing(tmp_path, monkeypatch):
    """In a session as Colab starts it: an empty folder, and a public repository to clone."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    origin, content, asked = tmp_path / "origin", tmp_path / "content", []
    content.mkdir()
    for name in ("pyproject.toml", "notebooks/01_data_preview.ipynb", "models/brain.safetensors"):
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        (origin / name).write_text('[project]\nname = "stylegan"\n')
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=origin, check=True, capture_output=True)
    monkeypatch.chdir(content)
    monkeypatch.setenv("STYLEGAN_DRIVE", "")  # set by the cell, and put back after the test
    shell = InteractiveShell(ipython_dir=str(tmp_path / "ipython"), config=Config({"HistoryManager": {"enabled": False}}))

    def pip(line):
        asked.append(line)
        if not line.startswith("install"):
            shell.system(f"{sys.executable} -m pip {line}")

    def run(drive=None):
        source = badges.SET_UP.format(address=origin.as_uri()).replace("DRIVE = None", f"DRIVE = {drive!r}")
        shell.run_cell(source).raise_error()

    shell.register_magic_function(pip, magic_name="pip")
    run()  # elsewhere
    assert not asked and not list(content.iterdir()) and os.environ["STYLEGAN_DRIVE"] == ""
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    run("brains")
    clone = content / "course-repository"
    assert f"torch=={importlib.metadata.version('torch')}" in (content / "installed.txt").read_text().splitlines()
    assert asked[-1] == "install -q -c installed.txt ./course-repository"  # not -e, and nothing there is changed
    assert Path.cwd() == clone / "notebooks" and checkout() == clone and (clone / "models" / "brain.safetensors").is_file()
    (clone / "mine.txt").write_text("kept")
    os.chdir(content)  # a restarted session
    run()
    assert Path.cwd() == clone / "notebooks" and (clone / "mine.txt").is_file()
    assert os.environ["STYLEGAN_DRIVE"] == "brains"  # the set-up of the next notebook in the same session keeps it
