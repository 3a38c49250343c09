"""Files and the machine: the cache folder, atomic writes, one writer per run folder, and memory that a step leaves to the next."""

import contextlib
import ctypes
import errno
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from stylegan import __version__

try:
    import fcntl
except ImportError:  # Windows: record only
    fcntl = None

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "umap-learn", "safetensors", "nilearn", "matplotlib")
STALE = 24 * 3600.0  # seconds after which a file that was being written is not written any more
FEATURES_AT_MOST = 2 * 2**30  # bytes of cached features; beyond that the longest unused go
BEAT = 20.0  # seconds between two signs of life of a writer
SILENT = 600.0  # a writer on another machine that was silent for so long is dead
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # answers of file systems without locks


def printable(text: str) -> str:
    """The text with whatever a terminal might obey or cannot print (control characters, line breaks, stray bytes) spelt out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


# --- The cache folder -----------------------------------------------------------------------------------------------------------


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder for caches, created and writable: ``cache`` in ``cache_dir``, in the environment's ``STYLEGAN_DATA`` or in
    ``data`` of the checkout around the working directory, else the user's; where that fails a temporary one."""
    base = cache_dir or os.environ.get("STYLEGAN_DATA") or (_checkout() and _checkout() / "data")
    homes = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": "~/Library/Caches"}
    home = homes.get(sys.platform) or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    first = (Path(base, "cache") if base else Path(home, "stylegan")).expanduser()
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    for folder in (first, Path(tempfile.gettempdir()) / f"stylegan-cache-{user}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            sweep(folder)
            return folder
        except OSError:
            continue
    raise ValueError(f"Neither {first} nor the temporary directory can be written; set STYLEGAN_DATA to a folder that can.")


def sweep(folder: Path) -> None:
    """Remove what killed processes were writing here a day ago and more, and the features unused for longest."""
    with contextlib.suppress(OSError):
        for path in (*folder.glob(".*.tmp"), *folder.glob(".unpack-*")):
            if time.time() - path.stat().st_mtime > STALE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        kept = [(max(s.st_atime, s.st_mtime), s.st_size, path) for path in folder.glob("features-*.npy") for s in [path.stat()]]
        room = FEATURES_AT_MOST
        for _, size, path in sorted(kept, reverse=True):
            room -= size
            if room < 0:
                path.unlink()


def checkout() -> Path:
    """The nearest folder upwards whose pyproject.toml is this project's, else the working directory."""
    return _checkout() or Path.cwd()


def _checkout() -> Path | None:
    for folder in (Path.cwd(), *Path.cwd().parents):
        with contextlib.suppress(OSError, ValueError):
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
            if project.get("project", {}).get("name") == "stylegan":
                return folder
    return None


# --- Writing so that no reader ever meets half a file ----------------------------------------------------------------------------


@contextlib.contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """ValueError with the file and the trouble where the disk is full or cannot be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"Cannot write {path}: {reason}; free some space or choose another folder.") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to that becomes ``path`` in one step when the block succeeds and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _one_sentence(path):
        try:
            yield temporary
            if temporary.exists():
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add one line to a file and see it to the disk. A kill may leave a part of it: readers take only what ends in a line break."""
    with _one_sentence(path), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: dict) -> None:
    """Write the dictionary so that it can be read by eye; names of files that are no valid text survive as well."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="surrogatepass")


def read_json(path: Path) -> dict | None:
    """The dictionary kept there, None where there is none or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# --- One writer per run folder ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hold_run_dir(folder: Path) -> Iterator[Callable[[], None]]:
    """Be the one writer of a folder, who calls what is yielded now and then as a sign of life. ValueError names the other writer
    while it lives; OSError where the folder cannot be written.

    A kernel lock is free as soon as its process dies. But the kernel knows only its own machine, and some file systems, such as
    a mounted Drive, have no locks: so the writer renews a record too. One of another machine counts for ten minutes.
    """
    record, path, beat = folder / ".writer.json", folder / ".lock", 0.0
    own = {"pid": os.getpid(), "host": platform.node(), "token": secrets.token_hex(8)}

    def sign_of_life() -> None:
        """Renew the record. ValueError where another process took over, as after this machine slept: it must not be disturbed."""
        nonlocal beat
        if time.monotonic() - beat < BEAT:
            return
        found = read_json(record)
        if found is not None and found.get("token") != own["token"]:
            raise ValueError(f"{folder} was taken over by {_who(found)}; this process stops and writes nothing more.")
        with contextlib.suppress(ValueError):  # a full disk is told where something that counts is written
            write_json(record, own)
            beat = time.monotonic()

    if path.is_symlink():  # ours never is one
        path.unlink()
    with open(path, "a+") as file:
        locked = _lock(file, record)
        with contextlib.suppress(FileNotFoundError):
            silent, found = time.time() - record.stat().st_mtime, read_json(record) or {}
            if silent < SILENT and (not locked or found.get("host", platform.node()) != platform.node()):
                way = f"stop it or take another --run-dir. If it is gone, wait {SILENT / 60:.0f} minutes or remove {record}."
                raise ValueError(f"{_who(found)} was training in {folder} {max(silent, 0):.0f} s ago; {way}")
        write_json(record, own)
        beat = time.monotonic()
        try:
            yield sign_of_life
        finally:
            if (read_json(record) or {}).get("token") == own["token"]:
                record.unlink(missing_ok=True)


def _lock(file: IO, record: Path) -> bool:
    """Let the kernel lock an open file for this process. False where this file system has no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fcntl is not None
    except BlockingIOError as error:
        who, folder = _who(read_json(record) or {}), record.parent
        raise ValueError(f"{who} is training in {folder}; wait for it, stop it, or take another --run-dir.") from error
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise


def _who(record: dict) -> str:
    return f"Process {record.get('pid', '?')} on {printable(str(record.get('host', 'another machine')))}"


def prepare_machine() -> None:
    """Settings that make training faster and, on CPUs, change no result: before the first step. With them glibc keeps what a
    step frees for the next one, where new pages would cost a step on a CPU up to a fifth of its time."""
    import torch  # not needed to read and write files, and slow to import

    torch.backends.cudnn.benchmark = True  # what cuDNN takes without trying was ten times slower in places
    trim_threshold, mmap_threshold, largest = -1, -3, 2**25  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library: nothing to set
        glibc = ctypes.CDLL(None)
        glibc.mallopt(trim_threshold, 2**31 - 1)
        glibc.mallopt(mmap_threshold, largest)


def environment() -> str:
    """Versions, machine and command, one per line."""
    import torch

    lines = [f"stylegan {__version__}", f"python {platform.python_version()}"]
    for name in PACKAGES:  # training needs neither maps nor notebooks
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines.append(f"{name} {importlib.metadata.version(name)}")
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} in use{card}"
    return "\n".join([*lines, machine, f"command: {' '.join(sys.argv)}", ""])
