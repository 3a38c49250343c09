"""Notebooks on run folders as users have them: missing, half-written, of other slices, finished. Each says early what to do."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")

from stylegan import notebook  # noqa: E402
from stylegan.config import make_config  # noqa: E402
from stylegan.data import simulate as atlas  # noqa: E402
from stylegan.reporting.execute import set_parameters  # noqa: E402
from stylegan.run import train_run  # noqa: E402

ROOT = Path(__file__).parents[1]
READERS = ("03_generate", "04_evaluate", "05_umap_embedding", "07_how_to_fool_yourself")  # of a run folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two folders of slices, and a run trained on the first."""
    place = tmp_path_factory.mktemp("opening")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_DATA", str(place / "cache"))
        for name, seed in (("slices", 0), ("others", 1)):
            _write_slices(place / name, seed)
        train_run(make_config("smoke", total_kimg=0.1), place / "slices", place / "run")
    return place


def _write_slices(folder, seed):
    found = atlas.simulate(num_subjects=24, num_levels=4, resolution=16, seed=seed)
    for image, subject, level in zip(found.images, found.subjects, found.levels, strict=True):
        path = folder / "NC" / f"{subject}_slice_{level}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def opened(name, **parameters):
    """What the notebook has after its parameters and the cell that opens the run."""
    read = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    set_parameters(read, {name: value if value is None else str(value) for name, value in parameters.items()})
    cells = {cell.id[3:]: cell.source for cell in read.cells}
    found = {}
    for cell in ("parameters", "open"):
        exec(compile(ast.parse(cells[cell]), cell, "exec"), found)
    return found


def advice(name, **parameters):
    """The one line with which the notebook refuses."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        opened(name, **parameters)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    return str(error.value)


@pytest.mark.parametrize("name", READERS)
def test_it_opens_a_run_and_finds_its_slices(place, name):
    found = opened(name, run_dir=place / "run", preset="smoke")
    assert found["run"].slices.layout == "class-folders" and len(found["run"].history) == 1


@pytest.mark.parametrize("name", READERS)
def test_without_a_run_it_says_what_to_run(place, name, tmp_path):
    assert "run notebook 02_train first" in advice(name, run_dir=tmp_path / "nothing", preset="smoke")
    (tmp_path / "begun").mkdir()
    shutil.copy(place / "run" / "config.json", tmp_path / "begun")
    assert "run notebook 02_train first" in advice(name, run_dir=tmp_path / "begun", preset="smoke")


@pytest.mark.parametrize("name", READERS)
def test_a_run_that_was_copied_by_halves_is_named(place, name, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    whole = (tmp_path / "run" / "generator.safetensors").read_bytes()
    (tmp_path / "run" / "generator.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "Copy the run folder again" in advice(name, run_dir=tmp_path / "run", preset="smoke")
    (tmp_path / "run" / "generator.safetensors").write_bytes(whole)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert "train there first" in advice(name, run_dir=tmp_path / "run", preset="smoke")


class Trap:
    """An object whose unpickling writes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (open, (self.target, "w"))


SPOILT = {
    "config.json is cut short": (lambda run: _cut(run / "config.json"), ""),  # the generator tells all that is needed
    "config.json is a list": (lambda run: (run / "config.json").write_text("[]"), ""),
    "its data is a word": (lambda run: _change(run, data="mine"), r"config.json is damaged"),
    "the generator is a pickle": (lambda run: _pickle(run / "generator.safetensors"), "other formats are never opened"),
    "the generator is missing": (lambda run: (run / "generator.safetensors").unlink(), "run notebook 02_train first"),
    "no line of metrics is whole": (lambda run: (run / "metrics.jsonl").write_text("{"), "no whole line"),
    "the run folder is a file": (lambda run: (shutil.rmtree(run), run.write_text("x")), "run notebook 02_train first"),
}


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _change(run, **entries):
    (run / "config.json").write_text(json.dumps(json.loads((run / "config.json").read_text()) | entries))


