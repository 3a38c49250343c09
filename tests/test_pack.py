"""Pictures and volumes to packed slices: framing, orientation, and the cache, which makes the second start cheap."""

import shutil
from pathlib import Path

import layouts_fixtures as fixtures
import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image
from scipy import ndimage

from stylegan.data import pack, pictures, volumes
from stylegan.data.pictures import LeftOut
from stylegan.dataset import load_slices


def loaded(folder: Path, resolution: int, **slices: np.ndarray) -> np.ndarray:
    """Save the pictures under these names, those of floats as TIFF, and load the folder: float [N, R, R]."""
    for name, picture in slices.items():
        fixtures.save(folder / f"{name}.{'png' if picture.dtype == np.uint8 else 'tif'}", picture)
    return np.asarray(load_slices(folder, resolution).images, float)


def test_the_square_has_no_margin_and_nothing_is_stretched(tmp_path):
    slices = {f"a_slice_{i}": np.zeros((60, 90), np.uint8) for i in range(8)}
    for i, picture in enumerate(slices.values()):
        picture[10:50, 30:60] = fixtures.head("box", i, 30, 40).clip(40)  # 30 wide, 40 high: the square is 40
    seen = loaded(tmp_path, 40, **slices).max(axis=0) > 30
    assert seen.any(1).all() and np.flatnonzero(seen.any(0))[[0, -1]].tolist() == [5, 34]


def test_a_stray_picture_and_hot_pixels_do_not_enlarge_the_box():
    rng, measures = np.random.default_rng(0), []
    for i in range(500):
        picture = np.zeros((40, 40), np.uint8)
        picture[10:30, 10:30] = rng.integers(60, 200, (20, 20))
        picture[i % 10, i % 7] = 255
        measures.append(pictures.measure(picture))
    stray = pictures.measure(rng.integers(60, 200, (40, 40), dtype=np.uint8))
    assert stray.box == (0, 40, 0, 40) and pictures.common_squares([*measures, stray]) == {((40, 40), 0): (10, 10, 20)}


def test_sizes_of_one_aspect_share_a_frame_and_a_square_may_leave_the_picture(tmp_path):
    slices = {}
    for i in range(6):
        picture = Image.fromarray(fixtures.head("size", i, 60, 60)).crop((15, 0, 45, 60))  # narrower than the head is high
        slices[f"a{i}_slice_0"], larger = np.asarray(picture), picture.resize((60, 120), Image.Resampling.BILINEAR)
        slices[f"a{i}_slice_1"] = np.asarray(larger)
    images = loaded(tmp_path, 32, **slices)
    assert np.abs(images[::2] - images[1::2]).mean() < 6
    assert not images[:, :, :4].any() and not images[:, :, -4:].any()  # black beside the picture


@pytest.mark.parametrize("resolution", [24, 47, 60, 96])
def test_what_is_black_in_the_files_stays_black(resolution):
    y, x = np.mgrid[:60, :60] - 29.5
    disc = np.where(np.hypot(y, x) < 24, 200, 0).astype(np.uint8)  # a sharp edge, beyond which Lanczos rings
    image = pictures.frame(disc, (6, 6, 48), resolution)
    y, x = (np.mgrid[:resolution, :resolution] + 0.5) * 48 / resolution - 24  # the square is as wide as the disc
    distance, pixel = np.hypot(y, x), max(48 / resolution, 1)
    assert image[distance > 24 + 1.5 * pixel].size and not image[distance > 24 + 1.5 * pixel].any()
    assert image[distance < 24 - 2 * pixel].min() > 180


