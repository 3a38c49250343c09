"""Reading class, level, ventricles and brain off a slice: what is measured in its pixels, and what is learnt from real people.

Linear models on feature vectors (`features.py`), fitted to training people and tried on people they have not seen. Penalties
are chosen between people, and intervals leave whole people out: slices of one head are nearly one picture.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import wasserstein_distance
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from torch import Tensor

from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset
from stylegan.latent import HEAD, Gauge
from stylegan.predict import styles, synthesize, to_uint8
from stylegan.scores.evidence import Evidence
from stylegan.scores.intervals import Deal, Interval, leave_out, spread_of
from stylegan.scores.metrics import Side
from stylegan.truth.embedding import choose_rows, deal_people, deal_within

DEEP = 0.5  # of the way from the surface of the head to its innermost pixel: what lies deeper holds no sulci
DARK = 0.5  # of the bright tissue's grey: what is darker is fluid
PENALTIES = tuple(10.0**power for power in (0, 1, 1.5, 2, 2.5, 3, 4))  # of the ridge regression
STRENGTHS = tuple(10.0**power for power in (-4, -3, -2, -1, 0))  # of the classifier, the inverse of its penalty
STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # along a direction, in standard deviations of w
FRESH = 10_000  # seeds from here on try a direction out; it was found on seeds below
TRIED, RANDOM, PSI, SHOWN = 24, 20, 0.7, 3  # seeds and random directions that try it, at this truncation; seeds that are shown
PARTS = 64  # principal components that the classifier sees
FOLDS = 5
HALVES = 50  # splits of people into halves
LEARN, HIGHLIGHTED = 1200, 6  # training slices that the readers of a map learn from at most; people in colours of their own
# Columns that belong to a person: brain volume fraction and age of OASIS, the push at the ventricles' wall of simulated people.
COLUMNS = (("nWBV", "nWBV", "share of the skull"), ("age", "age", "years"), ("ventricle", "enlargement", "mm"))

# Pictures uint8 [seeds, steps, R, R] along a direction, what is read off each [seeds, steps].
Strip = tuple[np.ndarray, np.ndarray]


# --- Measured in the pixels -----------------------------------------------------------------------------------------------


def ventricle_share(pixels: np.ndarray) -> np.ndarray:
    """Dark pixels deep in the head, in % of the head: uint8 [n, R, R] -> float [n].

    The head is what is brighter than the background, its holes filled; deep is what lies more than half as far inside as its
    innermost pixel, where the fluid is that of the ventricles and not of sulci; dark is under half of the bright tissue (the
    upper quartile of the head), so that a slice's own brightness cancels. `groundtruth.measures` says how well it measures.
    """
    head, fluid = _head_and_fluid(pixels)
    depth = np.stack([ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] for mask in head])
    deep = depth > DEEP * depth.max(axis=(1, 2), keepdims=True)
    return 100 * (fluid & deep).sum(axis=(1, 2)) / head.sum(axis=(1, 2)).clip(1)


def brain_share(pixels: np.ndarray) -> np.ndarray:
    """Tissue in % of the head, fluid being the rest: the brain volume fraction of one slice. uint8 [n, R, R] -> float [n]."""
    head, fluid = _head_and_fluid(pixels)
    return 100 * (head & ~fluid).sum(axis=(1, 2)) / head.sum(axis=(1, 2)).clip(1)


def _head_and_fluid(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool [n, R, R]; a picture without a head has none of either."""
    head = np.stack([ndimage.binary_fill_holes(picture > HEAD) for picture in pixels])
    bright = [np.quantile(picture[mask], 0.75) if mask.any() else 0 for picture, mask in zip(pixels, head, strict=True)]
    return head, head & (pixels < DARK * np.array(bright)[:, None, None])


# --- What is true of real slices ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A number that is true of each real slice."""

    name: str
    unit: str
    origin: str  # 'known' from the data set, or 'measured' in the pixels
    of: Callable[[SliceDataset], np.ndarray]  # float [N], NaN where unknown
    gauge: Gauge | None = None  # measures it in the pixels of any picture


