"""Tables as they come: joined by whichever id fits, damage is found, doubts are said, and what the user names is never skipped."""

import layouts_fixtures as fixtures
import numpy as np
import pytest

from stylegan.data.subjects import count_leaks
from stylegan.data.tables import classes_of, join, join_index, read_table
from stylegan.dataset import load_slices


def joined(tmp_path, content, scans, images=None):
    """The columns, people and classes that a table gives to slices of these ids."""
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    empty = [""] * len(scans)
    return join(read_table(tmp_path / "t.csv"), [scans, images or empty, [scan.split("_MR")[0] for scan in scans], empty])


def test_columns_damage_and_doubts(tmp_path):
    rows = ["Subject ID,Sex,nWBV,MMSE,CDR,Note", "OAS1_0001,F,0.743,29,0,fine", "OAS1_0002_MR1,M,823,28,5,", "OAS1_0003_MR1,F,0.0.71,30,-1,x",
            "OAS1_0004_MR1,F,0.708,-4,2,#N/A", "OAS1_0004_MR1,M,0.9,1,,", ",M,0.7,30,,", *(f"OAS1_{n:04d}_MR1,M,0.7,27,1," for n in range(5, 12))]  # fmt: skip
    found = joined(tmp_path, "\n".join(rows), [f"OAS1_{n:04d}_MR1" for n in (1, 2, 3, 4, 5, 99)])
    np.testing.assert_array_equal(found.columns["nWBV"], [0.743, np.nan, np.nan, 0.708, 0.7, np.nan])
    known = [found.columns["MMSE"], found.columns["CDR"]]
    np.testing.assert_array_equal(known, [[29, 28, 30, np.nan, 27, np.nan], [0, np.nan, np.nan, 2, 1, np.nan]])
    assert list(found.columns["Sex"]) == ["F", "M", "F", "F", "M", ""] and "#N/A" not in found.columns["Note"]
    doubts = "2 damaged values in nWBV|CDR are taken as unknown (5, -1)|1 ids occur twice|1 rows without an id|row for 1 of 6"
    assert all(doubt in " ".join(found.warnings) for doubt in doubts.split("|"))


@pytest.mark.parametrize("content", [
    "ID;Größe;Ort\nA1;1,5;Köln\nA2;1,75;N/A\nA3;;Bonn\n".encode("latin-1"), "ID\tGröße\tOrt\nA1\t1.5\tKöln\nA2\t1.75\t\nA3\tnan\tBonn\n".encode("utf-16"),
    b"\xef\xbb\xbf" + "ID,Größe,Ort\nA1,1.5,Köln\nA2,1.75,?\nA3,,Bonn\n".encode(), "sep=;\r\nID;Größe;Ort\r\nA1;1,5;Köln\r\nA2;1,75;-\r\nA3;;Bonn\r\n".encode(),
    '"ID","Größe","Ort"\n"A1","1.5","Köln"\n"A2","1.75",""\n"A3","","Bonn"\n'.encode(),
])  # fmt: skip
def test_separators_encodings_and_decimal_commas(tmp_path, content):
    found = joined(tmp_path, content, ["A1", "A2", "A3"])
    np.testing.assert_array_equal(found.columns["Größe"], [1.5, 1.75, np.nan])
    assert list(found.columns["Ort"]) == ["Köln", "", "Bonn"]


def test_thousands_line_ends_and_quotes_as_excel_writes_them(tmp_path):
    rows = ['"ID, of the scan",ID,eTIV,ASF,"Age, at scan, in years"', 'x,A0,"1,087","0,987",– 0', 'x,A1,"1,187","1,187",– 1']
    found = joined(tmp_path, "\r".join(rows).encode("cp1252"), ["A0", "A1"])
    np.testing.assert_array_equal(found.columns["eTIV"], [1087, 1187])
    np.testing.assert_array_equal(found.columns["ASF"], [0.987, 1.187])  # a decimal comma
    assert list(found.columns["Age, at scan, in years"]) == ["– 0", "– 1"]
    assert joined(tmp_path, 'ID\t"Age, at scan, in years"\nA0\t60', ["A0"]).columns["Age, at scan, in years"][0] == 60


