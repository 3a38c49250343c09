"""What strangers hand in, one row each: how many slices are used, and the sentence that the user gets about the rest."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import layouts_fixtures as fixtures
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from stylegan.__main__ import main
from stylegan.data import pictures, volumes
from stylegan.data.pictures import LeftOut
from stylegan.dataset import load_slices

GOOD = {"control": 5, "patient": 3}  # people per class of the folder that the bad files are put into
LEVELS = 2
ALL = LEVELS * sum(GOOD.values())
STRANGE = "OAS1_0900_MR1_slice_{}.png"  # a name that fits among the good ones


class Case(NamedTuple):
    name: str
    make: Callable[[Path], Path | None]  # spoils the folder of good slices, or returns another thing to load
    slices: int  # used; 0: the whole set is refused
    says: str  # expression that the user's text matches


# --- How things are spoilt ----------------------------------------------------------------------------------------------------


def png(picture: np.ndarray | Image.Image, format: str = "PNG", **options) -> bytes:
    """A picture as the bytes of a file."""
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, format=format, **options)
    return file.getvalue()


def head(level: int = 0, size: int = 64) -> np.ndarray:
    return fixtures.head("a stranger", level, size, size)


def put(*contents: bytes, name: str = STRANGE, folder: str = "patient"):
    """Add files with these contents among the good ones."""

    def make(root: Path) -> None:
        for i, content in enumerate(contents):
            path = root / folder / name.format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return make


def only(*contents: bytes, name: str = STRANGE):
    """A folder with nothing but these files."""

    def make(root: Path) -> Path:
        put(*contents, name=name, folder="other/patient")(root.parent)
        return root.parent / "other"

    return make


def empty(root: Path) -> Path:
    (root.parent / "empty").mkdir()
    return root.parent / "empty"


def huge_png(width: int, height: int) -> bytes:
    """A valid 1-bit PNG of so many pixels in a few kilobytes."""
    row = b"\0" + b"\xaa" * ((width + 7) // 8)
    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def frames(format: str) -> bytes:
    """One file with three pictures in it."""
    first, *rest = (Image.fromarray(head(i)) for i in range(3))
    return png(first, format, save_all=True, append_images=rest)


def links(root: Path) -> None:
    """A link to its own folder, one to itself, one that leads nowhere, and a pipe."""
    (root / "patient/loop").symlink_to(root, target_is_directory=True)
    (root / "patient" / STRANGE.format(1)).symlink_to(root / "patient" / STRANGE.format(1))
    (root / "patient" / STRANGE.format(2)).symlink_to("nowhere.png")
    os.mkfifo(root / "patient" / STRANGE.format(3))


def rename_all(root: Path) -> None:
    """One person's files under names with all that names may hold."""
    names = (
        "a b 'c' \"d\"",
        "größe_слой_脳",
        "<b>&amp;",
        "%s{0}$HOME",
        "line\nbreak\x1b[31m",
        "-rf",
        "t\tab",
        os.fsdecode(b"\xff\xfe"),
    )
    for path, name in zip(sorted((root / "control").iterdir()), names, strict=False):
        path.rename(path.with_name(path.name.replace("_slice_", f" {name}_slice_")))


def backslashes(root: Path) -> None:
    """What an archive made on Windows leaves behind on other systems."""
    for path in sorted((root / "patient").iterdir()):
        path.rename(root / f"patient\\{path.name}")
    (root / "patient").rmdir()


def one_of_each_kind(root: Path) -> None:
    """The good slices as every kind of picture file."""
    made = (
        lambda image: image.convert("RGB"), lambda image: image.convert("RGBA"), lambda image: image.convert("P"),
        lambda image: image.convert("LA"), lambda image: image.convert("1"),
        lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257),
    )  # fmt: skip
    for path, convert in zip(sorted(root.rglob("*.png")), made, strict=False):
        with Image.open(path) as image:
            convert(image).save(path)


def resize_some(root: Path) -> None:
    for i, path in enumerate(sorted(root.rglob("*.png"))[::3]):
        with Image.open(path) as image:
            image.resize([(60, 60), (80, 50), (30, 90), (121, 120)][i % 4]).save(path)


