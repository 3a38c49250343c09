"""Tables joined by id: damage is found, doubts are said, and what the user names is never skipped."""

from __future__ import annotations

import layouts_fixtures as fixtures
import numpy as np
import pytest

from stylegan.dataset import load_slices


def test_columns_damage_and_doubts(tmp_path):
    fixtures.class_folders(tmp_path / "slices", {"A": 6})
    rows = ["Subject ID,Sex,nWBV,MMSE,Note", "OAS1_0001,F,0.743,29,fine", "OAS1_0002_MR1,M,823,28,", "OAS1_0003_MR1,F,0.0.71,30,x",
            "OAS1_0004_MR1,F,0.708,,", "OAS1_0004_MR1,M,0.9,1,", ",M,0.7,30,", "OAS1_0005_MR1,M,0.699,27,", "OAS1_0006_MR1,M,.72,27,",
            "OAS1_0007_MR1,M,.72,27,", "OAS1_0008_MR1,M,.72,27,", "OAS1_0009_MR1,M,.72,27,"]  # fmt: skip
    (tmp_path / "subjects.csv").write_text("\n".join(rows))
    data = load_slices(tmp_path / "slices", 16)
    by_subject = {str(s): i for i, s in enumerate(data.subjects)}
    row = [by_subject[f"OAS1_{n:04d}_MR1"] for n in range(1, 7)]
    np.testing.assert_array_equal(data.columns["nWBV"][row], [0.743, np.nan, np.nan, 0.708, 0.699, 0.72])
    np.testing.assert_array_equal(data.columns["MMSE"][row], [29, 28, 30, np.nan, 27, 27])
    assert list(data.columns["Sex"][row]) == ["F", "M", "F", "F", "M", "M"] and data.columns["Note"][row[0]] == "fine"
    said = " ".join(data.warnings)
    assert "2 damaged values in nWBV" in said and "1 ids occur twice" in said and "1 rows without an id" in said


def test_a_table_that_does_not_belong_is_refused(class_folders, tmp_path):
    table = tmp_path / "other.csv"
    table.write_text("subject,age\nnobody,3\n")
    with pytest.raises(ValueError, match=r"None of the ids in .*other\.csv"):
        load_slices(class_folders, 16, subjects_csv=table)
    table.write_text("name,age\nnobody,3\n")
    with pytest.raises(ValueError, match="no column of ids"):
        load_slices(class_folders, 16, subjects_csv=table)
    with pytest.raises(FileNotFoundError, match="There is no table"):
        load_slices(class_folders, 16, subjects_csv=tmp_path / "missing.csv")


@pytest.mark.parametrize("content", ["", "name,age\nx,3\n", "subject,age\nnobody,3\n"])
def test_a_found_table_that_does_not_belong_is_said_and_left(tmp_path, content):
    fixtures.class_folders(tmp_path / "slices", {"A": 4})
    (tmp_path / "subjects.csv").write_text(content)
    data = load_slices(tmp_path / "slices", 16)
    assert len(data) == 12 and not data.columns
    assert any("found but is not used" in text for text in data.warnings)


def test_a_table_by_picture_restores_people(tmp_path):
    names = fixtures.plain_images(tmp_path / "pictures", 12)
    rows = [f"{name.removesuffix('.png')},person {i // 2},{50 + i // 2}" for i, name in enumerate(names)]
    (tmp_path / "people.csv").write_text("\n".join(["image,subject,age", *rows]))
    data = load_slices(tmp_path / "pictures", 16, subjects_csv=tmp_path / "people.csv")
    assert data.subjects_known and set(data.subjects) == {f"person {i}" for i in range(6)}
    assert sorted(data.columns["age"]) == sorted(50.0 + i // 2 for i in range(12))
    assert all(len(set(data.splits[data.subjects == name])) == 1 for name in set(data.subjects))


def test_tabs_semicolons_latin_letters_and_decimal_commas(tmp_path):
    fixtures.class_folders(tmp_path / "slices", {"A": 3})
    table = tmp_path / "t.csv"
    table.write_bytes("ID;Größe;Ort\nOAS1_0001_MR1;1,5;Köln\nOAS1_0002_MR1;1,75;N/A\nOAS1_0003_MR1;;Bonn\n".encode("latin-1"))
    data = load_slices(tmp_path / "slices", 16, subjects_csv=table)
    np.testing.assert_array_equal(data.columns["Größe"][::3], [1.5, 1.75, np.nan])
    assert list(data.columns["Ort"][::3]) == ["Köln", "", "Bonn"]
