"""What notebooks share, on run folders as users have them, on a Drive that outlives its session, and beside the shipped generator."""

import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("IPython")

from conftest import save_untrained

from stylegan import notebook
from stylegan.checkpoint import load_generator
from stylegan.config import make_config
from stylegan.dataset import slices_of


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run that was trained on `trained.slices`, to be spoilt."""
    shutil.copytree(trained.run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(("spoil", "says"), [
    (shutil.rmtree, "run notebook 02_train first"),
    (lambda run: (run / "generator.safetensors").write_bytes(b"cposix\nsystem\n(S'touch executed'\ntR."), "Copy the run folder again"),
    (lambda run: (run / "config.json").write_text('{"config": {}, "classes": [], "data": "mine"}'), "config.json is damaged"),
    (lambda run: (run / "metrics.jsonl").unlink(), "train there: "),
    (lambda run: (run / "metrics.jsonl").write_text("{"), "no whole line"),
])  # fmt: skip
def test_a_spoilt_run_is_refused_with_one_sentence(trained, run, spoil, says):
    spoil(run)
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        notebook.open_run(run, "smoke", trained.slices)
    assert "\n" not in str(error.value) and not Path("executed").exists()


def test_a_run_is_opened_with_its_own_slices_wherever_they_lie(trained, run, tmp_path):
    assert notebook.open_run(run, "smoke").slices.layout == "class-folders"
    assert notebook.first_slices(run, "quick").key == notebook.open_run(run).slices.key  # at the run's size, not the preset's
    shutil.copytree(trained.slices, tmp_path / "moved")
    assert notebook.open_run(run, "smoke", tmp_path / "moved").slices.key == notebook.open_run(run).slices.key
    next((tmp_path / "moved").rglob("*.png")).unlink()
    with pytest.raises(ValueError, match="leave data = None"):
        notebook.open_run(run, "smoke", tmp_path / "moved")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kimg": 0.9, "cur')  # a line that is being written is not read yet
    opened = notebook.open_run(run)
    assert len(opened.history) == len(notebook.open_run(trained.run).history)
    best, last = (replace(opened, history=[{"best_kid": kid}]) for kid in (3.0, None))
    assert "the best of the run" in notebook.provenance(best.slices, best)["Generator"]
    assert "was not scored" in notebook.provenance(last.slices, last)["Generator"]  # then nothing chose it
    known = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**known, "data": known["data"] | {"path": "elsewhere"}}))  # as if moved since
    with pytest.raises(FileNotFoundError, match="lay in elsewhere, which is not there; give their place"):
        slices_of(load_generator(run)[1])


def test_training_again_does_no_harm(trained, run, tmp_path):
    """As notebook 02 does it: a finished run stays as it is, other slices are refused before anything is written."""

    def content(folder):
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}

    before, config = content(run), notebook.plan(run, "quick")  # what lies there decides
    assert notebook.train_or_load(config, None, run)[-1]["kimg"] >= config.total_kimg and content(run) == before
    with pytest.raises(ValueError, match=r"conditional .none there, class asked"):
        notebook.train_or_load(notebook.plan(run, "quick", conditional="class"), None, run)
    assert notebook.plan(tmp_path / "new", "oasis64", total_kimg=9.0).lr_end_kimg == 9  # as the command line does it
    shutil.copytree(trained.slices, tmp_path / "others")
    next((tmp_path / "others").rglob("*.png")).unlink()
    for kimg in (config.total_kimg, 2 * config.total_kimg):
        with pytest.raises(ValueError):
            notebook.train_or_load(notebook.plan(run, "quick", total_kimg=kimg), tmp_path / "others", run)
        assert content(run) == before


def test_a_preset_with_classes_is_planned_with_those_of_the_slices_and_a_table_is_used_again(trained, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "tell", shown.append)
    config = notebook.plan(tmp_path / "none", "seed001-stylegan1-classes", trained.slices, img_resolution=16)
    assert (config.conditional, config.c_dim) == ("class", 2) and not shown
    shutil.copytree(next(path for path in trained.slices.iterdir() if path.is_dir()), tmp_path / "slices")
    config = notebook.plan(tmp_path / "none", "seed001-stylegan1-classes", tmp_path / "slices", img_resolution=16)
    assert (config.conditional, config.c_dim) == ("none", 0) and len(shown) == 1
    people = sorted({path.name.split("_slice_")[0] for path in trained.slices.rglob("*.png")})
    table = tmp_path / "people.csv"
    table.write_text("subject,Age\n" + "".join(f"{who},{60 + i}\n" for i, who in enumerate(people)))
    config = notebook.plan(tmp_path / "run", "smoke", trained.slices, total_kimg=0.02)
    notebook.train_or_load(config, trained.slices, tmp_path / "run", {"subjects_csv": table})
    for data in (None, trained.slices):
        assert set(notebook.open_run(tmp_path / "run", "smoke", data).slices.columns) >= {"Age"}


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """MyDrive, mounted when it is asked for; the list says how often."""
    root, mounted = tmp_path / "content/drive", []

    def mount(where):
        mounted.append(where)
        (root / "MyDrive").mkdir(parents=True, exist_ok=True)

    colab = types.SimpleNamespace(drive=types.SimpleNamespace(mount=mount))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(notebook, "MOUNT", root)
    monkeypatch.setenv("STYLEGAN_DRIVE", "brains")
    return types.SimpleNamespace(my=root / "MyDrive", mounted=mounted)


def test_a_lost_session_is_taken_up_on_another_machine_by_the_same_cells(drive, trained, monkeypatch, tmp_path, capsys):
    assert notebook.home() == drive.my / "brains" and len(drive.mounted) == 1
    shutil.make_archive(drive.my / "brains/slices", "zip", trained.slices)
    folder = notebook.run_folder(None, "smoke", None)
    for machine, kimg in (("machine 1", 0.04), ("machine 2", 0.064), ("machine 3", 0.064)):
        monkeypatch.setenv("STYLEGAN_DATA", str(tmp_path / machine))
        config = notebook.plan(folder, "smoke", None, total_kimg=kimg, tick_kimg=0.016, device="cpu")
        history = notebook.train_or_load(config, None, folder)
    out = capsys.readouterr().out
    assert folder == drive.my / "brains/runs/smoke-slices" and "Resuming" in out and "nothing to train" in out
    assert history[-1]["cur_nimg"] == 64 and len(drive.mounted) == 1
    assert notebook.open_run(None, "smoke").folder == folder  # notebooks 03 to 07 find it by the same parameter


def test_slices_at_home(drive, capsys, monkeypatch, tmp_path):
    assert notebook.home_slices() is None and notebook.run_folder(None, "quick") == drive.my / "brains/runs/quick"
    assert "There are no slices in" in capsys.readouterr().out
    (drive.my / "brains/slices").mkdir()
    assert notebook.run_folder(None, "quick") == drive.my / "brains/runs/quick-slices"  # and not the run on simulated ones
    assert notebook.home_slices() == drive.my / "brains/slices" and notebook.home_slices("elsewhere") == Path("elsewhere")
    (drive.my / "brains/more.zip").touch()
    with pytest.raises(ValueError, match=r"holds slices, more\.zip; keep one of them there"):
        notebook.home_slices()
    monkeypatch.delitem(sys.modules, "google.colab")  # elsewhere it is any folder, or none
    monkeypatch.setenv("STYLEGAN_DRIVE", str(tmp_path))
    assert notebook.run_folder(None, "quick") == tmp_path / "runs/quick"
    monkeypatch.delenv("STYLEGAN_DRIVE")
    assert notebook.home() is None and notebook.home_slices() is None


def test_the_shipped_generator_is_shown_with_its_own_card_and_what_was_written_beforehand_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "stylegan"\n')
    (tmp_path / "models").mkdir()
    path = save_untrained(tmp_path / f"models/{notebook.SHIPPED}.safetensors", make_config("smoke"))
    card = {"kimg": 5000, "hours": 3.25, "train_subjects": 114, "data": "OASIS-1", "scores": {"feature_space": "x"}}
    for model_hash in ("of another", load_generator(path)[1]["model_hash"]):
        with pytest.raises(ValueError, match="download both files again"):
            notebook.reference()
        path.with_name("metrics.json").write_text(json.dumps({notebook.SHIPPED: card | {"model_hash": model_hash}}))
    found = notebook.reference()
    assert model_hash in found.about and "5,000 kimg of 114 subjects in 3.2 hours" in found.about
    path.unlink()
    shown = []
    monkeypatch.setattr(notebook, "tell", shown.append)
    assert notebook.reference() is None and notebook.SHIPPED in shown[0]
    monkeypatch.chdir(Path(__file__).parents[1])
    for numbers, folder in map(notebook.written, ("embedding", "groundtruth")):
        assert numbers["model_hash"] == notebook.reference().info["model_hash"] and list(folder.glob("*.png"))
    monkeypatch.chdir(tmp_path)
    assert notebook.written("embedding") is None
