"""Badges and set-up cells: as committed, and what a notebook does when it is opened on Colab."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytest.importorskip("IPython")

from stylegan.files import checkout
from stylegan.reporting import badges

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = badges.address(ROOT / "pyproject.toml")

# What Colab has, with the date. Of these nothing may need an upgrade: a notebook that replaces a package already imported there
# must be restarted, or breaks.
LISTED = [line for line in (ROOT / "tests" / "colab.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
COLAB = dict(line.split("==") for line in LISTED)
COLAB_PYTHON = "3.13"


# --- As committed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_committed_notebook_is_what_make_badges_writes(path):
    text = path.read_text(encoding="utf-8")
    assert badges.text_of(badges.stamped(json.loads(text), path.name, ADDRESS)) == text
    cells = json.loads(text)["cells"]
    assert f"{ADDRESS.removeprefix('https://github.com/')}/blob/main/notebooks/{path.name})" in "".join(cells[0]["source"])
    set_ups = [cell for cell in cells if "google.colab" in "".join(cell["source"])]
    assert [cell["id"] for cell in set_ups] == [f"{path.stem[:2]}-set-up"]


def test_a_new_address_replaces_the_old_one_everywhere_and_only_once(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\n[project.urls]\nRepository = "https://github.com/a-b/c.d.git"\n')
    for path in PATHS:
        (tmp_path / "notebooks" / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    badges.main(tmp_path)
    once = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "notebooks").iterdir()}
    badges.main(tmp_path)
    for name, text in once.items():
        assert (tmp_path / "notebooks" / name).read_text(encoding="utf-8") == text
        assert ADDRESS not in text and text.count("colab-badge.svg") == 1 and text.count("a-b/c.d") == 2


@pytest.mark.parametrize("urls", ["", '[project.urls]\nRepository = "https://gitlab.com/a/b"\n'])
def test_an_address_that_colab_cannot_open_is_refused(tmp_path, urls):
    (tmp_path / "pyproject.toml").write_text("[project]\n" + urls)
    with pytest.raises(ValueError, match="OWNER/NAME"):
        badges.address(tmp_path / "pyproject.toml")


# --- On Colab -------------------------------------------------------------------------------------------------------------


def test_every_floor_lies_below_what_colab_has():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [Requirement(text) for text in project["dependencies"]]
    there = [requirement for requirement in needed if requirement.name in COLAB]
    assert {"torch", "torchvision", "numpy", "umap-learn", "nibabel"} <= {requirement.name for requirement in there}
    assert all(requirement.specifier.contains(COLAB[requirement.name]) for requirement in there)
    assert COLAB_PYTHON in Requirement(f"python{project['requires-python']}").specifier
    assert not {requirement.name for requirement in needed} & {"ipython", "ipykernel", "jupyterlab", "notebook"}


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """A session as Colab starts it, in an empty folder, with a public repository to clone: `run(source)` and what pip was asked."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    origin, content = tmp_path / "origin", tmp_path / "content"
    content.mkdir()
    for name in ("pyproject.toml", "notebooks/01_data_preview.ipynb", "models/brain.safetensors"):
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        (origin / name).write_text('[project]\nname = "stylegan"\n')
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["commit", "-qm", "second", "--allow-empty"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    monkeypatch.chdir(content)
    monkeypatch.setenv("STYLEGAN_DRIVE", "")  # set by the cell, and put back after the test
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    shell = InteractiveShell(ipython_dir=str(tmp_path / "ipython"), config=Config({"HistoryManager": {"enabled": False}}))
    asked = []

    def pip(line):
        asked.append(line)
        if not line.startswith("install"):
            shell.system(f"{sys.executable} -m pip {line}")

    shell.register_magic_function(pip, magic_name="pip")
    source = badges.SET_UP.format(address=origin.as_uri())

    def run(drive=None):
        shell.run_cell(source.replace("DRIVE = None", f"DRIVE = {drive!r}")).raise_error()

    return types.SimpleNamespace(run=run, asked=asked, content=content)


def test_on_colab_the_clone_is_installed_and_becomes_the_place_of_work(colab):
    colab.run()
    clone = colab.content / "course-repository"
    held = (colab.content / "installed.txt").read_text().splitlines()
    assert f"torch=={importlib.metadata.version('torch')}" in held
    assert colab.asked[-1] == "install -q -c installed.txt ./course-repository"  # not -e, and nothing there is changed
    assert Path.cwd() == clone / "notebooks" and checkout() == clone
    assert (checkout() / "models" / "brain.safetensors").is_file()
    count = subprocess.run(["git", "-C", clone, "rev-list", "--count", "HEAD"], capture_output=True, text=True, check=True)
    assert count.stdout.strip() == "1"  # of the two commits
    colab.run()
    assert len(colab.asked) == 2 and Path.cwd() == clone / "notebooks"


def test_a_restarted_session_finds_its_clone(colab):
    colab.run()
    (colab.content / "course-repository" / "mine.txt").write_text("kept")
    os.chdir(colab.content)
    colab.run()
    assert Path.cwd() == colab.content / "course-repository" / "notebooks" and (Path.cwd().parent / "mine.txt").is_file()


def test_one_parameter_names_the_folder_of_the_drive(colab):
    colab.run("brains")
    assert os.environ["STYLEGAN_DRIVE"] == "brains"
    colab.run()
    assert os.environ["STYLEGAN_DRIVE"] == "brains"  # the set-up of the next notebook in the same session keeps it


def test_what_is_installed_beside_takes_what_colab_has():
    """The dependencies that Colab lacks must not ask for other versions of those that it has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    added = [Requirement(text).name for text in project["dependencies"] if Requirement(text).name not in COLAB]
    assert added  # nilearn and the features
    for name in added:
        for needed in map(Requirement, importlib.metadata.requires(name) or []):
            here = needed.marker is None or needed.marker.evaluate({"extra": "", "python_version": COLAB_PYTHON})
            if here and needed.name in COLAB:
                assert needed.specifier.contains(COLAB[needed.name]), f"{name} wants {needed}"


def test_elsewhere_the_set_up_does_nothing(colab, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab")
    colab.run()
    assert not colab.asked and Path.cwd() == colab.content and not list(colab.content.iterdir())
    assert os.environ["STYLEGAN_DRIVE"] == ""