def table(content: str | bytes):
    """A table beside the slices."""

    def make(root: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (root.parent / "subjects.csv").write_bytes(data)

    return make


def rows(**changes: str) -> str:
    """The table of the good people with single rows changed: OAS1_0001='0.5,60,823'."""
    people = [f"OAS1_{100 * i + s + 1:04d}" for i, count in enumerate(GOOD.values()) for s in range(count)]
    lines = [f"{who},{changes.get(who, f'0,6{i},0.7{i}')}" for i, who in enumerate(people)]
    return "\n".join(["subject,CDR,age,nWBV", *lines])


def zipped(*members: tuple[str, bytes], spoil: Callable[[bytes], bytes] = lambda data: data, name: str = "slices.zip"):
    """An archive of the good slices with these members added, its bytes spoilt."""

    def make(root: Path) -> Path:
        path = root.parent / "archive" / name
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(root.rglob("*.png")):
                archive.write(file, file.relative_to(root).as_posix())
            for member, content in members:
                archive.writestr(member, content)
        path.write_bytes(spoil(path.read_bytes()))
        return path

    return make


def damage_middle(data: bytes) -> bytes:
    """The same length with a stretch of compressed bytes overwritten."""
    at = data.index(b"\x89PNG") if b"\x89PNG" in data else 60
    return data[:at] + b"\xff" * 40 + data[at + 40 :]


def scans(spoil: Callable[[Path], None], ending: str = ".nii.gz"):
    """Four volumes, the first of them spoilt."""

    def make(root: Path) -> Path:
        folder = root.parent / "scans"
        folder.mkdir()
        for i in range(4):
            save_volume(fixtures.volume(f"sub-{i}"), folder / f"sub-{i:02d}_T1w{ending}")
        spoil(folder / f"sub-00_T1w{ending}")
        return folder

    return make


def save_volume(data: np.ndarray, path: Path, affine: np.ndarray | None = None) -> None:
    affine = np.eye(4) if affine is None else affine
    if path.suffix == ".hdr":
        header = nib.AnalyzeHeader(endianness=">")
        header.set_data_dtype(np.int16)
        nib.AnalyzeImage(data, None, header).to_filename(path)
    else:
        nib.save(nib.Nifti1Image(data, affine), path)


def with_values(change: Callable[[np.ndarray], np.ndarray]):
    return lambda path: save_volume(change(fixtures.volume("sub-0").astype(np.float32)), path)


def with_header(field: str, value: object):
    """The volume with one field of its header set, whatever nibabel thinks of it."""

    def spoil(path: Path) -> None:
        image = nib.load(path)
        raw = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
        template = image.header.template_dtype
        kind, offset = template.fields[field][:2]
        content = np.broadcast_to(np.asarray(value, dtype=kind.base), kind.shape).tobytes()
        raw[offset : offset + len(content)] = content
        path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))

    return spoil


def shortened(share: float):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def without_image(path: Path) -> None:
    path.with_suffix(".img").unlink()


def short_image(path: Path) -> None:
    shortened(0.5)(path.with_suffix(".img"))


def four_dimensional(path: Path) -> None:
    save_volume(fixtures.volume("sub-0")[..., None], path)


def garbage_affine(path: Path) -> None:
    path.with_suffix(".mat").write_bytes(b"\x80\x04not a matrix" * 20)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
MASK = png(fixtures.label_map(1, 1))
JPEG = png(head(), "JPEG")
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) run showpage\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'

