"""One writer per run folder, on file systems with locks and without, on one machine and on two."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stylegan import lock

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from stylegan import lock
if sys.argv[2] == "flockless":
    lock._kernel_lock = lambda folder: None
lock.SETTLE = 0
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["flock", "flockless"])
def kind(request, monkeypatch):
    """With kernel locks, and on a file system that answers as a mounted Drive does."""
    if request.param == "flockless":
        make_flockless(monkeypatch)
    return request.param


def make_flockless(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "SETTLE", 0)


@pytest.fixture
def clock(monkeypatch):
    """A clock that sleeping moves; [0] is the time, and what is appended is called at each sleep."""
    now = [1_000_000.0]

    def sleep(seconds):
        now[0] += seconds
        for call in now[1:]:
            call()

    monkeypatch.setattr(lock.time, "time", lambda: now[0])
    monkeypatch.setattr(lock.time, "monotonic", lambda: now[0] - 5)
    monkeypatch.setattr(lock.time, "sleep", sleep)
    return now


def stranger(folder: Path, age: float, now: float, **fields) -> lock.Writer:
    """Leave the record of a writer on another machine."""
    writer = lock.Writer(4711, "colab-old", "colab-old another-boot", "99", "token", now - age)
    writer = replace(writer, **fields)
    lock._write(folder, writer)
    return writer


def test_held_within_and_nothing_left_after(tmp_path, kind):
    with lock.hold(tmp_path) as held:
        held.check()
        known = json.loads((tmp_path / ".writer.json").read_text())
        assert known["pid"] == os.getpid() and known == asdict(held.writer)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with lock.hold(tmp_path):
        pass


def test_a_second_one_is_refused_by_process_and_host_and_takes_over_when_the_first_is_killed(tmp_path, kind):
    command = [sys.executable, "-c", HOLD, tmp_path, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "held\n"
        for _ in range(2):
            with pytest.raises(
                ValueError, match=rf"Another process is training in .* \(process {other.pid} on \S+\); wait for it"
            ):
                with lock.hold(tmp_path):
                    pass
        other.send_signal(signal.SIGKILL)
    assert (tmp_path / ".writer.json").exists()
    with lock.hold(tmp_path) as held:
        assert json.loads((tmp_path / ".writer.json").read_text())["token"] == held.writer.token


def test_the_same_process_is_no_exception(tmp_path, kind):
    """A second cell or thread of one kernel."""
    with lock.hold(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} on"):
        with lock.hold(tmp_path):
            pass
    with pytest.raises(ZeroDivisionError), lock.hold(tmp_path):
        raise ZeroDivisionError
    with lock.hold(tmp_path):  # a run that broke down holds nothing
        pass


def test_a_process_that_got_the_number_of_a_dead_one_is_another(tmp_path, monkeypatch):
    make_flockless(monkeypatch)
    lock._write(tmp_path, replace(lock._myself(), pid=os.getppid(), born="1"))
    with lock.hold(tmp_path):
        pass


def test_a_silent_stranger_is_waited_for_and_taken_over(tmp_path, clock, kind, capsys):
    stranger(tmp_path, 30, clock[0])
    start = clock[0]
    with lock.hold(tmp_path) as held:
        assert clock[0] - start >= lock.SILENT - 30
        held.check()
    assert "process 4711 on colab-old a moment ago; waiting up to 90 s for a sign of life" in capsys.readouterr().out


def test_a_stranger_long_silent_is_not_waited_for(tmp_path, clock, kind, capsys):
    stranger(tmp_path, 3 * lock.SILENT, clock[0])
    start = clock[0]
    with lock.hold(tmp_path):
        assert clock[0] - start <= lock.SETTLE and not capsys.readouterr().out


@pytest.mark.parametrize("age", [30.0, -5000.0])  # also one whose clock runs ahead
def test_a_living_stranger_is_named(tmp_path, clock, kind, age):
    writer = stranger(tmp_path, age, clock[0])
    clock.append(lambda: lock._write(tmp_path, replace(writer, beat=writer.beat + clock[0])))
    with pytest.raises(ValueError, match="process 4711 on colab-old"), lock.hold(tmp_path):
        pass
    assert lock._read(tmp_path).token == "token"  # nothing of its was touched


def test_a_stranger_that_leaves_while_it_is_waited_for(tmp_path, clock, kind):
    stranger(tmp_path, 10, clock[0])
    start = clock[0]
    clock.append(lambda: (tmp_path / ".writer.json").unlink(missing_ok=True))
    with lock.hold(tmp_path):
        assert clock[0] - start < lock.SILENT / 2


def test_who_comes_back_from_sleep_finds_another_there_and_writes_nothing_more(tmp_path, clock, kind):
    with lock.hold(tmp_path) as held:
        stranger(tmp_path, 0, clock[0])
        clock[0] += 3 * lock.BEAT
        with pytest.raises(ValueError, match="was taken over by process 4711 on colab-old; this process stops"):
            held.check()
    assert lock._read(tmp_path).pid == 4711


def test_two_that_start_in_the_same_moment_without_locks(tmp_path, monkeypatch):
    make_flockless(monkeypatch)
    monkeypatch.setattr(lock.time, "sleep", lambda _: stranger(tmp_path, 0, time.time()))
    with pytest.raises(ValueError, match="process 4711 on colab-old"), lock.hold(tmp_path):
        pass


def test_signs_of_life_are_given_and_a_full_disk_does_not_end_them(tmp_path, clock, monkeypatch):
    with lock.hold(tmp_path) as held:
        clock[0] += 100
        held.beat()
        assert lock._read(tmp_path).beat == clock[0]
        (tmp_path / ".writer.json").unlink()  # by hand, or lost by the file system
        held.beat()
        assert lock._read(tmp_path).token == held.writer.token

        def full(*_):
            raise ValueError("Cannot write: No space left on device")

        monkeypatch.setattr(lock, "write_json", full)
        held.beat()
        held.check()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "null"])
def test_a_damaged_record_is_none(tmp_path, content):
    (tmp_path / ".writer.json").write_text(content)
    with lock.hold(tmp_path):
        pass


def test_a_thread_gives_the_signs(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with lock.hold(tmp_path) as held:
        first = held.writer.beat
        deadline = time.monotonic() + 30
        while held.writer.beat == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held.writer.beat > first


def test_systems_that_do_not_tell_when_a_process_began(tmp_path, clock, monkeypatch):
    """Without /proc the kernel lock decides alone; where there is none either, the signs of life do."""
    monkeypatch.setattr(lock, "_born", lambda pid: lock.UNKNOWN)
    mine = replace(lock._myself(), pid=os.getppid(), token="other", beat=clock[0])
    lock._write(tmp_path, mine)
    start = clock[0]
    with lock.hold(tmp_path):
        assert clock[0] == start
    make_flockless(monkeypatch)
    lock._write(tmp_path, mine)
    with lock.hold(tmp_path):
        assert clock[0] - start >= lock.SILENT