def targets(train: SliceDataset, held: SliceDataset) -> list[Target]:
    """Ventricles, brain, and of level and `COLUMNS` what varies and is known of five people on each side."""
    columns = {name.lower(): name for name, values in reversed(train.columns.items()) if values.dtype.kind == "f"}  # Age, age
    if "ventricle_area" in columns:
        ventricles = Target("ventricles", "% of the brain", "known", lambda s: s.columns["ventricle_area"], ventricle_share)
    else:
        ventricles = Target("ventricles", "% of the head", "measured", lambda s: ventricle_share(s.images), ventricle_share)
    brain = Target("brain", "% of the head", "measured", lambda s: brain_share(s.images))
    level = Target("level", "levels", "known", lambda s: np.where(s.levels < 0, np.nan, s.levels.astype(float)))
    given = [(columns[of.lower()], name, unit) for of, name, unit in COLUMNS if of.lower() in columns]
    told = [Target(name, unit, "known", lambda s, of=of: s.columns[of]) for of, name, unit in given]

    def readable(target: Target) -> bool:
        values = [target.of(side) for side in (train, held)]
        people = [len(set(people_of(side)[np.isfinite(x)])) for side, x in zip((train, held), values, strict=True)]
        return min(people) >= FOLDS and np.ptp(np.concatenate(values)[np.isfinite(np.concatenate(values))]) > 0

    return [*filter(readable, [level]), ventricles, brain, *filter(readable, told)]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; 0 where one of the two does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and min(np.std(a), np.std(b)) > 1e-12 else 0.0


