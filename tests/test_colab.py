"""A session on Colab with everything on a Drive, lost in the middle and taken up on another machine."""

from __future__ import annotations

import errno
import sys
import time
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import conftest
import pytest
import torch

from stylegan import lock, notebook, recorder
from stylegan import run as runs
from stylegan.checkpoint import checkpoints, load_tensors
from stylegan.config import make_config

CHANGES = {"total_kimg": 0.064, "tick_kimg": 0.016, "checkpoint_minutes": 0.0, "device": "cpu"}


class SessionLostError(BaseException):
    """The machine is gone: nothing below may catch this."""


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """MyDrive, mounted when it is asked for, without kernel locks; the list says how often it was mounted."""
    root = tmp_path / "content/drive"
    mounted = []

    def mount(where):
        mounted.append(where)
        (root / "MyDrive").mkdir(parents=True, exist_ok=True)

    def no_locks(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    colab = types.ModuleType("google.colab")
    colab.drive = types.SimpleNamespace(mount=mount)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(notebook, "MOUNT", root)
    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    monkeypatch.setattr(lock, "SETTLE", 0)
    return types.SimpleNamespace(my=root / "MyDrive", mounted=mounted)


def zip_of_slices(path: Path, place: Path) -> None:
    conftest._write_slices(place / "slices")
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((place / "slices").rglob("*.png")):
            archive.write(file, file.relative_to(place / "slices"))


def session(monkeypatch, machine: Path, preset: str = "smoke") -> tuple[Path, list[dict]]:
    """The cells of notebook 02 on a machine with an empty disk; the run folder and its history."""
    monkeypatch.setenv("STYLEGAN_DATA", str(machine))
    folder = notebook.run_folder(None, preset, None)
    config = notebook.plan(folder, preset, **CHANGES)
    return folder, notebook.train_or_load(config, notebook.run_data(folder, None), folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(checkpoints(folder)[-1])[0]


def test_a_lost_session_is_taken_up_on_another_machine_by_the_same_cells(drive, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("STYLEGAN_DRIVE", "brains")
    assert notebook.home() == drive.my / "brains" and len(drive.mounted) == 1
    zip_of_slices(drive.my / "brains/slices.zip", tmp_path)

    def lose(self, state, step=recorder.Recorder.on_step):
        step(self, state)
        if state.cur_nimg == 40:
            raise SessionLostError
        return False

    with monkeypatch.context() as patch, pytest.raises(SessionLostError):
        patch.setattr(recorder.Recorder, "on_step", lose)
        session(patch, tmp_path / "machine 1")
    folder = drive.my / "brains/runs/smoke"
    lock._write(folder, replace(lock._myself(), host="machine 1", machine="gone", beat=time.time() - 2 * lock.SILENT))

    again, history = session(monkeypatch, tmp_path / "machine 2")
    out = capsys.readouterr().out
    assert again == folder and "Resuming" in out and "0.04 kimg" in out
    assert [line["cur_nimg"] for line in history] == [16, 32, 48, 64] and len(drive.mounted) == 1
    assert notebook.open_run(None, "smoke").folder == folder  # notebooks 03 to 05 find it by the same parameter
    assert session(monkeypatch, tmp_path / "machine 3")[1] == history  # a finished run is only shown

    monkeypatch.setenv("STYLEGAN_DRIVE", "")
    runs.train_run(make_config("smoke", **CHANGES), tmp_path / "slices", tmp_path / "whole")
    whole, resumed = weights(tmp_path / "whole"), weights(folder)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_slices_at_home(drive, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("STYLEGAN_DRIVE", "brains")
    assert notebook.home_slices() is None and "There are no slices in" in capsys.readouterr().out
    (drive.my / "brains/slices").mkdir()
    assert notebook.home_slices() == drive.my / "brains/slices"
    assert notebook.home_slices("elsewhere") == Path("elsewhere")
    (drive.my / "brains/more.zip").touch()
    with pytest.raises(ValueError, match=r"holds slices, more\.zip; keep one of them there"):
        notebook.home_slices()


def test_elsewhere_the_home_is_any_folder_or_none(monkeypatch, tmp_path):
    monkeypatch.setenv("STYLEGAN_DRIVE", str(tmp_path))
    assert notebook.home() == tmp_path and notebook.run_folder(None, "quick") == tmp_path / "runs/quick"
    monkeypatch.delenv("STYLEGAN_DRIVE")
    assert notebook.home() is None and notebook.home_slices() is None


def test_the_preset_for_colab_is_an_hour_at_128_px():
    config = make_config("colab")
    assert (config.img_resolution, config.batch_size, config.max_minutes, config.precision) == (128, 32, 60, "auto")
    assert config.r1_gamma == pytest.approx(0.0002 * 128**2 / 32, abs=0.01)  # ADA's rule