def _pickle(path):
    path.write_bytes(pickle.dumps(Trap(path.with_name("executed"))))


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("name", READERS)
def test_a_spoilt_run_folder_is_refused_in_the_first_cell(place, name, spoilt, tmp_path):
    spoil, says = SPOILT[spoilt]
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    spoil(run)
    if says:
        assert says in advice(name, run_dir=run, preset="smoke", data=place / "slices")
    else:
        assert opened(name, run_dir=run, preset="smoke", data=place / "slices")
    assert not (run / "executed").exists()


@pytest.mark.parametrize("spoilt", ["its data is a word", "config.json is cut short", "no line of metrics is whole"])
def test_notebook_02_goes_on_or_refuses_before_it_trains(place, spoilt, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    SPOILT[spoilt][0](run)
    before = _content(run)
    if "metrics" in spoilt:  # the checkpoint is whole: nothing is trained again
        notebook.train_or_load(notebook.plan(run, "smoke"), notebook.run_data(run), run)
        assert {name for name in before if name.suffix == ".safetensors"} <= set(_content(run))
        return
    with pytest.raises(ValueError, match=r"damaged|not a run folder"):
        notebook.train_or_load(notebook.plan(run, "smoke", total_kimg=0.1), place / "slices", run)
    assert _content(run) == before


@pytest.mark.parametrize("name", READERS)
def test_slices_that_are_not_of_the_run_are_refused(place, name, tmp_path):
    said = advice(name, run_dir=place / "run", preset="smoke", data=place / "others")
    assert "was trained on" in said and "leave data = None" in said
    shutil.copytree(place / "slices", tmp_path / "moved")
    assert opened(name, run_dir=place / "run", preset="smoke", data=tmp_path / "moved")  # the same slices elsewhere
    shutil.copytree(place / "run", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    settings["data"]["path"] = str(tmp_path / "gone")
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    assert "gone" in advice(name, run_dir=tmp_path / "run", preset="smoke")


def test_training_again_does_no_harm(place, tmp_path):
    """As notebook 02 does it: a finished run is left as it is, another set or setting is refused before anything is written."""
    folder = tmp_path / "run"
    shutil.copytree(place / "run", folder)
    before = _content(folder)
    config = notebook.plan(folder, "quick")  # what lies there decides
    for _ in range(2):
        history = notebook.train_or_load(config, notebook.run_data(folder), folder)
        assert history[-1]["kimg"] >= 0.1 and _content(folder) == before
    with pytest.raises(ValueError, match="leave data = None, or name another run_dir"):
        notebook.train_or_load(config, place / "others", folder)
    longer = notebook.plan(folder, "quick", total_kimg=0.2)
    with pytest.raises(ValueError, match="was made with another config: data"):
        notebook.train_or_load(longer, place / "others", folder)
    assert _content(folder) == before


def _content(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    }


def test_a_line_that_is_being_written_is_not_read_yet(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"kimg": 0.2, "cur')
    assert len(notebook.open_run(tmp_path / "run").history) == 1


def test_a_run_with_a_table_of_its_own_is_opened_with_that_table(place, tmp_path):
    people = sorted({path.name.split("_slice_")[0] for path in (place / "slices").rglob("*.png")})
    table = tmp_path / "people.csv"
    table.write_text("subject,Age\n" + "".join(f"{who},{60 + i}\n" for i, who in enumerate(people)))
    config = make_config("smoke", total_kimg=0.02)
    train_run(config, place / "slices", tmp_path / "run", subjects_csv=table)
    ages = notebook.open_run(tmp_path / "run").slices.columns["Age"]
    assert sorted(set(float(age) for age in ages)) == [60.0 + i for i in range(len(people))]
    assert notebook.train_or_load(config, place / "slices", tmp_path / "run")[-1]["kimg"] >= 0.02
