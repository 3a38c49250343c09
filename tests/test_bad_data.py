"""What people hand in, a row for each kind: how many slices are used, and what the user is told about the rest."""

import gzip
import io
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import layouts_fixtures as fixtures
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
TABLE = {"name": "subjects.csv", "folder": ".."}


def png(picture: np.ndarray | Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, format=format, **options)
    return file.getvalue()


def head(level: int = 0) -> np.ndarray:
    return fixtures.head("a stranger", level, 64, 64)


def recipe(make: Callable) -> Callable:
    """``make(root, ...)`` as ``make(...)(root)``, for a row of the table."""
    return lambda *given, **options: lambda root: make(root, *given, **options)


@recipe
def put(root: Path, *contents: bytes, name: str = STRANGE, folder: str = "patient") -> None:
    """Add files with these contents among the good ones."""
    for i, content in enumerate(contents):
        path = root / folder / name.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@recipe
def only(root: Path, *contents: bytes, name: str = STRANGE) -> Path:
    """A folder with nothing but these files."""
    put(*contents, name=name, folder="other/patient")(root.parent)
    return root.parent / "other"


def links(root: Path) -> None:
    """A link to its own folder, one to itself, one that leads nowhere, and a pipe."""
    (root / "patient/loop").symlink_to(root, target_is_directory=True)
    (root / "patient" / STRANGE.format(1)).symlink_to(root / "patient" / STRANGE.format(1))
    (root / "patient" / STRANGE.format(2)).symlink_to("nowhere.png")
    os.mkfifo(root / "patient" / STRANGE.format(3))


@recipe
def zipped(root: Path, *members: tuple[str, bytes], spoil: Callable[[bytes], bytes] = lambda data: data) -> Path:
    """An archive of the good slices with these members added, its bytes spoilt."""
    path = Path(shutil.make_archive(str(root.parent / "archive/slices"), "zip", root))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
    path.write_bytes(spoil(path.read_bytes()))
    return path


def damage_middle(data: bytes) -> bytes:
    """The same length with a stretch of compressed bytes overwritten."""
    at = data.index(b"\x89PNG") if b"\x89PNG" in data else 60
    return data[:at] + b"\xff" * 40 + data[at + 40 :]


@recipe
def scans(root: Path, spoil: Callable[[Path], None], ending: str = ".nii.gz") -> Path:
    """Four volumes, the first of them spoilt."""
    folder = root.parent / "scans"
    for i in range(4):
        fixtures.save_volume(folder / f"sub-{i:02d}_T1w{ending}", fixtures.volume(f"sub-{i}"))
    spoil(folder / f"sub-00_T1w{ending}")
    return folder


@recipe
def with_values(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    fixtures.save_volume(path, change(fixtures.volume("sub-0").astype(np.float32)))


@recipe
def with_header(path: Path, at: int, values: np.ndarray) -> None:
    """These values at a place of the header, whatever nibabel thinks of them."""
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:at] + values.tobytes() + raw[at + values.nbytes :]))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
MASK = png(fixtures.label_map(1, 1))
DICOM = bytes(128) + b"DICM" + bytes(500)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) run showpage\n%%EOF\n"
NAMES = ("a b 'c' \"d\"", "größe_слой", "<b>&amp;", "%s{0}$HOME", "line\nbreak\x1b[31m", "-rf", "t\tab", "\udcff\udcfe")


def rename_all(root: Path) -> None:
    for path, name in zip(sorted((root / "control").iterdir()), NAMES, strict=False):
        path.rename(path.with_name(path.name.replace("_slice_", f" {name}_slice_")))


