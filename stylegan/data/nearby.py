"""Slices on a file system far away, such as a mounted Drive, are read once: copied to the local disk before anything looks at them.

There every opening of a file takes a tenth of a second and more, and packing opens each picture twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from stylegan.data.layouts import TABLES, list_files
from stylegan.data.pictures import EXTENSIONS
from stylegan.data.volumes import ENDINGS

MOUNTS = Path("/proc/mounts")
FAR = ("fuse.", "nfs", "cifs", "smb", "9p", "drvfs", "davfs", "afs", "ceph", "lustre")  # beginnings of file systems' names
NEAR = ("fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.portal")
READ = (*EXTENSIONS, *TABLES, *ENDINGS, ".img", ".img.gz", ".mat")  # endings of files that are opened
AT_ONCE = 16  # files in flight: the wait is for the network, not for this machine


def is_far(path: str | Path) -> bool:
    """Whether a path lies on a file system behind a network or another system, as far as Linux tells (elsewhere False)."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    mounts = {}
    for line in lines:
        _, where, kind, *_ = line.split(" ")
        mounts[where.replace("\\040", " ")] = kind
    real = os.path.realpath(path)
    kind = mounts[max((where for where in mounts if _is_below(real, where)), key=len)] if mounts else ""
    return kind.startswith(FAR) and not kind.startswith(NEAR)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def copy_once(root: Path, cache: Path) -> Path:
    """A copy of the folder below ``cache``, of the same name, brought up to date: only what is new or changed is read.

    Files that no slice can be in stand there empty, and those that cannot be read as links to nowhere, so that all of them are
    counted and named as if they were looked at where they lie. Raises FileNotFoundError where there is no such folder,
    ValueError where the disk has no room.
    """
    files, no_files = list_files(root)
    mark = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    out = cache / f"copied-{mark}" / (root.resolve().name.strip(".") or "slices")
    out.mkdir(parents=True, exist_ok=True)
    wanted = {name: (size if _is_read(name) else 0, time) for name, size, time in files}
    there = {name: (size, time) for name, size, time in list_files(out)[0]}
    _remove(out, [name for name in there if name not in wanted])
    missing = [name for name in wanted if there.get(name) != wanted[name]]
    _refuse_too_much(root, out, sum(wanted[name][0] for name in missing))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        work = pool.map(lambda name: _copy(root / name, out / name, wanted[name][1]), missing)
        for _ in tqdm(work, total=len(missing), desc=f"copying {root.name}", unit="file", disable=not missing):
            pass
    for name in no_files["empty folder"]:
        (out / name).mkdir(parents=True, exist_ok=True)
    for name in no_files["unreadable"]:
        _mark_unreadable(out / name)
    return out


def _is_read(name: str) -> bool:
    return name.lower().endswith(READ)


def _remove(out: Path, names: list[str]) -> None:
    for name in names:
        (out / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files may lie there
            os.removedirs((out / name).parent)
    out.mkdir(parents=True, exist_ok=True)


def _refuse_too_much(root: Path, out: Path, size: int) -> None:
    free = shutil.disk_usage(out).free
    if size > 0.9 * free:
        raise ValueError(
            f"The slices in {root} take {size / 2**30:.1f} GB, and {out.parent} has room for {free / 2**30:.1f}; "
            "make room, or set STYLEGAN_DATA to a larger disk."
        )


def _copy(source: Path, target: Path, time: int) -> None:
    """Copy one file whole or not at all, its time with it: that tells the next start that it is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{hashlib.sha256(target.name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.part")
    try:
        if _is_read(target.name):
            shutil.copyfile(source, part)
        else:
            part.write_bytes(b"")
        os.utime(part, ns=(time, time))
        target.unlink(missing_ok=True)
        os.replace(part, target)
    except PermissionError:
        _mark_unreadable(target)


def _mark_unreadable(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(target):
        target.symlink_to("unreadable")
