"""What lies in a folder and what of it to look at, by names alone: pictures or volumes, which contrast, which version of a scan."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from stylegan.data.pictures import EXTENSIONS
from stylegan.data.subjects import CONTRASTS, LAST_ONLY, STAGES, core, find_id, plain, stem
from stylegan.data.volumes import ENDINGS
from stylegan.files import read_json

TABLES = (".csv", ".tsv", ".json", ".xlsx", ".xls")
LABELS = re.compile(
    r"(?:msk|seg|[fad]seg|labels?|masks?|annot\w*|segmentations?|gt|ground_?truth)\d*(?:tr|ts|va)?", re.I
)  # words of folders and names
LABEL_VOLUMES = re.compile(  # further words of volumes' names
    r"aparc|parc|labelmap|probseg|tissue|lesions?|pveseg|pve\d?|atlas|wmparc|ribbon|roi|biasfield|filled|wm|csf|gm|probtissue|lh|rh|onehot|dist|def|xfm|"
    r"warp", re.I)  # fmt: skip
MASK_END = re.compile(r"(?:mask|seg\d*)$", re.I)
NNUNET = re.compile(
    r"(^|/)images(?:tr|ts|va)/", re.I
)  # where pictures end in the number of their contrast; elsewhere they are counted
TEMPLATES = re.compile(r"(?:mni|icbm|avg)_?\d{3}|template|colin27|standard", re.I)


ADVICE = {  # formats that are common with heads but not read: the reason they are counted under, and the way out
    "DICOM": "convert DICOM files with `dcm2niix -z y -o OUT FOLDER` and give OUT",
    ".npy": "save arrays as NIfTI, nibabel.save(nibabel.Nifti1Image(array, affine), 'x.nii.gz'), or each slice as PNG",
    ".mha": "convert with SimpleITK, WriteImage(ReadImage('x.mha'), 'x.nii.gz')",
    ".mnc": "convert with `mnc2nii`",
    ".tar": "unpack the archive (tar xf) and give the folder",
    ".parquet": "save the pictures in the table as PNG files",
    "Git LFS pointer": "a Git LFS pointer stands for a file that was not fetched: run `git lfs pull` where the files come from",
}  # fmt: skip
FOREIGN = {
    "DICOM": (".dcm", ".ima", ".dicom", "dicomdir"), ".npy": (".npy", ".npz", ".h5", ".hdf5", ".mat", ".pkl", ".pt"),
    ".mha": (".mha", ".mhd", ".nrrd", ".nhdr"), ".mnc": (".mnc",), ".tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar"),
    ".parquet": (".parquet", ".arrow", ".tfrecord", ".tfrecords", ".lmdb"),
}  # fmt: skip

# --------------------------------------------------------------------------------------------------------------------- the walk

Listing = tuple[list[tuple[str, int, int]], dict[str, list[str]]]


def list_files(root: Path) -> Listing:
    """All files below a folder as (relative name, bytes, modification time in ns), sorted, and what is no file, by reason.

    Hidden folders are skipped; linked folders are followed, each real folder once. Raises FileNotFoundError.
    """
    if root.is_file():
        raise FileNotFoundError(f"{root} is a file; give the folder that holds the slices, or a .zip of it.")
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}; give a folder or .zip of slices, or none for the simulated ones.")
    files: list[tuple[str, int, int]] = []
    failed: list[str] = []
    empty: list[str] = []
    seen: set[str] = set()
    todo = [(str(root), "")]
    while todo:
        folder, prefix = todo.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: (not entry.is_symlink(), entry.name))  # links are met last
        except OSError:
            failed.append(prefix or ".")
            continue
        if prefix and not entries:
            empty.append(prefix.rstrip("/"))
        for entry in entries:
            _enter(entry, prefix, files, todo, failed)
    return sorted(files), {"unreadable": sorted(failed), "empty folder": sorted(empty)}


def _enter(entry: os.DirEntry, prefix: str, files: list, todo: list, failed: list[str]) -> None:
    try:
        if entry.is_dir():
            if not entry.name.startswith(".") and entry.name != "__MACOSX":
                todo.append((entry.path, f"{prefix}{entry.name}/"))
        elif entry.is_file():
            status = entry.stat()
            files.append((prefix + entry.name, status.st_size, status.st_mtime_ns))
        else:  # a pipe would wait for ever; a dangling link leads nowhere
            failed.append(prefix + entry.name)
    except OSError:
        failed.append(prefix + entry.name)


# -------------------------------------------------------------------------------------------------------- pictures or volumes

LeftOutNames = dict[str, list[str]]  # reason: files


def candidates(names: Sequence[str], left_out: LeftOutNames) -> tuple[list[str], bool]:
    """The files that may hold slices, and whether they are volumes; the others are added to ``left_out``.

    Volumes win where about as many people have them as have pictures: a stray template beside pictures does not, and the previews
    beside volumes do not either.
    """
    kinds: dict[str, list[str]] = {"volume": [], "picture": []}
    folded = {name.casefold() for name in names}
    for name in names:
        kind, reason = _kind(name, folded)
        if kind:
            kinds[kind].append(name)
        elif reason:
            left_out.setdefault(reason, []).append(name)
    volumes, pictures = kinds["volume"], kinds["picture"]
    heads = [name for name in volumes if not TEMPLATES.match(stem(name)) or find_id(name)[0]] or ([] if pictures else volumes)
    won = bool(heads) and (2 * len(_owners(heads)) >= len(_owners(pictures)) or len(pictures) < 4 * len(heads))
    if won:
        left_out.setdefault("not a volume", []).extend(pictures)
        left_out.setdefault("template", []).extend(set(volumes) - set(heads))
        return heads, True
    left_out.setdefault("volume among pictures", []).extend(volumes)
    return pictures, False


def _owners(names: Iterable[str]) -> set[str]:
    return {find_id(plain(name))[0] or f"{Path(name).parent}/{core(stem(name))}" for name in names}


def _kind(name: str, folded: set[str]) -> tuple[str, str]:
    """('picture' | 'volume' | '', the reason why it is neither; both '' for what need not be counted)."""
    base = plain(name).rpartition("/")[2]
    lower = base.lower()
    if base.startswith(".") or lower in ("thumbs.db", "desktop.ini"):
        return "", "hidden or system file"
    if lower.endswith(TABLES):
        return "", ""
    foreign = next((reason for reason, endings in FOREIGN.items() if lower.endswith(endings)), "")
    if foreign:
        return "", foreign if foreign == "DICOM" else f"{'.tar' if foreign == '.tar' else Path(lower).suffix} file"
    volume, picture = lower.endswith(ENDINGS), Path(lower).suffix in EXTENSIONS
    if lower.endswith((".img", ".img.gz")):
        pair = re.sub(r"\.img(\.gz)?$", ".hdr", name.casefold()) in folded
        return "", "" if pair else "not an image"
    if lower.endswith(".hdr") and not {name[:-4].casefold() + ending for ending in (".img", ".img.gz")} & folded:
        return "", "header without its .img"
    if (volume or picture) and _is_label_map(name, volume):
        return "", "label map"
    return ("volume", "") if volume else ("picture", "") if picture else ("", "not an image")


def _is_label_map(name: str, volume: bool) -> bool:
    """Whether a name says segmentation, mask or label map (``_masked_`` is a picture)."""
    *folders, _ = plain(name).split("/")
    words = re.split(r"[^A-Za-z0-9]+", stem(name))
    freesurfer = name.lower().endswith((".mgz", ".mgh"))  # its brainmask is a head, masked
    named = any(LABELS.fullmatch(word) or (volume and LABEL_VOLUMES.fullmatch(word)) for word in words)
    named = named or (not freesurfer and any(MASK_END.search(word) for word in words))
    return named or any(LABELS.fullmatch(word) for folder in folders for word in re.split(r"[\W_]+", folder))


# ------------------------------------------------------------------------------------------------------ contrasts and versions


def contrast_of(name: str) -> str:
    """T1, T2, FLAIR, ... as the file's name says, or else its folders from the innermost; '' where nothing is said."""
    *folders, _ = plain(name).split("/")
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", stem(name)) if word]
    last = next((word for word in reversed(words) if not word.isdigit()), "")
    found = next((kind for word in reversed(words) if (kind := _contrast(word))), "")
    if not found and len(words) > 1:
        found = next((kind for kind, pattern in LAST_ONLY.items() if re.fullmatch(pattern, last)), "")
    for folder in reversed(folders):
        if found:
            break
        found = next((kind for word in re.split(r"[^a-z0-9]+", folder.lower()) if (kind := _contrast(word))), "")
    return (
        "T1CE"
        if found == "T1" and {"gd", "ce", "km", "cm", "gado", "gadolinium", "contrast", "postcontrast"} & set(words)
        else found
    )