CASES = [
    # The folder
    Case("no folder", lambda root: root / "none", 0, r"There is no folder .*none; give a folder or \.zip"),
    Case("a file for a folder", lambda root: root / "control/OAS1_0001_MR1_slice_00.png", 0, r"is a file; give the folder"),
    Case("an empty folder", empty, 0, r"No slice was found in .*empty \(the folder is empty\)"),
    Case("only an archive in the folder", only(b"PK\5\6" + bytes(18), name="slices.zip"), 0, r"slices\.zip.*give its path"),
    Case("one slice", only(png(head())), 1, r"slices \(subjects\)  1 \(1\).*only 1 subject"),
    Case("one person", only(png(head(0)), png(head(1))), 2, r"slices \(subjects\)  2 \(1\).*only 1 subject"),
    Case("no labels", only(*(png(head(i)) for i in range(4)), name="scan {}.png"), 4, r"names do not tell which pictures"),
    Case("one class empty", lambda root: (root / "unsure").mkdir(), ALL, r"left out: 1 x empty folder \(unsure\)"),
    Case("one class of bad files", put(LFS, LFS, folder="unsure"), ALL, r"No slice of class unsure can be used"),
    Case("a class named like a split", lambda root: (root / "patient").rename(root / "test") and None, ALL, r"\n  test +6 \(3\)"),
    Case("links in a circle", links, ALL, r"left out: 3 x unreadable \(patient/OAS1_0900_MR1_slice_1\.png, "),
    Case("names of all kinds", rename_all, ALL, r"control +10 \("),
    Case("names with backslashes", backslashes, ALL, r"\n  patient +6 \(3\)"),
    Case("the same picture twice", lambda root: shutil.copytree(root / "patient", root / "again") and None, ALL,
         r"left out: 6 x duplicate \(patient/"),
    # Files that are no slices
    Case("label maps only", only(MASK, png(fixtures.label_map(2, 1))), 0, r"No slice was found in .*2 label map"),
    Case("a label map", put(MASK), ALL, r"left out: 1 x label map \(patient/OAS1_0900_MR1_slice_0\.png\)"),
    Case("Git LFS pointers only", only(LFS, LFS, LFS), 0, r"3 Git LFS pointer\).*git lfs pull"),
    Case("a Git LFS pointer", put(LFS), ALL, r"left out: 1 x Git LFS pointer"),
    Case("a PNG cut short", put(png(head())[:900]), ALL, r"left out: 1 x unreadable"),
    Case("a JPEG cut short", put(JPEG[:700], name="OAS1_0900_MR1_slice_{}.jpg"), ALL, r"left out: 1 x unreadable"),
    Case("a PNG with damaged bytes", put(damage_middle(png(head()))), ALL, r"left out: 1 x (unreadable|not an image)"),
    Case("an empty file", put(b""), ALL, r"left out: 1 x empty file"),
    Case("a page of text", put(b"<html>404 not found</html>"), ALL, r"left out: 1 x not an image"),
    Case("a drawing with a script", put(SVG), ALL, r"left out: 1 x not an image"),
    Case("PostScript under another name", put(POSTSCRIPT), ALL, r"left out: 1 x not an image"),
    Case("one pixel", put(png(np.array([[200]], np.uint8))), ALL, r"left out: 1 x blank picture"),
    Case("a blank picture", put(png(np.zeros((40, 40), np.uint8))), ALL, r"left out: 1 x blank picture"),
    Case("a blank deep picture", put(png(np.full((40, 40), 900, np.uint16))), ALL, r"left out: 1 x blank picture"),
    Case("a bomb of 20,000 pixels", put(huge_png(20_000, 20_000)), ALL, r"left out: 1 x larger than 8192 pixels"),
    Case("a strip of 20,000 pixels", put(huge_png(20_000, 4)), ALL, r"left out: 1 x larger than 8192 pixels"),
    Case("several pictures in a TIFF", put(frames("TIFF"), name="OAS1_0900_MR1_slice_{}.tif"), ALL,
         r"left out: 1 x several pictures in one file"),
    Case("a moving GIF", put(frames("GIF"), name="OAS1_0900_MR1_slice_{}.gif"), ALL, r"1 x several pictures in one file"),
    Case("papers beside the slices", put(b"scanned on Monday", name="notes.txt"), ALL, r"1 x not an image \(patient/notes\.txt\)"),
    # Files that are slices all the same
    Case("a JPEG called PNG", put(JPEG), ALL + 1, r"files of 40 x 40"),
    Case("every kind of picture", one_of_each_kind, ALL, r"slices \(subjects\)  16 \(8\)"),
    Case("mixed and oblong sizes", resize_some, ALL, r"files of 40 x 40 and 4 other sizes"),
    # Tables
    Case("a table with damaged decimals", table(rows(OAS1_0002="0,61,823", OAS1_0101="0,6x,0.7")), ALL,
         r"1 damaged values in nWBV.*\(823\)|1 damaged values in age"),
    Case("a table with a missing id", table(rows().replace("OAS1_0003,", ",")), ALL,
         r"1 rows without an id.*|no row for 1 of 8 ids \(OAS1_0003_MR1\)"),
    Case("a table with an id twice", table(rows() + "\nOAS1_0001,2,99,0.1"), ALL, r"1 ids occur twice, the first row counts"),
    Case("a table of somebody else", table("subject,age\nnobody,3"), ALL, r"found but is not used\. None of the ids"),
    Case("a table without ids", table("name,age\nx,3"), ALL, r"found but is not used\. .*no column of ids"),
    Case("an empty table", table(""), ALL, r"found but is not used\. .*is empty"),
    Case("a table of random bytes", table(bytes(range(256)) * 30), ALL, r"found but is not used\. "),
    Case("a table with an endless cell", table('subject,age\n"' + "x" * 200_000), ALL, r"found but is not used\. "),
    Case("a table of infinities", table(rows(OAS1_0001="0,inf,nan")), ALL,
         r"1 damaged values in age .*\(inf\)"),
    # Volumes
    Case("values that are not finite", scans(with_values(lambda v: np.where(v > 155, np.nan, v))), 128, r"not finite are read as 0"),
    Case("nothing finite", scans(with_values(lambda v: v * np.nan)), 96, r"1 x unusable volume \(sub-00.*holds no finite value"),
    Case("infinite everywhere", scans(with_values(lambda v: v + np.inf)), 96, r"unusable volume \(sub-00.*no finite value"),
    Case("a constant volume", scans(with_values(lambda v: v * 0 + 7)), 96, r"unusable volume \(sub-00.*is constant"),
    Case("many frames", scans(with_values(lambda v: np.stack([v] * 3, -1))), 96, r"unusable volume.*has 3 frames"),
    Case("a volume cut short", scans(shortened(0.5)), 96, r"unusable volume \(sub-00.*(damaged or cut short|cannot be read)"),
    Case("a volume of three bytes", scans(lambda path: path.write_bytes(b"\x1f\x8b\x08")), 96, r"unusable volume.*cannot be read"),
    Case("a volume that is a pointer", scans(lambda path: path.write_bytes(LFS)), 96, r"left out: 1 x Git LFS pointer"),
    Case("an affine of zeros", scans(lambda path: [with_header(f"srow_{axis}", 0)(path) for axis in "xyz"]), 96,
         r"unusable volume.*affine"),
    Case("an affine that is not finite", scans(with_header("srow_x", np.nan)), 96, r"unusable volume.*affine"),
    Case("an affine with two axes alike", scans(lambda path: with_header("srow_y", nib.load(path).header["srow_x"])(path)), 96,
         r"unusable volume.*affine"),
    Case("voxels of a metre", scans(lambda path: save_volume(fixtures.volume("sub-0"), path, np.diag([1, 1, 1000.0, 1]))), 96,
         r"unusable volume.*its header seems damaged"),
    Case("a header that asks for a terabyte", scans(with_header("dim", [3, 10_000, 10_000, 10_000, 1, 1, 1, 1])), 96,
         r"unusable volume.*more than a head can need"),
    Case("big-endian Analyze", scans(lambda path: None, ".hdr"), 128, r"layout nifti, files of 40 x 44"),
    Case("four-dimensional Analyze", scans(four_dimensional, ".hdr"), 128, r"layout nifti, files of 40 x 44"),
    Case("Analyze without its image", scans(without_image, ".hdr"), 96, r"1 x header without its \.img \(sub-00"),
    Case("Analyze with half its image", scans(short_image, ".hdr"), 96, r"unusable volume \(sub-00.*cut short"),
    Case("Analyze with a damaged .mat", scans(garbage_affine, ".hdr"), 96, r"unusable volume \(sub-00"),
    # Archives
    Case("an archive", zipped(), ALL, r'class folders "slices"'),
    Case("an archive that leads outside", zipped(("../evil.png", png(head()))), 0, r"not safe to unpack .'\.\./evil\.png'"),
    Case("an archive with an absolute name", zipped(("/tmp/evil.png", png(head()))), 0, r"not safe to unpack"),
    Case("an archive cut short", zipped(spoil=lambda data: data[: len(data) // 2]), 0, r"no zip archive|cannot be unpacked"),
    Case("an archive with damaged bytes", zipped(spoil=damage_middle), 0, r"slices\.zip cannot be unpacked"),
    Case("an archive of random bytes", zipped(spoil=lambda data: bytes(range(256)) * 9), 0, r"no zip archive"),
    Case("a folder and a file of one name", zipped(("control", b"x")), 0, r"slices\.zip cannot be unpacked"),
    Case("no archive", lambda root: root.parent / "none.zip", 0, r"There is no archive .*none\.zip"),
    Case("an archive named by dots", zipped(name="...zip"), ALL, r"layout class-folders"),
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("good") / "slices"
    fixtures.class_folders(root, GOOD, levels=LEVELS)
    return root


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the good slices, without their table."""
    return Path(shutil.copytree(good, tmp_path / "slices"))


def told(path: Path, capsys, *options: str) -> tuple[int, str]:
    """(exit status, all that the user is told) by the command `data`."""
    capsys.readouterr()
    status = main(["data", str(path), "--resolution", "16", *options])
    out, err = capsys.readouterr()
    return status, out + err


def test_there_are_forty_cases_and_each_has_its_name():
    assert len(CASES) >= 40 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.filterwarnings("error::UserWarning")  # what there is to say is said in the report
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_user_is_told_and_nothing_fine_is_lost(case, folder, capsys, tmp_path):
    beside = {path.name for path in tmp_path.parent.iterdir()} | {"data"}  # the cache
    status, text = told(case.make(folder) or folder, capsys)
    assert re.search(case.says, text, re.DOTALL), text
    assert "Traceback" not in text and "\x1b" not in text
    if case.slices:
        assert status == 0 and int(re.search(r"slices \(subjects\) +(\d+)", text)[1]) == case.slices, text
    else:
        assert status == 2 and text.startswith("stylegan: ") and text.count("\n") == 1, text
    assert {path.name for path in tmp_path.parent.iterdir()} | {"data"} == beside and not list(tmp_path.parent.rglob("evil*"))


@contextmanager
def as_nobody(*folders: Path):
    """Run as a user who may not read everything; the folders are lent to it."""
    if os.geteuid() != 0:
        yield
        return
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are taken away by POSIX modes")
def test_what_may_not_be_read_is_left_out_and_named(good, capsys, monkeypatch):
    load_slices(good, 16)  # the template is loaded as who we are
    with tempfile.TemporaryDirectory() as place:
        slices = Path(shutil.copytree(good, Path(place) / "slices"))
        monkeypatch.setenv("STYLEGAN_DATA", str(Path(place) / "cache"))
        (slices / "closed").mkdir()
        forbidden = sorted((slices / "patient").iterdir())[0]
        with as_nobody(Path(place)):
            forbidden.chmod(0)
            (slices / "closed").chmod(0)
            status, text = told(slices, capsys)
            (slices / "closed").chmod(0o700)
    assert status == 0 and f"slices (subjects)  {ALL - 1} (" in text
    assert "left out: 2 x unreadable (closed/, patient/OAS1_0101_MR1_slice_00.png)" in text


def spoilt(content: bytes, rng: np.random.Generator, within: int) -> bytes:
    """The bytes with a few of the first ones changed, and sometimes cut short."""
    raw = np.frombuffer(content, np.uint8).copy()
    where = rng.integers(0, min(within, raw.size), rng.integers(1, 6))
    raw[where] = rng.integers(0, 256, where.size)
    return raw.tobytes()[: raw.size if rng.random() < 0.7 else int(rng.integers(0, raw.size))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", pictures.FORMATS)
def test_a_damaged_picture_is_read_or_left_out_whatever_its_bytes(format, tmp_path):
    content, rng, outcomes = png(head(), format), np.random.default_rng(0), []
    for _ in range(150):
        (tmp_path / "x.png").write_bytes(spoilt(content, rng, 400))
        try:
            outcomes.append(pictures.read_picture(tmp_path / "x.png").ndim)
        except LeftOut as reason:
            outcomes.append(str(reason))
    assert set(outcomes) > {"unreadable"} and set(outcomes) <= {
        2, "unreadable", "not an image", "empty file", "larger than 8192 pixels", "several pictures in one file",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".hdr"])
def test_a_damaged_volume_is_read_or_refused_whatever_its_header(ending, tmp_path):
    path, rng = tmp_path / f"x{ending}", np.random.default_rng(0)
    save_volume(fixtures.volume("sub-0", (16, 18, 16)), path)
    content, read, refused = path.read_bytes(), 0, 0
    for _ in range(150):
        path.write_bytes(spoilt(content, rng, 352))
        try:
            volume = volumes.read_volume(path)
            assert volume.ndim == 3 and np.isfinite(volume).all() and volume.size <= volumes.MAX_VOXELS
            read += 1
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert read > 10 and refused > 10