def test_each_visit_has_its_own_row(tmp_path):
    row, groups = "OAS2_{n:04d},OAS2_{n:04d}_MR{v},{group},{v},{cdr}", ("Nondemented", "Converted")
    rows = [row.format(n=n, v=v, group=groups[n % 2], cdr=v / 2 - 0.5) for n in range(4) for v in (1, 2)]
    scans = [f"OAS2_{n:04d}_MR{v}" for n in range(4) for v in (1, 2, 3)]
    found = joined(tmp_path, "\n".join(["Subject ID,MRI ID,Group,Visit,CDR", *rows]), scans)
    np.testing.assert_array_equal(found.columns["CDR"], [0, 0.5, np.nan] * 4)  # no third visit: nobody else's value
    assert list(found.classes[3:6]) == ["Converted", "Converted", ""] and found.people is None


@pytest.mark.parametrize("by", ["Subject", "Image Data ID"])
def test_the_adni_search_table_is_joined_by_whichever_id_fits(tmp_path, by):
    scans = [(i, v) for i in range(6) for v in (0, 1)]
    people, images = [f"{i:03d}_S_{1000 + i}" for i, _ in scans], [f"{45108 + 2 * i + v}" for i, v in scans]
    groups = [("AD", "CN", "MCI")[i % 3] for i, _ in scans]
    rows = [f'"I{images[k]}","{people[k]}","{groups[k]}","F","{70 + sum(scans[k])}"' for k in range(12)]
    head = '"Image Data ID","Subject","Group","Sex","Age"'
    found = joined(tmp_path, "\n".join([head, *rows]), people if by == "Subject" else images, images)
    assert list(found.columns["Age"]) == [70 + i + v for i in range(6) for v in (0, 1)]
    assert list(found.classes) == groups and (by == "Subject" or list(found.people) == people)


