"""Framing, orientation and the cache: what comes out of the packing, and what the second start costs."""

import shutil
from pathlib import Path

import layouts_fixtures as fixtures
import numpy as np
import pytest
from PIL import Image

from stylegan.data import pack, pictures
from stylegan.dataset import load_slices


def loaded(folder: Path, resolution: int, **slices: np.ndarray) -> np.ndarray:
    """Save the pictures under these names, those of floats as TIFF, and load the folder: float [N, R, R]."""
    for name, picture in slices.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path if picture.dtype == np.uint8 else path.with_suffix(".tif"))
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
    assert stray.box == (0, 40, 0, 40) and pictures.common_squares([*measures, stray]) == {(40, 40): (10, 10, 20)}


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
    else:
        (Image.fromarray(picture).convert(kind) if values is None else Image.fromarray(values)).save(path, "TIFF")


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA", "P", "CMYK", "I;16", "I", "F", "1", "RGB;16", "RGBA;16", "LA;16"])
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


def turns_between(picture: np.ndarray, other: np.ndarray) -> int:
    """Quarter turns that bring a picture closest to another one."""
    return int(np.argmax([np.corrcoef(np.rot90(picture, turns).ravel(), other.ravel())[0, 1] for turns in range(4)]))


@pytest.mark.parametrize("turns", range(4))
def test_the_front_comes_up_however_the_files_lie(tmp_path, turns, simulated):
    upright = simulated.images[::3]
    images = loaded(tmp_path, 32, **{f"x_slice_{i}": np.rot90(image, turns) for i, image in enumerate(upright)})
    assert load_slices(tmp_path, 32).sides == ("A", "P", "", "") and turns_between(images.mean(0), upright.mean(0)) == 0


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


def test_an_archive_beyond_the_limits_is_refused(class_folders, tmp_path, monkeypatch):
    archive = Path(shutil.make_archive(str(tmp_path / "slices"), "zip", class_folders))
    for limit in ("MAX_BYTES", "MAX_FILES"):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match="that is refused"):
            patch.setattr(pack, limit, 3)
            load_slices(archive, 16, cache_dir=tmp_path / limit)


def test_a_folder_that_cannot_be_written_falls_back(class_folders, tmp_path):
    (tmp_path / "file").write_text("")
    data = load_slices(class_folders, 16, cache_dir=tmp_path / "file")  # no folder can be made below a file
    assert len(data) == len(load_slices(class_folders, 16))


OASIS = Path(__file__).parents[2] / "shared/oasis1/slices"


@pytest.mark.long
@pytest.mark.skipif(not OASIS.is_dir(), reason="the OASIS-1 slices are not on this machine (../shared/oasis1/slices)")
def test_oasis_slices():
    data = load_slices(OASIS, 64)
    assert data.layout == "class-folders" and len(data) == 5120 and np.unique(data.subjects).size == 160
    assert data.classes == ("NonDemented", "VeryMildDemented", "MildDemented", "ModerateDemented")
    assert data.sides == ("A", "P", "", "") and not data.left_out
    assert np.isnan(data.columns["age"]).sum() == 26 * 32  # the subjects that could not be matched
    with Image.open(OASIS / data.paths[0]) as image:
        square = image.crop((0, 16, 176, 192)).rotate(180).resize((64, 64), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(data.images[0].astype(float), np.asarray(square, float), atol=2)
