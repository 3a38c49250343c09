"""Trains in children of a process that has everything loaded, and kills them: the work horse of test_kill.py.

`python tests/killing.py SLICES PLACE TASK=NUMBER...` prints a line of JSON for each task. A child is a fork, so that a start costs a tenth of a second.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from stylegan import checkpoint
from stylegan import run as runs
from stylegan.checkpoint import checkpoints, load_tensors
from stylegan.config import make_config
from stylegan.dataset import load_slices
from stylegan.predict import generate, to_uint8

CONFIG = make_config(
    "smoke", total_kimg=float(os.environ.get("KIMG", 0.16)), tick_kimg=0.016, kid_ticks=2, kid_samples=32, checkpoint_minutes=0.002,
    pl_weight=1.0, d_reg_interval=2, g_reg_interval=2, ada_kimg=1.0, device="cpu",
)  # fmt: skip
TRACE = Path("trace")
TIMES = ("seconds", "sec_per_kimg", "peak_memory_mb")  # what may differ between two runs


def cheap_scorer(val_slices, config, device):
    """Distances of mean pictures, in place of what a network sees."""
    real = np.asarray(val_slices.images, dtype=float).mean(axis=0)

    def score(G_ema, full):
        fakes = to_uint8(generate(G_ema, range(16))).astype(float)
        found = {"kid": np.abs(fakes.mean(axis=0) - real).mean(), "precision": 0.5, "recall": 0.5, "coverage": 0.5}
        return {"spread": fakes.std(axis=0).mean(), **(found if full else {})}

    return score


def train(slices: Path, run: Path) -> None:
    runs.train_run(CONFIG, slices, run, scorer=cheap_scorer)


def fork(work: Callable[[], object]) -> int:
    """A child that does the work, and ends with 0, or with 3 and a trace in the file that TRACE names."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 3
    try:
        with redirect_stdout(io.StringIO()):
            work()
        status = 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        TRACE.write_text(traceback.format_exc())
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """Exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- Moments ------------------------------------------------------------------------------------------------------------------


def at_random(pid: int, moment: random.Random, number: int = signal.SIGKILL) -> None:
    time.sleep(moment.uniform(0.05, 0.8))
    os.kill(pid, number)


def before_file_operation(run: Path, count: int) -> None:
    """Die before the count-th time that this process opens, renames or removes something in the run folder."""
    left = [count]

    def watch(event: str, arguments: tuple) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(run) in str(arguments[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


class HalfFile(io.FileIO):
    """A file whose first write stops in the middle, and the process with it."""

    def write(self, content) -> int:
        super().write(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def within_checkpoint(count: int) -> None:
    """Die while the count-th safetensors file is half written."""
    left = [count]

    def opening(path, mode="r", **options):
        left[0] -= 1
        return HalfFile(path, mode.replace("b", "")) if left[0] == 0 else open(path, mode, **options)

    checkpoint.open = opening


def within_line(count: int) -> None:
    """Die while the count-th line of metrics.jsonl is half written."""
    left = [count]

    def append(path: Path, line: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            with open(path, "a") as file:
                file.write(line[: len(line) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        whole(path, line)

    whole = runs.append_line
    runs.append_line = append


def kill_once(slices: Path, run: Path, draw: random.Random) -> tuple[str, int]:
    """Start or go on, and be killed at one moment; which kind of moment, and how the child ended."""
    kind = draw.choice(("any time", "any time", "any time", "file operation", "half checkpoint", "half line"))
    count = draw.randint(1, 40 if kind == "file operation" else 4)
    prepare = {
        "any time": lambda: None,
        "file operation": lambda: before_file_operation(run, count),
        "half checkpoint": lambda: within_checkpoint(count),
        "half line": lambda: within_line(count),
    }[kind]
    pid = fork(lambda: (prepare(), train(slices, run)))
    if kind == "any time":
        at_random(pid, draw)
    return kind, ended(pid)


# --- What must be true --------------------------------------------------------------------------------------------------------


def check_readable(run: Path) -> int:
    """Nothing that a reader would open is half: every file under its own name is whole. How many were read."""
    files = [*checkpoints(run), *run.glob("*.safetensors")]
    for path in files:
        load_tensors(path)
    if (run / "config.json").exists():
        json.loads((run / "config.json").read_text())
    if (run / "metrics.jsonl").exists():
        for line in (run / "metrics.jsonl").read_text().splitlines(keepends=True)[:-1]:
            json.loads(line)
    return len(files)


def outcome(run: Path) -> dict:
    """All of a finished run that must not depend on how often it was stopped."""
    tensors, header = load_tensors(checkpoints(run)[-1])
    files = {name: load_tensors(run / name)[0] for name in ("generator.safetensors", "generator_last.safetensors")}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": {k: v.numpy().tobytes() for k, v in sorted(tensors.items())},
        "header": {k: v for k, v in header.items() if k not in TIMES},
        "generators": {n: {k: v.numpy().tobytes() for k, v in sorted(found.items())} for n, found in files.items()},
        "lines": [{k: v for k, v in line.items() if k not in TIMES} for line in lines],
        "samples": {path.name: path.read_bytes() for path in sorted((run / "samples").iterdir())},
        "left over": sorted(str(path.relative_to(run)) for path in run.rglob(".*.tmp")),
    }


def differences(a: dict, b: dict) -> list[str]:
    return [key for key in a if a[key] != b[key]]


# --- Tasks --------------------------------------------------------------------------------------------------------------------


def unbroken(slices: Path, place: Path) -> dict:
    run = place.parent / "whole"
    if not run.exists():
        assert ended(fork(lambda: train(slices, run))) == 0, TRACE.read_text()
    return outcome(run)


def kill(slices: Path, place: Path, number: int, seed: int) -> dict:
    """Kill so many times, finish, compare; begin another run where one is finished before."""
    whole, draw = unbroken(slices, place), random.Random(seed)
    kinds: dict[str, int] = {}
    killed, finished, wrong, read = 0, 0, [], 0
    while killed < number or finished == 0:
        run = place / f"run{finished}"
        kind, status = kill_once(slices, run, draw) if killed < number else ("", ended(fork(partial(train, slices, run))))
        assert status in (0, -signal.SIGKILL), TRACE.read_text()
        read += check_readable(run)
        killed += status != 0
        if status:
            kinds[kind] = kinds.get(kind, 0) + 1
        else:
            finished += 1
            wrong += differences(whole, outcome(run))
    if not (place / f"run{finished}").exists():
        return {"killed": killed, "kinds": kinds, "finished": finished, "read": read, "wrong": wrong}
    assert ended(fork(lambda: train(slices, place / f"run{finished}"))) == 0
    wrong += differences(whole, outcome(place / f"run{finished}"))
    return {"killed": killed, "kinds": kinds, "finished": finished + 1, "read": read, "wrong": wrong}


def stop(slices: Path, place: Path, number: int, seed: int) -> dict:
    """Ask to stop with SIGTERM at random moments: it must save, and end by itself; nothing is trained twice."""
    whole, draw = unbroken(slices, place), random.Random(seed)
    asked, saved, status, reached = 0, 0, 130, 0
    while status == 130 and asked < number:
        pid = fork(lambda: train(slices, place / "run"))
        deadline = time.monotonic() + 60
        while not handlers_are_set(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        os.kill(pid, signal.SIGTERM)
        status = ended(pid)
        asked += 1
        at = load_tensors(checkpoints(place / "run")[-1])[1]["cur_nimg"]
        saved += at > reached
        reached = at
    final = ended(fork(lambda: train(slices, place / "run")))
    return {"asked": asked, "saved": saved, "final": final, "wrong": differences(whole, outcome(place / "run"))}


def handlers_are_set(pid: int) -> bool:
    """Whether the process listens to SIGTERM, by what Linux says of it."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def full(slices: Path, place: Path, number: int, seed: int) -> dict:
    """Let the disk be full at ever other moments: a tmpfs that is too small, then enlarged; all in a mount space of the child's own."""
    whole = unbroken(slices, place)
    total = sum(path.stat().st_size for path in (place.parent / "whole").rglob("*") if path.is_file())
    sizes = np.geomspace(8192, 0.9 * total, number).astype(int).tolist()  # the small ones stop it before the first step
    told, wrong, mounted = [], [], True
    for i, size in enumerate(sizes):
        report = place / f"told{i}"
        pid = fork(lambda size=size, report=report: fill(slices, place, size, report, whole))
        assert ended(pid) == 0, TRACE.read_text()
        found = json.loads(report.read_text())
        told.append(found["told"])
        wrong += found["wrong"]
        mounted = found["mounted"]
    return {"told": told, "wrong": wrong, "sizes": sizes, "mounted": mounted}


