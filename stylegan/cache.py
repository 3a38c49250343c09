"""Where computed things are kept between runs, and writing them so that no reader ever meets half a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

STALE = 24 * 3600.0  # seconds after which a file that was being written is not written any more


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder for caches, created and writable.

    In this order: ``cache_dir``; the environment's ``STYLEGAN_DATA``; ``data/`` of the checkout around the working directory;
    ``./data``. Below it everything lies in ``cache/``. Where none of them can be written, a folder of the system's temporary
    directory takes its place: slower at the next start, never wrong.
    """
    base = Path(cache_dir or os.environ.get("STYLEGAN_DATA") or checkout() / "data")
    for folder in (base.expanduser() / "cache", Path(tempfile.gettempdir()) / f"stylegan-cache-{_user()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            sweep(folder)
            return folder
        except OSError:
            continue
    raise ValueError(f"Neither {base} nor the temporary directory can be written; set STYLEGAN_DATA to a folder that can.")


def sweep(folder: Path) -> None:
    """Remove what killed processes were writing here a day ago and more: half a set of slices can be gigabytes."""
    for path in (*folder.glob(".*.tmp"), *folder.glob(".unpack-*")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


def checkout() -> Path:
    """The nearest folder upwards whose pyproject.toml is this project's, else the working directory."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        try:
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if project.get("project", {}).get("name") == "stylegan":
            return folder
    return here


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to that becomes ``path`` in one step when the block succeeds and vanishes when it does not.

    Raises ValueError with the folder and the size of the trouble where the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    except OSError as error:
        raise ValueError(
            f"Cannot write {path}: {error.strerror or error}; free some space or choose another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add one line to a file and see it to the disk. A kill may leave a part of it: readers take only what ends in a line break."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(
            f"Cannot write {path}: {error.strerror or error}; free some space or choose another folder."
        ) from error


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


def store_images(folder: Path, shape: tuple[int, int, int], fill: Callable[[np.ndarray], None]) -> str:
    """Let ``fill`` write uint8 [N, R, R] straight into a file; returns the sha256 of the content, which names the file."""
    with replacing(folder / f"packing-{os.urandom(4).hex()}.npy") as temporary:
        _reserve(temporary, int(np.prod(shape)))
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        fill(images)
        images.flush()
        key = hashlib.sha256(repr(shape).encode())
        key.update(images)
        del images  # Windows cannot rename a mapped file
        os.replace(temporary, folder / f"{key.hexdigest()}.npy")
    return key.hexdigest()


def _reserve(path: Path, size: int) -> None:
    """Claim the space first: writing to a map on a full disk would end the process instead of raising."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size + 4096)


def open_images(folder: Path, key: str, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The memory-mapped uint8 [N, R, R] stored under that key, None where it is absent or damaged."""
    try:
        images = np.load(folder / f"{key}.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None
