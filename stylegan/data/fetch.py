"""Download an archive of slices and unpack it, trusting neither the network nor the archive."""

from __future__ import annotations

import hashlib
import http.client
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

CHUNK = 1 << 20
MAX_BYTES = 64 << 30  # of all unpacked files: more is a decompression bomb, the largest known set has under 5 GB
MAX_FILES = 2_000_000
UNPACKING = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, UnicodeDecodeError, EOFError, NotImplementedError,
    RuntimeError, OSError,
)  # fmt: skip
SCHEMES = ("http", "https", "file")


def fetch(url: str, sha256: str, out: str | Path) -> Path:
    """Download ``url``, check it against ``sha256`` (64 hexadecimal digits) and unpack it to the new folder ``out``.

    Zip and tar archives (plain or compressed) are unpacked; any other file is put into ``out`` under its own name. ``out``
    appears complete or not at all. Raises ValueError for a wrong hash or an unsafe archive, FileNotFoundError where the
    download fails.
    """
    out, sha256 = Path(out), sha256.strip().lower()
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ValueError(f"sha256 is {sha256!r}; give the 64 hexadecimal digits that the source publishes.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; choose a new folder, or remove it first.")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        scratch_folder = tempfile.TemporaryDirectory(prefix=".fetch-", dir=out.absolute().parent)
    except OSError as error:
        raise ValueError(f"{out} cannot be created: {error.strerror}; choose another folder.") from error
    with scratch_folder as scratch:
        name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "download"
        archive = Path(scratch) / name
        found = _download(url, archive)
        if found != sha256:
            raise ValueError(f"{url} is not the file it should be: sha256 {found}, expected {sha256}; nothing was kept.")
        unpacked = Path(scratch) / "unpacked"
        if not unpack(archive, unpacked):
            unpacked.mkdir()
            archive.rename(unpacked / name)
        if out.exists():
            out.rmdir()
        os.replace(unpacked, out)
    return out


def _download(url: str, target: Path) -> str:
    """Stream the file to ``target``; its sha256."""
    if urllib.parse.urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"{url} is no address that can be fetched; it must begin with https://, http:// or file://.")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as source, open(target, "wb") as sink:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                sink.write(chunk)
    except urllib.error.URLError as error:
        raise FileNotFoundError(f"{url} could not be fetched: {getattr(error, 'reason', error)}.") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise FileNotFoundError(f"{url} could not be fetched: {error}.") from error
    return digest.hexdigest()


@dataclass(frozen=True)
class _Member:
    """One file of an archive."""

    name: str
    size: int
    regular: bool  # neither a link nor a device
    source: object


def unpack(archive: Path, out: Path) -> bool:
    """Unpack a zip or tar file to the new folder ``out``; False where it is neither.

    All names are checked before anything is written: an archive with an absolute name, '..', a link or a device is refused as a
    whole, as is one beyond ``MAX_BYTES`` or ``MAX_FILES``.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _unpack_members(archive, list(_zip_members(opened)), out, opened.open)
            return True
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                _unpack_members(archive, list(_tar_members(opened)), out, opened.extractfile)
            return True
    except UNPACKING as error:
        shutil.rmtree(out, ignore_errors=True)
        raise ValueError(f"{archive.name} cannot be unpacked: {error}.") from error
    return False


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        if not info.is_dir():
            kind = stat.S_IFMT(info.external_attr >> 16)
            yield _Member(info.filename, info.file_size, kind in (0, stat.S_IFREG), info)


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        if not info.isdir():
            yield _Member(info.name, info.size, info.isreg(), info)


def _unpack_members(archive: Path, members: list[_Member], out: Path, open_member) -> None:
    total = sum(member.size for member in members)
    if total > MAX_BYTES or len(members) > MAX_FILES:
        raise ValueError(f"{archive.name} would unpack to {len(members)} files of {total / 2**30:.0f} GB; that is refused.")
    targets = [_safe_target(archive, member) for member in members]
    out.mkdir()
    for member, target in zip(members, targets, strict=True):
        path = out / target
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_member(member.source) as source, open(path, "wb") as sink:
            _copy_at_most(source, sink, member, archive)


def _safe_target(archive: Path, member: _Member) -> PurePosixPath:
    """Where the member goes below the folder. Raises ValueError for whatever would leave it."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    inside = not path.is_absolute() and ".." not in path.parts and ":" not in (path.parts or ("",))[0]
    if not inside or not path.parts or not member.regular:
        raise ValueError(
            f"{archive.name} is not safe to unpack ({member.name!r} leads outside or is a link); nothing was kept."
        )
    return path


def _copy_at_most(source: IO[bytes], sink: IO[bytes], member: _Member, archive: Path) -> None:
    """Copy no more than the archive's own table of contents promises."""
    left = member.size
    while chunk := source.read(min(CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise ValueError(f"{archive.name} holds more in {member.name!r} than it says; nothing was kept.")
        sink.write(chunk)


def unpack_once(archive: Path, cache: Path, far: bool = False) -> Path:
    """The folder an archive was unpacked to below ``cache``, unpacking it the first time (keyed by name, size and time).

    One that lies ``far`` away is copied first: unpacking jumps to and fro in it.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"There is no archive {archive}.")
    status = archive.stat()
    mark = hashlib.sha256(repr((str(archive.resolve()), status.st_size, status.st_mtime_ns)).encode()).hexdigest()[:16]
    out = cache / f"unpacked-{mark}" / (archive.stem.strip(".") or "archive")  # the name is a stranger's: ".." leads elsewhere
    if out.is_dir():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=cache) as scratch:
        unpacked = Path(scratch) / "unpacked"
        near = Path(shutil.copyfile(archive, Path(scratch) / archive.name)) if far else archive
        if not unpack(near, unpacked):
            raise ValueError(f"{archive} is no zip archive.")
        try:
            os.replace(unpacked, out)
        except OSError:
            if not out.is_dir():  # else another process was faster
                raise
    return out