def fill(slices: Path, place: Path, size: int, report: Path, whole: dict) -> None:
    mounted, run, told, wrong = mount_small(place / "disk", size), place / "disk" / "run", None, []
    if mounted:
        try:
            train(slices, run)
        except ValueError as error:
            told = str(error)
        check_readable(run)
        mount_small(place / "disk", 2**28, again=True)
        train(slices, run)
        wrong = differences(whole, outcome(run))
    report.write_text(json.dumps({"told": told, "wrong": wrong, "mounted": mounted}))


def mount_small(folder: Path, size: int, again: bool = False, read_only: bool = False) -> bool:
    """Mount a disk of so many bytes that only this process sees; False where that is not permitted."""
    folder.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    new_space, private, remount, ro = 0x20000, 0x44000, 0x20, 0x1
    if not again:
        if libc.unshare(new_space) or libc.mount(b"none", b"/", None, private, None):
            return False
    flags = (remount if again else 0) | (ro if read_only else 0)
    return libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size}".encode()) == 0


def read_only(slices: Path, place: Path, number: int, seed: int) -> dict:
    """A run folder that may only be read: training says so, and what only reads still works."""
    report = place / "told"
    pid = fork(lambda: only_read(slices, place, report))
    assert ended(pid) == 0, TRACE.read_text()
    return json.loads(report.read_text())


