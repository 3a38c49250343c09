"""Small folders of made-up slices in every layout that users have, with what is true of each file, and the bad files of the wild."""

import hashlib
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from stylegan.data.subjects import Item


def head(who: str, level: int, width: int = 40, height: int = 40, turned: int = 0) -> np.ndarray:
    """A head-like oval uint8 [H, W], narrow at the front, with two dark ventricles; no two (who, level) are equal."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{who}/{level}".encode()).digest()[:8], "big"))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    widest = 0.62 + 0.14 * y  # the front (y = -1) is narrower than the back
    picture = np.where((x / widest) ** 2 + (y / 0.9) ** 2 < 1, 150.0 + 8 * rng.standard_normal((height, width)), 0.0)
    for side in (-1, 1):
        picture[((x - side * 0.14) / 0.08) ** 2 + ((y + 0.1) / 0.3) ** 2 < 1] *= 0.3
    return np.rot90(picture.clip(0, 255).astype(np.uint8), turned)


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=95)


def class_folders(root: Path, subjects: dict[str, int], levels: int = 3) -> None:
    """<root>/<class>/<subject>_slice_<K>.png with so many subjects per class, and subjects.csv beside the root."""
    lines = ["subject,CDR,age,nWBV"]
    for i, (label, count) in enumerate(subjects.items()):
        for s in range(count):
            who = f"OAS1_{100 * i + s + 1:04d}_MR1"
            lines.append(f"{who},{i / 2},{60 + s},0.{700 + s}")
            for level in range(levels):
                save(root / f"{label}/{who}_slice_{level:02d}.png", head(who, level))
    (root.parent / "subjects.csv").write_text("\n".join(lines))


def uq_oasis(root: Path) -> dict[str, Item]:
    """The course's OASIS folder: 8, 2 and 2 cases per published split, each with label maps beside it."""
    truth = {}
    for number, split in enumerate(["train"] * 8 + ["validate"] * 2 + ["test"] * 2, start=1):
        for level in range(3):
            who, name = f"OAS1_{number:04d}_MR1", f"keras_png_slices_{split}/case_{number:03d}_slice_{level}.nii.png"
            truth[name] = Item(name, who, level, folder={"validate": "val"}.get(split, split))
            save(root / name, head(who, level))
            save(root / f"keras_png_slices_seg_{split}/seg_{number:03d}_slice_{level}.nii.png", label_map(number, level))
    return truth


def uq_adni(root: Path) -> tuple[dict[str, Item], Path]:
    """The course's ADNI folder with made-up heads, and the table of image ids that tells the people: two images each."""
    truth, lines = {}, ["Image Data ID,Subject,Age"]
    for i in range(16):
        image, person, folder = f"{218391 + 13 * i}", f"{i // 2:03d}_S_{1000 + i // 2}", "test" if i % 8 == 7 else "train"
        lines.append(f"I{image},{person},{70 + i // 2}")
        for k in range(3):
            label = ("AD", "NC")[(i // 2) % 2]
            name = f"{folder}/{label}/{image}_{78 + k}.jpeg"
            truth[name] = Item(name, person, 78 + k, label, folder)
            save(root / name, head(image, k, width=44, height=40))
    table = root.parent / "people.csv"
    table.write_text("\n".join(lines))
    return truth, table


def four_class_names(counts: dict[str, int], cut: dict[str, int]) -> dict[str, Item]:
    """Names of the four-class upload, written as its author must have: each class was one list of pictures, "L (s).jpg" per level L
    and subject s, sorted as text within a level. The last fifth went to test under these names; the rest was numbered from 0.

    ``cut``: how many subjects of each class have their slice of level 26, the lowest one there, in test.
    """
    truth = {}
    for label, count in counts.items():
        order = sorted(range(1, count + 1), key=lambda s: f"26 ({s}).jpg" if s > 1 else "26.jpg")
        tested = set(np.random.default_rng(count).permutation(count)[: cut[label]] + 1)
        number = 0
        for level in range(1, 33):
            for s in order:
                if level > 26 or (level == 26 and s in tested):
                    folder, name = "test", f"{level}.jpg" if s == 1 else f"{level} ({s}).jpg"
                else:
                    folder, name = "train", f"{label.removesuffix('Demented').lower()}Dem{number}.jpg"
                    number += 1
                name = f"{folder}/{label}/{name}"
                truth[name] = Item(name, f"{label}-{s:03d}", level - 1, label, folder)
    return truth


def four_class(root: Path) -> None:
    """A small four-class upload: 11 + 4 + 3 + 2 subjects."""
    counts = {"NonDemented": 11, "VeryMildDemented": 4, "MildDemented": 3, "ModerateDemented": 2}
    truth = four_class_names(counts, {"NonDemented": 4, "VeryMildDemented": 2, "MildDemented": 1, "ModerateDemented": 0})
    for name, item in truth.items():
        save(root / name, head(item.subject, item.level, width=36, height=42, turned=2))


def volume(who: str, shape: tuple[int, int, int] = (40, 44, 40)) -> np.ndarray:
    """A head [X, Y, Z] towards right, front, top."""
    across, along, up = shape
    planes = [head(who, level, across, along)[::-1].T * float(level > 3) for level in range(up)]
    return np.stack(planes, axis=2).astype(np.int16)


def save_volume(path: Path, data: np.ndarray, orient: int = 0) -> None:
    """NIfTI towards right, front and top; or big-endian Analyze of int16, as OASIS-1 ships it, with this byte ``orient``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(np.int16)
    header["orient"] = bytes([orient])
    nib.save(nib.AnalyzeImage(data, None, header) if path.suffix == ".hdr" else nib.Nifti1Image(data, np.eye(4)), path)


def oasis_volumes(root: Path) -> None:
    """Raw OASIS-1 folders with 4-D big-endian Analyze volumes of int16, their table and the pictures that come with them."""
    lines = ["ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay"]
    for i, cdr in enumerate(("", "0", "0.5", "1")):
        who = f"OAS1_{i + 1:04d}_MR1"
        scan = f"{who}/PROCESSED/MPRAGE/T88_111/{who}_mpr_n4_anon_111_t88"
        for version in ("masked_gfc", "gfc"):
            save_volume(root / f"{scan}_{version}.hdr", volume(who)[::-1, :, :, None])
        save(root / f"{scan}_gfc_tra_90.gif", head(who, 90))
        lines.append(f"{who},F,R,{30 + i},,,,{cdr},1344,0.743,1.306,N/A")
    (root / "oasis_cross-sectional.csv").write_text("\n".join(lines))


def nifti(root: Path) -> None:
    """A BIDS folder of four people."""
    for i in range(4):
        save_volume(root / f"sub-{i + 1:02d}/anat/sub-{i + 1:02d}_T1w.nii.gz", volume(f"sub-{i}"))


def label_map(number: int, level: int) -> np.ndarray:
    """Background, fluid, grey and white matter as 0, 85, 170, 255."""
    picture = head(str(number), level)
    return np.select([picture == 0, picture < 100, picture < 150], [0, 85, 170], 255).astype(np.uint8)


def png_of(rows: list[bytes], width: int, depth: int, colour: int) -> bytes:
    """A PNG of these rows of packed pixels, whatever Pillow would write; ``colour`` as in the PNG's header."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 1)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body
