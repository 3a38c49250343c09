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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="forks, and looks at processes in /proc")
@pytest.mark.parametrize(("kimg", "kills", "stops"), [(0.064, 3, 1), pytest.param(0.8, 50, 3, marks=pytest.mark.long)])
def test_killed_and_stopped_at_so_many_moments(kimg, kills, stops, tmp_path):
    """In one process: most of the time is its start."""
    conftest._write_slices(tmp_path / "slices")  # of 24 simulated people
    command = [sys.executable, HERE / "killing.py", tmp_path / "slices", tmp_path, f"kill={kills}", f"stop={stops}"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "KIMG": str(kimg)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # the figures, shown by pytest -rP
    killed, stopped = map(json.loads, done.stdout.splitlines())
    assert killed["killed"] == kills == sum(killed["kinds"].values()) and killed["wrong"] == stopped["wrong"] == []
    assert killed["read"] > kills / 2  # files were there to be read after most of the kills, and all of them were whole
    if kills == 50:
        assert len(killed["kinds"]) == 4  # at any time, before a file operation, within a checkpoint, within a line
    assert 1 <= stopped["asked"] <= stops and stopped["saved"] >= stopped["asked"] - 1  # it may have been finished already
