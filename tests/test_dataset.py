"""Loading every layout: labels, splits by subject, the report; the data set itself, and the simulated population."""

import csv
import functools
import json
import shutil
from dataclasses import replace

import layouts_fixtures as fixtures
import numpy as np
import pytest
import torch

from stylegan.data import simulate as atlas
from stylegan.data import subjects as who
from stylegan.data.listing import parse_levels
from stylegan.data.pictures import min_max, percentiles, standardise_then_unit
from stylegan.data.subjects import count_leaks, leaks_of_random_split, people_of
from stylegan.dataset import SPLITS, load_slices, normalised, render_report, similarity, slices_of, split_by_subject, write_csv

CLASSES = {"NonDemented": 20, "VeryMildDemented": 7, "MildDemented": 3, "ModerateDemented": 2}
BUILDERS = {
    "uq-oasis": fixtures.uq_oasis, "uq-adni": fixtures.uq_adni, "four-class": fixtures.four_class,
    "class-folders": lambda root: fixtures.class_folders(root, CLASSES),
    "images": lambda root: [fixtures.save(root / f"scan {i}.png", fixtures.head("unknown", i)) for i in range(9)],
    "oasis1-volumes": fixtures.oasis_volumes, "nifti": fixtures.nifti,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{layout: a folder in it}."""
    roots = {layout: tmp_path_factory.mktemp(layout) / "data" for layout in BUILDERS}
    for layout, root in roots.items():
        BUILDERS[layout](root)
    return roots


@pytest.mark.parametrize("layout", BUILDERS)
def test_every_layout_loads_without_a_subject_in_two_splits_and_is_reported(folders, layout):
    data = load_slices(folders[layout], 16)
    assert data.layout == layout and data.images.shape == (len(data), 16, 16) and data.images.dtype == np.uint8
    assert len(data) == len(data.labels) == len(data.subjects) == len(data.levels) == len(data.splits) == len(data.paths)
    assert set(data.splits) <= set(SPLITS) and (data.splits == "train").any() and count_leaks(data.subjects, data.splits) == 0
    assert all((folders[layout] / path).is_file() for path in data.paths)
    report = json.loads(json.dumps(data.describe()))
    parts = [report["splits"][split] for split in SPLITS]
    assert report["layout"] == layout and report["title"] in render_report(report)
    assert sum(part["slices"] for part in parts) == report["slices"]
    if layout in ("uq-adni", "images"):
        assert report["subjects"] is None and any("held-out scores may be too good" in text for text in report["warnings"])
    else:
        assert sum(part["subjects"] for part in parts) == report["subjects"]


def test_uq_oasis_keeps_its_published_split_and_joins_by_number(folders, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("ID;CDR;Age\nOAS1_0001_MR1;0,5;70\nOAS1_0002;0;71\nOAS1_0012_MR1;1;72\n")
    data = load_slices(folders["uq-oasis"], 16, subjects_csv=table)
    truth = {path: "val" if "validate" in path else "test" if "_test/" in path else "train" for path in data.paths}
    assert list(data.splits) == [truth[path] for path in data.paths] and data.published_split_leaks == 0
    assert data.classes == ("NonDemented", "VeryMildDemented", "MildDemented")  # from CDR
    labels = {str(s): data.classes[c] if c >= 0 else "" for s, c in zip(data.subjects, data.labels, strict=True)}
    assert [labels[f"OAS1_{n:04d}_MR1"] for n in (1, 2, 3, 12)] == ["VeryMildDemented", "NonDemented", "", "MildDemented"]
    assert np.nanmax(data.columns["Age"]) == 72 and any("no row for 9 of 12" in text for text in data.warnings)


def test_uq_adni_people_are_restored_by_a_table(tmp_path):
    truth, table = fixtures.uq_adni(tmp_path / "AD_NC")
    hidden = load_slices(tmp_path / "AD_NC", 16)
    assert not hidden.subjects_known and hidden.published_split_leaks is None
    known = load_slices(tmp_path / "AD_NC", 16, subjects_csv=table)
    assert known.subjects_known and not any("hides who is who" in text for text in known.warnings)
    assert dict(zip(known.paths, known.subjects, strict=True)) == {path: item.subject for path, item in truth.items()}
    assert known.published_split_leaks == 2  # images 7 and 15 are in test, their people's other images in train
    assert count_leaks(known.subjects, known.splits) == 0 and set(known.classes) == {"AD", "NC"}
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    assert not load_slices(tmp_path / "AD_NC", 16, subjects_csv=table).subjects_known  # one image without a person


def test_four_class_split_leaks_and_is_replaced(folders):
    data = load_slices(folders["four-class"], 16)
    assert len(data) == 20 * 32 and data.published_split_leaks == 20 and set(data.levels) == set(range(32))
    assert any("shows 20 subjects on both sides" in text for text in data.warnings)


def test_of_volumes_the_brain_in_atlas_space_is_taken_with_table_classes_and_sides(folders):
    oasis, chosen = load_slices(folders["oasis1-volumes"], 16), load_slices(folders["nifti"], 16, levels="10-14")
    assert oasis.classes == ("NonDemented", "VeryMildDemented", "MildDemented") and sum(oasis.labels == -1) == 32  # the young
    left_out = {reason: len(names) for reason, names in oasis.left_out.items()}
    assert left_out == {"another volume of the same subject": 4, "not a volume": 4}
    assert all("masked" in path for path in oasis.paths) and set(oasis.subjects) == {f"OAS1_000{i}_MR1" for i in range(1, 5)}
    assert oasis.sides == ("A", "P", "", "") and chosen.sides == ("A", "P", "L", "R")  # Analyze does not tell left from right
    assert len(chosen) == 4 * 5 and set(chosen.levels) == {10, 11, 12, 13, 14}


def test_a_zip_its_folder_a_folder_around_it_and_one_below_home_are_the_same(class_folders, tmp_path, monkeypatch):
    archive = shutil.make_archive(str(tmp_path / "slices"), "zip", class_folders.parent, class_folders.name)
    shutil.copy(class_folders.parent / "subjects.csv", tmp_path)
    monkeypatch.setenv("HOME", str(class_folders.parent))
    folder = load_slices(class_folders, 16)
    for other in (archive, class_folders.parent, "~/slices"):
        found = load_slices(other, 16)
        assert found.key == folder.key and np.array_equal(found.columns["age"], folder.columns["age"])
        for name in ("subjects", "labels", "splits", "levels"):
            assert np.array_equal(getattr(found, name), getattr(folder, name))


def test_dataset_json_of_a_stylegan_archive_tells_the_classes(tmp_path):
    labels = [[f"{i // 5:05d}/img{i:08d}.png", i % 2] for i in range(20)]
    for name, _ in labels:
        fixtures.save(tmp_path / "brains" / name, fixtures.head(name, 0))
    (tmp_path / "brains/dataset.json").write_text(json.dumps({"labels": labels}))
    for root in (tmp_path / "brains", tmp_path):
        data = load_slices(root, 16)
        assert data.classes == ("0", "1") and list(data.labels) == [i % 2 for i in range(20)] and not data.subjects_known
    (tmp_path / "brains/dataset.json").write_text(json.dumps({"labels": None}))
    assert load_slices(tmp_path / "brains", 16).classes == ()  # 00000, 00001, ... are storage


def test_split_is_stratified_by_subject(folders):
    data = load_slices(folders["class-folders"], 16)
    counts = {split: np.unique(data.subjects[(data.splits == split) & (data.labels == 0)]).size for split in SPLITS}
    assert counts == {"train": 14, "val": 3, "test": 3}  # of 20
    for label in range(3):  # classes with 3 subjects or more are in every split
        assert set(data.splits[data.labels == label]) == set(SPLITS)
    assert set(data.splits[data.labels == 3]) == {"train"} and any("only 2 subjects" in text for text in data.warnings)
    assert set(data.split("val").splits) == {"val"}
    with pytest.raises(ValueError, match=r"no slice in split 'valid'.*train \d+, val \d+, test \d+"):
        data.split("valid")


def test_split_depends_on_ids_and_seed_not_on_order_and_two_scans_stay_together():
    subjects, labels = np.repeat([f"s{i}" for i in range(30)], 3), np.repeat(np.arange(30) % 2, 3)
    splits, order = split_by_subject(subjects, labels, seed=1)[0], np.random.default_rng(0).permutation(90)
    assert np.array_equal(split_by_subject(subjects[order], labels[order], seed=1)[0], splits[order])
    assert not np.array_equal(split_by_subject(subjects, labels, seed=2)[0], splits)
    more, _ = split_by_subject([*subjects, "s99"], [*labels, 1], seed=1)
    assert (more[:-1] != splits).sum() <= 6  # a new subject does not turn the split upside down
    scans, _ = split_by_subject([f"OAS1_{i:04d}_MR{scan}" for i in range(20) for scan in (1, 2)], [0] * 40)
    assert np.array_equal(scans[::2], scans[1::2])


def test_published_train_and_test_get_a_val_out_of_train():
    folders = np.array(["test" if i % 4 == 0 else "train" for i in range(40)])
    splits, _ = who.choose_split([f"s{i}" for i in range(40)], np.arange(40) % 2, folders, 0, (), True)
    assert np.array_equal(splits == "test", folders == "test") and 4 <= (splits == "val").sum() <= 8


def about(slices, path, **entries):
    """What a run's config.json says, as far as it matters here."""
    config = {"img_resolution": 16, "normalise": entries.pop("normalise", "fixed")}
    return {"config": config, "data": {"path": path, "title": slices.title, "key": slices.key, **entries}}


def test_a_run_finds_its_slices_again_with_its_table_levels_and_grey_rule(tmp_path, capsys, monkeypatch):
    _, table = fixtures.uq_adni(tmp_path / "AD_NC")
    trained = load_slices(tmp_path / "AD_NC", 16, subjects_csv=table, levels="78-79")
    info = about(trained, "AD_NC", subjects_csv="people.csv", levels="(78, 79)", normalise="percentiles")
    monkeypatch.chdir(tmp_path)  # recorded paths are relative
    for data in (None, "AD_NC"):
        found = slices_of(info, data)
        assert found.subjects_known and np.array_equal(found.splits, trained.splits) and set(found.levels) == {78, 79}
        assert np.array_equal(found.images, normalised(trained, "percentiles").images)
    assert np.array_equal(slices_of(info, trained).images, found.images)
    assert list(people_of(found)) == list(trained.subjects) and "Note" not in capsys.readouterr().err


def test_what_differs_from_the_training_is_noted(tmp_path, capsys):
    _, table = fixtures.uq_adni(tmp_path / "AD_NC")
    trained = load_slices(tmp_path / "AD_NC", 16, subjects_csv=table)
    info = about(trained, str(tmp_path / "AD_NC"), subjects_csv=str(table))
    fixtures.class_folders(tmp_path / "others/slices", {"A": 4})
    others = slices_of(info, tmp_path / "others/slices", levels="0-1")  # the run's table does not fit them
    noted = capsys.readouterr().err
    assert len(others) == 8 and others.layout == "images"
    assert "trained on" in noted and "levels not given; here it is 0-1" in noted
    table.unlink()
    with pytest.raises(FileNotFoundError, match="There is no table"):  # these people are told by it alone
        slices_of(info, tmp_path / "AD_NC")
    with pytest.raises(ValueError, match=r"16 px.*32 px"):
        slices_of({"config": {"img_resolution": 32}}, trained)
    with pytest.raises(ValueError, match="draws 3 channels"):
        slices_of({"config": {"img_resolution": 16, "img_channels": 3}}, trained)


def test_standardising_cancels_out_of_min_max_and_percentiles_cut_off_a_hot_pixel():
    x = np.random.default_rng(0).normal(50, 7, (3, 8, 8))
    np.testing.assert_allclose(standardise_then_unit(x), min_max(x), atol=1e-12)
    x = np.append(np.linspace(10, 110, 1000), 5000)
    y = percentiles(x)
    assert y[0] == 0 and y[-1] == 1 and y[500] == pytest.approx(0.5, abs=0.01)
    assert min_max(x)[500] < 0.02  # one pixel takes all the range


def test_rules_act_on_each_subject_by_itself(slices):
    dark = slices.subjects == slices.subjects[0]
    data = replace(slices, images=np.where(dark[:, None, None], slices.images // 3, slices.images))
    for rule in ("percentiles", "standardise"):
        found = normalised(data, rule)
        assert found.images.dtype == np.uint8 and found.images[dark].max() == 255 and found.key != data.key
        np.testing.assert_array_equal(found.images[~dark], normalised(slices, rule).images[~dark])
    assert normalised(data, "fixed") is data and normalised(found, "standardise") is found
    with pytest.raises(ValueError, match=r"normalise is 'z'.*percentiles"):
        normalised(data, "z")


def test_tensor_select_and_csv(class_folders, tmp_path):
    data = load_slices(class_folders, 16)
    batch = data.tensor([3, 1])
    assert batch.shape == (2, 1, 16, 16) and batch.dtype == torch.float32
    np.testing.assert_allclose(batch[0, 0].numpy(), np.asarray(data.images[3]) / 127.5 - 1, atol=1e-6)
    assert data.tensor(5).shape == (1, 1, 16, 16) and data.tensor(data.labels == 1).shape[0] == (data.labels == 1).sum()
    write_csv(data, tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "class", "subject", "level", "split"] and len(rows) == len(data)
    for row in rows:
        label, name = row["path"].split("/")
        assert row["class"] == label and name == f"{row['subject']}_slice_{int(row['level']):02d}.png"


def test_levels_and_resolution_are_checked(class_folders):
    assert parse_levels("3-7") == parse_levels((3, 7)) == (3, 7) and parse_levels("5") == (5, 5)
    for wrong in ("7-3", "a-b", "1-2-3", "-4"):
        with pytest.raises(ValueError, match="write A-B"):
            load_slices(class_folders, 16, levels=wrong)
    with pytest.raises(ValueError, match="take 8 to 1024"):
        load_slices(class_folders, 4)


def test_the_simulated_default_is_cached(monkeypatch, tmp_path):
    monkeypatch.setattr("stylegan.data.pack.SIMULATED_SUBJECTS", 6)
    monkeypatch.setattr("stylegan.data.pack.SIMULATED_LEVELS", 3)
    first = load_slices(None, 16, cache_dir=tmp_path)
    assert first.layout == "simulated" and "simulated" in first.title and len(first) == 18 and first.subjects_known
    assert first.classes == ("control", "atrophy") and np.isfinite(first.columns["ventricle"]).all()
    assert all(set(first.splits[first.labels == label]) == set(SPLITS) for label in (0, 1))
    monkeypatch.setattr("stylegan.data.simulate.simulate", lambda *_: pytest.fail("simulated twice"))
    assert load_slices(None, 16, cache_dir=tmp_path, seed=1).key == first.key
    assert len(load_slices(None, 16, cache_dir=tmp_path, levels="1-2")) == 12
    with pytest.raises(ValueError, match="No slice has a level from 3 to 9; there are 0 to 2"):
        load_slices(None, 16, cache_dir=tmp_path, levels="3-9")


def test_neighbouring_levels_are_more_alike_and_a_split_by_slices_leaks(simulated):
    near, far, _ = (found := similarity(simulated)).values()  # of 4 levels: nobody has slices 4 or 8 levels apart
    assert list(found) == ["same person, 1 level apart", "same person, 2 levels apart", "other person, same level"]
    assert 1 >= near > far > 0
    assert leaks_of_random_split(np.repeat(np.arange(20), 30)) == 20 and leaks_of_random_split(np.arange(20)) == 0


def test_the_simulated_population_has_shapes_and_names(simulated):
    assert simulated.images.shape == (48, 32, 32) and simulated.images.dtype == np.uint8
    assert simulated.subjects[[0, 3, 4, -1]].tolist() == ["SIM_0001", "SIM_0001", "SIM_0002", "SIM_0012"]
    assert simulated.levels[:6].tolist() == [0, 1, 2, 3, 0, 1] and np.bincount(simulated.labels).tolist() == [24, 24]
    assert all(len(values) == 48 and np.isfinite(values).all() for values in simulated.columns.values())
    for size in ((0, 4, 32), (2, 0, 32), (2, 4, 8), (2, 4, 1024)):
        with pytest.raises(ValueError, match="Cannot simulate"):
            atlas.simulate(*size)


def test_pictures_depend_on_the_seed_alone_and_the_number_of_threads_is_left_as_found(simulated, request):
    request.addfinalizer(functools.partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2)
    again, other = (atlas.simulate(2, 4, 32, seed=seed).images for seed in (0, 1))
    assert torch.get_num_threads() == 2
    assert np.array_equal(again, simulated.images[:8])  # whatever the size of the population
    assert not np.array_equal(other, again)


@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_resolutions_show_the_same_head(resolution):
    fine, coarse = (atlas.simulate(1, 1, size).images[0].astype(float) for size in (resolution, 32))
    fine, coarse = (image.reshape(16, len(image) // 16, 16, -1).mean((1, 3)) for image in (fine, coarse))
    assert np.abs(fine - coarse).max() < 16


def _jacobian(subject: atlas.Subject, step: float = 2.0) -> np.ndarray:
    x, y = np.arange(-80, 81, step), np.arange(-115, 81, step)
    z = np.arange(atlas.LEVELS_MM[0] - 10, atlas.LEVELS_MM[1] + 11, step)
    source = atlas.pull_back(subject, x, y, z).double().numpy()
    gradients = np.stack([np.stack(np.gradient(source[..., i], step, step, step)[::-1], -1) for i in range(3)], -2)
    return np.linalg.det(gradients)


def test_no_head_is_torn_or_folded_and_a_fold_would_be_seen():
    for k in range(12):
        subject = atlas.draw_subject(np.random.default_rng([0, k]), label=k % 2)
        determinant = _jacobian(subject)
        assert determinant.min() > 0 and determinant.max() < 4, k
    assert _jacobian(replace(subject, controls=tuple(8 * grid for grid in subject.controls))).min() < 0


def test_the_measured_area_follows_the_known_enlargement_and_groups_differ_and_overlap():
    population = atlas.simulate(24, 6, 32, seed=5)
    area, known = (population.columns[name].reshape(24, 6).mean(1) for name in ("ventricle_area", "ventricle"))
    assert np.corrcoef(area, known)[0, 1] > 0.9 and area[1::2].mean() > area[::2].mean()
    assert known[1::2].mean() - known[::2].mean() > 1.5 and known[::2].max() > known[1::2].min()


def test_heads_fill_the_picture_stay_inside_and_differ_visibly(simulated):
    images = simulated.images
    assert (images.max(0) > 12).any(1).sum() >= 29  # of 32 rows
    assert images[:, :, [0, -1]].max() < 12 and images[:, [0, -1]].max() < 100 and not np.median(images[:, 0, 0])  # a forehead
    correlation = np.corrcoef(images.reshape(12, -1).astype(float))[np.triu_indices(12, 1)]
    assert correlation.max() < 0.985 and correlation.min() > 0.6  # no two are alike
