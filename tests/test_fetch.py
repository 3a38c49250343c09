"""Fetching trusts neither the network nor the archive, and leaves nothing behind when it refuses."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest
from stylegan.data.fetch import fetch, unpack_once

from stylegan.data import fetch as module

CONTENT = {"slices/A/s1_slice_0.png": b"one", "slices/B/s2_slice_0.png": b"two" * 1000}


def sha(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_zip(path, content=CONTENT):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def make_tar(path, mode="w:gz", content=CONTENT, change=lambda info: info):
    with tarfile.open(path, mode) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(change(info), io.BytesIO(data))
    return path


def check_nothing_left(tmp_path, *expected):
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz"])
def test_zip_and_tar_are_unpacked(tmp_path, mode):
    archive = make_zip(tmp_path / "a.bin") if mode == "zip" else make_tar(tmp_path / "a.bin", mode)
    out = fetch(archive.as_uri(), sha(archive), tmp_path / "out")
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()} == CONTENT
    check_nothing_left(tmp_path, "a.bin", "out")


def test_over_http_and_any_other_file_is_kept_as_it_is(tmp_path):
    (tmp_path / "www").mkdir()
    (tmp_path / "www/a table.csv").write_text("subject,age\n")
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = HTTPServer(("127.0.0.1", 0), partial(handler, directory=tmp_path / "www"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/a%20table.csv"
        out = fetch(url, sha(tmp_path / "www/a table.csv").upper(), tmp_path / "out")
        assert (out / "a table.csv").read_text() == "subject,age\n"
        with pytest.raises(FileNotFoundError, match="could not be fetched: File not found"):
            fetch(url.replace("table", "chair"), "0" * 64, tmp_path / "other")
    finally:
        server.shutdown()
        server.server_close()
    check_nothing_left(tmp_path, "www", "out")


def test_a_wrong_hash_names_both_and_keeps_nothing(tmp_path):
    archive = make_zip(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=f"sha256 {sha(archive)}, expected {'0' * 64}; nothing was kept"):
        fetch(archive.as_uri(), "0" * 64, tmp_path / "out")
    check_nothing_left(tmp_path, "a.zip")


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt", "a/.."])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_outside_are_refused_as_a_whole(tmp_path, name, kind):
    content = {"fine.txt": b"fine", name: b"evil"}
    archive = make_zip(tmp_path / "a", content) if kind == "zip" else make_tar(tmp_path / "a", content=content)
    with pytest.raises(ValueError, match="not safe to unpack"):
        fetch(archive.as_uri(), sha(archive), tmp_path / "out")
    check_nothing_left(tmp_path, "a")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    def change(info):
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0
        return info

    archive = make_tar(tmp_path / "a.tar", "w", {"link": b""}, change)
    with pytest.raises(ValueError, match="not safe to unpack"):
        fetch(archive.as_uri(), sha(archive), tmp_path / "out")
    check_nothing_left(tmp_path, "a.tar")


def test_a_link_in_a_zip_is_refused(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="not safe to unpack"):
        fetch(archive.as_uri(), sha(archive), tmp_path / "out")


def test_a_bomb_is_refused_before_a_byte_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    archive = make_zip(tmp_path / "a.zip", {"zeros": bytes(100_000)})
    with pytest.raises(ValueError, match="would unpack to 1 files"):
        fetch(archive.as_uri(), sha(archive), tmp_path / "out")
    check_nothing_left(tmp_path, "a.zip")


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"zeros": bytes(100_000)})
    data = archive.read_bytes()
    archive.write_bytes(data.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"a\.zip"):
        fetch(archive.as_uri(), sha(archive), tmp_path / "out")
    check_nothing_left(tmp_path, "a.zip")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_truncated_archive_is_one_sentence(tmp_path, kind):
    content = {f"{i}.bin": hashlib.sha256(bytes([i])).digest() * 500 for i in range(9)}
    archive = make_zip(tmp_path / "a", content) if kind == "zip" else make_tar(tmp_path / "a", content=content)
    data = archive.read_bytes()
    if kind == "zip":
        middle = len(data) // 2
        archive.write_bytes(data[: middle - 400] + bytes(800) + data[middle + 400 :])
    else:
        archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        fetch(archive.as_uri(), sha(archive), tmp_path / "out")
    check_nothing_left(tmp_path, "a")


def test_bad_arguments_are_sentences(tmp_path):
    archive = make_zip(tmp_path / "a.zip")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        fetch(archive.as_uri(), "abc", tmp_path / "out")
    with pytest.raises(ValueError, match="must begin with https://"):
        fetch("ftp://example.org/a.zip", "0" * 64, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="could not be fetched"):
        fetch((tmp_path / "missing.zip").as_uri(), "0" * 64, tmp_path / "out")
    with pytest.raises(ValueError, match="cannot be created"):
        fetch(archive.as_uri(), sha(archive), archive / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        fetch(archive.as_uri(), sha(archive), tmp_path / "full")
    assert (tmp_path / "full/file").read_text() == "mine"


def test_unpack_once_unpacks_once(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "slices.zip")
    (tmp_path / "cache").mkdir()
    out = unpack_once(archive, tmp_path / "cache")
    assert (out / "slices/A/s1_slice_0.png").read_bytes() == b"one" and out.name == "slices"
    monkeypatch.setattr(module, "unpack", lambda *_: pytest.fail("unpacked twice"))
    assert unpack_once(archive, tmp_path / "cache") == out
    with pytest.raises(FileNotFoundError, match="There is no archive"):
        unpack_once(tmp_path / "missing.zip", tmp_path / "cache")


def test_something_else_called_zip(tmp_path):
    (tmp_path / "a.zip").write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(ValueError, match="is no zip archive"):
        unpack_once(tmp_path / "a.zip", tmp_path)