def write_as(kind: str, picture: np.ndarray, path: Path) -> None:
    """A grey picture as another kind of file: a mode of Pillow, or a colour PNG of 16 bits, which Pillow does not write."""
    deep = picture.astype(np.uint16) * 257
    full = np.full_like(deep, 65535)
    channels = {"RGB;16": [deep] * 3, "RGBA;16": [deep, deep, deep, full], "LA;16": [deep, full]}.get(kind)
    values = {"I;16": deep, "I": deep.astype(np.int32), "F": picture.astype(np.float32) / 255}.get(kind)
    if channels:
        rows = [row.astype(">u2").tobytes() for row in np.stack(channels, axis=-1)]
        path.write_bytes(fixtures.png_of(rows, len(picture), 16, {2: 4, 3: 2, 4: 6}[len(channels)]))
    elif kind == "turned":  # lying on its side, with the note that says so
        Image.fromarray(np.rot90(picture)).save(path, "PNG", exif=b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
    else:
        (Image.fromarray(picture).convert(kind) if values is None else Image.fromarray(values)).save(path, "TIFF")


@pytest.mark.parametrize("kind", "RGB RGBA LA P CMYK I;16 I F 1 RGB;16 RGBA;16 LA;16 turned".split())
def test_every_kind_of_picture_becomes_the_same_grey(tmp_path, kind):
    slices = {f"x_slice_{i}": fixtures.head("kind", i, 64, 64) for i in range(6)}
    (tmp_path / "other").mkdir()
    for name, picture in slices.items():
        write_as(kind, picture, tmp_path / "other" / f"{name}.png")
    grey, other = loaded(tmp_path / "grey", 64, **slices), loaded(tmp_path / "other", 64)
    assert grey.shape == other.shape
    if kind not in ("1", "F"):  # the one is dithered, the other has no white of its own
        assert np.abs(grey - other).max() <= (4 if kind == "P" else 2)
    assert np.corrcoef(grey.ravel(), other.ravel())[0, 1] > (0.6 if kind == "1" else 0.999)


@pytest.mark.parametrize("background", [-4.0, 0.0, 3.0])
def test_z_scored_pictures_keep_their_brain(tmp_path, background):
    """The background is the most frequent value, wherever it lies among the others."""
    slices = {f"x_slice_{i}": fixtures.head("z", i, 64, 64) for i in range(6)}
    scored = {}
    for name, head in slices.items():
        z = (head - head[head > 0].mean()) / head[head > 0].std()
        scored[name] = np.where(head > 0, z, background).astype(np.float32)
    grey, z = loaded(tmp_path / "grey", 64, **slices), loaded(tmp_path / "z", 64, **scored)
    assert np.corrcoef(grey.ravel(), z.ravel())[0, 1] > 0.85 and np.median(z[:, :4, :4]) == 0
    on_white = {name: np.where(head > 0, head, 250).astype(np.uint8) for name, head in slices.items()}
    assert np.array_equal(loaded(tmp_path / "white", 64, **on_white), grey)


def turns_between(picture: np.ndarray, other: np.ndarray) -> int:
    """Quarter turns that bring a picture closest to another one."""
    return int(np.argmax([np.corrcoef(np.rot90(picture, turns).ravel(), other.ravel())[0, 1] for turns in range(4)]))


@pytest.mark.parametrize("turns", range(4))
def test_the_front_comes_up_however_the_files_lie(tmp_path, turns, simulated):
    upright = simulated.images[12:]  # of nine people, of whom the last two lie upside down
    files = {f"P{i // 4}_slice_{i % 4}": np.rot90(image, turns + 2 * (i >= 28)) for i, image in enumerate(upright)}
    images, sides = loaded(tmp_path, 32, **files), load_slices(tmp_path, 32).sides
    assert sides == ("A", "P", "", "") and not any(map(turns_between, images, upright))


@pytest.mark.parametrize(("plane", "contrast", "turns"), [("coronal", "T1", 0), ("sagittal", "T1", 1), ("coronal", "T2", 1),
                                                         ("sagittal", "T2", 0)])  # fmt: skip
def test_other_planes_are_left_as_they_lie_without_marks(tmp_path, plane, contrast, turns):
    from nilearn import datasets

    template = datasets.load_mni152_template(resolution=4).get_fdata(dtype=np.float32) * 230
    head, slices = template if contrast == "T1" else np.where(template > 20, 260 - template, 0), {}
    for k in range(10):
        picture = head[:, 14 + 2 * k, ::-1].T if plane == "coronal" else head[14 + k, ::-1, ::-1].T
        noisy = picture + (picture > 20) * np.random.default_rng(k).normal(0, 5, picture.shape)
        spare = [max(picture.shape) - n for n in picture.shape]
        square = np.pad(noisy.clip(0, 255).astype(np.uint8), [(n // 2, (n + 1) // 2) for n in spare])
        slices[f"x_slice_{k}"] = np.rot90(square, turns)
    images, data = loaded(tmp_path, 32, **slices), load_slices(tmp_path, 32)
    assert data.sides == ("", "", "", "") and any("could not be told" in text for text in data.warnings)
    assert turns_between(images[0], np.asarray(Image.fromarray(slices["x_slice_0"]).resize((32, 32)), float)) == 0


def test_the_second_start_maps_the_cache_opens_no_picture_and_keys_tell_pictures_apart(class_folders, monkeypatch):
    first, larger = load_slices(class_folders, 16), load_slices(class_folders, 32)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("a picture was opened"))
    second = load_slices(class_folders, 16, seed=5)  # another split changes no picture
    assert isinstance(second.images, np.memmap) and np.array_equal(second.images, first.images)
    some = first.select(first.labels == 0)
    assert second.key == first.key and len({first.key, larger.key, some.key}) == 3
    assert some.key == first.select(np.flatnonzero(first.labels == 0)).key


def test_a_changed_folder_is_read_again_and_a_damaged_cache_rebuilt(tmp_path):
    fixtures.class_folders(tmp_path / "slices", {"A": 3})
    first = load_slices(tmp_path / "slices", 16, cache_dir=tmp_path / "c")
    packed = tmp_path / f"c/cache/{first.key}.npy"
    expected = np.array(first.images)
    packed.write_bytes(packed.read_bytes()[:200])
    assert np.array_equal(load_slices(tmp_path / "slices", 16, cache_dir=tmp_path / "c").images, expected)
    (tmp_path / "slices/A/OAS1_0001_MR1_slice_00.png").unlink()
    changed = load_slices(tmp_path / "slices", 16, cache_dir=tmp_path / "c")
    assert len(changed) == len(first) - 1 and changed.key != first.key
    assert not [path for path in (tmp_path / "c/cache").iterdir() if path.suffix == ".tmp"]
    (tmp_path / "file").write_text("")  # no folder can be made below a file: a temporary one is taken
    assert load_slices(tmp_path / "slices", 16, cache_dir=tmp_path / "file").key == changed.key


def test_an_archive_beyond_the_limits_is_refused(class_folders, tmp_path, monkeypatch):
    archive = Path(shutil.make_archive(str(tmp_path / "slices"), "zip", class_folders))
    for limit in ("MAX_BYTES", "MAX_FILES"):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match="that is refused"):
            patch.setattr(pack, limit, 3)
            load_slices(archive, 16, cache_dir=tmp_path / limit)


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """A lopsided phantom, int16 [40, 50, 44] towards right, front and top: a brain with spots at its right, front and top."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 50, 44)), indexing="ij")
    brain = 500.0 * ((x / 0.7) ** 2 + (y / 0.9) ** 2 + (z / 0.8) ** 2 < 1)
    brain[28:31, 24:27, 20:24] = 900
    brain[19:21, 42:45, 20:24] = 700
    brain[19:21, 24:26, 34:37] = 800
    return brain.astype(np.int16)


def _turn(codes: str) -> np.ndarray:
    """From the order towards right, front and top to another one."""
    return ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))


def _save_as(head: np.ndarray, codes: str, path, spacing=(1.0, 1.0, 1.0)) -> None:
    """Write the same anatomy in another voxel order, with the affine that says so."""
    affine = np.diag([*spacing, 1.0]) @ inv_ornt_aff(_turn(codes), head.shape)
    nib.save(nib.Nifti1Image(apply_orientation(head, _turn(codes)), affine), path)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL", "SRA"])
def test_every_voxel_order_gives_the_same_head(head, tmp_path, codes):
    _save_as(head, codes, tmp_path / "head.nii.gz")
    volume = volumes.upright(nib.load(tmp_path / "head.nii.gz"), print)
    assert volume.dtype == np.float32 and np.array_equal(volume, head)
    assert volumes.read_scan(tmp_path / "head.nii.gz", None, []).marks == ("A", "P", "L", "R")


def test_front_is_up_and_right_is_right(head):
    climbing = volumes.axial_slices(head, levels=(0, 43))[0]
    assert climbing.shape == (44, 50, 40)
    row, column = np.argwhere(climbing[20] == 700).mean(0)
    assert row < 10 and 18 < column < 22  # the spot at the front
    assert np.argwhere(climbing[20] == 900).mean(0)[1] > 25  # the spot at the right
    assert np.argwhere(climbing == 800).mean(0)[0] > 30  # the spot at the top comes late


@pytest.mark.parametrize(("orient", "codes"), volumes.MAYO_ORIENT.items())
def test_analyze_is_read_by_its_orient_byte_and_its_sides_are_unmarked(head, tmp_path, orient, codes):
    """Big-endian and four-dimensional, as OASIS-1 ships it."""
    fixtures.save_volume(tmp_path / "head.hdr", apply_orientation(head, _turn(codes))[..., None], orient)
    assert np.array_equal(volumes.upright(nib.load(tmp_path / "head.hdr"), print), head)
    assert volumes.read_scan(tmp_path / "head.hdr", None, []).marks == ("A", "P", "", "")


def test_t88_shape_is_trusted_more_than_the_byte(tmp_path):
    data = np.zeros(volumes.T88_SHAPE, np.int16)
    data[80:90, 150:160, 100:110] = 100  # in front, above the middle
    fixtures.save_volume(tmp_path / "t88.hdr", data, orient=2)
    where = np.argwhere(volumes.upright(nib.load(tmp_path / "t88.hdr"), print)).mean(0)
    assert where[1] > 104 and where[2] > 88


def test_freesurfer_volumes_are_read_and_headers_without_codes_give_no_marks(head, tmp_path):
    nib.save(nib.MGHImage(head, np.eye(4)), tmp_path / "T1.mgz")
    scan = volumes.read_scan(tmp_path / "T1.mgz", (20, 22), [])
    assert scan.marks == ("A", "P", "L", "R") and list(scan.levels) == [20, 21, 22]
    assert np.array_equal(scan.pictures, volumes.to_uint8(volumes.axial_slices(head, (20, 22))[0]))
    nib.save(nib.Nifti1Image(head, None), tmp_path / "head.nii")
    assert volumes.read_scan(tmp_path / "head.nii", None, []).marks == volumes.NO_MARKS


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 1, 1), (40, 1, 50), (1, 40, 50)])
def test_a_file_of_one_plane_is_one_slice_and_a_line_of_voxels_is_none(head, tmp_path, shape):
    fixtures.save_volume(tmp_path / "plane.nii.gz", head[:, :, 22].reshape(shape).astype(np.float32))
    scan, axial = volumes.read_scan(tmp_path / "plane.nii.gz", None, []), shape[2:3] == (1,)
    assert scan.levels is None and scan.marks == (("A", "P", "L", "R") if axial else volumes.NO_MARKS)
    assert np.array_equal(scan.pictures[0], (head[:, ::-1, 22] if axial else head[:, :, 22]).T)
    for line in ((1, 1, 50), (50, 1, 1), (50, 1)):
        fixtures.save_volume(tmp_path / "line.nii", np.arange(50, dtype=np.int16).reshape(line))
        with pytest.raises(LeftOut, match="unusable volume"):
            volumes.read_scan(tmp_path / "line.nii", None, [])


@pytest.mark.parametrize("background", [0.0, -4.0])
def test_z_scored_volumes_keep_their_brain(head, background, tmp_path):
    inside, scans = head > 0, []
    shaded = head + inside * np.random.default_rng(0).normal(0, 60, head.shape)
    z = np.where(inside, (shaded - shaded[inside].mean()) / shaded[inside].std(), background)
    for data in (shaded * inside, z):
        fixtures.save_volume(tmp_path / "head.nii", data.astype(np.float32))
        scans.append(volumes.read_scan(tmp_path / "head.nii", (10, 33), []).pictures.astype(float))
    assert scans[1][:, 0, 0].max() == 0 and np.corrcoef(*(scan.ravel() for scan in scans))[0, 1] > 0.8


def test_pixels_are_square_and_a_head_is_as_large_as_it_was_whatever_the_scanner(tmp_path):
    scans = [((2, 2, 2), (90, 90, 80), "RAS"), ((1.6, 1.6, 3.2), (128, 128, 50), "SRA"), ((2, 1, 2), (110, 256, 80), "LPS"),
             ((1.6, 1.6, 1.6), (100, 128, 100), "ASL")]  # fmt: skip
    for i, (spacing, shape, codes) in enumerate(scans):
        x, y, z = np.meshgrid(*(mm * (np.arange(n) - n / 2) for mm, n in zip(spacing, shape, strict=True)), indexing="ij")
        inside = (x / 60) ** 2 + (y / 75) ** 2 + (z / 65) ** 2 < (0.64 if i == 3 else 1)
        scan = (inside * np.random.default_rng(i).integers(60, 90, shape)).astype(np.int16)
        _save_as(scan, codes, tmp_path / f"sub-{i}_T1w.nii", spacing)
    data = load_slices(tmp_path, 64)
    heads = (data.images[data.subjects == f"sub-{i}"].max(0) > 90 for i in range(4))
    sizes = [[np.ptp(np.flatnonzero(head.any(axis))) for axis in (1, 0)] for head in heads]
    assert np.allclose(sizes, [[63, 50]] * 3 + [[50, 40]], atol=1.5), sizes


def test_default_levels_lie_around_the_ventricles():
    from nilearn import datasets

    image = datasets.load_mni152_template(resolution=1)
    template, bottom = image.get_fdata(dtype=np.float32), image.affine[2, 3]
    for volume in (template, template[:, :, 40:], template * 800):  # a cut cerebellum and a gain change nothing
        levels = volumes._ventricle_levels(volume)
        assert abs(levels[0] + bottom + template.shape[2] - volume.shape[2] - -2) <= 1 and set(np.diff(levels)) == {1}
    assert set(np.diff(volumes._ventricle_levels(np.repeat(template, 2, 2).repeat(2, 1)))) == {2}
    for mm in (0.7, 1.25, 2):
        assert np.abs(mm * volumes._ventricle_levels(ndimage.zoom(template, 1 / mm, order=1)) - levels).max() < 2


def test_grey_scale_survives_hot_voxels_and_what_is_not_there_is_refused(head):
    slices, _ = volumes.axial_slices(head, levels=(10, 33))
    plain, hot = volumes.to_uint8(slices), slices.copy()
    hot[12, 25, 20] = 1e5
    assert plain.dtype == np.uint8 and plain[:, 0, 0].max() == 0
    assert np.abs(volumes.to_uint8(hot).astype(int) - plain)[hot < 1e5].max() <= 2
    assert np.array_equal(volumes.to_uint8(slices * 3), plain)  # the scanner's gain does not matter
    with pytest.raises(volumes.Unusable, match="constant"):
        volumes.to_uint8(np.zeros((4, 8, 8)))
    with pytest.raises(volumes.Unusable, match="0 to 43"):
        volumes.axial_slices(head, levels=(20, 44))
    with pytest.raises(volumes.Unusable, match="20 levels, 32 are wanted"):
        volumes.axial_slices(head[:, :, :20])
