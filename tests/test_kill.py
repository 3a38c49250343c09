"""A run that is killed, stopped or out of room anywhere ends as one that never was, to the last bit. `killing.py` does the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

from stylegan.run import MOST_SAMPLES

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forks of a process that has everything loaded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders of 24 simulated people at 16 px."""
    place = tmp_path_factory.mktemp("kill") / "slices"
    conftest._write_slices(place)
    return place


def work(slices: Path, place: Path, kimg: float, **tasks: int) -> dict[str, dict]:
    """What `killing.py` found out in each task, in runs of so many kimg."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "KIMG": str(kimg)}
    command = [sys.executable, HERE / "killing.py", slices, place, *(f"{name}={number}" for name, number in tasks.items())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # the figures, shown by pytest -rP
    return dict(zip(tasks, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    """Every task in short, in one process: most of the time is its start."""
    return work(folder, tmp_path_factory.mktemp("short"), 0.08, kill=3, stop=2, full=3, read_only=1)


def check_kills(found: dict, number: int) -> None:
    assert found["killed"] == number == sum(found["kinds"].values()) and found["finished"] >= 1
    assert found["read"] > number / 2  # files were there to be read after most of the kills, and all of them were whole
    assert found["wrong"] == []


def test_killed_at_three_moments(found):
    check_kills(found["kill"], 3)


@pytest.mark.long
def test_killed_at_fifty_moments(folder, tmp_path):
    found = work(folder, tmp_path, 0.8, kill=50)["kill"]
    check_kills(found, 50)
    assert set(found["kinds"]) == {"any time", "file operation", "half checkpoint", "half line"}


def check_stops(found: dict, number: int) -> None:
    assert found["final"] == 0 and found["wrong"] == []
    assert 1 <= found["asked"] <= number and found["saved"] >= found["asked"] - 1  # it may have been finished already


def test_asked_to_stop_it_saves_and_ends_by_itself(found):
    check_stops(found["stop"], 2)


@pytest.mark.long
def test_asked_to_stop_three_times(folder, tmp_path):
    check_stops(work(folder, tmp_path, 0.8, stop=3)["stop"], 3)


def check_full(found: dict, number: int) -> None:
    """Each full disk is one sentence with a name and advice; with more room the run ends as if nothing had been."""
    if not found["mounted"]:
        pytest.skip("nothing may be mounted here")
    assert len(found["told"]) == number and found["wrong"] == []
    for text in found["told"]:
        assert text.startswith("Cannot write ") and ("No space left" in text or "too large" in text) and "\n" not in text
        assert "free some space" in text or "make room" in text


def test_a_full_disk(found):
    check_full(found["full"], 3)


def test_a_folder_that_may_only_be_read(found):
    found = found["read_only"]
    if not found["mounted"]:
        pytest.skip("nothing may be mounted here")
    assert len(found["told"]) == 2 and all("Cannot write to the run folder" in text for text in found["told"])
    assert found["opened"] > 0 and found["lines"] == 5  # pictures and history can be had all the same


@pytest.mark.long
def test_two_thousand_ticks_in_flat_memory(folder, tmp_path):
    number = 2000
    found = work(folder, tmp_path, 0.16, ticks=number)["ticks"]
    assert found["lines"] == number and MOST_SAMPLES / 2 <= found["samples"] <= MOST_SAMPLES and found["checkpoints"] == 2
    assert found["bytes_per_tick"] < 1000 and len(found["handles"]) <= 2
    assert abs(found["slope_mb_per_1000_ticks"]) < 2 + found["noise_mb"], found
