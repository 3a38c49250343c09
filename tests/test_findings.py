"""What the notebooks say of their numbers."""

import numpy as np
import pytest
import torch
from stylegan.directions import Direction

from stylegan import diagram, notebook
from stylegan.config import make_config
from stylegan.networks import build_networks
from stylegan.run import train_run
from stylegan.scores import findings


def test_neighbouring_levels_are_more_alike_than_distant_ones(simulated):
    found = findings.similarity(simulated, steps=(1, 3))
    assert set(found) == {"same person, 1 level apart", "same person, 3 levels apart", "other person, same level"}
    assert 1 >= found["same person, 1 level apart"] > found["same person, 3 levels apart"] > 0


def test_the_correlation_is_that_of_the_right_pairs(simulated):
    same = simulated.select(np.flatnonzero(simulated.subjects == simulated.subjects[0]))
    a, b = same.images[same.levels.argsort()][-2:]
    pair = same.select(same.levels.argsort()[-2:])
    step = int(np.diff(pair.levels)[0])
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert next(iter(findings.similarity(pair, steps=(step,)).values())) == pytest.approx(expected)


def test_a_split_by_slices_leaks_people_with_many_slices_and_none_with_one():
    assert findings.leaks_of_random_split(np.repeat(np.arange(20), 30)) == 20
    assert findings.leaks_of_random_split(np.arange(20)) == 0


def test_nearest_finds_the_copy():
    others = np.random.default_rng(0).normal(size=(50, 8))
    distance, index = findings.nearest(others[[7, 3]], others)
    assert index.tolist() == [7, 3] and distance == pytest.approx([0, 0], abs=1e-6)


def test_the_diagram_names_the_shapes_of_the_real_layers():
    figure = diagram.architecture(*build_networks(make_config("smoke")))
    assert "4 × 4 × 16, 8 × 8 × 16, 16 × 16 × 8" in figure.alt_text and "from 16 × 16 × 8 down" in figure.alt_text
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"2 layers", "16 × 16 × 1", "a real slice", "std-dev, 3 layers: logit"} <= set(texts)


# --- The run behind the notebooks -----------------------------------------------------------------------------------------


def test_without_a_run_it_says_what_to_do_first(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run notebook 02_train first, or python -m stylegan train --preset smoke"):
        notebook.open_run(tmp_path / "nothing", "smoke")


def test_default_folders_of_runs_name_preset_and_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert notebook.run_folder() == tmp_path / "runs" / "quick"
    assert notebook.run_folder(None, "smoke", "some/where/slices.zip") == tmp_path / "runs" / "smoke-slices"
    assert str(notebook.run_folder("here")) == "here"


def test_a_run_is_trained_resumed_and_then_left_alone(slices, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stylegan.run.load_slices", lambda *_, **__: slices)
    monkeypatch.setattr(notebook, "load_slices", lambda *_, **__: slices)
    short = notebook.plan(tmp_path, "smoke", total_kimg=0.1, max_minutes=None)
    assert short.total_kimg == 0.1 and short.max_minutes == 0
    assert notebook.train_or_load(short, None, tmp_path)[-1]["kimg"] >= 0.1
    longer = notebook.plan(tmp_path, "quick", total_kimg=0.2)
    assert longer.preset == "smoke"  # what lies there decides
    history = notebook.train_or_load(longer, None, tmp_path)
    assert "Resuming" in capsys.readouterr().out
    monkeypatch.setattr(notebook, "train_run", lambda *_: pytest.fail("trained again"))
    assert notebook.train_or_load(longer, None, tmp_path) == history and "finished" in capsys.readouterr().out
    kimg, sheets = notebook.time_lapse(tmp_path, 16, count=3)
    assert kimg[0] == 0 and kimg[-1] >= 0.2 and sheets.shape == (3, 24, 16, 16)
    run = notebook.open_run(tmp_path)
    assert run.config.img_resolution == 16 and run.history == history


def test_directions_are_counted_and_compared():
    def direction(method, step, **effects):
        return Direction(method, 1, torch.tensor(step), 0.1, effects, dict.fromkeys(effects, 1.0))

    a = direction("PCA", [2.0, 0.0], level=2.0, size=0.1)
    told = findings.directions_verdict([a, direction("SeFa", [-1.0, 0.1], level=0.2, size=-0.3)])
    assert told.startswith("**1 of 2** directions move something") and "PCA 1 (**level up**)" in told
    assert "cosine of 1.00: the same direction found twice" in told
    assert "unlike each other" in findings.directions_verdict([a, direction("SeFa", [0.1, 1.0], level=0.2)])
    assert (
        findings.directions_verdict([direction("PCA", [1.0])]) == "**0 of 1** directions move something that these gauges see."
    )


@pytest.mark.parametrize(
    ("left", "again", "words"),
    [
        (20, 3, "nearer than anybody it was trained on"),
        (33, 3, "nearer than the mean slice and further than another person"),
        (45, 3, "no nearer than the mean slice"),
        (20, 3, "found again to 3, so the search is not to blame"),
        (20, 15, "so much of that is the search's fault"),
    ],
)
def test_a_projection_is_judged_by_its_yardsticks(left, again, words):
    names = ("projection", "generated slice, found again", "nearest training slice", "mean training slice", "nearest of 512")
    residuals = {name: np.array([value, value]) for name, value in zip(names, (left, again, 30, 40, 50), strict=True)}
    told = findings.reach_verdict(residuals)
    assert words in told and f"**{left} grey levels**" in told


def test_the_slices_of_the_run_are_found_again_from_another_folder(slices, tmp_path, monkeypatch):
    monkeypatch.setattr("stylegan.run.load_slices", lambda *_, **__: slices)
    train_run(make_config("smoke", total_kimg=0.05), "some/slices", tmp_path / "run")
    (tmp_path / "some" / "slices").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "stylegan"\n')
    monkeypatch.chdir(tmp_path / "notebooks")
    assert notebook.run_data(tmp_path / "run").is_dir()
    assert str(notebook.run_data(tmp_path / "run", "other")) == "other"


def test_a_duration_is_told_in_the_unit_that_fits_it():
    assert findings.duration(1.4) == "1.4 hours" and findings.duration(0.0517) == "3.1 minutes"
