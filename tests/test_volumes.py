"""Volumes on disk to slices: every orientation and byte order gives the same head, and bad files are named in one sentence."""

import layouts_fixtures as fixtures
import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from stylegan.data import volumes
from stylegan.data.pictures import LeftOut


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
    climbing = volumes.axial_slices(head, levels=(0, 43))
    middle = climbing[20]
    assert climbing.shape == (44, 50, 40)
    row, column = np.argwhere(middle == 700).mean(0)
    assert row < 10 and 18 < column < 22  # the spot at the front
    assert np.argwhere(middle == 900).mean(0)[1] > 25  # the spot at the right
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
    assert np.array_equal(scan.pictures, volumes.to_uint8(volumes.axial_slices(head, (20, 22))))
    nib.save(nib.Nifti1Image(head, None), tmp_path / "head.nii")
    assert volumes.read_scan(tmp_path / "head.nii", None, []).marks == volumes.NO_MARKS


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 1, 1), (40, 1, 50), (1, 40, 50)])
def test_a_file_of_one_plane_is_one_slice(head, tmp_path, shape):
    fixtures.save_volume(tmp_path / "plane.nii.gz", head[:, :, 22].reshape(shape).astype(np.float32))
    scan, axial = volumes.read_scan(tmp_path / "plane.nii.gz", None, []), shape[2:3] == (1,)
    assert scan.levels is None and scan.marks == (("A", "P", "L", "R") if axial else volumes.NO_MARKS)
    assert np.array_equal(scan.pictures[0], (head[:, ::-1, 22] if axial else head[:, :, 22]).T)


def test_a_line_of_voxels_is_no_slice(tmp_path):
    for shape in ((1, 1, 50), (50, 1, 1), (50, 1)):
        fixtures.save_volume(tmp_path / "line.nii", np.arange(50, dtype=np.int16).reshape(shape))
        with pytest.raises(LeftOut, match="unusable volume") as reason:
            volumes.read_scan(tmp_path / "line.nii", None, [])
        assert "line.nii has shape" in reason.value.sentence


@pytest.mark.parametrize("background", [0.0, -4.0])
def test_z_scored_volumes_keep_their_brain(head, background, tmp_path):
    inside, scans = head > 0, []
    shaded = head + inside * np.random.default_rng(0).normal(0, 60, head.shape)
    z = np.where(inside, (shaded - shaded[inside].mean()) / shaded[inside].std(), background)
    for data in (shaded * inside, z):
        fixtures.save_volume(tmp_path / "head.nii", data.astype(np.float32))
        scans.append(volumes.read_scan(tmp_path / "head.nii", (10, 33), []).pictures.astype(float))
    assert scans[1][:, 0, 0].max() == 0 and np.corrcoef(*(scan.ravel() for scan in scans))[0, 1] > 0.8


@pytest.mark.parametrize("codes", ["RAS", "SRA"])
def test_pixels_are_square(tmp_path, codes):
    """A ball scanned with 1 x 1 x 2 mm voxels is a ball again."""
    x, y, z = np.meshgrid(np.arange(60) - 30, np.arange(60) - 30, 2 * (np.arange(30) - 15), indexing="ij")
    _save_as((x**2 + y**2 + z**2 < 20**2).astype(np.int16) * 100, codes, tmp_path / "ball.nii", spacing=(1.0, 1.0, 2.0))
    volume = volumes.upright(nib.load(tmp_path / "ball.nii"), print) > 50
    extents = [np.ptp(where) for where in np.nonzero(volume)]
    assert volume.shape == (60, 60, 60) and max(extents) - min(extents) <= 2, extents


def test_default_levels_lie_around_the_ventricles():
    from nilearn import datasets

    image = datasets.load_mni152_template(resolution=1)
    template, bottom = image.get_fdata(dtype=np.float32), image.affine[2, 3]
    for volume in (template, template[:, :, 40:], template * 800):  # a cut cerebellum and a gain change nothing
        levels = volumes._ventricle_levels(volume)
        assert abs(levels[0] + bottom + template.shape[2] - volume.shape[2] - -2) <= 1 and set(np.diff(levels)) == {1}
    assert set(np.diff(volumes._ventricle_levels(np.repeat(template, 2, 2).repeat(2, 1)))) == {2}


def test_grey_scale_survives_hot_voxels_and_what_is_not_there_is_refused(head):
    slices = volumes.axial_slices(head, levels=(10, 33))
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
