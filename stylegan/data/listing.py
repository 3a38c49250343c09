"""What lies in a folder and what of it to look at, by names alone: pictures or volumes, which contrast, which version of a scan."""

import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from stylegan.data.pictures import EXTENSIONS, first_bytes
from stylegan.data.subjects import CONTRASTS, LAST_ONLY, STAGES, core, find_id, plain, stem
from stylegan.data.volumes import ENDINGS
from stylegan.files import read_json

TABLES = (".csv", ".tsv", ".json", ".xlsx", ".xls")
# Words of folders and names, and further ones of volumes' names.
LABELS = re.compile(r"(?:msk|[fad]?seg|labels?|masks?|annot\w*|segmentations?|[gcp]tv|gt|ground_?truth)\d*(?:tr|ts|va)?", re.I)
LABEL_VOLUMES = re.compile(
    r"(?:a|wm)?parc|labelmap|prob(?:seg|tissue)|tissue|lesions?|pve(?:seg|\d)?|atlas|ribbon|roi|biasfield|filled|wmh?|csf|gm|lh|rh|onehot|dist|def|xfm|warp",
    re.I)  # fmt: skip
# What is computed from a scan, in words of volumes' names: bias fields, deformations, quantitative maps, phases.
DERIVED = re.compile(r"(?:tot)?bias|mixeltype|(?:inverse|\d*)warp(?:field)?|inversewarped|\w*jac(?:obians?)?|coeff|\w*posteriors?\d*|thickness|[rt][12]s?map|"
                     r"\w*dividedby\w*|dc2standard|phase", re.I)  # fmt: skip
