"""One writer per run folder: who it is, whether it still lives, and how the next one takes over.

A kernel lock (flock) is free as soon as its process dies, however it dies; but the kernel knows only its own machine, and some file
systems, such as a mounted Drive, have no locks. So the writer also keeps a record: its process, its machine, and when it was last
heard of, renewed by a thread. A record of this machine is judged by whether its process runs, a stranger's by whether it is renewed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stylegan.cache import read_json, write_json

try:
    import fcntl
except ImportError:  # Windows: record only
    fcntl = None

BEAT = 20.0  # seconds between two signs of life
SILENT = 120.0  # a writer on another machine that was silent for so long is dead
SETTLE = 2.0  # without a kernel lock, two that start in the same moment both write; after so long the last record counts
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # answers of file systems without locks
UNKNOWN = "?"
_ours: set[str] = set()  # tokens of the records that live threads of this process hold


@dataclass(frozen=True)
class Writer:
    """Who writes to a folder."""

    pid: int
    host: str
    machine: str  # this start of this machine, and the space its process numbers count in
    born: str  # tells the process from a later one with its number
    token: str
    beat: float  # when it was last heard of, in seconds since 1970 by its own clock

    def runs(self) -> bool | None:
        """Whether the process runs on this machine; None where the system does not tell processes of one number apart."""
        if self.pid == os.getpid() and self.born == _born(self.pid):
            return self.token in _ours
        return None if self.born == UNKNOWN else self.born == _born(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Held:
    """A folder that this process may write to."""

    def __init__(self, folder: Path, writer: Writer):
        self.folder, self.writer, self.thief = folder, writer, None

    def check(self) -> None:
        """ValueError where another process has taken over meanwhile, as after this machine slept: it must not be disturbed."""
        if time.time() - self.writer.beat > 2 * BEAT:
            self.beat()
        if self.thief is not None:
            raise ValueError(f"{self.folder} was taken over by {self.thief}; this process stops and writes nothing more.")

    def beat(self) -> None:
        """Give a sign of life, or find out that the folder is lost."""
        found = _read(self.folder)
        if found is not None and found.token != self.writer.token:
            self.thief = found
            return
        self.writer = replace(self.writer, beat=time.time())
        with contextlib.suppress(ValueError):  # a full disk is told where something that counts is written
            _write(self.folder, self.writer)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[Held]:
    """Be the one writer of a folder. ValueError names the other one while it lives; OSError where the folder cannot be written."""
    lock = _kernel_lock(folder)
    try:
        other = _read(folder)
        if other is not None:
            _refuse_living(folder, other, locked=lock is not None)
        held = Held(folder, _myself())
        _ours.add(held.writer.token)
        try:
            _claim(held, alone=lock is not None)
            with _beating(held):
                yield held
        finally:
            _ours.discard(held.writer.token)
            _forget(held)
    finally:
        if lock is not None:
            os.close(lock)


def _kernel_lock(folder: Path) -> int | None:
    """An open file that the kernel keeps locked for this process; None where this file system has no locks."""
    path = folder / ".lock"
    if path.is_symlink():  # ours never is one
        path.unlink()
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
    except BlockingIOError as error:
        os.close(file)
        raise ValueError(_refusal(folder, str(_read(folder) or f"it holds {path}"))) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(file)
            raise
    os.close(file)
    return None


def _refusal(folder: Path, who: str) -> str:
    return f"Another process is training in {folder} ({who}); wait for it, stop it, or take another --run-dir."


def _refuse_living(folder: Path, other: Writer, locked: bool) -> None:
    """Return when the writer of the record is dead. ``locked``: the kernel knows of no other on this machine."""
    runs = other.runs() if other.machine == _machine() else None
    if runs:
        raise ValueError(_refusal(folder, str(other)))
    if runs is False or (locked and other.machine == _machine()):
        return
    silence = max(time.time() - other.beat, 0)  # clocks differ: less than no time has passed
    if silence < SILENT:
        print(
            f"{folder} was in use by {other} a moment ago; waiting up to {SILENT - silence:.0f} s for a sign of life.",
            flush=True,
        )
    end = time.monotonic() + SILENT - silence
    while time.monotonic() < end:
        time.sleep(min(BEAT / 4, SILENT))
        now = _read(folder)
        if now is None:
            return
        if now != other:
            raise ValueError(_refusal(folder, str(now)))


def _claim(held: Held, alone: bool) -> None:
    """Write our record; without a kernel lock look again whether somebody else did so in the same moment."""
    _write(held.folder, held.writer)
    if not alone:
        time.sleep(SETTLE)
        held.beat()
        if held.thief is not None:
            raise ValueError(_refusal(held.folder, str(held.thief)))


@contextlib.contextmanager
def _beating(held: Held) -> Iterator[None]:
    over = threading.Event()

    def work() -> None:
        while not over.wait(BEAT):
            held.beat()

    thread = threading.Thread(target=work, name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- The record ---------------------------------------------------------------------------------------------------------------


def _read(folder: Path) -> Writer | None:
    """The record that lies there; None where there is none, or none of ours."""
    known = read_json(folder / ".writer.json") or {}
    kinds = {"pid": int, "host": str, "machine": str, "born": str, "token": str, "beat": float}
    right = known.keys() == kinds.keys() and all(isinstance(known[name], kind) for name, kind in kinds.items())
    return Writer(**known) if right else None


def _write(folder: Path, writer: Writer) -> None:
    write_json(folder / ".writer.json", asdict(writer))


def _forget(held: Held) -> None:
    found = _read(held.folder)
    if found is not None and found.token == held.writer.token:
        with contextlib.suppress(OSError):
            (held.folder / ".writer.json").unlink()


def _myself() -> Writer:
    return Writer(
        os.getpid(), platform.node() or "this machine", _machine(), _born(os.getpid()), secrets.token_hex(8), time.time()
    )


def _machine() -> str:
    """The same for all processes that see each other's numbers, and for no others."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> str:
    """When a process of this machine began; '' where it does not run; UNKNOWN on systems that do not say it."""
    if not os.path.isdir("/proc/self"):
        return UNKNOWN
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]  # ticks since the start of the machine; the dead may wait to be buried
