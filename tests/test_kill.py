"""A run that is killed or stopped anywhere ends as one that never was, to the last bit. `killing.py` does the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="forks, and looks at processes in /proc")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """work(kimg, task=number, ...): what `killing.py` found out in each task, in runs of so many kimg on 24 simulated people."""
    slices = tmp_path_factory.mktemp("kill") / "slices"
    conftest._write_slices(slices)

    def run(kimg: float, **tasks: int) -> dict[str, dict]:
        environment = os.environ | {"PYTHONPATH": str(HERE.parent), "KIMG": str(kimg)}
        place, asked = tmp_path_factory.mktemp("work"), [f"{name}={number}" for name, number in tasks.items()]
        command = [sys.executable, HERE / "killing.py", slices, place, *asked]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        print(done.stdout)  # the figures, shown by pytest -rP
        return dict(zip(tasks, map(json.loads, done.stdout.splitlines()), strict=True))

    return run


def check_kills(found: dict, number: int) -> None:
    assert found["killed"] == number == sum(found["kinds"].values()) and found["wrong"] == []
    assert found["read"] > number / 2  # files were there to be read after most of the kills, and all of them were whole


def check_stops(found: dict, number: int) -> None:
    assert found["wrong"] == [] and 1 <= found["asked"] <= number
    assert found["saved"] >= found["asked"] - 1  # it may have been finished already


def test_killed_and_stopped_a_few_times(work):
    """In one process: most of the time is its start."""
    found = work(0.064, kill=3, stop=1)
    check_kills(found["kill"], 3)
    check_stops(found["stop"], 1)


@pytest.mark.long
def test_killed_at_fifty_moments_and_stopped_at_three(work):
    found = work(0.8, kill=50, stop=3)
    check_kills(found["kill"], 50)
    assert set(found["kill"]["kinds"]) == {"any time", "file operation", "half checkpoint", "half line"}
    check_stops(found["stop"], 3)
