"""Slices far away: what stands in for a mounted Drive counts every opening, and tells no two spellings of a name apart."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import layouts_fixtures as fixtures
import numpy as np
import pytest

from stylegan.data import nearby
from stylegan.dataset import load_slices, render_report, report_data

PEOPLE = {"control": 4, "patient": 3}
OPENED: list[str] = []
_watching: list[str] = []


def _watch(event: str, arguments: tuple) -> None:
    if event == "open" and _watching and str(arguments[0]).startswith(_watching[0]):
        OPENED.append(str(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """A folder that says that it is a mounted Drive and whose openings are counted in OPENED."""
    folder = tmp_path / "content/drive"
    folder.mkdir(parents=True)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"overlay / overlay rw 0 0\nproc /proc proc rw 0 0\ndrive {folder} fuse.drive rw,nosuid 0 0\n")
    monkeypatch.setattr(nearby, "MOUNTS", mounts)
    OPENED.clear()
    _watching[:] = [str(folder)]
    yield folder
    _watching.clear()


def opened(*suffixes: str) -> list[str]:
    return sorted(Path(name).name for name in OPENED if name.endswith(suffixes))


@pytest.mark.parametrize(("kind", "far"), [
    ("fuse.drive", True), ("nfs4", True), ("9p", True), ("cifs", True), ("fuse.sshfs", True),
    ("ext4", False), ("overlay", False), ("tmpfs", False), ("fuseblk", False), ("fuse.fuse-overlayfs", False),
])  # fmt: skip
def test_far_is_what_linux_says_of_the_innermost_mount(tmp_path, monkeypatch, kind, far):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw 0 0\nb {tmp_path}/my\\040drive {kind} rw 0 0\nc {tmp_path}/my\\040drive/near ext4 rw 0 0\n")
    monkeypatch.setattr(nearby, "MOUNTS", mounts)
    assert nearby.is_far(tmp_path / "my drive/slices") == nearby.is_far(tmp_path / "my drive") == far
    assert not nearby.is_far(tmp_path / "my drive/near/x") and not nearby.is_far(tmp_path / "my driver")
    monkeypatch.setattr(nearby, "MOUNTS", tmp_path / "not linux")
    assert not nearby.is_far(tmp_path / "my drive")


def test_a_folder_far_away_is_read_once_and_gives_the_same_slices(drive, tmp_path):
    truth = fixtures.class_folders(tmp_path / "near/slices", PEOPLE)
    near = load_slices(tmp_path / "near/slices", 16)
    shutil.copytree(tmp_path / "near", drive / "MyDrive")
    OPENED.clear()
    far = load_slices(drive / "MyDrive/slices", 16)
    assert opened(".png") == sorted(Path(name).name for name in truth)  # each file once
    assert far.key == near.key and far.title == near.title and list(far.paths) == list(near.paths)
    assert np.array_equal(far.images, near.images) and far.columns.keys() == near.columns.keys()
    OPENED.clear()
    again = load_slices(drive / "MyDrive/slices", 16)
    assert again.key == near.key and opened(".png") == []
    load_slices(drive / "MyDrive/slices", 32)
    assert opened(".png") == []  # another resolution is packed from the copy


def test_only_what_changed_is_read_again(drive):
    slices = drive / "slices"
    fixtures.class_folders(slices, PEOPLE)
    first = load_slices(slices, 16)
    changed, gone = slices / first.paths[0], slices / first.paths[1]
    fixtures.save(changed, fixtures.head("another", 7))
    os.utime(changed, ns=(1, 1))
    gone.unlink()
    fixtures.save(slices / "patient/OAS1_0777_MR1_slice_01.png", fixtures.head("new", 1))
    OPENED.clear()
    second = load_slices(slices, 16)
    assert opened(".png") == sorted(["OAS1_0777_MR1_slice_01.png", changed.name])
    assert len(second) == len(first) and set(first.paths) - set(second.paths) == {first.paths[1]}


def test_a_copy_that_was_cut_short_is_completed(drive, monkeypatch):
    slices = drive / "slices"
    truth = fixtures.class_folders(slices, PEOPLE)
    copied, whole = [], shutil.copyfile

    def lost(source, target):
        copied.append(source)
        if len(copied) == 5:
            raise KeyboardInterrupt
        return whole(source, target)

    monkeypatch.setattr(nearby, "AT_ONCE", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(nearby.shutil, "copyfile", lost)
        load_slices(slices, 16)
    OPENED.clear()
    assert len(load_slices(slices, 16)) == len(truth) and 0 < len(opened(".png")) <= len(truth) - 4


def test_what_is_left_out_is_counted_as_if_it_were_near(drive, tmp_path):
    fixtures.class_folders(tmp_path / "near/slices", PEOPLE)
    expected = fixtures.add_bad_files(tmp_path / "near/slices/patient")
    (tmp_path / "near/slices/none").mkdir()
    shutil.copytree(tmp_path / "near/slices", drive / "slices")
    for root in (tmp_path / "near/slices", drive / "slices"):
        (root / "patient/OAS1_0900_MR1_slice_1.png").symlink_to("nowhere")
        (root / "film.mp4").write_bytes(b"x" * 1000)
    OPENED.clear()
    near, far = (report_data(root, 16) for root in (tmp_path / "near/slices", drive / "slices"))
    assert near == far and near["left_out"]["unreadable"] == expected["unreadable"] + 1 and "empty folder" in near["left_out"]
    assert render_report(near) == render_report(far)
    assert opened(".mp4", ".txt") == []  # nothing that no slice can be in is fetched


def test_an_archive_far_away_is_read_once_from_front_to_back(drive, tmp_path):
    truth = fixtures.class_folders(tmp_path / "slices", PEOPLE)
    with zipfile.ZipFile(drive / "slices.zip", "w") as archive:
        for name in truth:
            archive.write(tmp_path / "slices" / name, name)
    OPENED.clear()
    data = load_slices(drive / "slices.zip", 16)
    assert len(data) == len(truth) and opened(".zip") == ["slices.zip"]
    OPENED.clear()
    assert load_slices(drive / "slices.zip", 16).key == data.key and opened(".zip") == []


def test_no_room_on_the_disk_is_said_before_anything_is_copied(drive, monkeypatch):
    fixtures.class_folders(drive / "slices", PEOPLE)
    OPENED.clear()
    monkeypatch.setattr(nearby.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(ValueError, match=r"take 0\.0 GB, and .* has room for 0\.0; make room, or set STYLEGAN_DATA"):
        load_slices(drive / "slices", 16)
    assert opened(".png") == []


def test_no_folder_far_away(drive):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_slices(drive / "slices", 16)
