"""Every layout is recognised by its names alone, and nothing that is fine is lost."""

from __future__ import annotations

import layouts_fixtures as fixtures
import pytest

from stylegan.data.layouts import recognise
from stylegan.data.listing import list_files
from stylegan.data.subjects import FOUR_CLASS, FOUR_CLASSES, recover_four_class

CLASSES = {"NonDemented": 4, "MildDemented": 3}


def check(catalogue, truth):
    """The catalogue says of each file what is true of it."""
    found = {item.file: fixtures.Truth(item.subject, item.level, item.label, item.folder) for item in catalogue.items}
    assert found == truth


@pytest.mark.parametrize("prefix", ["", "keras_png_slices_data", "keras_png_slices_data/keras_png_slices_data"])
def test_uq_oasis_also_nested(tmp_path, prefix):
    truth = fixtures.uq_oasis(tmp_path / prefix)
    catalogue = recognise(tmp_path)
    assert catalogue.layout == "uq-oasis" and not catalogue.hidden
    check(catalogue, {f"{prefix}/{name}".lstrip("/"): item for name, item in truth.items()})
    assert len(catalogue.left_out["label map"]) == len(truth)  # one seg_* beside each case_*, none of them used


def test_uq_oasis_one_folder_of_it(tmp_path):
    fixtures.uq_oasis(tmp_path)
    catalogue = recognise(tmp_path / "keras_png_slices_test")
    assert catalogue.layout == "uq-oasis" and len(catalogue.items) == 6
    with pytest.raises(ValueError, match=r"No slice was found.*6 label map"):
        recognise(tmp_path / "keras_png_slices_seg_test")


def test_uq_adni_hides_who_is_who(tmp_path):
    truth, _ = fixtures.uq_adni(tmp_path / "AD_NC")
    catalogue = recognise(tmp_path)
    assert catalogue.layout == "uq-adni" and "hides who is who" in catalogue.hidden
    assert {item.file.removeprefix("AD_NC/"): (item.level, item.label, item.folder) for item in catalogue.items} == {
        name: (item.level, item.label, item.folder) for name, item in truth.items()
    }
    assert len({item.subject for item in catalogue.items}) == 16  # image ids


def test_four_class_subjects_are_recovered(tmp_path):
    truth = fixtures.four_class(tmp_path)
    catalogue = recognise(tmp_path)
    assert catalogue.layout == "four-class" and not catalogue.hidden
    check(catalogue, truth)


def test_four_class_rule_on_the_whole_upload():
    """The published upload's numbers: 5,121 train and 1,279 test files of 100 + 70 + 28 + 2 subjects."""
    cut = {"NonDemented": 40, "VeryMildDemented": 28, "MildDemented": 11, "ModerateDemented": 0}
    truth = fixtures.four_class_names(FOUR_CLASSES, cut)
    assert sum(item.folder == "train" for item in truth.values()) == 5121
    assert sum(item.folder == "test" for item in truth.values()) == 1279
    for label in FOUR_CLASSES:
        names = {name: FOUR_CLASS.search(name) for name, item in truth.items() if item.label == label}
        trained = {int(m["number"]): truth[name] for name, m in names.items() if m["number"]}
        tested = {(int(m["level"]), int(m["subject"] or 1)) for m in names.values() if m["level"]}
        found = recover_four_class(label, set(trained), tested)
        assert {k: (level - 1, f"{label}-{s:03d}") for k, (level, s) in found.items()} == {
            k: (item.level, item.subject) for k, item in trained.items()
        }


def test_four_class_with_missing_files_places_what_it_can():
    cut = {"NonDemented": 40, "VeryMildDemented": 28, "MildDemented": 11, "ModerateDemented": 0}
    truth = {name: item for name, item in fixtures.four_class_names(FOUR_CLASSES, cut).items() if item.label == "MildDemented"}
    trained = {int(m["number"]): truth[n] for n in truth if (m := FOUR_CLASS.search(n))["number"]}
    del trained[716], trained[3]
    tested = {(int(m["level"]), int(m["subject"] or 1)) for n in truth if (m := FOUR_CLASS.search(n))["level"]}
    found = recover_four_class("MildDemented", set(trained), tested)
    full = {k: item for k, item in trained.items() if k < 25 * 28}
    assert {k: (level - 1, f"MildDemented-{s:03d}") for k, (level, s) in found.items()} == {
        k: (item.level, item.subject) for k, item in full.items()
    }  # the cut level is not guessed
    assert recover_four_class("MildDemented", set(), set()) == {}


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    truth = fixtures.class_folders(tmp_path / "slices", {"test": 2, "control": 2})
    check(recognise(tmp_path / "slices"), truth)


def test_backslashes_spaces_quotes_and_unicode_in_names(tmp_path):
    names = ["AD/a b_slice_1.png", "AD/q\"uo'te_slice_2.png", "NC/größe_слой_slice_3.png", "NC\\win_slice_4.png"]
    for i, name in enumerate(names):
        fixtures.save(tmp_path / name, fixtures.head("x", i))
    catalogue = recognise(tmp_path)
    assert [(item.subject, item.level, item.label) for item in sorted(catalogue.items, key=lambda item: item.level)] == [
        ("a b", 1, "AD"), ("q\"uo'te", 2, "AD"), ("größe_слой", 3, "NC"), ("win", 4, "NC"),
    ]  # fmt: skip


def test_levels_choose_and_say_so(tmp_path):
    fixtures.class_folders(tmp_path / "slices", CLASSES, levels=5)
    catalogue = recognise(tmp_path / "slices", levels=(1, 2))
    assert {item.level for item in catalogue.items} == {1, 2}
    assert len(catalogue.left_out["outside levels 1-2"]) == 3 * 7


def test_names_that_do_not_fit_are_counted(tmp_path):
    fixtures.class_folders(tmp_path / "slices", CLASSES)
    fixtures.save(tmp_path / "slices/logo.png", fixtures.head("logo", 0))
    assert recognise(tmp_path / "slices").left_out == {"name does not fit the layout": ("logo.png",)}


def test_a_loop_of_links_ends_and_linked_folders_are_followed(tmp_path):
    fixtures.class_folders(tmp_path / "elsewhere", CLASSES)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/slices").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/self").symlink_to(tmp_path / "elsewhere/self")
    files, no_files = list_files(tmp_path / "data")
    assert len(files) == 21 and no_files == {"unreadable": ["slices/self"], "empty folder": []}
    assert len(recognise(tmp_path / "data").items) == 21


def test_oasis_volumes(tmp_path):
    fixtures.oasis_volumes(tmp_path)
    catalogue = recognise(tmp_path)
    assert catalogue.layout == "oasis1-volumes"
    assert [item.subject for item in catalogue.items] == [f"OAS1_{i:04d}_MR1" for i in range(1, 5)]
    assert all("masked" in item.file for item in catalogue.items)
    assert {reason: len(names) for reason, names in catalogue.left_out.items()} == {
        "another volume of the same subject": 4, "not a volume": 4,
    }  # fmt: skip


def test_datalad_links_are_read_under_their_own_names(tmp_path):
    """What people see are links into .git/annex, which itself is hidden."""
    for i in range(3):
        target = tmp_path / f".git/annex/objects/{i}/MD5E-s{i}.nii.gz"
        target.parent.mkdir(parents=True)
        target.write_bytes(b"x")
        link = tmp_path / f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz"
        link.parent.mkdir(parents=True)
        link.symlink_to(target)
    catalogue = recognise(tmp_path)
    assert [item.subject for item in catalogue.items] == ["sub-00", "sub-01", "sub-02"] and not catalogue.left_out
