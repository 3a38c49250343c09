"""The cache folder and its limits; one writer per run folder, on file systems with locks and without, on one machine and on two."""

import errno
import os
import time
from pathlib import Path

import pytest

from stylegan import files


@pytest.fixture(params=[True, False], ids=["locks", "no locks"])
def locks(request, monkeypatch):
    """With kernel locks, and on a file system that answers as a mounted Drive does."""

    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if not request.param:
        monkeypatch.setattr(files.fcntl, "flock", refuse)


def left_behind(folder, host, silent):
    """The record of a writer that was heard of so many seconds ago."""
    files.write_json(folder / ".writer.json", {"pid": 1, "host": host, "token": "theirs"})
    os.utime(folder / ".writer.json", (time.time() - silent,) * 2)


def refused(folder, says):
    with pytest.raises(ValueError, match=says), files.hold_run_dir(folder):
        pass


def test_a_folder_has_one_writer_and_another_machine_counts_for_ten_minutes(locks, tmp_path):
    with files.hold_run_dir(tmp_path):
        refused(tmp_path, rf"Process {os.getpid()} on .* training in .*take another --run-dir")
        assert (tmp_path / ".writer.json").exists()  # who was refused took nothing away
    assert not (tmp_path / ".writer.json").exists()
    left_behind(tmp_path, "elsewhere", 60)
    refused(tmp_path, r"Process 1 on elsewhere was training in .* 60 s ago")
    left_behind(tmp_path, "elsewhere", 660)
    with files.hold_run_dir(tmp_path):
        pass


def test_signs_of_life_renew_the_record_and_find_out_who_took_over(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    with files.hold_run_dir(tmp_path) as holder:
        os.utime(holder.record, (0, 0))
        holder.sign_of_life()
        assert holder.record.stat().st_mtime == 0  # not at every step
        now[0] += files.BEAT
        holder.sign_of_life()
        assert holder.record.stat().st_mtime > 0
        left_behind(tmp_path, "elsewhere", 0)
        now[0] += files.BEAT
        with pytest.raises(ValueError, match="taken over by Process 1 on elsewhere"):
            holder.sign_of_life()
    assert files.read_json(tmp_path / ".writer.json")["token"] == "theirs"


def test_outside_a_checkout_caches_lie_with_the_user_s(tmp_path, monkeypatch):
    for name in ("STYLEGAN_DATA", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(files.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "somewhere").mkdir()
    monkeypatch.chdir(tmp_path / "somewhere")
    assert files.cache_folder() == tmp_path / "caches/stylegan" and not list(Path.cwd().iterdir())
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "stylegan"\n')
    assert files.cache_folder() == tmp_path / "data/cache" and files.checkout() == tmp_path
    assert files.cache_folder(tmp_path / "given") == tmp_path / "given/cache"


def test_the_features_unused_for_longest_go_and_a_terminal_is_shown_nothing_it_might_obey(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FEATURES_AT_MOST", 25)
    for age, name in enumerate(("features-a", "features-b", "features-c", "slices")):
        (tmp_path / f"{name}.npy").write_bytes(bytes(10))
        os.utime(tmp_path / f"{name}.npy", (time.time() - age * 100,) * 2)
    (tmp_path / ".half.tmp").touch()
    os.utime(tmp_path / ".half.tmp", (0, 0))
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features-a.npy", "features-b.npy", "slices.npy"]
    assert files.printable("brain\x1b[2J\n\udcff") == "brain\\x1b[2J\\n\\udcff"