def _contrast(word: str) -> str:
    return next((kind for kind, pattern in CONTRASTS.items() if re.fullmatch(pattern, word)), "")


def one_contrast(
    names: list[str], asked: str | None, channels: dict[str, str], left_out: LeftOutNames
) -> tuple[list[str], list[str]]:
    """The files of one contrast and warnings: the one asked for, else T1 under any of its names, else the commonest.

    ``channels``: what nnU-Net's dataset.json calls ``_0000``, ``_0001``, ...
    """
    numbers = {name: m[1] for name in names if (m := re.search(r"_(000\d)$", stem(name)))}
    nnunet = channels or all(name.lower().endswith(ENDINGS) or NNUNET.search(plain(name)) for name in names)
    numbered = nnunet and len(numbers) == len(names) and (len(set(numbers.values())) > 1 or bool(channels))
    kinds = {name: contrast_of(channels.get(numbers[name], f"channel {numbers[name]}")) or f"channel {numbers[name]}" if numbered
             else contrast_of(name) for name in names}  # fmt: skip
    count = Counter(kinds.values())
    wanted, warnings = {"T1", ""} if count["T1"] else {max(count, key=lambda kind: (count[kind], kind == ""), default="")}, []
    if asked:
        wanted = {_contrast(asked.lower()) or next((kind for kind in count if kind.lower() == asked.lower()), asked)}
        if not wanted & set(count):
            there = ", ".join(kind or "unnamed" for kind in sorted(count))
            raise ValueError(f"contrast is {asked!r}, and no file's name says so; there are {there or 'no files'}.")
    elif numbered and not count["T1"]:
        wanted = {min(count)}
    if not wanted & {"T1", ""} and not asked:
        warnings.append(f"No file's name says T1: the contrast {min(wanted)} is used; --contrast chooses another.")
    beside = {_place(name) for name in names if kinds[name] == "T1"} if "" in wanted else set()
    kept = [name for name in names if kinds[name] in wanted and (kinds[name] or _place(name) not in beside)]
    for name in sorted(set(names) - set(kept)):
        left_out.setdefault(f"contrast {kinds[name]}" if kinds[name] else "another volume of the same subject", []).append(name)
    return kept, warnings