@pytest.mark.parametrize("days", [("2006-04-18", "11/2/2006", "2007-05-25T09:30Z"), ("18.4.2006", "02/11/2006", "25/5/2007")])
def test_of_a_persons_visits_the_one_nearest_to_the_date_of_the_scan_counts(tmp_path, days):
    visits = [(f"{n:03d}_S_{1000 + n}", dx) for n in range(4) for dx in (("CN", "MCI", "Dementia"), ("CN",) * 3)[n % 2]]
    rows = [f"{name},{days[k % 3]},{dx},{70 + k % 3}" for k, (name, dx) in enumerate(visits)]
    (tmp_path / "t.csv").write_text("\n".join(["PTID,EXAMDATE,DX,AGE", *rows]))
    dates = ["/2007-06-01_08_20_30.0", "/20061030082030", "/2006-01-01", "/20061940"] * 4
    names = [visits[i // 4 * 3][0] for i in range(16)]
    files = [f"ADNI/{name}/MPRAGE{date}/I{45108 + i}/{i}.png" for i, (name, date) in enumerate(zip(names, dates, strict=True))]
    found = join_index(tmp_path, tmp_path, tmp_path / "t.csv", {"files": files, "scans": names, "subjects": names})
    assert list(found.columns["AGE"]) == [72, 71, 70, 70] * 4
    assert list(found.classes[:5]) == "Dementia MCI CN CN CN".split()
    rows = [f"OAS3000{n},OAS3000{n}_UDSb4_d{day},{n}{day}" for n in range(4) for day in ("0000", "0740", "2300")]
    for head in ("OASISID,OASIS_session_label,age", "note,ID,age"):  # OASIS-3 counts days
        found = joined(tmp_path, "\n".join([head, *rows]), ["OAS30001_MR_d2100", "OAS30001_MR_d0129"])
        assert list(found.columns["age"]) == [12300, 10000]


@pytest.mark.parametrize(("written", "scan"), [("50772", "sub-0050772"), ("1.0", "sub-01"), ("sub-1", "sub-1"), ("P-7", "P007"), ("oas1_0001", "OAS1_0001_MR1"),
                                               ("002_S_0295", "002_S_0295"), ("OAS30001_MR_d0129", "OAS30001_MR_d0129"), ("I45108", "45108")])  # fmt: skip
def test_ids_are_the_same_however_they_are_written(tmp_path, written, scan):
    assert joined(tmp_path, f"SUB_ID,age\n{written},7\nnobody,8\n", [scan]).columns["age"][0] == 7


def test_groups_become_classes_from_healthy_to_ill_and_one_is_none(tmp_path):
    people = [f"OAS1_{n:04d}" for n in range(8)]
    groups = ("Demented", "Nondemented", "Converted", "demented") * 2
    table = "\n".join(["Subject ID,Label,Group", *(f"{who},{label},old" for who, label in zip(people, groups, strict=True))])
    labels, classes = classes_of([""] * 8, joined(tmp_path, table, people))
    assert classes == ("Nondemented", "Converted", "Demented") and labels.tolist() == [2, 0, 1, 2] * 2
    assert [list(found) for found in classes_of([""] * 4, joined(tmp_path, table, people[:1] * 4))] == [[-1] * 4, []]
    for even, odd, expected in ((",CN", "1,AD", "CN AD"), (",1", ",2.0", "1 2"), ("0,CN", "1,AD", "NonDemented MildDemented")):
        table = "\n".join(["ID,CDRTOT,Group", *(f"{who},{(even, odd)[i % 2]}" for i, who in enumerate(people))])
        assert classes_of([""] * 8, joined(tmp_path, table, people))[1] == tuple(expected.split())


@pytest.mark.parametrize(("content", "says"), [
    (b"subject,age\nnobody,3\n", r"None of the ids in .*t\."), (b"name,age\nx,3\n", "no column of ids"), (b"", "is empty"), (b"PK\x03\x04xl", r"Excel.*\.csv"),
])  # fmt: skip
def test_a_table_that_is_none_or_does_not_belong(tmp_path, content, says):
    (tmp_path / "t.csv").write_bytes(content)
    index = {"files": ["P1_slice_1.png"], "scans": ["P1"], "subjects": ["P1"]}
    with pytest.raises(ValueError, match=says):  # what the user names is not skipped
        join_index(tmp_path, tmp_path, tmp_path / "t.csv", index)


def loaded(folder, names, table, table_at="subjects.csv"):
    for name in names:
        fixtures.save(folder / name, fixtures.head(name, 0, 16, 16))
    (folder / table_at).write_text(table)
    return load_slices(folder, 16, cache_dir=folder.parent)


@pytest.mark.parametrize(("name", "columns", "row"), [("img_{i}.png", "id,filename,patient_id,age", "{i},img_{i},P{p},{p}0"),
                                                      ("X{i:04d}_slice_1.png", "MRI ID,Subject ID,Age", "X{i:04d},P{p},{p}0")])  # fmt: skip
def test_people_are_those_of_the_table(tmp_path, name, columns, row):
    names, rows = ([text.format(i=i, p=i // 4) for i in range(24)] for text in (name, row))
    data = loaded(tmp_path / "d", names, "\n".join([columns, *rows]))
    assert data.subjects_known and set(data.subjects) == {f"P{p}" for p in range(6)}
    assert count_leaks(data.subjects, data.splits) == 0


def test_a_column_that_numbers_the_rows_names_nobody(tmp_path):
    people = [f"sub-{p:02d}" for p in range(1, 13)]
    table = "id,participant_id,age\n" + "".join(f"{i},sub-{13 - i:02d},{63 - i}\n" for i in range(1, 13))
    assert joined(tmp_path, table, people).columns["age"].tolist() == list(range(51, 63))
    visits = [f"{i + 1},sub-{12 - i // 2:02d},{i}\n" for i in range(24) if i != 5]  # two rows for each person, one row lost
    assert joined(tmp_path, "ID,participant_id,age\n" + "".join(visits), people).columns["age"].tolist() == [*range(22, -1, -2)]
    answers = "subject,patient\n" + "".join(f"{who},{i % 2}\n" for i, who in enumerate(people))
    assert set(joined(tmp_path, answers, people).columns) == {"patient"}  # yes and no name nobody


def test_pictures_of_one_name_in_two_folders_have_rows_of_their_own(tmp_path):
    names = [f"{c}/img_{i}.png" for c in ("AD", "CN") for i in range(8)]
    rows = [f"{name},{name[:2]}{name[7]},{20 + i}" for i, name in enumerate(names)]
    data = loaded(tmp_path / "d", names, "\n".join(["filename,subject,age", *rows]))
    assert data.columns["age"].tolist() == [20 + names.index(path) for path in data.paths]
    bare = loaded(tmp_path / "d", names, "\n".join(["filename,subject,age", *(row[3:] for row in rows[:8])]))
    assert not bare.columns  # one row for two pictures belongs to neither


@pytest.mark.parametrize(("called", "told"), [("ds/subjects.csv", 2), ("ADNIMERGE_15Oct2024.csv", 2), ("ds/clinical.xlsx", 0)])
def test_a_table_under_a_usual_name_is_found_and_others_are_named(tmp_path, called, told):
    names = [f"ds/OAS1_{p:04d}_MR1_slice_1.png" for p in range(1, 13)]
    table = "ID,CDR\n" + "".join(f"OAS1_{p:04d}_MR1,{p % 2}\n" for p in range(1, 13))
    data = loaded(tmp_path / "up", names, table, called)
    assert len(data.classes) == told and bool(told) != ("clinical.xlsx lies beside" in " ".join(data.warnings))