def only_read(slices: Path, place: Path, report: Path) -> None:
    from stylegan import notebook

    mounted = mount_small(place / "disk", 2**28)
    run = place / "disk" / "run"
    train(slices, run)
    if not mounted:
        report.write_text(json.dumps({"mounted": False}))
        return
    mount_small(place / "disk", 2**28, again=True, read_only=True)
    told = []
    for config in (CONFIG, replace(CONFIG, total_kimg=1.0)):
        try:
            runs.train_run(config, slices, run, scorer=cheap_scorer)
        except ValueError as error:
            told.append(str(error))
    opened = notebook.open_run(run)
    history = notebook.train_or_load(opened.config, slices, run)
    report.write_text(json.dumps({"told": told, "mounted": mounted, "opened": opened.info["cur_nimg"], "lines": len(history)}))


def ticks(slices: Path, place: Path, number: int, seed: int) -> dict:
    """So many ticks in one process: memory and open files every hundredth of the way, and what lies in the folder at the end."""
    config = replace(CONFIG, total_kimg=number * 0.008, tick_kimg=0.008, kid_ticks=10)
    seen = []
    write_line = runs.Recorder._write_line

    def measure(self, *arguments) -> None:
        write_line(self, *arguments)
        tick = self.state.cur_nimg // 8
        if tick % max(number // 100, 1) == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append((tick, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))))

    runs.Recorder._write_line = measure
    with redirect_stdout(io.StringIO()):
        runs.train_run(config, slices, place / "long", scorer=cheap_scorer)
    half = [row for row in seen if row[0] > number / 4]  # what is loaded and cached at the start is no leak
    x, y = np.array([row[0] for row in half], float), np.array([row[1] for row in half])
    slope, rest = np.polyfit(x, y, 1)
    noise = float(np.std(y - slope * x - rest))
    return {
        "slope_mb_per_1000_ticks": 1000 * float(slope), "noise_mb": noise, "first_mb": seen[0][1], "last_mb": seen[-1][1],
        "handles": sorted({row[2] for row in half}), "samples": len(list((place / "long/samples").iterdir())),
        "lines": len((place / "long/metrics.jsonl").read_text().splitlines()),
        "checkpoints": len(list((place / "long/checkpoints").iterdir())),
        "bytes_per_tick": (place / "long/metrics.jsonl").stat().st_size / number,
    }  # fmt: skip


TASKS = {"kill": kill, "stop": stop, "full": full, "read_only": read_only, "ticks": ticks}


def main(slices: str, place: str, *tasks: str) -> None:
    global TRACE
    torch.set_num_threads(1)  # a child of a process with more threads would wait for those it does not have
    load_slices(Path(slices), CONFIG.img_resolution)
    for name, number in (task.split("=") for task in tasks):
        TRACE = Path(place) / name / "trace"
        TRACE.parent.mkdir()
        print(json.dumps(TASKS[name](Path(slices), TRACE.parent, int(number), seed=int(number))))


if __name__ == "__main__":
    main(*sys.argv[1:])