def means_by_person(values: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Mean over each person's slices: values [n, ...] -> [persons, ...], persons in sorted order."""
    index = np.unique(people, return_inverse=True)[1]
    sums = np.zeros((index.max() + 1, *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums / np.bincount(index).reshape(-1, *[1] * (values.ndim - 1))


# --- Learnt from real people ----------------------------------------------------------------------------------------------


def fit_reader(x: np.ndarray, values: np.ndarray, people: np.ndarray) -> Ridge:
    """Ridge regression from features x [n, D] to values [n] (NaN left out); the penalty is chosen between people.

    Features are not standardised: that would blow up those which hardly vary among real slices, where a fake may lie anywhere.
    On OASIS standardised features read real slices a little worse, and on fakes agreed with measured ventricles by .75 for .95.
    Of fewer than three people nothing can be chosen between people: the penalty is the middle one.
    """
    known = ~np.isnan(values)
    x, values, people = x[known], values[known], people[known]
    folds = min(FOLDS, len(np.unique(people)))
    if folds < 3:
        return Ridge(PENALTIES[len(PENALTIES) // 2]).fit(x, values)
    search = GridSearchCV(Ridge(), {"alpha": PENALTIES}, scoring="neg_mean_absolute_error", cv=GroupKFold(folds))
    return search.fit(x, values, groups=people).best_estimator_


def fit_classifier(x: np.ndarray, labels: np.ndarray, people: np.ndarray, strengths: tuple = STRENGTHS) -> GridSearchCV:
    """Logistic regression on 64 principal components of features x [n, D]; classes weigh alike, however large they are. Its
    strength is chosen between people, each fold holding people of every class: two or more of each are needed."""
    index = np.unique(people, return_inverse=True)[1]
    kinds = np.array([labels[index == i].max() for i in range(index.max() + 1)])  # who changed class counts for the last
    fewest = max(2, np.unique(kinds, return_counts=True)[1].min())  # one alone may have slices of others' classes too
    folds = StratifiedKFold(min(FOLDS, fewest)).split(kinds, kinds)  # of people, however many slices each has
    held = [np.isin(index, chosen) for _, chosen in folds]
    parts = max(1, min(PARTS, x.shape[1], len(x) // 3, *(np.sum(~one) for one in held)))
    regression = LogisticRegression(class_weight="balanced", max_iter=1000)
    model = make_pipeline(PCA(parts, svd_solver="randomized", random_state=0), regression)
    choices, apart = {"logisticregression__C": strengths}, [(np.flatnonzero(~one), np.flatnonzero(one)) for one in held]
    return GridSearchCV(model, choices, scoring="balanced_accuracy", cv=apart).fit(x, labels)


def interval(statistic: Callable[..., float], people: np.ndarray, *arrays: np.ndarray) -> Interval:
    """{value, low, high}: a statistic of arrays [n, ...] with its interval by person (`intervals.leave_out`)."""
    return leave_out(lambda rows, _: {"": statistic(*(array[rows] for array in arrays))}, people)[""]


def balanced_accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    """Mean over the classes of the share of their slices that is recognised: by chance 1 / (number of classes)."""
    return float(np.mean([np.mean(guess[truth == name] == name) for name in np.unique(truth)]))


def spread_apart(real: np.ndarray, people: np.ndarray, fake: np.ndarray) -> tuple[Interval, Interval]:
    """(distance, floor), each {value, low, high}: Wasserstein's distance of the readings of half of the people, two or more, to
    as many fakes and to the other half, in deviations of the real: mean and central 95 % of 50 random halves."""
    rng, (names, index) = np.random.default_rng(0), np.unique(people, return_inverse=True)
    far, floor, unit = [], [], max(real.std(), 1e-12)
    for _ in range(HALVES):
        half = np.isin(index, rng.permutation(len(names))[: len(names) // 2])
        far.append(wasserstein_distance(real[half], rng.choice(fake, min(half.sum(), len(fake)), replace=False)) / unit)
        floor.append(wasserstein_distance(real[half], real[~half]) / unit)
    return spread_of(far), spread_of(floor)


@dataclass(frozen=True)
class Truth:
    """A name or a number that is true of each slice."""

    name: str
    values: np.ndarray  # [n] of the real slices; '' and NaN where unknown
    fakes: np.ndarray  # [n] of the generated ones: asked for, or as read; '' and NaN where neither
    units: np.ndarray  # [n], the people or levels that `deal` works on
    deal: Callable[[np.ndarray], Deal] = deal_people  # what the values would be if they meant nothing, from units
    unit: str = ""
    read: np.ndarray | None = None  # [n] of the real ones as read, to judge the reader by
    order: tuple[str, ...] = ()
    apart: bool = True  # slices of one person are no neighbours; but not where the person is what is asked for

    @property
    def is_name(self) -> bool:
        return self.values.dtype.kind not in "if"

    @property
    def known(self) -> np.ndarray:
        return self.values != "" if self.is_name else np.isfinite(self.values)


def truths_of(e: Evidence, real: SliceDataset, at_real: np.ndarray, made: Side, *, learn: bool) -> tuple[Truth, ...]:
    """Class and person, then `targets`, as far as their values differ and can be tested. Fakes were asked for the classes of
    the real slices; their numbers are those that readers of training people see in them, where ``learn``."""
    people, names = people_of(real), np.array([*real.classes, ""])[real.labels]
    shown, nothing = np.random.default_rng(0).permutation(np.unique(people))[:HIGHLIGHTED], np.full(len(real), "")
    found = [
        Truth("class", names, nothing if made.labels is None else names, people, order=real.classes),
        Truth("person", people, nothing, np.maximum(real.levels, 0), deal_within, order=tuple(sorted(shown)), apart=False),
    ]
    learn = learn and e.train is not None
    taught = e.train.select(choose_rows(e.train, LEARN)) if learn else real
    at_taught = e.features(taught.images) if learn else None
    for target in targets(taught, real):
        fakes, read, deal = np.full(len(real), np.nan), None, deal_within if target.name == "level" else deal_people
        if learn:
            reader = fit_reader(at_taught, target.of(taught), people_of(taught))
            fakes, read = reader.predict(made.at), reader.predict(at_real)
        found.append(Truth(target.name, target.of(real), fakes, people, deal, target.unit, read))

    def testable(truth: Truth) -> bool:
        """Whether values differ between several people's slices and, where the person is asked for, some have several."""
        slices = np.unique(people[truth.known], return_counts=True)[1]
        several = truth.apart or (slices.max(initial=0) > 1 and real.subjects_known)
        return len(np.unique(truth.values[truth.known])) > 1 and len(slices) > 1 and several

    return tuple(filter(testable, found))


# --- Is there a direction in W along which ventricles grow? ---------------------------------------------------------------


def direction(w: Tensor, reading: np.ndarray, still: np.ndarray, classes: np.ndarray) -> Tensor:
    """The direction in which w [n, w_dim] moves with a reading [n] at the same ``still`` [n, k] and class [n, c]: [w_dim].

    Least squares of w on (1, reading, still, classes), solved for w rather than for the reading: the coefficient is the mean
    change of w among drawn styles, and so stays where the generator knows its way, while the regression of the reading on w
    leans on components of w that hardly vary. Then what goes with ``still`` itself is taken out, so that a step does not move
    that either (conditional manipulation, Shen et al. 2020, arXiv:1907.10786, section 3.3); the class is not: a disease may
    be the very thing that makes ventricles grow. A step is one standard deviation of w along it, as in `latent.Direction`.
    """
    w = w.double().numpy()
    w = w - w.mean(axis=0)
    # The joint regression's coefficient but for its length (Frisch & Waugh 1933).
    along = left_of(reading, np.column_stack([still, classes])) @ w
    others = np.linalg.qr(w.T @ (still - still.mean(axis=0)))[0]  # [w_dim, k]
    along = along - others @ (others.T @ along)
    along /= max(np.linalg.norm(along), 1e-12)
    return torch.from_numpy(along * (w @ along).std()).float()


def left_of(reading: np.ndarray, held: np.ndarray) -> np.ndarray:
    """What ``held`` [n, k] does not tell of the reading [n]: the residual of a linear regression."""
    others = np.column_stack([np.ones(len(reading)), held])
    return reading - others @ np.linalg.lstsq(others, reading, rcond=None)[0]


Reader = Callable[[np.ndarray], np.ndarray]  # features [n, D] -> [n]


def grow(e: Evidence, w: Tensor, fake: Side, reader: Reader, level: Reader | None) -> tuple[dict, Strip]:
    """(result, strip): the direction in which ``reader``'s reading of fakes with styles w [n, w_dim] grows, tried on fresh seeds.

    result: {step, sd, per_step, agreed, level_per_step, random{value, low, high}, seeds}. ``per_step`` is the mean change of the
    reading per step, from -2 to +2 steps on seeds that the direction was not found on; ``agreed`` the share of these that
    grow; ``sd`` the reading's standard deviation among drawn slices of the same level and class; ``random`` the size of
    the change along 20 random directions of the same length, what any step does.
    """
    n = len(fake.at)
    read = np.zeros((n, 0)) if level is None else level(fake.at)[:, None]
    still = np.hstack([read, np.square(read)])  # ventricles are widest half-way
    classes = np.column_stack([np.zeros((n, 0)), *(fake.labels == i for i in np.unique(fake.labels)[1:])]).astype(float)
    step = direction(w, reader(fake.at), still, classes)
    ws = styles(e.G, range(FRESH, FRESH + TRIED), truncation_psi=PSI)

    def change(step: Tensor, read: Reader) -> np.ndarray:
        """Of the reading per step [n], from two steps down to two steps up."""
        up, down = (read(e.features_once(synthesize(e.G, ws + steps * step))) for steps in (2, -2))
        return (up - down) / 4

    away = w[:RANDOM] - w.mean(dim=0)  # directions in which W does vary
    random = [abs(change(one, reader).mean()) for one in away / away.norm(dim=1, keepdim=True) * step.norm()]
    grown = change(step, reader)
    result = {
        "step": step.tolist(), "sd": float(left_of(reader(fake.at), np.column_stack([still, classes])).std()),
        "per_step": float(grown.mean()), "agreed": float(np.mean(grown > 0)),
        "level_per_step": float(change(step, level).mean()) if level else None,
        "random": spread_of(random), "seeds": TRIED,
    }  # fmt: skip
    images = synthesize(e.G, torch.cat([ws[:SHOWN] + strength * step for strength in STEPS]))
    readings = reader(e.features_once(images)).reshape(len(STEPS), -1).T
    pictures = to_uint8(images)
    return result, (pictures.reshape(len(STEPS), -1, *pictures.shape[1:]).swapaxes(0, 1), readings)


def notes_on(e: Evidence, pictures: np.ndarray) -> list[str]:
    """What is read off each picture uint8 [n, R, R]: its ventricles and, where two classes have two training people each, its class."""
    notes, train = [f"{share:.1f}%" for share in ventricle_share(pictures)], e.train and e.train.select(e.train.labels >= 0)
    people = [set(people_of(train)[train.labels == name]) for name in set(train.labels)] if train else []
    if len(people) < 2 or min(map(len, people)) < 2:
        return notes
    model = fit_classifier(e.features(train.images), train.labels, people_of(train))
    seen = model.predict(e.features_once(pictures))
    return [f"{e.slices.classes[name]}, {note}" for name, note in zip(seen, notes, strict=True)]