CASES = {  # kind: (what spoils the folder or returns another thing to load, slices used (0: refused), what the text matches)
    "a file for a folder": (lambda root: root / "control/OAS1_0001_MR1_slice_00.png", 0, r"is a file; give the folder"),
    "nothing of the name": (lambda root: root / "none", 0, r"There is no folder .*none; give a folder or \.zip"),
    "only an archive": (only(b"PK\5\6" + bytes(18), name="slices.zip"), 0, r"slices\.zip.*give its path"),
    "one person": (only(png(head(0)), png(head(1))), 2, r"slices \(subjects\)  2 \(1\).*only 1 subject"),
    "one class of bad files": (put(LFS, LFS, folder="unsure"), ALL, r"2 x Git LFS pointer.*No slice of class unsure can be used"),
    "links in a circle": (links, ALL, r"left out: 3 x unreadable \(patient/OAS1_0900_MR1_slice_1\.png, "),
    "names of all kinds": (rename_all, ALL, r"control +10 \("),
    "a picture in two classes": (lambda root: shutil.copytree(root / "patient", root / "patients2") and None, ALL, r"6 pictures lie in two classes at once"),
    "label maps only": (only(MASK, png(fixtures.label_map(2, 1))), 0, r"No slice was found in .*2 label map"),
    "pointers only": (only(LFS, LFS, LFS), 0, r"3 Git LFS pointer\).*git lfs pull"),
    "DICOM": (only(DICOM, name="{}.dcm"), 0, r"1 DICOM\).*dcm2niix"),
    "arrays": (only(b"x", b"y", name="p{}.npy"), 0, r"2 \.npy file\).*NIfTI"),
    "damaged pictures": (put(png(head())[:900], damage_middle(png(head())), b"", b"<html>", POSTSCRIPT), ALL, r"(?=.*empty file)(?=.*unreadable).*not an im"),
    "blank pictures": (put(png(np.array([[200]], np.uint8)), png(np.full((40, 40), 900, np.uint16))), ALL, r"2 x blank picture"),
    "bombs": (put(*[fixtures.png_of([bytes(2500)] * high, 20_000, 1, 0) for high in (20_000, 4)]), ALL, "2 x larger than 8192"),
    "many films": (put(*[png(head(0), "GIF", save_all=True, append_images=[Image.fromarray(head(1))])] * 9), ALL,
                   r"(?=.*9 x several pictures)(?=.*slice_2\.png holds)(?!.*slice_3\.png holds)"),
    "a PNG called JPEG": (put(png(head()), name="OAS1_0900_MR1_slice_{}.jfif"), ALL + 1, r"files of 40 x 40"),
    "a colour map": (put(png(np.stack([head(), head()[::-1], 255 - head()], -1))), ALL + 1, r"Some pictures are in colour"),
    "a converter": (put(png(head()), name="OAS1_0101_MR2_slice_{}.png", folder="control"), ALL + 1, r"1 people have slices in several classes"),
    "a table of somebody else": (put(b"subject,age\nnobody,3", **TABLE), ALL, r"found but is not used\. None of the ids"),
    "a table of random bytes": (put(bytes(range(256)) * 30, **TABLE), ALL, r"found but is not used\. "),
    "values that are not finite": (scans(with_values(lambda v: np.where(v > 155, np.nan, v))), 128, r"not finite are read as 0"),
    "nothing finite": (scans(with_values(lambda v: v * np.nan)), 96, r"1 x unusable volume \(sub-00.*holds no finite value"),
    "many frames": (scans(with_values(lambda v: np.stack([v] * 3, -1))), 96, r"unusable volume.*has 3 frames"),
    "a volume cut short": (scans(lambda path: os.truncate(path, 9999)), 96, r"unusable volume \(sub-00.*cut short"),
    "an affine of zeros": (scans(with_header(280, np.zeros(12, np.float32))), 96, r"unusable volume.*affine"),
    "a header of terabytes": (scans(with_header(40, np.int16([3, *[10_000] * 3, *[1] * 4]))), 96, "more than a head can need"),
    "Analyze without its image": (scans(lambda path: path.with_suffix(".img").unlink(), ".hdr"), 96, r"1 x header without its \.img \(sub-00"),
    "an archive that leads outside": (zipped(("../evil.png", png(head()))), 0, r"not safe to unpack .'\.\./evil\.png'"),
    "an archive cut short": (zipped(spoil=lambda data: data[: len(data) // 2]), 0, r"no \.zip that can be unpacked"),
    "an archive with damaged bytes": (zipped(spoil=damage_middle), 0, r"no \.zip that can be unpacked"),
    "an archive from Windows": (zipped(("patient\\", b""), ("empty\\", b""), ("patient\\" + STRANGE.format(1), png(head()))), ALL + 1, r"patient +7 \("),
    "an archive with a password": (zipped(spoil=lambda data: data.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1")), 0, "with a password; unpack"),
    "a folder called .zip": (lambda root: root.rename(root.with_suffix(".zip")), ALL, r"control +10 \("),
    "no archive": (lambda root: root.parent / "none.zip", 0, r"There is no archive .*none\.zip"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("good") / "slices"
    fixtures.class_folders(root, GOOD, levels=LEVELS)
    return root


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the good slices, without their table."""
    return Path(shutil.copytree(good, tmp_path / "slices"))


def told(capsys, *command: str | Path) -> tuple[int, str]:
    """(exit status, all that the user is told)."""
    capsys.readouterr()
    status = main(list(map(str, command)))
    return status, "".join(capsys.readouterr())


@pytest.mark.filterwarnings("error::UserWarning")  # what there is to say is said in the report
@pytest.mark.parametrize("kind", CASES)
def test_the_user_is_told_and_nothing_fine_is_lost(kind, folder, capsys, tmp_path):
    make, slices, says = CASES[kind]
    beside = {path.name for path in tmp_path.parent.iterdir()} | {"data"}  # the cache
    status, text = told(capsys, "data", make(folder) or folder, "--resolution", "16")
    assert re.search(says, text, re.DOTALL), text
    assert "Traceback" not in text and "\x1b" not in text
    if slices:
        assert status == 0 and int(re.search(r"slices \(subjects\) +(\d+)", text)[1]) == slices, text
    else:
        assert status == 2 and text.startswith("stylegan: ") and text.count("\n") == 1, text
    assert {path.name for path in tmp_path.parent.iterdir()} | {"data"} == beside and not list(tmp_path.parent.rglob("evil*"))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are taken away by POSIX modes")
def test_what_may_not_be_read_is_left_out_and_named(good, capsys, monkeypatch):
    load_slices(good, 16)  # the template is loaded as who we are
    me, nobody = os.geteuid(), os.geteuid() or 65534  # root may read everything
    with tempfile.TemporaryDirectory() as place:
        slices = Path(shutil.copytree(good, Path(place) / "slices"))
        monkeypatch.setenv("STYLEGAN_DATA", str(Path(place) / "cache"))
        (slices / "closed").mkdir()
        for path in (Path(place), *Path(place).rglob("*")):
            os.chown(path, nobody, -1)
        for path in (slices / "patient/OAS1_0101_MR1_slice_00.png", slices / "closed"):
            path.chmod(0)
        Path(place).chmod(0o300)  # one may pass through the folder around without being allowed to list it
        os.seteuid(nobody)
        try:
            status, text = told(capsys, "data", slices, "--resolution", "16")
        finally:
            os.seteuid(me)
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
    content, rng, outcomes = png(head(), format), np.random.default_rng(0), set()
    for _ in range(150):
        (tmp_path / "x.png").write_bytes(spoilt(content, rng, 400))
        try:
            outcomes.add(pictures.read_picture(tmp_path / "x.png", []).ndim)
        except LeftOut as reason:
            outcomes.add(str(reason))
    reasons = {"unreadable", "not an image", "empty file", "larger than 8192 pixels", "several pictures in one file"}
    assert {"unreadable"} < outcomes <= {2} | reasons


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".hdr"])
def test_a_damaged_volume_is_read_or_refused_whatever_its_header(ending, tmp_path):
    path, rng, read = tmp_path / f"x{ending}", np.random.default_rng(0), 0
    fixtures.save_volume(path, fixtures.volume("sub-0", (16, 18, 34)))
    content = path.read_bytes()
    for _ in range(150):
        path.write_bytes(spoilt(content, rng, 352))
        try:
            scan = volumes.read_scan(path, None, [])
            assert scan.pictures.ndim == 3 and np.isfinite(scan.pictures).all() and scan.pictures.size <= volumes.MAX_VOXELS
            read += 1
        except LeftOut as reason:
            assert str(path) in reason.sentence and "\n" not in reason.sentence
    assert 5 < read < 140