def _place(name: str) -> str:
    return find_id(plain(name))[0] or str(Path(name).parent)


def channel_names(root: Path, names: Sequence[str]) -> dict[str, str]:
    """{'0000': 'T1w', ...} as nnU-Net's dataset.json says."""
    path = next((name for name in names if plain(name).rpartition("/")[2].lower() == "dataset.json"), None)
    found = (read_json(root / path) or {}) if path else {}
    told = found.get("channel_names", found.get("modality"))
    return {f"{int(k):04d}": str(v) for k, v in told.items() if str(k).isdigit()} if isinstance(told, dict) else {}


def one_version(names: list[str], left_out: LeftOutNames) -> list[str]:
    """Of the raw, registered, stripped... versions of one scan the last; of OASIS-1's scans the brain in atlas space.

    Repeats of a scan are no versions of it: they stay.
    """
    outside = [name for name in names if not re.search(r"(^|/)(derivatives|sourcedata)/", plain(name), re.I)] or names
    groups: dict[str, list[str]] = defaultdict(list)
    for name in outside:
        scan = find_id(plain(name))[1] if name.lower().endswith((".hdr", ".img")) else ""
        folder = str(Path(plain(name)).parent)
        freesurfer = name.lower().endswith((".mgz", ".mgh"))
        groups[scan if "_MR" in scan else folder if freesurfer else f"{folder}/{_unversioned(stem(name))}"].append(name)
    kept = [name for group in groups.values() for name in group if _rank(name) == min(map(_rank, group))]
    left_out.setdefault("another volume of the same subject", []).extend(sorted(set(names) - set(kept)))
    return [name for name in names if name in set(kept)]


def _unversioned(base: str) -> str:
    words = "|".join((*STAGES, "orig", "raw", "affine", "mni", "aligned", "acpc", "dc"))
    return re.sub(rf"(?<![A-Za-z0-9])(?:{words}|T1w?)(?![A-Za-z0-9])|[-_]+", "", base, flags=re.I)


def _rank(name: str) -> int:
    base = stem(name).lower()
    return next((i for i, words in enumerate(STAGES) if re.search(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", base)), len(STAGES))


# -------------------------------------------------------------------------------------------------------------------- nothing


def nothing_found(root: Path, left_out: dict[str, Iterable[str]]) -> str:
    """The sentence for a folder without a single slice: what lies there instead, and the way out."""
    found = {reason: tuple(names) for reason, names in left_out.items() if names}
    if any(_is_dicom(root / name) for name in found.get("not an image", ())[:20]):
        found = {("DICOM" if reason == "not an image" else reason): names for reason, names in found.items()}
    counts = ", ".join(f"{len(names)} {reason}" for reason, names in found.items()) or "the folder is empty"
    archive = next((name for names in found.values() for name in names if name.lower().endswith(".zip")), None)
    told = [
        advice
        for what, advice in ADVICE.items()
        if what in found or any(f"{end} file" in found for end in FOREIGN.get(what, ()))
    ]
    if archive:
        told = [f"it holds the archive {archive}: give its path instead of the folder's"]
    return f"No slice was found in {root} ({counts}); {told[0] if told else 'data/README.md shows the layouts that are recognised'}."


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def natural(name: str) -> list:
    """Sorting key that puts slice 9 before slice 10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)]


def parse_levels(levels: str | Sequence[int] | None) -> tuple[int, int] | None:
    """(A, B) from 'A-B', 'A' or a pair of numbers; the pair also as text, as older runs recorded it."""
    if levels is None:
        return None
    text = str(levels) if isinstance(levels, str | int) else "-".join(map(str, levels))
    found = re.fullmatch(r"\(?(\d+)(?:(?:-|, ?)(\d+))?\)?", text.strip())
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
    if low > high:
        raise ValueError(f"levels is {levels!r}; write A-B with 0 <= A <= B, such as 0-31.")
    return low, high