MASK_END = re.compile(r"(?:mask|seg\d*)$", re.I)
# The marks of SPM and CAT12 before the name of the scan that they worked on.
SPM = re.compile(r"(^|/)(?:mri/)?(?:s?m?w?r?[cp][0-6](?:r|a)?|i?y_|w?mi?|m?w|r|s)(?=[^/]+$)")
TISSUE = re.compile(r"(^|/)(?:mri/)?s?m?w?r?[cp][0-6](?=[a-z][^/]+$)", re.I)  # c1sub-01: SPM's where there is a c2sub-01 too
PLANES = {"axial": r"ax(?:ial)?|tra(?:ns\w*)?", "coronal": r"cor(?:onal)?", "sagittal": r"sag(?:ittal)?"}
NNUNET = re.compile(r"(^|/)images(?:tr|ts|va)/", re.I)  # pictures here end in the number of their contrast
TEMPLATES = re.compile(r"(?:mni|icbm|avg)_?\d{3}|template|colin27|standard", re.I)
ANOTHER = "another volume of the same subject"
FOREIGN = {  # formats that are common with heads but not read: endings, and the way out
    "DICOM": ((".dcm", ".ima", ".dicom", "dicomdir"), "convert DICOM files with `dcm2niix -z y -f %i_%s -o OUT FOLDER` and give OUT"),
    ".npy": ((".npy", ".npz", ".h5", ".hdf5", ".mat", ".pkl", ".pt"),
             "save arrays as NIfTI, nibabel.save(nibabel.Nifti1Image(array, affine), 'x.nii.gz'), or each slice as PNG"),
    ".mha": ((".mha", ".mhd", ".nrrd", ".nhdr"), "convert with SimpleITK, WriteImage(ReadImage('x.mha'), 'x.nii.gz')"),
    ".mnc": ((".mnc",), "convert with `mnc2nii`"),
    ".tar": ((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar"), "unpack the archive (tar xf) and give the folder"),
    ".parquet": ((".parquet", ".arrow", ".tfrecord", ".tfrecords", ".lmdb"), "save the pictures in the table as PNG files"),
    "Git LFS pointer": ((), "a Git LFS pointer stands for a file that was not fetched: run `git lfs pull` where the files come from"),
}  # fmt: skip

Listing = tuple[list[tuple[str, int, int]], dict[str, list[str]]]
LeftOutNames = defaultdict[str, list[str]]  # reason: files


def list_files(root: Path) -> Listing:
    """All files below a folder as (relative name, bytes, modification time in ns), sorted, and what is no file, by reason.
    Hidden folders are skipped; linked folders are followed, each real folder once. Raises FileNotFoundError."""
    if not root.is_dir():
        none = f"There is no folder {root}; give a folder or .zip of slices, or none for the simulated ones."
        a_file = f"{root} is a file; give the folder that holds the slices, or a .zip of it."
        raise FileNotFoundError(a_file if root.is_file() else none)
    files, failed, closed, empty, seen = [], [], [], [], set()
    for folder, folders, found in os.walk(root, onerror=lambda error: closed.append(Path(error.filename)), followlinks=True):
        inside, real = Path(folder).relative_to(root), os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        empty += [] if folders or found else [inside.as_posix()]
        shown = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        order = sorted((not (root / inside / name).is_symlink(), name) for name in shown)
        folders[:] = [name for _, name in reversed(order)]  # links come last
        for name in found:
            try:
                status = os.stat(root / inside / name)
            except OSError:  # a dangling link leads nowhere
                status = None
            path = (inside / name).as_posix()
            if status and stat.S_ISREG(status.st_mode):
                files.append((path, status.st_size, status.st_mtime_ns))
            else:  # a pipe would wait for ever
                failed.append(path)
    failed += [f"{path.relative_to(root).as_posix()}/" for path in closed]
    return sorted(files), {"unreadable": sorted(failed), "empty folder": sorted(set(empty) - {"."})}


def choose_files(
    root: Path, names: Sequence[str], contrast: str | None, left_out: LeftOutNames
) -> tuple[list[str], bool, list[str]]:
    """The files to look at, whether they are volumes, and warnings; the others are added to ``left_out``.

    Volumes win where about as many people have them as have pictures, but not a stray template beside pictures.
    """
    kinds, folded, tissues = defaultdict(list), {name.casefold() for name in names}, defaultdict(set)
    for name in filter(TISSUE.search, names):
        tissues[TISSUE.sub(r"\1", name)].add(name)
    tissue = {name for scan, of in tissues.items() if len(of) > 1 and re.search(r"\d", core(stem(scan))) for name in of}
    for name in names:
        kinds["written by SPM" if name in tissue else _kind(name, folded)].append(name)
    volumes, pictures, _ = (kinds.pop(kind, []) for kind in ("volume", "picture", ""))
    left_out.update(kinds)
    known = {name for name in volumes if TEMPLATES.match(stem(name)) or "fsaverage" in name}
    heads = [name for name in volumes if name not in known or find_id(name)[0]] or ([] if pictures else volumes)
    won = bool(heads) and (2 * len(_owners(heads)) >= len(_owners(pictures)) or len(pictures) < 4 * len(heads))
    left_out["not a volume" if won else "volume among pictures"] += pictures if won else volumes
    left_out["template"] += sorted(set(volumes) - set(heads)) if won else []
    path = next((name for name in names if plain(name).rpartition("/")[2].lower() == "dataset.json"), None)
    told = (read_json(root / path) or {}) if path else {}
    told = told.get("channel_names", told.get("modality"))  # nnU-Net: what _0000, _0001, ... are called
    channels = {f"{int(k):04d}": str(v) for k, v in told.items() if str(k).isdigit()} if isinstance(told, dict) else {}
    chosen, warnings = _one_contrast(heads if won else pictures, contrast, channels, left_out)
    return (_one_version(chosen, left_out) if won else _one_plane(chosen, left_out)), won, warnings


def _owners(names: Iterable[str]) -> set[str]:
    return {find_id(plain(name))[0] or f"{Path(name).parent}/{core(stem(name))}" for name in names}


def _kind(name: str, folded: set[str]) -> str:
    """'picture' | 'volume' | the reason why a file is neither | '' for what need not be counted."""
    base = plain(name).rpartition("/")[2].lower()
    suffix = Path(base).suffix
    foreign = next((kind for kind, (endings, _) in FOREIGN.items() if base.endswith(endings)), "")
    volume = base.endswith(ENDINGS)
    if base.startswith(".") or base in ("thumbs.db", "desktop.ini"):
        return "hidden or system file"
    if base.endswith(TABLES):
        return ""
    if foreign:
        return foreign if foreign == "DICOM" else f"{'.tar' if foreign == '.tar' else suffix} file"
    if base.endswith((".img", ".img.gz")):
        return "" if re.sub(r"\.img(\.gz)?$", ".hdr", name.casefold()) in folded else "not an image"
    if suffix == ".hdr" and not {name[:-4].casefold() + ending for ending in (".img", ".img.gz")} & folded:
        return "header without its .img"
    if not volume and suffix not in EXTENSIONS:
        return "not an image"
    if volume and (scan := SPM.sub(r"\1", name.casefold())) != name.casefold() and scan in folded:
        return "written by SPM"
    above = re.sub(r"(?<![^/])label[-_ ]\d+(?=/)", "", plain(name), flags=re.I)  # label_0 and label_1 are classes
    words, folders = re.split(r"[^A-Za-z0-9]+", stem(name)), re.split(r"[\W_]+", above.rpartition("/")[0])
    label = any(map(LABELS.fullmatch, [*words, *folders])) or (volume and any(map(LABEL_VOLUMES.fullmatch, words)))
    label = label or "groundtruth" in re.sub(r"[\W_]", "", name.casefold())
    masked = any(map(MASK_END.search, words)) and not base.endswith((".mgz", ".mgh"))  # FreeSurfer's brainmask is a head
    derived = volume and any(map(DERIVED.fullmatch, words))
    return "label map" if label or masked else "derived map" if derived else "volume" if volume else "picture"


# ------------------------------------------------------------------------------------------------------ contrasts and versions


def contrast_of(name: str) -> str:
    """T1, T2, FLAIR, ... as the file's name says, or else its folders from the innermost; '' where nothing is said."""
    *folders, _ = plain(name).lower().split("/")
    words = [word for word in re.split(r"[^a-z0-9]+", stem(name).lower()) if word]
    last = next((word for word in reversed(words) if not word.isdigit()), "") if len(words) > 1 else ""
    late = (kind for kind, pattern in LAST_ONLY.items() if re.fullmatch(pattern, last))
    outer = (word for folder in reversed(folders) for word in re.split(r"[^a-z0-9]+", folder))
    found = next(filter(None, chain(map(_contrast, reversed(words)), late, map(_contrast, outer))), "")
    agent = {"gd", "ce", "km", "cm", "gado", "gadolinium", "contrast", "postcontrast"} & set(words)
    return "T1CE" if found == "T1" and agent else found


def _contrast(word: str) -> str:
    return next((kind for kind, pattern in CONTRASTS.items() if re.fullmatch(pattern, word)), "")


def _one_contrast(
    names: list[str], asked: str | None, channels: dict[str, str], left_out: LeftOutNames
) -> tuple[list[str], list[str]]:
    """The files of one contrast and warnings: the one asked for, else T1 under any of its names, else the commonest.
    ``channels``: what nnU-Net's dataset.json calls ``_0000``, ``_0001``, ..."""
    numbers = {name: m[1] for name in names if (m := re.search(r"_(000\d)$", stem(name)))}
    nnunet = channels or all(name.lower().endswith(ENDINGS) or NNUNET.search(plain(name)) for name in names)
    numbered = nnunet and len(numbers) == len(names) and (len(set(numbers.values())) > 1 or bool(channels))
    if numbered:
        kinds = {name: contrast_of(channels.get(number, "")) or f"channel {number}" for name, number in numbers.items()}
    else:
        kinds = {name: contrast_of(name) for name in names}
        if set(kinds.values()) == {"", "PD"} and all("pd" in plain(n).lower().split("/")[:-1] for n in names if kinds[n]):
            kinds = dict.fromkeys(names, "")  # a folder of Parkinson's disease beside one of controls, not of proton density
    count, warnings = Counter(kinds.values()), []
    if asked:
        wanted = {_contrast(asked.lower()) or next((kind for kind in count if kind.lower() == asked.lower()), asked)}
        if wanted.isdisjoint(count):
            there = ", ".join(filter(None, sorted(count)))
            raise ValueError(f"contrast is {asked!r}, and no file's name says so; there are {there or 'none named'}.")
    elif count["T1"]:
        wanted = {"T1", ""}
    else:
        wanted = {min(count, default="") if numbered else max(count, key=lambda kind: (count[kind], kind == ""), default="")}
        if wanted != {""}:
            warnings = [f"No file's name says T1: the contrast {min(wanted)} is used; --contrast chooses another."]
    beside = {_place(name) for name in names if kinds[name] == "T1"} if "" in wanted else set()
    kept = [name for name in names if kinds[name] in wanted and (kinds[name] or _place(name) not in beside)]
    for name in sorted(set(names) - set(kept)):
        left_out[f"contrast {kinds[name]}" if kinds[name] else ANOTHER].append(name)
    return kept, warnings


def _place(name: str) -> str:
    return find_id(plain(name))[0] or str(Path(name).parent)


def _one_plane(names: list[str], left_out: LeftOutNames) -> list[str]:
    """The pictures without those of other planes, where names tell several: axial ones, else the commonest."""
    planes = {name: _plane(name) for name in names}
    count = Counter(filter(None, planes.values()))
    wanted = max(count, key=lambda plane: (plane == "axial", count[plane]), default="")
    for name in names if len(count) > 1 else ():
        if planes[name] not in ("", wanted):
            left_out[f"{planes[name]} plane"].append(name)
    return [name for name in names if len(count) < 2 or planes[name] in ("", wanted)]


def _plane(name: str) -> str:
    words = reversed(re.split(r"[^a-z0-9]+", f"{plain(name).rpartition('/')[0]}/{stem(name)}".lower()))
    return next((plane for word in words for plane, pattern in PLANES.items() if re.fullmatch(pattern, word)), "")


def _one_version(names: list[str], left_out: LeftOutNames) -> list[str]:
    """Of the raw, registered, stripped... versions of one scan the last; of OASIS-1's scans the brain in atlas space. Repeats
    of a scan are no versions of it: they stay. Of versions that rank alike the shortest name is taken."""
    further = r"orig|raw|affine|mni|aligned|acpc|dc|to|warped|(?:non)?lin|fullfov|biascorr|unbiased|defaced"
    versions = "|".join((*STAGES, further, r"(?:space|desc|res)-\w+?"))
    groups, uniform = defaultdict(list), {str(Path(name).parent) for name in names if re.search(r"UNIT1$", stem(name))}
    left_out["inversion of MP2RAGE"] += [n for n in names if re.search(r"inv-\d", stem(n)) and str(Path(n).parent) in uniform]
    names = [name for name in names if name not in left_out["inversion of MP2RAGE"]]
    for name in [name for name in names if not re.search(r"(^|/)(derivatives|sourcedata)/", plain(name), re.I)] or names:
        scan = find_id(plain(name))[1] if name.lower().endswith((".hdr", ".img")) else ""
        folder = re.sub(r"(/mri)/orig$", r"\1", Path(plain(name)).parent.as_posix())  # of recon-all: orig/001.mgz beside T1.mgz
        rest = re.sub(rf"[-_]*(?<![A-Za-z0-9])(?:{versions}|T1w?)(?![A-Za-z0-9])", "", stem(name), flags=re.I)
        key = scan if "_MR" in scan else folder if name.lower().endswith((".mgz", ".mgh")) else f"{folder}/{rest}"
        ranks = (i for i, words in enumerate(STAGES) if re.search(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", stem(name).lower()))
        raw = folder != Path(plain(name)).parent.as_posix()
        groups[key].append(((next(ranks, len(STAGES) + raw), 0 if key in (scan, folder) else len(name)), name))
    kept = {name for group in groups.values() for rank, name in group if rank == min(group)[0]}
    left_out[ANOTHER] += sorted(set(names) - kept)
    return [name for name in names if name in kept]


def parse_levels(levels: str | Sequence[int] | None) -> tuple[int, int] | None:
    """(A, B) from 'A-B', 'A' or a pair of numbers; the pair also as text, as older runs recorded it."""
    if levels is None:
        return None
    found = re.fullmatch(r"[(\[]?(\d+)(?:(?:-|, ?)(\d+))?[)\]]?", str(levels).strip())
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
    if low > high:
        raise ValueError(f"levels is {levels!r}; write A-B with 0 <= A <= B, such as 0-31.")
    return low, high


def nothing_found(root: Path, left_out: dict[str, Iterable[str]]) -> str:
    """The sentence for a folder without a single slice: what lies there instead, and the way out."""
    found = {reason: tuple(names) for reason, names in left_out.items() if names}
    if any((first_bytes(root / name, 132) or b"")[128:] == b"DICM" for name in found.get("not an image", ())[:20]):
        found = {("DICOM" if reason == "not an image" else reason): names for reason, names in found.items()}
    counts = ", ".join(f"{len(names)} {reason}" for reason, names in found.items()) or "the folder is empty"
    told = [way for kind, (ends, way) in FOREIGN.items() if {kind, *(f"{end} file" for end in ends)} & set(found)]
    archive = next((name for names in found.values() for name in names if name.lower().endswith(".zip")), None)
    if archive:
        told = [f"it holds the archive {archive}: unpack that and give its folder, or give its path"]
    return f"No slice was found in {root} ({counts}); {told[0] if told else 'data/README.md shows the layouts that are recognised'}."
