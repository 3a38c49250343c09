"""The embedded default: simulated axial T1 slices of a population that never lived.

Every simulated subject is the ICBM152 2009a template, which nilearn ships, bent by a smooth random deformation and shown with a
contrast, gain, bias field and noise of its own. Half of them ("atrophy") have wider ventricles and darker sulci than the other
half ("control"), and how much wider is known per subject: a ground truth that no real data set offers. All subjects share the
template's one folding pattern, so a score on these slices proves the plumbing, not the model.

Template: ICBM 152 nonlinear symmetric 2009a, McConnell Brain Imaging Centre, Montreal Neurological Institute.
V. Fonov et al., NeuroImage 54 (2011) 313, doi:10.1016/j.neuroimage.2010.07.033, and NeuroImage 47 (2009) S102,
doi:10.1016/S1053-8119(09)70884-5. The atlas is known for a permissive notice (use, copy and pass on with the copyright kept),
nilearn states none: so it is read from the installed nilearn and never copied here.

Coordinates are MNI millimetres in the order (x, y, z): towards the right, the front and the top of the head.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.spatial.transform import Rotation

# Heights shown: 32 levels 1 mm apart, from the basal ganglia to the roof of the ventricles, much as in the OASIS slices.
LEVELS_MM = (-2.0, 29.0)
CENTRE_MM = np.array([0.0, -16.5, 14.0])  # of the picture, and the point that scaling and rotation leave in place
FIELD_MM = 202.0  # edge of the square picture; the longest simulated head just fits
SPACING_MM = (36.0, 16.0)  # of the two control grids: shape of the head, course of the gyri
SPREAD_MM = (3.0, 1.3)  # standard deviation of their control displacements
MAX_ENLARGEMENT = 6.0  # mm
FLOW_SPACING, FLOW_STEP = 2.0, 0.5  # mm
FLOW_LOW, FLOW_HIGH = np.array([-66.0, -92.0, -42.0]), np.array([66.0, 66.0, 66.0])  # the box in which the ventricles push
CLASSES = ("control", "atrophy")
ENLARGEMENT = ((1.5, 0.9), (3.7, 1.0))  # mean and spread of the classes in mm: they overlap, as groups do


@dataclass(frozen=True)
class Simulation:
    """Simulated slices and all that is known of them, subject by subject and from the bottom to the top."""

    images: np.ndarray  # uint8 [N, R, R], front of the head up, skull-stripped on black
    subjects: np.ndarray  # str [N], 'SIM_0001'...
    levels: np.ndarray  # int64 [N], 0 at the bottom
    labels: np.ndarray  # int64 [N], index into classes
    columns: dict[str, np.ndarray]  # float64 [N]: 'ventricle' (mm, per subject), 'ventricle_area' (% of this slice's brain)
    classes: tuple[str, ...] = CLASSES
    sides: tuple[str, str, str, str] = ("A", "P", "L", "R")  # neurological; the template is symmetric: a formality
    title: str = "simulated slices (ICBM152 template)"


@dataclass(frozen=True)
class Subject:
    """What makes one simulated subject; draw one with ``draw_subject``."""

    ventricle: float  # outward push of the ventricle wall in mm, 0 to 6
    sulci: float  # darkening and widening of the sulci, about 0 to 1.5
    affine: np.ndarray  # [3, 3], takes the picture to the template, about CENTRE_MM
    shift: np.ndarray  # [3] mm
    controls: tuple[np.ndarray, ...]  # per control grid [3, Z, Y, X] mm
    tissue: np.ndarray  # [3], added where there is grey matter, white matter, fluid
    gain: float
    bias: np.ndarray  # [9], logarithm of the coil's shading as a quadratic in (x, y, z)
    noise: float  # standard deviation, white matter being about 0.9


def simulate(num_subjects: int = 128, num_levels: int = 32, resolution: int = 64, seed: int = 0) -> Simulation:
    """Slices of controls (SIM_0001, SIM_0003...) and atrophy in turns. Subject k depends on (seed, k) alone: a larger
    population begins with the smaller one. ValueError for sizes that make no picture."""
    if num_subjects < 1 or num_levels < 1 or not 16 <= resolution <= 512:
        asked = f"{num_subjects} subjects x {num_levels} levels at {resolution} px"
        raise ValueError(f"Cannot simulate {asked}; take at least one subject and one level, and 16 to 512 px.")
    drawn, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)  # so many small steps gain little from a second one, and wait for it where the cores are busy
    try:
        for k in range(num_subjects):
            rng = np.random.default_rng([seed, k])
            subject = draw_subject(rng, label=k % 2)
            drawn.append((subject.ventricle, *_render(subject, num_levels, resolution, rng)))
    finally:
        torch.set_num_threads(threads)
    pushes, images, areas = zip(*drawn, strict=True)
    return Simulation(
        images=np.concatenate(images),
        subjects=np.repeat([f"SIM_{k + 1:04d}" for k in range(num_subjects)], num_levels),
        levels=np.tile(np.arange(num_levels), num_subjects),
        labels=np.repeat(np.arange(num_subjects, dtype=np.int64) % 2, num_levels),
        columns={"ventricle": np.repeat(pushes, num_levels), "ventricle_area": np.concatenate(areas)},
    )


def draw_subject(rng: np.random.Generator, label: int) -> Subject:
    """The shape and the look of one subject; normal draws stop at two standard deviations, so that nobody is a monster."""

    def normal(*shape: int) -> np.ndarray:
        return np.clip(rng.standard_normal(shape), -2, 2)

    mean, spread = ENLARGEMENT[label]
    ventricle = float(np.clip(mean + spread * normal(1)[0], 0, MAX_ENLARGEMENT))
    scale = 1 + 0.02 * normal(1) + 0.015 * normal(3)  # overall size, then proportions
    angles = np.deg2rad([2.0, 1.5, 2.5]) * normal(3)  # nod, tilt, turn
    return Subject(
        ventricle=ventricle,
        sulci=float(np.clip(0.2 * ventricle + 0.25 * normal(1)[0], 0, 1.5)),
        affine=Rotation.from_euler("xyz", angles).as_matrix() / scale,
        shift=np.array([1.0, 1.0, 2.0]) * normal(3),
        controls=tuple(s * normal(3, *_grid_shape(spacing)) for s, spacing in zip(SPREAD_MM, SPACING_MM, strict=True)),
        tissue=np.array([-0.10, 0.03, -0.12]) + np.array([0.05, 0.03, 0.04]) * normal(3),
        gain=float(1 + 0.06 * normal(1)[0]),
        bias=0.05 * normal(9),
        noise=float(rng.uniform(0.008, 0.025)),
    )


def pull_back(subject: Subject, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> torch.Tensor:
    """Where in the template each point of the subject's head comes from: float32 [Z, Y, X, 3] mm for picture axes in mm.

    An affine map; added to it, free-form deformations by cubic B-splines (Rueckert et al. 1999, IEEE TMI 18(8)); then the ventricles'
    flow. Nothing folds where controls stay below 0.4 of their spacing (Choi and Lee 2000): the two grids use 0.82 of that at most.
    """
    points = torch.from_numpy(np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1).astype(np.float32))  # [Z, Y, X, 3]
    centre = torch.from_numpy(CENTRE_MM).float()
    moved = (points - centre) @ torch.from_numpy(subject.affine).float().T + centre + torch.from_numpy(subject.shift).float()
    for controls, spacing in zip(subject.controls, SPACING_MM, strict=True):
        along_x, along_y, along_z = (torch.from_numpy(_spline_basis(axis, i, spacing)) for i, axis in enumerate((x, y, z)))
        bent = torch.einsum("zk,ckji->zcji", along_z, torch.from_numpy(controls).float())  # [Z, 3, J, I]
        bent = along_y @ bent @ along_x.T  #                                                 [Z, 3, Y, X]
        moved += bent.permute(0, 2, 3, 1)
    flow, entry = _ventricle_flow(), subject.ventricle / FLOW_STEP
    below = min(int(entry), len(flow) - 2)
    push = torch.lerp(flow[below], flow[below + 1], entry - below)
    return moved + _sample(push, FLOW_LOW, FLOW_SPACING, moved).permute(1, 2, 3, 0)


def _render(subject: Subject, num_levels: int, resolution: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [L, R, R] and ventricle area [L] in % of the brain; sampled twice as fine up to 128 px."""
    fine = resolution * (2 if resolution <= 128 else 1)
    z = np.linspace(*LEVELS_MM, num_levels) if num_levels > 1 else np.array([np.mean(LEVELS_MM)])
    (volume, origin), (x, y) = _template(), _pixels(fine // 2)
    # The deformation is smooth: interpolating every second point errs by less than half a millimetre.
    points = F.interpolate(pull_back(subject, x, y, z).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
    t1, grey, white, ventricle = _sample(volume, origin, 1.0, points.permute(0, 2, 3, 1))
    brain = (t1 / 0.2).clamp(0, 1)
    area = 100 * ventricle.sum((1, 2)) / brain.sum((1, 2)).clamp(min=1)
    fluid = (brain - grey - white).clamp(0, 1)
    sulci = (1.6 * subject.sulci * fluid * (1 - ventricle)).clamp(0, 1)  # not the ventricles; saturated, so dark bands widen
    own_grey, own_white, own_fluid = (float(value) for value in subject.tissue)
    signal = t1 + own_grey * grey + own_white * white + own_fluid * fluid
    signal = signal.mul(1 - 0.55 * sulci).clamp(min=0) * subject.gain * brain
    signal = F.interpolate(signal[:, None], (resolution, resolution), mode="bicubic", antialias=True, align_corners=False)[:, 0]
    inside = F.interpolate(brain[:, None], (resolution, resolution), mode="area")[:, 0]
    shading = _shading(subject.bias, *_pixels(resolution), z)
    noise = torch.from_numpy(rng.standard_normal(signal.shape, np.float32))
    pictures = (signal * shading + subject.noise * noise * inside).mul(255).round().clamp(0, 255).byte()
    return pictures.numpy(), area.double().numpy()


def _pixels(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres x [R] from left to right and y [R] from the front to the back, in mm."""
    offsets = ((np.arange(resolution) + 0.5) / resolution - 0.5) * FIELD_MM
    return CENTRE_MM[0] + offsets, CENTRE_MM[1] - offsets


def _shading(bias: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> torch.Tensor:
    """Smooth shading [Z, Y, X] of the receiving coil around 1: the exponential of a quadratic."""
    axes = [2 * (axis - centre) / FIELD_MM for axis, centre in zip((z, y, x), CENTRE_MM[::-1], strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    terms = (x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)
    return torch.from_numpy(np.exp(sum(b * term for b, term in zip(bias, terms, strict=True)))).float()


def _grid_shape(spacing: float) -> tuple[int, int, int]:
    """Controls (Z, Y, X) that cover the field, and three more per axis for the cubic spline's support."""
    heights = LEVELS_MM[1] - LEVELS_MM[0] + 80  # room for the head's tilt, and for the test that looks beyond the shown levels
    return tuple(int(np.ceil(length / spacing)) + 3 for length in (heights, 1.1 * FIELD_MM, 1.1 * FIELD_MM))


def _spline_basis(axis: np.ndarray, dimension: int, spacing: float) -> np.ndarray:
    """Cubic B-spline weights float32 [len(axis), controls] of the control grid centred on the picture."""
    count = _grid_shape(spacing)[2 - dimension]
    position = (axis - CENTRE_MM[dimension]) / spacing + (count - 1) / 2
    t = np.abs(position[:, None] - np.arange(count)[None])
    near, far = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, near, far).astype(np.float32)


@lru_cache(maxsize=1)
def _template() -> tuple[torch.Tensor, np.ndarray]:
    """T1, grey matter, white matter and lateral ventricles float32 [4, Z, Y, X] in [0, 1] at 1 mm, and where their first voxel
    is, in mm: from nilearn's wheel (no network), cut to the heights that deformed slices can reach."""
    from nilearn import datasets  # three seconds to import: only who simulates pays

    loaders = (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    maps = [loader(resolution=1) for loader in loaders]
    origin = maps[0].affine[:3, 3]
    t1, grey, white = (image.get_fdata(dtype=np.float32, caching="unchanged") for image in maps)  # each in [0, 1]
    volume = np.stack([t1, grey, white, _ventricles(t1, grey + white, origin)])
    low, high = (int(z - origin[2]) for z in (LEVELS_MM[0] - 45, LEVELS_MM[1] + 45))
    volume = volume[..., low:high].transpose(0, 3, 2, 1)
    return torch.from_numpy(np.ascontiguousarray(volume)), origin + np.array([0, 0, low])


def _ventricles(t1: np.ndarray, tissue: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Lateral ventricles float32 [X, Y, Z] in [0, 1], soft at the wall: the deep fluid that is connected with their bodies."""
    brain = ndimage.binary_fill_holes(t1 > 0.05)
    deep = ndimage.uniform_filter(brain.astype(np.float32), 25) > 0.999  # 12 mm from the surface
    parts, _ = ndimage.label((tissue < 0.5) & deep)
    x, y, z = (int(-o) for o in origin)  # voxel of MNI (0, 0, 0)
    bodies = parts[x + 4 : x + 20, y - 20 : y + 20, z + 20 : z + 26]
    ours = ndimage.binary_dilation(parts == np.bincount(bodies[bodies > 0]).argmax(), iterations=2)
    return (np.clip(1 - tissue, 0, 1) * ours).astype(np.float32)


@lru_cache(maxsize=1)
def _ventricle_flow() -> torch.Tensor:
    """Backward displacement in mm by enlargements of 0, FLOW_STEP, 2 FLOW_STEP... mm: float32 [E, 3, Z, Y, X].

    Following a smooth velocity, here outwards from the blurred ventricles, is one-to-one however far one goes (Arsigny et al.
    2006, MICCAI); a plain push would fold the narrow horns.
    """
    volume, origin = _template()
    ventricle = volume[3].numpy()
    blurred = ndimage.gaussian_filter(ventricle, 5.0)
    velocity = -np.stack(np.gradient(blurred)[::-1])  # [3, Z, Y, X], x first
    wall = ndimage.binary_dilation(ventricle > 0.5) & (ventricle < 0.5)
    velocity /= np.linalg.norm(velocity[:, wall], axis=0).mean()  # the wall moves by 1 mm per mm of enlargement on average
    axes = [np.arange(low, high + 1, FLOW_SPACING) for low, high in zip(FLOW_LOW, FLOW_HIGH, strict=True)]
    start = torch.from_numpy(np.stack(np.meshgrid(*axes[::-1], indexing="ij")[::-1], -1).astype(np.float32))
    field, here, flow = torch.from_numpy(velocity.astype(np.float32)), start, []
    for _ in range(round(MAX_ENLARGEMENT / FLOW_STEP) + 1):
        flow.append((here - start).permute(3, 0, 1, 2))
        middle = here - FLOW_STEP / 2 * _sample(field, origin, 1.0, here).permute(1, 2, 3, 0)
        here = here - FLOW_STEP * _sample(field, origin, 1.0, middle).permute(1, 2, 3, 0)
    return torch.stack(flow)


def _sample(volume: torch.Tensor, origin: np.ndarray, spacing: float, points: torch.Tensor) -> torch.Tensor:
    """Trilinear samples [C, Z, Y, X] of a volume [C, D, H, W] at points [Z, Y, X, 3] in mm; zero outside."""
    size = torch.tensor(volume.shape[:0:-1])  # (W, H, D), in the order of x, y, z
    voxels = (points - torch.from_numpy(origin).float()) / spacing
    return F.grid_sample(volume[None], (2 * voxels / (size - 1) - 1)[None], align_corners=True)[0]
