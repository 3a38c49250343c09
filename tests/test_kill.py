"""A run that is killed or stopped anywhere ends as one that never was, to the last bit.

The test runs this file as a script, which trains in forks of itself: with everything loaded they start in a tenth of a second.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import torchvision.utils  # noqa: F401  what a run loads when it draws
from conftest import write_slices
from test_runs import config, differences, scorer

from stylegan import checkpoint
from stylegan import run as runs
from stylegan.checkpoint import checkpoints, load_tensors
from stylegan.dataset import load_slices

CONFIG = config(total_kimg=float(os.environ.get("KIMG", 0.16)), kid_ticks=2, kid_samples=32, checkpoint_minutes=0.002)
MOMENTS = ("any time", "any time", "any time", "file operation", "half checkpoint", "half line")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="forks, and looks at processes in /proc")
@pytest.mark.parametrize(("kimg", "kills", "stops"), [(0.064, 3, 1), pytest.param(0.8, 50, 3, marks=pytest.mark.long)])
def test_killed_and_stopped_at_so_many_moments(kimg, kills, stops, tmp_path):
    write_slices(tmp_path / "slices")  # of 24 simulated people
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "KIMG": str(kimg)}
    command = [sys.executable, __file__, str(kills), str(stops)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # the figures, shown by pytest -rP
    killed, stopped = json.loads(done.stdout)
    assert killed["killed"] == kills == sum(killed["kinds"].values()) and killed["wrong"] == stopped["wrong"] == []
    assert killed["read"] > kills / 2  # files were there to be read after most of the kills, and all of them were whole
    if kills == 50:
        assert len(killed["kinds"]) == 4  # at any time, before a file operation, within a checkpoint, within a line
    assert 1 <= stopped["asked"] <= stops and stopped["saved"] >= stopped["asked"] - 1  # it may have been finished already


def train(run: Path) -> None:
    runs.train_run(CONFIG, "slices", run, scorer=scorer())


def fork(work: Callable[..., object], *arguments: object) -> int:
    """A child that does the work, and ends with 0, with 130 when asked to stop, or with 3 and a trace on stderr."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 3
    try:
        with redirect_stdout(io.StringIO()):
            work(*arguments)
        status = 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(pid: int, *allowed: int) -> int:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, *allowed), status
    return status


class HalfFile(io.FileIO):
    """A file whose first write stops in the middle, and the process with it."""

    def write(self, content) -> int:
        super().write(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(kind: str, count: int, run: Path) -> None:
    """Train, and die before the count-th file operation in the run folder, or within the count-th checkpoint or line."""
    moments = iter(range(1, 10**6))

    def watch(event: str, arguments: tuple) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(run) in str(arguments[0]) and next(moments) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def append(path: Path, line: str, whole=runs.append_line) -> None:
        if next(moments) == count:
            HalfFile(path, "a").write(line.encode())
        whole(path, line)

    if kind == "file operation":
        sys.addaudithook(watch)
    elif kind == "half checkpoint":
        checkpoint.open = lambda path, mode: HalfFile(path, "w") if next(moments) == count else open(path, mode)
    elif kind == "half line":
        runs.append_line = append
    train(run)


def kill_once(run: Path, draw: random.Random) -> tuple[str, int]:
    """Start or go on, and be killed at one moment; which kind of moment, and how the child ended."""
    kind = draw.choice(MOMENTS)
    pid = fork(train_and_die, kind, draw.randint(1, 40 if kind == "file operation" else 4), run)
    if kind == "any time":
        time.sleep(draw.uniform(0.05, 0.8))
        os.kill(pid, signal.SIGKILL)
    return kind, ended(pid, -signal.SIGKILL)


def check_readable(run: Path) -> int:
    """Nothing that a reader would open is half: every file under its own name is whole. How many were read."""
    files = [*checkpoints(run), *run.glob("*.safetensors")]
    for path in files:
        load_tensors(path)
    whole = [line for path in run.glob("metrics.jsonl") for line in path.read_text().splitlines(keepends=True)[:-1]]
    for text in (*whole, *(path.read_text() for path in run.glob("config.json"))):
        json.loads(text)
    return len(files)


def finish(run: Path) -> list[str]:
    """Train to the end, and compare with a run that goes through."""
    for folder in (run, Path("whole")):
        ended(fork(train, folder))
    return differences(run, Path("whole"))


def kill(number: int) -> dict:
    """Kill so many times, finish, compare; begin another run where one is finished before."""
    draw, kinds, wrong, read, finished = random.Random(number), Counter(), [], 0, 0
    while kinds.total() < number:
        run = Path(f"killed/{finished}")
        kind, status = kill_once(run, draw)
        read += check_readable(run)
        if status:
            kinds[kind] += 1
        else:
            wrong, finished = wrong + finish(run), finished + 1
    return {"killed": kinds.total(), "kinds": kinds, "read": read, "wrong": wrong + finish(run)}


def stop(number: int) -> dict:
    """Ask to stop with SIGTERM at random moments: it must save, and end by itself; nothing is trained twice."""
    run, draw, asked, saved, status, reached = Path("stopped"), random.Random(number), 0, 0, 130, 0
    while status == 130 and asked < number:
        pid = fork(train, run)
        deadline = time.monotonic() + 60
        while not listens(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        os.kill(pid, signal.SIGTERM)
        status, asked, before = ended(pid, 130), asked + 1, reached
        reached = load_tensors(checkpoints(run)[-1])[1]["cur_nimg"]
        saved += reached > before
    return {"asked": asked, "saved": saved, "wrong": finish(run)}


def listens(pid: int) -> bool:
    """Whether the process has a handler of SIGTERM, by what Linux says of it."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a child of a process with more threads would wait for those it does not have
    load_slices("slices", CONFIG.img_resolution)
    print(json.dumps([kill(int(sys.argv[1])), stop(int(sys.argv[2]))]))
